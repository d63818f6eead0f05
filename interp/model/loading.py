"""Load a causal language model and its tokenizer: a local folder, a hub id, a GGUF file or a model already in memory.

Whatever is wrong with the files becomes a `ModelError`: one line, with what to do about it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ..checkpoint_names import local_model_name
from .configs import readable_configs
from .hub import hub_name, locate, locate_weights, refuse_other_formats
from .quantisation import check_quantisation, method
from .reading import TEXT_FILES as _TEXT_FILES
from .reading import ModelError, check_texts, first_line, read_json
from .reuse import WeightSignature, fits, load_into, weight_signature
from .sizes import check_described
from .weights import Weights, fingerprint, folder_weights, gguf_weights, held

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MERGE_PARTS = "merge them: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf (llama.cpp)"
_TOKENIZER_FILES = ("tokenizer*", "tekken.json", "vocab.*", "*.model", "*.tiktoken")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to be scored (eval mode) and where it came from.

    model_id: the hub id, or the last part of the path (without ".gguf"); of a model object, the same of what its config
        says.
    revision: commit hash of a hub model, else None.
    fingerprint: "safetensors:<sha256>" over names, dtypes, shapes and bytes of the tensors in name order (so the same
    for any sharding), "gguf:<sha256>" of the file, "pickle:<sha256>" over the files; None for a passed-in model, whose
    weights may be sharded or still training.
    signature: what another checkpoint must have in common to be loaded into this module (`load_model(into=...)`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    model_id: str
    revision: str | None
    fingerprint: str | None
    signature: WeightSignature | None = None


def load_model(
    name: str | os.PathLike[str] | Any,
    *,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | Any = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    into: LoadedModel | None = None,
    verbose: bool = False,
) -> LoadedModel:
    """Load `name`: a local folder, a .gguf file, a hub id ("org/name" or "org/name@revision") or a model object.

    A folder inside a hub repository is "org/name/folder" or "org/name/folder@revision".
    A model object is passed through untouched, with `tokenizer` as given (None is fine there).
    tokenizer: a tokenizer object, folder, .gguf file or hub id; default: from the same place as the model.
    dtype: "auto" is float32 on the CPU and the checkpoint's own dtype elsewhere; or "float32", "bfloat16", "float16".
    device: "auto" is the first CUDA device, or the CPU where there is none.
    trust_remote_code: run Python code that comes with the checkpoint.
    allow_pickle: open pytorch_model.bin, which can run code too; without it only safetensors and GGUF are read.
    into: what this function returned for another checkpoint and nobody needs any more. Where configuration and tensors
        are alike, its module is given the new weights instead of building another; the scores are the same bit for bit.
    verbose: let transformers show its warnings and progress bars.

    Raises ModelError: nothing there, not a causal LM, files missing or cut short, weights absent from the checkpoint
    (they would be random), NaN or infinite weights, no tokenizer, packages missing.
    """
    if not isinstance(name, (str, os.PathLike)):
        _check_model_object(name)
        with _quiet(verbose), _one_gguf_read(verbose), readable_configs():
            chosen = None if tokenizer is None else _tokenizer(tokenizer, trust_remote_code)
        config = getattr(name, "config", None)
        model_id = local_model_name(str(getattr(config, "_name_or_path", "") or "")) or type(name).__name__
        return LoadedModel(name, chosen, model_id, getattr(config, "_commit_hash", None), None)
    target_device = _device(device)
    target_dtype = _dtype(dtype, target_device)
    with _quiet(verbose), _one_gguf_read(verbose), readable_configs():
        path, commit = locate(name, revision, [*_TEXT_FILES, *(["*.py"] if trust_remote_code else [])], "model")
        if commit is not None:
            locate_weights(name, commit, path, allow_pickle, "model")
        weights = gguf_weights(path) if path.suffix == ".gguf" else folder_weights(path, allow_pickle)
        if weights.kind != "gguf":
            check_quantisation(read_json(path / "config.json", ""), path, target_device)
        chosen = _tokenizer(path if tokenizer is None else tokenizer, trust_remote_code)
        pattern = weight_signature(path, weights, target_dtype, target_device)
        if into is not None and pattern is not None and pattern == into.signature and fits(into.model, pattern):
            model = into.model
            _load_into(model, path, weights)
        else:
            model = _load_weights(path, weights, target_dtype, target_device, trust_remote_code)
        _refuse_bad_weights(model, path)
    model_id = os.fspath(name).partition("@")[0] if commit else local_model_name(os.fspath(path)).removesuffix(".gguf")
    return LoadedModel(model, chosen, model_id, commit, fingerprint(weights), pattern)


def load_tokenizer(
    name: str | os.PathLike[str] | Any, *, trust_remote_code: bool = False, verbose: bool = False
) -> PreTrainedTokenizerBase:
    """Only the tokenizer of a local folder, a .gguf file or a hub id ("org/name" or "org/name@revision").

    No weights are read or downloaded. The arguments are those of `load_model`. Raises ModelError.
    """
    with _quiet(verbose), _one_gguf_read(verbose), readable_configs():
        return _tokenizer(name, trust_remote_code)


def has_tokenizer(folder: Path) -> bool:
    """Whether files of a tokenizer lie in a folder. Trainers often save none beside their checkpoints."""
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def _check_model_object(model: Any) -> None:
    from torch import nn

    from .adapt import described, unwrapped

    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        what = described(model).removeprefix("a builtins.")
        raise ModelError(f"name: got {what}; give a folder, a .gguf file, a hub id or a Hugging Face causal LM")


def _device(device: str | torch.device) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f'device: got {device!r}; give "auto", "cpu", "cuda" or "cuda:1"') from error
    seen = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= seen:
        raise ModelError(f'device: {device} asked for, but torch sees {seen} CUDA devices; use device="cpu" or "auto"')
    return wanted


def _dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    import torch

    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise ModelError(f'dtype: got {dtype!r}; give "auto", "float32", "bfloat16", "float16" or a torch float dtype')
    return wanted


# Loading


def _load_weights(
    path: Path, weights: Weights, dtype: str | torch.dtype, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    where, gguf = _gguf_arguments(path)
    if weights.kind != "gguf" and not trust_remote_code:
        _check_size(path, weights)
    if weights.kind != "gguf":
        gguf["use_safetensors"] = weights.kind == "safetensors"
    try:
        with _panics_are_errors():
            model, info = _auto_class(path).from_pretrained(
                where,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # its own message points at a report that nobody sees; ours follows
                **gguf,
            )
            model = model.to(device)
    except Exception as error:
        # transformers raises almost anything here; the reader needs the file, the reason and a way on.
        raise ModelError(_load_failure(path, weights.kind, error)) from error
    if info["mismatched_keys"]:
        key, stored, wanted = min(info["mismatched_keys"])
        raise ModelError(
            f"{path}: {key} is {tuple(stored)} in the weights, but config.json asks for {tuple(wanted)};"
            " they belong to different models; give each its own config.json"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        if gguf and (parts := _gguf_parts(path)):
            raise ModelError(f"{path} is one of the {parts} parts of a split GGUF file; {_MERGE_PARTS}")
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{path} has no weights for {missing[0]}{more}: they would be random; give a complete causal LM checkpoint"
        )
    return model.eval()


def _check_size(path: Path, weights: Weights) -> None:
    """Refuse a model that is of another size than its weights, before it takes any memory. Costs some 0.1 s."""
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = _auto_class(path).from_config(config, trust_remote_code=False)
    except Exception:  # loading fails for the same reason, and tells it
        return
    check_described(model, path, held(weights, read_json(path / "config.json", "")))


def _auto_class(path: Path) -> Any:
    """transformers' class that knows the model: most models that read images as well are no "causal LM" to it."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    kind = read_json(path / "config.json", "").get("model_type") if path.is_dir() else None
    known = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    with_images = kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if with_images and not known else AutoModelForCausalLM


def _load_into(model: PreTrainedModel, path: Path, weights: Weights) -> None:
    try:
        load_into(model, path, weights)
    except Exception as error:
        raise ModelError(_load_failure(path, weights.kind, error)) from error
    model.eval()


def _load_failure(path: Path, kind: str, error: Exception) -> str:
    reason = first_line(error)
    if "trust_remote_code" in str(error):
        return f"{path} needs Python code that comes with it; read that code, then pass trust_remote_code=True"
    if "does not recognize this architecture" in str(error) or "is not supported yet" in str(error):
        from transformers import __version__

        return f"{path} has an architecture that transformers {__version__} does not know; pip install -U transformers"
    if kind == "gguf":
        return _gguf_failure(path, reason)
    if kind == "pickle":
        return f"{path} could not be loaded ({reason}); if a file was cut short, copy or download it again"
    from transformers import __version__

    config = read_json(path / "config.json", "")
    if isinstance(error, KeyError) and (rope := _rope_type(config, error)):
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        known = ", ".join(sorted(ROPE_INIT_FUNCTIONS))
        return f"{path} has RoPE of type {rope!r}, which transformers {__version__} does not know; it knows {known}"
    if (quantised := method(config)) is not None:
        return (
            f"{path} is quantised ({quantised}) and could not be loaded ({reason}); its files are whole: see what this "
            "quantisation needs, or give the model before it was quantised"
        )
    return f"{path} could not be loaded ({reason}); its files are whole: look at config.json and the packages it needs"


def _rope_type(config: dict[str, Any], error: KeyError) -> str | None:
    """The type of RoPE that a config names and the error complains of."""
    missed = error.args[0] if error.args else None
    for each in (config, config.get("text_config") or {}):
        for rope in (each.get("rope_scaling"), each.get("rope_parameters")):
            if isinstance(rope, dict) and missed is not None:
                named = [rope, *(layer for layer in rope.values() if isinstance(layer, dict))]
                if any(missed in (layer.get("rope_type"), layer.get("type")) for layer in named):
                    return str(missed)
    return None


def _gguf_failure(path: Path, reason: str) -> str:
    import gguf

    if parts := _gguf_parts(path):
        return f"{path} is one of the {parts} parts of a split GGUF file; {_MERGE_PARTS}"
    try:
        gguf.GGUFReader(path)
    except Exception:  # it raises almost anything
        return f"{path} could not be read as GGUF ({reason}); if it was cut short, copy or download it again"
    return f"{path} could not be loaded ({reason}); the file is whole: pip install -U transformers gguf"


def _gguf_parts(path: Path) -> int:
    """In how many files this one was split, whatever it is called now; 0: it was not, or cannot be read."""
    import gguf

    try:
        field = gguf.GGUFReader(path).get_field("split.count")
        count = int(field.contents()) if field is not None else 1
    except Exception:  # a damaged file
        return 0
    return count if count > 1 else 0


def _tokenizer(given: str | os.PathLike[str] | Any, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not isinstance(given, (str, os.PathLike)):
        if not callable(getattr(given, "decode", None)):
            raise ModelError(f"tokenizer: got {type(given).__name__}; give a tokenizer, its folder or a hub id")
        return given
    path, commit = locate(given, None, [*_TEXT_FILES, *(["*.py"] if trust_remote_code else [])], "tokenizer")
    remedy = 'pass tokenizer="<folder or hub id>", or save it there with tokenizer.save_pretrained'
    if path.is_dir() and not has_tokenizer(path):
        if commit is not None and (named := hub_name(os.fspath(given))):
            refuse_other_formats(named._replace(revision=commit), path, "tokenizer")
        raise ModelError(f"{path} has no tokenizer; {remedy}")
    if path.is_dir():
        check_texts(path)
    where, gguf = _gguf_arguments(path)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True, **gguf}
    try:
        with _panics_are_errors():
            return AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        if gguf:
            raise ModelError(_load_failure(path, "gguf", error)) from error
        raise ModelError(
            f"the tokenizer in {given if commit else path} could not be loaded ({first_line(error)}); {remedy}"
        ) from error


def _gguf_arguments(path: Path) -> tuple[Path, dict[str, Any]]:
    return (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})


def _refuse_bad_weights(model: PreTrainedModel, path: Path) -> None:
    import torch

    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        values = parameter.detach()
        if type(values) not in (torch.Tensor, torch.nn.Parameter):
            continue  # a packed tensor of a quantisation
        if values.element_size() == 1:
            if "float4" in str(values.dtype):
                continue  # it has neither
            values = values.float()  # float8 has no aminmax
        # Extremes carry NaN and infinity along, in one pass and without a mask as large as the weights.
        extremes = torch.stack(torch.aminmax(values))
        if not torch.isfinite(extremes).all():
            what = "NaN" if torch.isnan(extremes).any() else "infinite"
            raise ModelError(f"{path}: {name} holds {what} weights; give an earlier checkpoint, or a wider dtype")


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """The libraries in Rust panic on some files, which no `except Exception` sees."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise RuntimeError(str(error)) from error
        raise


# Quiet and quick


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Silence transformers' and huggingface_hub's warnings and progress bars, then restore their settings."""
    if verbose:
        yield
        return
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    hub_bars_off = are_progress_bars_disabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars_off:
            enable_progress_bars()


@contextmanager
def _one_gguf_read(verbose: bool) -> Iterator[None]:
    """Stop transformers from parsing a GGUF file's metadata once per step and building its name table once per module.

    That is half of a small model's load time. The dequantisation bar, which obeys no setting, goes too.
    """
    if importlib.util.find_spec("gguf") is None:
        yield
        return
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    with ExitStack() as stack:
        stack.enter_context(patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)))
        stack.enter_context(patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)))
        if not verbose:
            stack.enter_context(patch.object(loader, "tqdm", lambda items, **_: items))
        yield
