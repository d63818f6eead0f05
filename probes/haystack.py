"""Text to hide needles in: the standard library's own documentation, a folder of yours, or noise sentences.

A haystack is a source of documents. `documents(seed)` yields them in the order of that seed, one paragraph a line, and
never the same paragraph twice unless the haystack says `repeat=True`.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from pathlib import Path

from .documents import SUFFIXES, NoText, text_files, texts
from .errors import ProbeError
from .seeds import rng

# The five sentences of RULER's noise haystack (NVIDIA, Apache-2.0).
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

NOT_LIBRARY = {"site-packages", "dist-packages", "pydoc_data", "test", "tests"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Haystack:
    """Texts in an order that a seed decides.

    Attributes:
        name: for messages.
        read: seed -> documents, one paragraph a line.
        repeat: start over when the documents run out; otherwise no paragraph is ever there twice.
        between: what stands between two paragraphs of a document.
        path: the folder or file it is read from, if it is one.
    """

    name: str
    read: Callable[[int], Iterable[str]]
    repeat: bool = False
    between: str = "\n"
    path: Path | None = None

    def documents(self, seed: int) -> Iterator[str]:
        """Documents, each with a newline at its end, without paragraphs that were there before (`repeat`: endless)."""
        seen: set[str] = set()
        for document in self.read(seed):
            paragraphs = [line for line in document.splitlines() if line.strip()]
            fresh = [line for line in dict.fromkeys(paragraphs) if line not in seen]
            seen.update(fresh)
            if fresh:
                yield self.between.join(fresh) + "\n"
        while self.repeat and seen:
            yield from replace(self, repeat=False).documents(seed)


def standard_library(*, repeat: bool = False) -> Haystack:
    """Prose of Python itself: the language reference (`pydoc_data.topics`), then the library's docstrings and comments.

    Nothing is imported and nothing is downloaded. The text differs between Python versions; a probe's `haystack_id`
    shows it.
    """
    # Its paragraphs are short: run together, a sentence starts every 25 to 30 tokens, and depths are met closely.
    return Haystack("standard library", _library_documents, repeat, between=" ")


def folder(path: str | PathLike[str], *, repeat: bool = False) -> Haystack:
    """The texts under a folder, or one file: .txt and .md, and the texts that JSON files hold (`.documents.texts`).

    All are UTF-8 and may be gzipped (.gz). In a folder a JSON file without text is left out with a warning.
    """
    root = Path(path)
    files = text_files(root)
    if not files:
        kinds = ", ".join(SUFFIXES)
        state = f"holds no text file ({kinds})" if root.is_dir() else "does not exist"
        raise ProbeError(f"haystack {str(path)!r} {state}; give a folder with such files, or one file.")

    def read(seed: int) -> Iterator[str]:
        refused: list[NoText] = []
        for index in rng(seed, "haystack files").permutation(len(files)):
            try:
                yield from texts(files[index])
            except NoText as error:
                if files == [root]:
                    raise
                log.warning("left out of the haystack: %s", error)
                refused.append(error)
        if len(refused) == len(files):
            raise refused[0]

    return Haystack(str(root), read, repeat, path=root)


def noise() -> Haystack:
    """RULER's noise: the same five sentences again and again. Repeated by nature, so `repeat` is on."""
    return Haystack("noise", lambda seed: [NOISE], repeat=True)


def as_haystack(haystack: Haystack | str | PathLike[str] | None) -> Haystack:
    """None or "stdlib" -> the standard library's text, "noise" -> noise, a path -> your texts, a Haystack -> itself."""
    if isinstance(haystack, Haystack):
        return haystack
    if haystack is None or haystack == "stdlib":
        return standard_library()
    if haystack == "noise":
        return noise()
    return folder(haystack)


def _library_documents(seed: int) -> Iterator[str]:
    # The language reference first: it is one file to read and the best prose. Short sets need no more than that.
    topics = _topics()
    for index in rng(seed, "topics").permutation(len(topics)):
        yield prose(topics[index])
    modules = _modules()
    for index in rng(seed, "modules").permutation(len(modules)):
        yield _module_prose(modules[index])


@cache
def _topics() -> tuple[str, ...]:
    source = _library_root() / "pydoc_data" / "topics.py"
    if not source.is_file():
        return ()
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return tuple(topics[name] for name in sorted(topics))
    return ()


@cache
def _modules() -> tuple[Path, ...]:
    root = _library_root()
    files: list[Path] = []
    for where, below, names in os.walk(root):
        below[:] = [name for name in below if name not in NOT_LIBRARY]  # site-packages may be a hundred times as large
        files += [Path(where, name) for name in names if name.endswith(".py") and name not in NOT_LIBRARY]
    return tuple(sorted(files))


@cache
def _module_prose(module: Path) -> str:
    """Docstrings, then block comments, in the order of the source. Parsed, never imported: importing runs code."""
    source = module.read_text(encoding="utf-8", errors="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules hold invalid escape sequences
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    nodes.sort(key=lambda node: node.body[0].lineno)
    docstrings = [text for node in nodes if (text := ast.get_docstring(node))]
    comments = [re.sub(r"(?m)^[ \t]*#+ ?", "", block) for block in re.findall(r"(?m)(?:^[ \t]*#.*\n)+", source)]
    return "\n".join(filter(None, map(prose, docstrings + comments)))


def _library_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def prose(text: str) -> str:
    """The running text of a docstring: one paragraph a line; code, tables, headings and doctests are dropped."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text.expandtabs()))
    paragraphs = (" ".join(block.split()) for block in blocks)
    return "\n".join(paragraph for paragraph in paragraphs if _reads_like_prose(paragraph))


def _reads_like_prose(paragraph: str) -> bool:
    if len(paragraph) < 40 or ">>>" in paragraph or "::=" in paragraph:
        return False
    tokens = paragraph.split()
    words = sum(token.strip("\"'`“”‘’().,:;*").isalpha() for token in tokens)
    return words >= 0.75 * len(tokens) and paragraph[0].isalpha() and paragraph[-1] in ".:!?)"
