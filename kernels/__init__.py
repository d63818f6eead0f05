"""Row evidence: what every attention head did at one query row, without building an attention map.

`row_evidence` and `evidence_attention` compute it, `merge` joins the evidence of disjoint key ranges.
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
    from .api import evidence_attention, row_evidence
    from .evidence import RowEvidence, merge

    __all__ = ["RowEvidence", "evidence_attention", "merge", "row_evidence"]
