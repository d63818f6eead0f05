"""Row evidence: what every attention head did at one query row, without building an attention map.

`row_evidence` and `evidence_attention` compute it, `row_evidence_varlen` and `row_evidence_paged` of packed sequences
and of a server's pages of keys. `merge` joins the evidence of disjoint key ranges and `merge_across_ranks` that of
several GPUs. `key_mass` is the attention that every key gets. `attend` is plain attention with its log-sum-exp,
`merge_attention_states` joins two of its results; `implementation`, `plans_shapes` and `recording` say which
kernel is chosen, how it is, and which ran.
"""


def _step_aside() -> None:
    """Hand the bare name `kernels` to Hugging Face's distribution of that name, or stay an empty module.

    With a checkout on `sys.path`, `import kernels` (transformers tries it) finds this folder before site-packages.
    """
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    def is_checkout(entry: str) -> bool:
        return Path(entry, "interp").is_dir() and Path(entry, "setup.py").is_file()

    spec = PathFinder.find_spec("kernels", [entry for entry in sys.path if not is_checkout(entry)])
    if spec is None or spec.loader is None:
        return
    sys.modules["kernels"] = real = module_from_spec(spec)
    spec.loader.exec_module(real)


if __name__ == "kernels":
    _step_aside()
else:
    from .api import (
        evidence_attention,
        implementation,
        key_mass,
        row_evidence,
    )
    from .dispatch_log import recording
    from .errors import KernelError
    from .evidence import RowEvidence, merge
    from .packed import row_evidence_paged, row_evidence_varlen
    from .ranks import merge_across_ranks
    from .sdpa import attend, merge_attention_states, plans_shapes

    __all__ = [
        "KernelError",
        "RowEvidence",
        "attend",
        "evidence_attention",
        "implementation",
        "key_mass",
        "merge",
        "merge_across_ranks",
        "merge_attention_states",
        "plans_shapes",
        "recording",
        "row_evidence",
        "row_evidence_paged",
        "row_evidence_varlen",
    ]
