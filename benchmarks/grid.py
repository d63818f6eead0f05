"""What does a whole length x depth grid cost? Three things timed in one run, alternating.

    python -m benchmarks.grid [MODEL]
    python -m benchmarks.grid [MODEL] --kind uuid
    python -m benchmarks.grid [MODEL] --layers 4 --lengths 2048 4096 8192 16384 --repeats 1 --cells 0

a: our whole grid, 4 lengths x 10 depths, grafted: scores of every head, NLL and exact match of 40 probes.
b: one plain forward of the longest probe with SDPA and one row of logits.
c: the usual procedure for the same 40 probes: prefill each, then decode with eager attention maps, once as many tokens
   as the answer has and once the 40 tokens of a usual decoding budget (it stops at a line end or after 50). Cells are
   timed for every length and a few depths, and counted for all: the cost of a cell does not depend on depth.

The rows that went through the layers, preflight included, stand beside the time: a / b of both would be equal if every
row of a cost as much as one of b. Of the last layer the prefix's rows count as nothing, because only their keys are
computed. `--layers`: only the first so many of the model's. CPU seconds are for machines that others use as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

from headscope import probes as hp
from headscope.interp.scoring import score_heads

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say
from .usual import plain_forward, usual_cell

LENGTHS, DEPTHS = (512, 1024, 2048, 4096), 10
BUDGET = 40  # decoding steps


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--kind", choices=("number", "uuid"), default="number", help="answers of 8 or of 33 tokens")
    arguments.add_argument("--repeats", type=int, default=3, help="medians are reported")
    arguments.add_argument(
        "--cells", type=int, default=2, help="timed cells of the usual procedure per length; 0: none"
    )
    arguments.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    arguments.add_argument("--layers", type=int, help="of the model, only the first so many")
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    if options.layers is not None:
        loaded.model.model.layers = _layers(loaded.model)[: options.layers]
        loaded.model.config.num_hidden_layers = options.layers
    loaded.model.config.max_position_embeddings = max(loaded.model.config.max_position_embeddings, *options.lengths)
    probes = hp.build(
        "grid", loaded.tokenizer, lengths=options.lengths, depths=DEPTHS, needles=1, kind=options.kind, answer="value"
    )
    longest = max(probes, key=lambda probe: probe.length)
    say(one_line(found))
    n_answer = statistics.mean(probe.n_answer for probe in probes)
    say(f"{loaded.model_id}: {len(probes)} probes, {n_answer:.0f} answer tokens each")
    plain_forward(loaded.model, longest.input_ids)  # warm up
    ours, plain, cpu = [], [], []
    for _ in range(options.repeats):
        began_cpu = process_time()
        plain.append(plain_forward(loaded.model, longest.input_ids))
        plain_cpu, began, began_cpu = process_time() - began_cpu, perf_counter(), process_time()
        with _counted(loaded.model) as run:
            scores = score_heads(loaded, probes, sharing="grafted")
        ours.append(perf_counter() - began)
        cpu.append((process_time() - began_cpu) / plain_cpu)
        say(
            f"  plain forward {plain[-1]:6.2f} s   our grid {ours[-1]:6.2f} s   ratio {ours[-1] / plain[-1]:.2f}, "
            f"of CPU seconds {cpu[-1]:.2f}"
        )
    rows = sum(run) / len(_layers(loaded.model)) / longest.length
    usual = {round(n_answer): 0.0, BUDGET: 0.0}
    for length in options.lengths if options.cells else ():
        cells = [probe for probe in probes if probe.length == length]
        timed = cells[:: len(cells) // options.cells][: options.cells]
        for steps in usual:
            seconds = statistics.mean(usual_cell(loaded.model, probe, steps)[0] for probe in timed)
            usual[steps] += seconds * len(cells)
            say(f"  usual at {length}, {steps} steps: {seconds:.2f} s a cell ({len(timed)} timed of {len(cells)})")
    a, b = statistics.median(ours), statistics.median(plain)
    pairs = [x / y for x, y in zip(ours, plain, strict=True)]
    say(f"a  our grid          {a:8.2f} s   top: {' '.join(str(head) for head in scores.top(6))}")
    say(f"b  one plain forward {b:8.2f} s   a / b = {statistics.median(pairs):.3f}")
    say(f"   of CPU seconds               a / b = {statistics.median(cpu):.3f}")
    say(f"   of rows through the layers   a / b = {rows:.3f}")
    for steps, seconds in usual.items() if options.cells else ():
        say(f"c  usual, {steps:2} steps   {seconds:8.2f} s   c / a = {seconds / a:.1f}")
    results = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "n_answer": n_answer, "ours": ours}
    results |= {"plain": plain, "usual": usual, "a_over_b": statistics.median(pairs)}
    results |= {"c_over_a": {steps: seconds / a for steps, seconds in usual.items()}}
    results |= {"lengths": list(options.lengths), "layers": options.layers, "cpu_a_over_b": cpu, "rows_a_over_b": rows}
    name = f"grid-{options.kind}" + (f"-{max(options.lengths)}" if options.lengths != LENGTHS else "")
    say(write_results(name, results, found).name)


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """Rows of every call of a layer's MLP inside the block, counted in front of it: one behind is waited for."""
    rows: list[int] = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda _, args: rows.append(_rows(args))) for layer in _layers(model)]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _rows(args: tuple[Any, ...]) -> int:
    return int(args[0].shape[:-1].numel())


def _layers(model: Any) -> Any:
    return model.model.layers


if __name__ == "__main__":
    main()
