"""What was computed and cannot be written where it belongs is written elsewhere, and one line says where."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from ..results import HeadScores
from .beside import KINDS, Beside
from .locks import beside
from .merging import could_merge
from .results_file import StoreError, append
from .structure import one_line

log = logging.getLogger(__name__)


class Unsaved(StoreError):
    """Results could not be written to their file. The text says why, and where they are now.

    rescued: the file that holds them; None where no place took them.
    """

    def __init__(self, words: str, rescued: Path | None):
        super().__init__(words)
        self.rescued = rescued


def rescue(
    scores: HeadScores,
    path: str | PathLike[str],
    checkpoint: int,
    tokens_seen: float | None,
    error: BaseException,
    into: Path | None = None,
    more: Beside | None = None,
) -> Unsaved:
    """Save scores, and what goes with them, that `error` kept from `path`.

    In a new file, or in `into`, one that an earlier rescue has made.
    """

    there = more.there() if more else {}

    def save(place: Path) -> None:
        append(place, scores, checkpoint, tokens_seen, **there)

    rescued = save_elsewhere(path, save, into)
    then = None if rescued is None else _then(Path(path), rescued)
    what = " and ".join(["scores", *(f"the {KINDS[name].words}" for name in there)]) + " are"
    return Unsaved(unsaved_message(path, error, rescued, what, then), rescued)


def save_elsewhere(path: str | PathLike[str], save: Callable[[Path], None], into: Path | None = None) -> Path | None:
    """Save under a new name beside `path`, else in the current folder, else in the temporary one; None: nowhere."""
    new = f"{{}}.unsaved-{secrets.token_hex(4)}.h5"

    def within(folder: Path) -> Path:
        return beside(folder / Path(path).stem, new)

    places: list[Callable[[], Path]] = [] if into is None else [lambda: into]
    places.append(lambda: within(Path(os.path.realpath(path)).parent))
    places += [lambda: within(Path.cwd()), lambda: within(Path(tempfile.gettempdir()))]
    for place in places:
        try:
            found = place()
            save(found)
        except Exception:  # whatever is wrong with this place, there are others
            log.debug("not saved there either", exc_info=True)
            continue
        return found
    return None


def unsaved_message(
    path: str | PathLike[str], error: BaseException, rescued: Path | None, what: str, then: str | None
) -> str:
    """One line: what could not be written and why, where it is now, and what to do. what: "scores are"."""
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error) or type(error).__name__
    reason = reason.removeprefix(f"cannot write {path}: ").removesuffix("; it is left as it was")
    unsaved = f"could not write {path} ({reason})"
    if rescued is None:
        return f"{unsaved}, nor any other file: the {what} lost"
    return f"{unsaved}; the {what} in {rescued}" + (f": {then}" if then else "")


def _then(path: Path, rescued: Path) -> str:
    """How the scores get where they belong."""
    output = shlex.quote(str(path))
    if not path.exists():
        return f"headscope merge {shlex.quote(str(rescued))} -o {output}"
    if could_merge([path, rescued], path):
        return f"headscope merge {output} {shlex.quote(str(rescued))} -o {output}"
    return f"a file of their own, as they do not go with what {path} holds now"
