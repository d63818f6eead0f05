"""How the files of a checkpoint are read. They may come from anywhere.

So nothing is opened that is no plain file, no weights that lie outside, and no JSON that would take the machine's
memory or Python's stack. What is wrong is a ModelError.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...errors import HeadscopeError
from ...printable import printable

LARGEST_JSON = 2**26  # bytes; the index of a model of 700B parameters has 10 MB
LARGEST_TEXT = 2**27  # of a tokenizer's files; those of 260,000 tokens have 35 MB
DEEPEST = 64  # objects and lists in each other
TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]

_AGAIN = "copy or download it again"


class ModelError(HeadscopeError, ValueError):
    """A model or tokenizer that cannot be loaded or must not be trusted. One line: what, why and the remedy."""


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    line = text[0].strip() if text else ""
    return f"{type(error).__name__}: {printable(line, 200)}" if line else type(error).__name__


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """The object in a JSON file. `missing` is what to say where the file is not there."""
    try:
        check_file(path, LARGEST_JSON)
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(missing) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)}); check its permissions") from error
    except RecursionError as error:
        raise ModelError(f"{path} has too many lists and objects in each other; {_AGAIN}") from error
    except ModelError:
        raise
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise ModelError(f"{path} is not valid JSON ({error}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, not an object; {_AGAIN}")
    if _too_deep(content):
        raise ModelError(f"{path} has too many lists and objects in each other (more than {DEEPEST}); {_AGAIN}")
    return content


def check_file(path: Path, largest: int | None = None) -> os.stat_result:
    """What the system says of a plain file. Raises ModelError for another kind or size, OSError where there is none.

    Opening a pipe would wait for its other end; a device may never end.
    """
    told = path.stat()
    if stat.S_ISDIR(told.st_mode):
        raise ModelError(f"{path} is a folder, where a file is expected; {_AGAIN}")
    if not stat.S_ISREG(told.st_mode):
        raise ModelError(f"{path} is a pipe or a device, not a file; {_AGAIN}")
    if largest is not None and told.st_size > largest:
        raise ModelError(f"{path} has {told.st_size:,} bytes, of which at most {largest:,} are read; {_AGAIN}")
    return told


def check_texts(folder: Path) -> None:
    """Raise ModelError where something that transformers may open as a text is no plain file of a bearable size."""
    for entry in sorted(folder.iterdir()):
        if any(fnmatchcase(entry.name, pattern) for pattern in TEXT_FILES):
            try:
                check_file(entry, LARGEST_TEXT)
            except OSError as error:
                raise ModelError(f"{entry} cannot be read ({first_line(error)}); {_AGAIN}") from error


def check_weights(file: Path, folder: Path) -> None:
    """Raise ModelError where a file of weights is no plain file, or is a link to one that lies elsewhere.

    The hub's cache keeps its files as blobs and links to them; those are where they should be.
    """
    try:
        check_file(file)
        place = Path(os.path.realpath(file))
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing though the index names it; {_AGAIN}") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}); check its permissions") from error
    in_cache = place.parent.name == "blobs" and (place.parent.parent / "snapshots").is_dir()
    if not place.is_relative_to(os.path.realpath(folder)) and not in_cache:
        raise ModelError(
            f"{file} is a link to {place}, outside the folder, and weights from elsewhere are not read; put the "
            "file itself there: cp, or cp --link on the same disk"
        )


def named_in(index: Path) -> dict[str, str]:
    """tensor -> file, as an index of shards says; the files are named as they lie in its folder."""
    named = read_json(index, "").get("weight_map", {})
    if not isinstance(named, dict):
        raise ModelError(f"{index}: weight_map is a {type(named).__name__}, not an object; {_AGAIN}")
    for file in named.values():
        if not isinstance(file, str) or not _plain(file):
            raise ModelError(f"{index} names {file!r}, which is no file in its folder; {_AGAIN}")
    return named


def _plain(name: str) -> bool:
    parts = Path(name).parts
    return name.isprintable() and bool(parts) and not Path(name).is_absolute() and not {"..", "."} & set(parts)


def _too_deep(content: Any) -> bool:
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = list(_within(level))
        if not level:
            return False
    return True


def _within(level: list[Any]) -> Iterator[Any]:
    for each in level:
        for item in each.values() if isinstance(each, dict) else each:
            if isinstance(item, dict | list):
                yield item
