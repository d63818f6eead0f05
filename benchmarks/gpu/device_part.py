"""What the device gives at best: the measures that the other parts are compared with."""

from __future__ import annotations

from .record import Record
from .stage import Stage


def run(stage: Stage, record: Record) -> None:
    record.add("copy, read + written", stage.bandwidth / 1e12, "TB/s", again=True)
    record.add("matrix product 8192^3", stage.flops / 1e12, "TFLOP/s", again=True)
    record.add("exponentials at the top clock (computed)", stage.exps / 1e12, "T/s")
