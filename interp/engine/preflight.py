"""Is this model really reproduced? A few forwards of forty tokens answer before any number is trusted."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..model import Adapter, CaptureError, InPieces, PrefixCache, first_line, running
from .engine import Engine, not_finite
from .passes import WholePass
from .plan import plan
from .suffixes import SuffixPass

log = logging.getLogger(__name__)

PREFLIGHT_LENGTH = 40
# Relative difference of logits: rounding, not another computation. Half precision may also flip a near-tied expert.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def preflight(model: Adapter, probe: Probe, alone: bool | None = None) -> str | None:
    """Compare a short sequence: the model's eager attention, ours in prefix and suffix, where needed ours in one piece.

    Args:
        model: the model, not yet routed.
        probe: its tokens are run.
        alone: what was decided before for the same file. True: ours in one piece is all that is compared. False: a
            prefill in chunks that differs, by rounding then, is a warning; only a state that cannot be cut is a reason.

    Returns:
        None when probes may share a prefill, else why each must run alone.

    Raises:
        CaptureError: our attention does not reproduce the model's own, or was never asked.
    """
    short = _short(probe)
    ids = short.input_ids
    whole = WholePass(short, model.device)
    tokens = torch.from_numpy(ids[:-1].astype(np.int64))[None].to(model.device)
    positions = torch.arange(PREFLIGHT_LENGTH - 1, device=model.device)[None]
    with model.as_defined():
        own = model.forward(tokens, positions, None, whole.rows)
    # sharded training may compute in another dtype than its weights show
    computed = (model.dtype, own.dtype, _products(model.device))
    tolerance = max(TOLERANCE.get(dtype, TOLERANCE[torch.float32]) for dtype in computed)
    with model.routed(PREFLIGHT_LENGTH), _runs_as_before(model.name):
        reason = model.alone_because() or ("alone=True was asked for" if alone else None)
        if reason is None:
            shared, n_layers = _in_prefix_and_suffix(model, short)
            _refuse_if_not_finite(model, shared, own)
            if n_layers and _difference(shared, own) <= tolerance:
                return None
        with running(whole):
            ours = model.forward(tokens, positions, None, whole.rows)
    _refuse_if_not_finite(model, ours, own)
    if not whole.evidence:
        raise CaptureError(f"{model.name}: no layer asked for attention, so there are no heads to score")
    if max(whole.evidence) >= model.n_layers:
        raise CaptureError(
            f"{model.name}: its attention counts layers up to {max(whole.evidence)}, but num_hidden_layers is "
            f"{model.n_layers} (an encoder's?); headscope scores decoder-only models"
        )
    if _difference(ours, own) > tolerance:
        raise CaptureError(
            f"{model.name}: logits differ by {_difference(ours, own):.2g} (relative) from the model's own eager "
            "attention; its attention does something that headscope does not reproduce"
        )
    if reason is None:
        reason = f"a prefill in chunks changes its logits by {_difference(shared, ours):.2g} (relative)"
        if alone is False and n_layers:
            log.warning("%s: %s; probes share prefills still, as the measurements before", model.name, reason)
            return None
        log.warning("%s: %s; every probe runs alone", model.name, reason)
    return reason


def may_be_cut(model: Adapter, probe: Probe) -> bool:
    """Whether a model whose probes run alone can run one in chunks: forty tokens in two pieces are those in one.

    Args:
        model: inside its routing.
        probe: its tokens are run.
    """
    short = _short(probe)
    pieces = model.in_pieces(short.length) if isinstance(model, InPieces) else None
    if pieces is None:
        return False
    whole, tokens = WholePass(short, model.device), torch.from_numpy(short.input_ids.astype(np.int64))
    Engine(model, [short]).forget_lengths()
    with running(whole):
        positions = torch.arange(short.length, device=model.device)[None]
        ours = model.forward(tokens[None].to(model.device), positions, None, whole.rows)
    try:
        with pieces:
            cut, _ = _in_prefix_and_suffix(model, short)
    except Exception as error:  # a rotary module of another kind: then it is one forward, as before
        log.warning("%s: probes that run alone are not cut into chunks (%s)", model.name, first_line(error))
        return False
    return _difference(cut, ours) <= TOLERANCE.get(ours.dtype, TOLERANCE[torch.float32])


def _short(probe: Probe) -> Probe:
    ids = np.resize(probe.input_ids, PREFLIGHT_LENGTH)
    return Probe.from_ids(
        ids, prompt_len=PREFLIGHT_LENGTH - 4, needles=[(5, 9)], question_start=PREFLIGHT_LENGTH - 10, id="preflight"
    )


@contextmanager
def _runs_as_before(name: str) -> Iterator[None]:
    """The model ran with its own attention and cache: where its code fails now, it needs something of theirs."""
    try:
        yield
    except Exception as error:
        place = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals.get("__name__", "")
        if place.startswith("headscope.") or isinstance(error, torch.OutOfMemoryError):
            raise
        raise CaptureError(
            f"{name} runs with its own attention but not with headscope's mask and cache ({first_line(error)}); "
            "its layers do something with them that headscope cannot follow"
        ) from error


def _in_prefix_and_suffix(model: Adapter, probe: Probe) -> tuple[Tensor, int]:
    """Logits of the probe's answer rows, its context prefilled before them, and how many layers asked for attention."""
    prefix = plan([probe], "exact").prefixes[0]
    cache = PrefixCache(len(prefix.ids))
    Engine(model, [probe]).prefill(prefix, cache)
    suffix = SuffixPass(prefix.suffixes, [probe], cache, model.device)
    with running(suffix):
        return model.forward(suffix.ids, suffix.positions, cache, suffix.answers), len(suffix.evidence)


def _products(device: torch.device) -> torch.dtype:
    """How exactly float32 is multiplied there, as the dtype that is: tf32 has as many bits as float16.

    Asked by doing it: torch.set_float32_matmul_precision is one of several switches, old and new.
    """
    x = torch.randn(256, 256, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    error = _difference(x.to(device) @ x.to(device), x.double() @ x.double())
    return torch.bfloat16 if error > 2**-10 else torch.float16 if error > 2**-16 else torch.float32


def _refuse_if_not_finite(model: Adapter, ours: Tensor, own: Tensor) -> None:
    if not ours.isfinite().all() and not own.isfinite().all():
        raise not_finite(model, "the model's logits are not finite")


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.cpu().double(), b.cpu().double()
    difference = float((a - b).norm() / b.norm().clamp(min=torch.finfo(b.dtype).tiny))  # logits may all be 0
    return difference if b.isfinite().all() else 0.0  # where ours are, the model's own attention overflows
