"""What does HeadMonitor cost in a real training run, and does the training notice?

    python -m benchmarks.monitor [MODEL] [--tokens 2048] [--steps 8]

Continues MODEL's training on documentation text with a Trainer: AdamW, gradient checkpointing, dropout where the model
has any, float32 on a CPU and bf16 autocast on a GPU. Once without a monitor, once with the default probes (`build(
"monitor")`: 32 needles, one haystack of 2048 tokens) before the first step, half-way and at the end. Printed: seconds a
step and a measurement, and what share of the training time a measurement every 100, 500 and 1000 steps takes. A rule of
thumb stands beside it: a measurement is a forward of so many rows, a step three forwards (four with gradient
checkpointing) of its tokens.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import headscope as hs
from headscope.interp.engine.plan import plan
from headscope.interp.model.loading import LoadedModel
from headscope.interp.store import results_file as store
from headscope.probes.haystack import as_haystack
from headscope.probes.stream import tokenise
from headscope.probes.tokens import Codec

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

LENGTH = 1024
EVERY = (100, 500, 1000)


class Clock(TrainerCallback):
    """Seconds of every optimizer step, without what callbacks do after it."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(perf_counter() - self._began)


def train(
    loaded: LoadedModel, rows: np.ndarray, options: Any, monitor: Any, folder: Path
) -> tuple[list[float], list[float]]:
    """Losses and seconds of the steps, from the same weights every time."""
    config = copy.deepcopy(loaded.model.config)
    config.__dict__.pop("quantization_config", None)  # a Trainer refuses what once was GGUF
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.model.state_dict())
    gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=max(options.tokens // LENGTH, 1),
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=gpu,
        use_cpu=not gpu,
    )
    data = [{"input_ids": row, "labels": row} for row in torch.from_numpy(rows)]
    clock = Clock()
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[clock, *([monitor] if monitor else [])])
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], clock.steps


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--tokens", type=int, default=2048, help="tokens of a training step")
    arguments.add_argument("--steps", type=int, default=8)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    probes = hs.probes.build("monitor", loaded.tokenizer)
    needed = options.steps * max(options.tokens // LENGTH, 1)
    text = tokenise(Codec(loaded.tokenizer), as_haystack(None), needed * LENGTH, 1)
    rows = text.ids.astype(np.int64).reshape(needed, LENGTH)
    measured = plan(probes, "auto")
    say(f"{loaded.model_id}: {len(probes)} probes, {measured.n_tokens} rows; {options.tokens} tokens a step")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, plain_seconds = train(loaded, rows, options, None, folder)
        monitor = hs.HeadMonitor(probes, folder / "run.h5", every=max(options.steps // 2, 1))
        watched, watched_seconds = train(loaded, rows, options, monitor, folder)
        costs = [
            store.read_scores(folder / "run.h5", step).provenance["monitor"]["seconds"]
            for step in store.checkpoints(folder / "run.h5")
        ]
        size = (folder / "run.h5").stat().st_size / len(costs)
    step, cost = statistics.median(plain_seconds + watched_seconds), statistics.median(costs)
    shares = {every: cost / (every * step + cost) for every in EVERY}
    thumb = measured.n_tokens / (4 * options.tokens)
    say(f"a step        {step:8.2f} s  (without {statistics.median(plain_seconds):.2f}, with {watched_seconds})")
    say(f"a measurement {cost:8.2f} s  = {cost / step:.2f} steps (rule of thumb: {thumb:.2f}); {costs}")
    say("share of the training time: " + ", ".join(f"every {n} steps {share:.2%}" for n, share in shares.items()))
    say(f"losses with and without the monitor identical: {plain == watched}; {size / 1e6:.2f} MB a measurement")
    results = {"model": loaded.model_id, "tokens_per_step": options.tokens, "rows": measured.n_tokens}
    results |= {"step_seconds": plain_seconds, "step_seconds_watched": watched_seconds, "measurement_seconds": costs}
    results |= {"steps_per_measurement": cost / step, "rule_of_thumb": thumb, "share": shares, "bytes": size}
    results |= {"losses": plain, "losses_identical": plain == watched}
    say(write_results("monitor", results, found).name)


if __name__ == "__main__":
    main()
