"""Files of a user's own texts: plain text, and the JSON that corpora come in."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from .errors import NoText, ProbeError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SUFFIXES = (".txt", ".md", *JSON_SUFFIXES)
FIELDS = ("text", "content")
ACCEPTED = 'accepted are a text, {"text": ...} or {"content": ...}, a list of those, and JSON Lines of them'


def suffix(file: Path) -> str:
    """The file's kind, whether it is gzipped or not."""
    return (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()


def text_files(path: Path) -> list[Path]:
    """The file itself, or the files under a folder that may hold texts, by name."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if suffix(file) in SUFFIXES)


def read_texts(path: str | PathLike[str]) -> list[tuple[str, str]]:
    """(name, text) of every text of a file or of a folder, each whole and in the order of the files' names.

    A name is the file's, within the folder, and "#2" behind it where a file holds several. Raises ProbeError where
    there is no such file or one cannot be read, NoText where a JSON file holds none.
    """
    root = Path(path)
    files = text_files(root)
    if not files:
        state = f"holds no text file ({', '.join(SUFFIXES)})" if root.is_dir() else "does not exist"
        raise ProbeError(f"{str(path)!r} {state}; give a folder with such files, or one file.")
    found = []
    for file in files:
        name = file.name if file == root else file.relative_to(root).as_posix()
        held = list(texts(file))
        found += [(name if len(held) == 1 else f"{name}#{n}", text) for n, text in enumerate(held)]
    return found


def texts(file: Path) -> Iterator[str]:
    """The texts that a file holds. A file of another suffix than JSON's is one text.

    Raises NoText where a JSON file holds none, ProbeError where a line of JSON is broken or the file is not UTF-8.
    """
    if suffix(file) in JSON_SUFFIXES:
        for where, value in json_values(file):
            yield from _strings(where, value)
    else:
        with _reading(file) as lines:
            yield lines.read()


def json_values(file: Path) -> Iterator[tuple[str, Any]]:
    """Where and what: the value of a JSON file, or that of every line where it holds JSON Lines.

    Raises NoText where the file is not JSON, ProbeError where a line of it is broken or the file is not UTF-8.
    """
    with _reading(file) as lines:
        if suffix(file) == ".json":
            yield from _json(file, lines.read())
        else:
            yield from _json_lines(file, lines)


@contextmanager
def _reading(file: Path) -> Iterator[TextIO]:
    try:
        with _open(file) as lines:
            yield lines
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ProbeError(f"{file} is not UTF-8 text ({error}); convert it or leave it out.") from error
    except OSError as error:
        raise ProbeError(
            f"{file} cannot be read ({error.strerror or error}); make it readable or leave it out."
        ) from error


def _open(file: Path) -> TextIO:
    # utf-8-sig: without the mark that some editors put first
    return (
        gzip.open(file, "rt", encoding="utf-8-sig") if file.suffix.lower() == ".gz" else file.open(encoding="utf-8-sig")
    )


def _json(file: Path, content: str) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") != "Extra data":
            raise NoText(f"{file} is not JSON ({_why(error)}); mend it or leave it out.") from error
        yield from _json_lines(file, content.splitlines())  # JSON Lines are often named .json
        return
    yield str(file), value


def _json_lines(file: Path, lines: Any) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", _why(error))
            raise ProbeError(f"{file}, line {number}, is not JSON ({what}); mend it or leave it out.") from error
        yield f"{file}, line {number},", value


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def well_formed(text: str) -> str:
    """The text without halves of a surrogate pair, which JSON may hold and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _strings(where: str, value: Any) -> Iterator[str]:
    found = next((value[field] for field in FIELDS if field in value), None) if isinstance(value, dict) else value
    if isinstance(found, str):
        yield well_formed(found)
    elif isinstance(found, list) and found:
        for index, item in enumerate(found):
            yield from _strings(f"{where} item {index}" if where.endswith(",") else f"{where}, item {index},", item)
    else:
        raise NoText(f"{where} holds {_kind(value)}, no text; {ACCEPTED}.")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        fields = ", ".join(map(repr, list(value)[:6])) + (", ..." if len(value) > 6 else "")
        wrong = next((field for field in FIELDS if field in value), None)
        if wrong:
            return f"{wrong!r} with {_kind(value[wrong])}"
        return f"an object with the fields {fields}" if value else "an empty object"
    return "an empty list" if value == [] else "null" if value is None else f"the {type(value).__name__} {value!r:.40}"
