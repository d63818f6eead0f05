"""Long documents without a network: the source code of the installed packages whose licence is permissive.

A package is one document: its description and its files in the order of their paths, each under a line with its path.
Python's own library is left out: its documentation is the haystack of the probes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import PurePath
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from corpus import Ids

HELD_OUT = 8  # one package in so many is never trained on
SUFFIXES = {".py", ".pyi", ".md", ".rst"}
# headscope's own sources hold the words of the probes.
NOT_TEXT = {"headscope"}
# Other people's code, under licences that the package's metadata may not tell.
VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "third_party", "_third_party", "thirdparty", "extern"}

# SPDX names, and LLVM's exception, which only adds permissions.
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "LLVM-exception"),
    *("MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
}
SAY_NOTHING = {"OSI Approved", "DFSG approved"}
# What people write into the free field `License`.
SPELLINGS = {
    "Apache-2.0": r"(the )?apache(( software)? licen[sc]e)?,?[ -]*(version |v)?(2(\.0)?)?( licen[sc]e)?",
    "BSD": r"(the )?((new|modified|simplified|[23][- ]clause) )?bsd([- ][23][- ]clause)?( licen[sc]e)?",
    "ISC": r"(the )?isc( licen[sc]e)?",
    "MIT": r"(the )?mit( licen[sc]e)?",
    "PSF-2.0": r"(the )?(psf|python software foundation)( licen[sc]e)?",
}
HEADER = 2000  # characters of a file in which it says whose it is, and what made it
COPYLEFT = re.compile(r"General Public License|\b[AL]?GPL\b|\b[AL]?GPL-?v?[23]", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """One document. left_out: reason -> how many of its files are not in it."""

    name: str
    version: str
    licence: str
    held_out: bool
    files: tuple[str, ...]
    left_out: dict[str, int]

    def record(self) -> dict[str, Any]:
        """What identifies the document: bytes and SHA-256 are those of its text in UTF-8."""
        text = "".join(self.files).encode()
        return {
            "name": self.name,
            "version": self.version,
            "licence": self.licence,
            "held_out": self.held_out,
            "files": len(self.files),
            "left_out": self.left_out,
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        }


def packages(found: Iterable[Distribution] | None = None, most_bytes: int = 6_000_000) -> list[Package]:
    """The documents of all permissively licensed distributions, in alphabetical order.

    found: default: all that are installed. most_bytes: of a package; files behind that are not read, so that a few
    packages are not most of the text. A file that comes twice is kept where it is held out, else where it comes first.
    """
    by_name: dict[str, Distribution] = {}
    for distribution in distributions() if found is None else found:
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if name and name not in NOT_TEXT:
            by_name.setdefault(name, distribution)
    chosen = [(name, by_name[name], told) for name in by_name if (told := licence(by_name[name]))]
    chosen.sort(key=lambda each: (not _held_out(each[0]), each[0]))
    seen: set[bytes] = set()
    made = []
    for name, distribution, told in chosen:
        left_out: Counter[str] = Counter()
        files = tuple(_files(distribution, most_bytes, seen, left_out))
        if files:
            counts = dict(sorted(left_out.items()))
            made.append(Package(name, distribution.version, told, _held_out(name), files, counts))
    return sorted(made, key=lambda package: package.name)


def licence(distribution: Distribution) -> str | None:
    """The permissive licence that the metadata tell, or None where any statement is another, unknown or missing."""
    metadata = distribution.metadata
    stated = metadata.get("License-Expression")
    if stated:
        return _expression(stated)
    kinds = [line.rpartition("::")[2].strip() for line in metadata.get_all("Classifier") or [] if "License ::" in line]
    names = [CLASSIFIERS.get(kind) for kind in kinds if kind not in SAY_NOTHING]
    written = (metadata.get("License") or "").strip()
    if COPYLEFT.search(written):
        return None
    if written and "\n" not in written and len(written) < 80:
        names.append(_expression(written) or _spelt(written))
    if not names or None in names:
        return None
    return " AND ".join(dict.fromkeys(name for name in names if name))


def _expression(text: str) -> str | None:
    """An SPDX expression, if all licences in it are permissive, also where there is a choice."""
    names = re.split(r"\s+(?:AND|OR|WITH)\s+", re.sub(r"[()]", " ", text).strip())
    return text if all(name.strip() in PERMISSIVE for name in names) else None


def _spelt(text: str) -> str | None:
    return next((name for name, spelling in SPELLINGS.items() if re.fullmatch(spelling, text.lower())), None)


def _held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def _files(distribution: Distribution, most_bytes: int, seen: set[bytes], left_out: Counter[str]) -> Iterator[str]:
    size = 0
    parts = [("README", distribution.metadata.get_payload() or distribution.metadata.get("Description") or "")]
    for path in sorted(distribution.files or [], key=lambda path: path.as_posix()):
        if path.suffix in SUFFIXES and not _about_the_package(path):
            parts.append((path.as_posix(), path))
    for path, source in parts:
        if size >= most_bytes:
            left_out["behind the most bytes of a package"] += 1
            continue
        try:
            text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            left_out["not readable as UTF-8"] += 1
            continue
        if not text.strip():
            continue
        digest = hashlib.sha256(text.encode()).digest()
        why = "occurs twice" if digest in seen else _unfit(path, text)
        if why:
            left_out[why] += 1
            continue
        seen.add(digest)
        size += len(text.encode())
        yield f"# {path}\n{text.rstrip()}\n\n"


def _about_the_package(path: PurePath) -> bool:
    """Licences, lists of authors and what the installer wrote."""
    name = path.name.upper()
    return path.parts[0].endswith((".dist-info", ".egg-info", "..")) or name.startswith(
        ("LICEN", "COPYING", "NOTICE", "AUTHORS", "CONTRIBUTORS")
    )


def _unfit(path: str, text: str) -> str | None:
    """Why a file is not text that somebody wrote, or not under the package's licence."""
    if VENDORED & set(path.split("/")[:-1]):
        return "vendored"
    if COPYLEFT.search(text[:HEADER]):
        return "speaks of a copyleft licence"
    if re.search(r"do not edit|(auto[- ]?|automatically )generated|generated by", text[:HEADER], re.IGNORECASE):
        return "generated"
    lines = text.splitlines()
    if len(text) > 1_000_000 or max(map(len, lines)) > 1000 or len(text) / len(lines) > 120:
        return "long lines or very large"
    raw = text.encode()
    digits = len(raw) - len(raw.translate(None, b"0123456789"))
    if digits > 0.2 * len(raw) or re.search(r"[A-Za-z0-9+/=]{200}|(\\x[0-9a-fA-F]{2}){40}", text):
        return "mostly data"
    return None


def cut(package: Package, tokenizer: PreTrainedTokenizerBase, length: int) -> Ids:
    """int32 [n, length]: the document's tokens in order; what is left at its end is dropped."""
    encoded = tokenizer(list(package.files), add_special_tokens=False, verbose=False)["input_ids"]
    ids = np.concatenate([np.asarray(each, np.int32) for each in encoded])
    return ids[: len(ids) // length * length].reshape(-1, length)
