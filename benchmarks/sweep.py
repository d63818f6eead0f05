"""What a sweep costs beyond its forward passes and loading: goal at most 5 % of the wall time.

Checkpoints are SmolLM2-135M-Instruct with a little noise, saved as bfloat16 safetensors with their tokenizer. Timed are
calls of the model (forward passes, the preflight's too) and loading (reading, filling, checking and hashing weights);
the rest of the sweep's wall time is overhead: planning, estimators, shards, the results file. Building probes is not
part of it.

    python -m benchmarks.sweep
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

from headscope.interp.model.adapt import HuggingFaceModel
from headscope.interp.sweep.checkpoints import find_checkpoints
from headscope.interp.sweep.run import Options, run_sweep
from headscope.interp.sweep.shards import ProbeSource
from headscope.interp.sweep.worker import Outcome
from headscope.probes import build

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say


def save_checkpoints(loaded: Any, folder: Path, n: int) -> None:
    """The loaded weights, each time with other noise of 1 %."""
    import torch
    from safetensors.torch import save_file

    config = loaded.model.config.to_dict()
    config.pop("quantization_config", None)
    plain = type(loaded.model.config).from_dict(config)
    tied = (
        {name for name in loaded.model.state_dict() if name.startswith("lm_head")}
        if plain.tie_word_embeddings
        else set()
    )
    for step in range(1000, 1000 * (n + 1), 1000):
        torch.manual_seed(step)
        target = folder / f"checkpoint-{step}"
        tensors = {
            name: (tensor * (1 + 0.01 * torch.randn_like(tensor))).to(torch.bfloat16)
            for name, tensor in loaded.model.state_dict().items()
            if name not in tied
        }
        target.mkdir(parents=True)
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        plain.architectures = [type(loaded.model).__name__]
        plain.save_pretrained(target)
        loaded.tokenizer.save_pretrained(target)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoints", type=int, default=4)
    given = arguments.parse_args()
    found = machine()
    say(one_line(found))
    loaded = load(given.model)
    probes = build("grid", loaded.tokenizer, lengths=[1024, 2048], depths=5)
    spent = {"forward": 0.0, "loading": 0.0}
    forward = HuggingFaceModel.forward

    def timed(self: HuggingFaceModel, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return forward(self, *args, **kwargs)
        finally:
            spent["forward"] += perf_counter() - start

    def told(outcome: Outcome, done: int, total: int) -> None:
        if outcome.reason:
            raise RuntimeError(f"checkpoint {outcome.checkpoint.step}: {outcome.reason}")
        spent["loading"] += outcome.loading
        say(f"checkpoint {done} of {total}: {outcome.seconds:.1f} s, loading {outcome.loading:.2f} s")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoints(loaded, folder / "run", given.checkpoints)
        del loaded
        gc.collect()
        checkpoints = find_checkpoints(folder / "run")
        with patch.object(HuggingFaceModel, "forward", timed):
            start = perf_counter()
            run_sweep(checkpoints, ProbeSource(lambda _: probes), folder / "run.h5", Options(), on_checkpoint=told)
            total = perf_counter() - start
    rest = total - sum(spent.values())
    results = {
        "checkpoints": given.checkpoints,
        "probes": len(probes),
        "total_s": total,
        **{f"{part}_s": seconds for part, seconds in spent.items()},
        "overhead_s": rest,
        "overhead_share": rest / total,
    }
    say(
        f"{given.checkpoints} checkpoints x {len(probes)} probes: {total:.1f} s, of these forward passes "
        f"{spent['forward']:.1f} s, loading {spent['loading']:.1f} s, overhead {rest:.2f} s = {rest / total:.1%}"
    )
    say(write_results("sweep", results, found).name)


if __name__ == "__main__":
    main()
