"""A small CSV that says which checkpoint is which step: columns checkpoint, step and, if known, tokens_seen and stage.

With a column `stage`, steps and tokens are those of the stage, and the stages follow as they first come in the table.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ...errors import HeadscopeError
from ..checkpoint_names import LARGEST_STEP, read_amount


class CheckpointError(HeadscopeError, ValueError):
    """What was given does not say clearly which checkpoints to score, or at which step each is."""


@dataclass(frozen=True)
class Row:
    line: int
    step: int | None
    tokens_seen: float | None
    stage: str = ""

    @property
    def told(self) -> tuple[int | None, float | None, str]:
        return self.step, self.tokens_seen, self.stage


class Table:
    """Rows by what they call their checkpoint: a path (as given, or from the table's folder), a name, id@revision."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.rows = _read(self.path)
        self.stages = list(dict.fromkeys(row.stage for row in self.rows.values() if row.stage))

    def find(self, names: Iterable[str]) -> Row | None:
        """The row of the checkpoint that goes by these names. Raises CheckpointError when two rows tell otherwise."""
        rows = [self.rows[name] for name in dict.fromkeys(names) if name in self.rows]
        if len({row.told for row in rows}) > 1:
            lines = " and ".join(str(row.line) for row in rows)
            raise CheckpointError(
                f"{self.path}: lines {lines} tell different things of one checkpoint; keep one of them"
            )
        return rows[0] if rows else None


def _read(path: Path) -> dict[str, Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            if "checkpoint" not in columns or "step" not in columns:
                raise CheckpointError(
                    f"{path} has the columns {', '.join(columns) or 'none'}; it needs checkpoint and step, and "
                    "may have tokens_seen and stage"
                )
            reader.fieldnames = columns
            rows: dict[str, Row] = {}
            for record in reader:
                name = (record["checkpoint"] or "").strip()
                row = _row(path, reader.line_num, record)
                if name in rows and rows[name].told != row.told:
                    raise CheckpointError(
                        f"{path}: lines {rows[name].line} and {row.line} both tell of {name!r}; keep one of them"
                    )
                rows[name] = row
                rows.setdefault(os.path.realpath(path.parent / name), row)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; give the path of a CSV") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 text") from error
    return rows


def _row(path: Path, line: int, record: dict[str, str | None]) -> Row:
    step, tokens, stage = ((record.get(name) or "").strip() for name in ("step", "tokens_seen", "stage"))
    try:
        number = int(step) if step else None
    except ValueError:
        number = -1
    if number is not None and not 0 <= number <= LARGEST_STEP:
        raise CheckpointError(f"{path}, line {line}: step is {step!r}; give a whole number from 0 up")
    try:
        return Row(line, number, read_amount(tokens) if tokens else None, stage)
    except ValueError:
        raise CheckpointError(f"{path}, line {line}: tokens_seen is {tokens!r}; give a number or 20B") from None
