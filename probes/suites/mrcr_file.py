"""A user's copy of OpenAI's MRCR (openai/mrcr; MIT): Parquet as published, or JSON Lines with the same fields.

`prompt` is a JSON list of messages: examples of the task in messages that nobody replies to, then requests and replies
in turn, then the question. `answer` is `random_string_to_prepend` and a reply. Of what else a row says only `n_needles`
is used, and nothing is believed: the version before December 2025 had too many needles in a tenth of its rows, and
another answer than asked for in a twentieth.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..documents import JSON_SUFFIXES, json_values, suffix
from ..errors import NeedleLeak, ProbeError
from ..passage import Passage
from .mrcr_passage import dialogue

FIELDS = ("prompt", "answer", "random_string_to_prepend", "n_needles")
ACCEPTED = f"accepted are OpenAI's MRCR files (.parquet) and JSON Lines with the same fields: {', '.join(FIELDS)}"
LAST = re.compile(
    r"Prepend (\S+) to the (\d+)\w\w \(1 indexed\) (.+)\. Do not include any other text in your response\."
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """Files that were looked at: they are there, their rows have the fields, and have so many needles."""

    paths: tuple[Path, ...]
    needles: frozenset[int]

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Where and what. They are read again each time, as they need not fit into memory."""
        for path in self.paths:
            yield from _rows(path)


def read_mrcr(path: Any) -> Files:
    """A file, or several. Raises ProbeError, in one line that says what to do."""
    given = [path] if isinstance(path, str | PathLike) else list(path) if isinstance(path, Sequence) else None
    if not given or not all(isinstance(each, str | PathLike) for each in given):
        raise ProbeError(f"mrcr_file is {path!r}; give the path of a file, or a list of them.")
    needles: set[int] = set()
    for file in (paths := tuple(Path(each) for each in given)):
        if not file.is_file():
            state = "is a folder" if file.is_dir() else "does not exist"
            raise ProbeError(f"mrcr_file {str(file)!r} {state}; give a file: {ACCEPTED}.")
        if next(_rows(file), None) is None:
            raise ProbeError(f"mrcr_file {str(file)!r} holds no row; {ACCEPTED}.")
        rows = _parquet(file, ("n_needles",)) if suffix(file) == ".parquet" else _rows(file)
        needles.update(row["n_needles"] for _, row in rows)
    return Files(paths, frozenset(needles))


def missing(needles: int, options: Mapping[str, Any]) -> str:
    """Why the task cannot be built, or ""."""
    if options["mrcr_file"] is None:
        own = f"mrcr_{needles}"
        return f"{own}_file is OpenAI's data; give it with mrcr_file=PATH (--mrcr-file), or take {own}."
    files: Files = options["mrcr_file"]
    if needles in files.needles:
        return ""
    return (
        f"mrcr_{needles}_file: no row of {', '.join(map(str, files.paths))} has n_needles {needles}; give a file with "
        f"such rows, or take mrcr_{needles}."
    )


def ready(needles: int, options: Mapping[str, Any]) -> Generator[Passage, None, None]:
    """The rows with so many needles, in the order of the file; one warning counts those that are not what they say."""
    read, wrong, why = 0, 0, ""
    try:
        for where, row in options["mrcr_file"].rows():
            if row["n_needles"] != needles:
                continue
            read += 1
            try:
                yield replace(_passage(where, row), reserve=0)
            except NeedleLeak as error:
                wrong, why = wrong + 1, why or str(error)
    finally:
        if wrong:
            log.warning("mrcr_%d_file: left out %d of %d rows, such as: %s", needles, wrong, read, why)


def _passage(where: str, row: Mapping[str, Any]) -> Passage:
    """Raises NeedleLeak where the row's question, answer and number of needles do not fit its messages."""
    messages = _messages(where, row["prompt"])
    asked = LAST.fullmatch(messages[-1][1].strip())
    hash, answer = row["random_string_to_prepend"], row["answer"]
    if messages[-1][0] != "user" or asked is None or asked[1] != hash or not answer.startswith(hash):
        raise NeedleLeak(f"{where} asks {messages[-1][1][:80]!r}, which does not fit its hash {hash!r} and its answer.")
    start = 0
    while start + 1 < len(messages) and messages[start + 1][0] != "assistant":
        start += 1  # what nobody replies to: the examples
    talk = messages[start:-1]
    if [role for role, _ in talk] != ["user", "assistant"] * (len(talk) // 2):
        raise NeedleLeak(f"{where} is no sequence of requests and replies.")
    turns = [(talk[i][1], talk[i + 1][1]) for i in range(0, len(talk), 2)]
    matching = {request for request, _ in turns if re.fullmatch(rf"write an? {re.escape(asked[3])}", request, re.I)}
    if len(matching) != 1:
        raise NeedleLeak(f"{where} asks for {asked[3]!r}, which its requests have in {len(matching)} wordings.")
    (request,), instance = matching, int(asked[2]) - 1
    replies = [reply for each, reply in turns if each == request]
    if not 0 <= instance < len(replies) or hash + replies[instance] != answer:
        raise NeedleLeak(
            f"{where} asks for reply {instance + 1} of {len(replies)} to {request!r}, and answers another."
        )
    return dialogue(
        turns,
        matching=request,
        needles=int(row["n_needles"]),
        instance=instance,
        hash=hash,
        question=messages[-1][1].strip(),
        key=f"{asked[3]} {instance + 1}".replace(" ", "-"),
        before="".join(f"{text}\n\n" for _, text in messages[:start]),
    )


def _messages(where: str, prompt: Any) -> list[tuple[str, str]]:
    try:
        messages = json.loads(prompt) if isinstance(prompt, str) else prompt
        found = [(message["role"], message["content"]) for message in messages]
    except (ValueError, TypeError, KeyError) as error:
        raise ProbeError(f"{where}: prompt is no list of messages with role and content; {ACCEPTED}.") from error
    if not found or not all(isinstance(text, str) for message in found for text in message):
        raise ProbeError(f"{where}: prompt is no list of messages with role and content; {ACCEPTED}.")
    return found


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if suffix(file) == ".parquet":
        values = _parquet(file)
    elif suffix(file) in JSON_SUFFIXES:
        values = (
            (where if len(each) == 1 else f"{where.rstrip(',')}, item {i},", row)
            for where, value in json_values(file)
            for each in (value if isinstance(value, list) else [value],)
            for i, row in enumerate(each, 1)
        )
    else:
        raise ProbeError(f"mrcr_file {str(file)!r} is neither Parquet nor JSON; {ACCEPTED}.")
    for told, row in values:
        where = told.rstrip(",")
        lacks = [name for name in FIELDS if not isinstance(row, Mapping) or name not in row]
        if lacks:
            raise ProbeError(f"{where} has no {', '.join(lacks)}; {ACCEPTED}.")
        hash = row["random_string_to_prepend"]
        if not isinstance(row["answer"], str) or not isinstance(hash, str) or type(row["n_needles"]) is not int:
            raise ProbeError(f"{where} has other kinds of values than OpenAI's rows; {ACCEPTED}.")
        yield where, row


def _parquet(file: Path, names: Sequence[str] = FIELDS) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ProbeError(
            f"{file} needs the package pyarrow ({error}). Install it: pip install 'headscope[parquet]'"
        ) from error
    try:
        with ParquetFile(file) as table:
            columns = [name for name in names if name in table.schema_arrow.names]
            at = 0
            for batch in table.iter_batches(batch_size=8, columns=columns):
                for row in batch.to_pylist():
                    at += 1
                    yield f"{file}, row {at}", row
    except ArrowInvalid as error:
        raise ProbeError(f"{file} is no Parquet file ({error}); {ACCEPTED}.") from error
