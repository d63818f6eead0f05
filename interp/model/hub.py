"""Where a checkpoint lies: on this disk, or on the Hugging Face Hub, from where no file comes that is not needed."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import formats
from .reading import ModelError, first_line, named_in

_NAME = r"[\w-][\w.-]*"
_HUB = re.compile(rf"({_NAME}(?:/{_NAME})?)((?:/[^/@]+)*)(?:@(.+))?")

INDEXES = {"model.safetensors": "model.safetensors.index.json", "pytorch_model.bin": "pytorch_model.bin.index.json"}


class HubName(NamedTuple):
    """org/name, org/name@revision, org/name/sub/folder, org/name/sub/folder@revision."""

    repository: str
    folder: str  # "" is the repository's root
    revision: str | None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.repository, self.folder)))


def hub_name(text: str) -> HubName | None:
    """What `text` means on the hub; None where it is no name of anything there."""
    match = _HUB.fullmatch(text)
    if match is None or Path(match[1]).suffix in {".gguf", ".safetensors", ".bin"}:
        return None
    return HubName(match[1], match[2].strip("/"), match[3])


def locate(
    name: str | os.PathLike[str], revision: str | None, patterns: Sequence[str], argument: str
) -> tuple[Path, str | None]:
    """The folder or .gguf file that `name` means, and the commit when it came from the hub.

    patterns: which files of a hub folder are downloaded; those of the folders below it are not.
    """
    text = os.fspath(name)
    if not text.strip():
        raise ModelError(f"{argument}: got an empty name; give a folder, a .gguf file or a hub id")
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        if revision is not None:
            raise ModelError(f"revision: {revision!r} given, but {name} is on this disk; revisions are for hub ids")
        return path, None
    if path.is_file():
        known = path.suffix not in {".safetensors", ".bin"} and formats.described([path.name], path.parent)
        what = known or "give the folder that holds config.json"
        raise ModelError(f"{argument}: {name} is a file but not a .gguf file; {what}")
    wanted = hub_name(text)
    misspelt = wanted is not None and wanted.folder and Path(text.partition("/")[0]).is_dir()
    if wanted is None or misspelt or path.suffix in {".gguf", ".safetensors", ".bin"}:
        raise ModelError(f"{argument}: no file or folder {text!r}; check the path (hub ids look like org/name)")
    if revision is not None and wanted.revision and revision != wanted.revision:
        raise ModelError(f"revision: got {revision!r}, but {argument} says @{wanted.revision}; give one of them")
    return _download(wanted._replace(revision=revision or wanted.revision), patterns, argument)


def locate_weights(name: str | os.PathLike[str], commit: str, folder: Path, allow_pickle: bool, argument: str) -> None:
    """Download the weights that belong to a hub folder whose text files are here: one format, and each tensor once."""
    wanted = hub_name(os.fspath(name))
    assert wanted is not None
    wanted = wanted._replace(revision=commit)
    for single, index in INDEXES.items():
        if single == "pytorch_model.bin" and not allow_pickle:
            continue
        names = [single]
        if (folder / index).is_file():
            names = sorted(set(named_in(folder / index).values()))
        _download(wanted, [glob.escape(name) for name in names], argument)
        if any((folder / name).is_file() for name in names):
            return
    refuse_other_formats(wanted, folder, argument)


def refuse_other_formats(wanted: HubName, folder: Path, argument: str) -> None:
    """Raise ModelError with what a hub folder holds instead of a model; nothing where the hub cannot be asked.

    folder: what has been downloaded of it.
    """
    names = _listed(wanted)
    if names is None:
        return
    here = Path(wanted.repository.rpartition("/")[2])
    ggufs = [name for name in names if name.endswith(".gguf")]
    if what := formats.described(names, here / wanted.folder):
        get = "" if "allow_pickle" in what else f" (after hf download {wanted.repository} --local-dir {here})"
        raise ModelError(f"{argument}: {wanted}: {what}{get}")
    if ggufs and not (folder / "config.json").is_file():
        raise ModelError(
            f"{argument}: {wanted} holds GGUF files; give one of them: hf download {wanted.repository} "
            f"{ggufs[0]} --local-dir {here}, then {here / ggufs[0]}"
        )


def _listed(wanted: HubName) -> list[str] | None:
    """Names of the files in a hub folder, relative to it; None where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().list_repo_files(wanted.repository, revision=wanted.revision)
    except Exception:  # no network has many names
        return None
    below = f"{wanted.folder}/" if wanted.folder else ""
    return [file.removeprefix(below) for file in files if file.startswith(below)]


def _download(name: HubName, patterns: Sequence[str], argument: str) -> tuple[Path, str]:
    """The local snapshot of a hub folder, downloaded where it is not in the cache, and its commit hash."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    below = f"{glob.escape(name.folder)}/" if name.folder else ""
    fetch = functools.partial(
        snapshot_download,
        name.repository,
        revision=name.revision,
        allow_patterns=[below + pattern for pattern in patterns],
        ignore_patterns=[f"{below}*/*"],  # other formats of the same weights (original/, onnx/), other checkpoints
    )
    wanted = f"{argument}: {str(name)!r}" + (f" at revision {name.revision!r}" if name.revision else "")
    try:
        snapshot = Path(fetch())
    except GatedRepoError as error:
        raise ModelError(f"{wanted} is gated; accept its licence on huggingface.co, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{wanted}: the repository has no such revision; give a branch, tag or commit hash") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{wanted} is neither a folder here nor on the hub; check the spelling, or `hf auth login` if it is private"
        ) from error
    except Exception as error:  # no network has many names, and some versions then forget to look into the cache
        try:
            snapshot = Path(fetch(local_files_only=True))
        except Exception:
            offline = isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled))
            reason = "" if offline else f" ({first_line(error)})"
            raise ModelError(
                f"{wanted} is neither a folder here nor in the download cache, and the hub cannot be reached{reason};"
                " connect (and unset HF_HUB_OFFLINE), or give a local folder or .gguf file"
            ) from error
    folder = snapshot / name.folder
    if not name.folder:
        snapshot.mkdir(parents=True, exist_ok=True)  # it is not there where no file was wanted
    elif not folder.is_dir():
        raise ModelError(f"{wanted}: the repository {name.repository} has no such folder; check its name on the hub")
    return folder, snapshot.name
