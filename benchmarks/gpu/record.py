"""One line of the table: what was measured, what was to be reached, and whether it was."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REACHED, MISSED, SHOWN, OUT_OF_MEMORY, FAILED, NOT_RUN = "reached", "missed", "", "out of memory", "failed", "not run"
LONGEST = 2000  # characters that are shown of one failure
MOST = 10_000  # characters of all verdicts


@dataclass(frozen=True)
class Row:
    """`at_most` and `at_least` are targets for `measured`; without either the row is only shown."""

    part: str
    what: str
    measured: float | None = None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    problem: str = ""
    again: bool = False
    """said once more at the end, whatever the verdict"""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.problem or self.measured is None:
            return self.problem or NOT_RUN
        if self.at_most is None and self.at_least is None:
            return SHOWN
        high, low = self.at_most, self.at_least
        return REACHED if (high is None or self.measured <= high) and (low is None or self.measured >= low) else MISSED

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.target, "verdict": self.verdict}


class Record:
    """Rows as they come, each at once in a file: what a part measured before it failed is kept."""

    def __init__(self, part: str, path: Path):
        self.part, self.path = part, path
        if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):  # another part was killed while it wrote
            with path.open("a") as file:
                file.write("\n")

    def add(self, what: str, measured: float | None = None, unit: str = "", **more: Any) -> None:
        row = Row(self.part, what, measured, unit, **more)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """The complete lines of the file; a process that was killed may leave half a line behind."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            rows.append(Row(**json.loads(line)))
    return rows


def table(rows: list[Row]) -> str:
    """All rows under one another: what, target, measured, verdict."""
    lines = [("what", "target", "measured", "verdict")]
    for row in rows:
        measured = "" if row.measured is None else f"{row.measured:.4g} {row.unit}".rstrip()
        lines.append((f"{row.part}: {row.what}", row.target, measured, row.verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def verdicts(rows: list[Row], most: int = MOST) -> str:
    """The rows that have a target, went wrong or are to be said again, in at most so many characters: what went wrong
    first, then misses.
    """
    order = (FAILED, NOT_RUN, OUT_OF_MEMORY, MISSED)
    judged = [row for row in rows if row.verdict or row.again]

    def rank(row: Row) -> int:
        return next((i for i, word in enumerate(order) if row.verdict.startswith(word)), len(order))

    lines = []
    for row in sorted(judged, key=rank):
        measured = "" if row.measured is None else f"{row.measured:.4g} {row.unit}".rstrip()
        lines.append("  ".join(filter(None, (row.verdict[:90], f"{row.part}: {row.what}"[:120], measured, row.target))))
    said = "verdicts"
    for i, line in enumerate(lines):
        left = f"\n... and {len(lines) - i} more, in the file"
        if len(said) + 1 + len(line) + len(left) > most:
            return said + left
        said += "\n" + line
    return said if lines else "no verdicts"


def troubles(rows: list[Row]) -> str:
    """What is known of rows that failed: the end of what was said, so that one look at the output is enough."""
    said = []
    for row in rows:
        text = str(row.detail.get("tail") or row.detail.get("error") or "").strip()
        if row.problem and text:
            lines = text[-LONGEST:].splitlines()[-25:]
            said.append("\n".join([f"-- {row.part}: {row.what}", *(f"   {line}" for line in lines)]))
    return "\n".join(said[:8])
