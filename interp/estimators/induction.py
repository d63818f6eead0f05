"""What a head does where the context repeats itself: look at the last time's token (echo), or behind it (induction)."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


def repeated(probe: Probe) -> np.ndarray:
    """int32 [n_answer, m]: sources s of each answer token with ids[s - 1] equal to the row's own token; -1 elsewhere.

    There the row's token and the one that follows are a pair of the needle come again.
    """
    before = probe.input_ids[np.maximum(probe.sources - 1, 0)]
    own = probe.input_ids[probe.answer_rows][:, None]
    return np.where((probe.sources > 0) & (before == own), probe.sources, -1)


def induction(probe: Probe) -> np.ndarray:
    """Spans of the tokens that followed the row's own the last time."""
    at = repeated(probe)
    return np.stack([at, np.where(at < 0, -1, at + 1)], axis=-1)


def echo(probe: Probe) -> np.ndarray:
    """Spans of the row's own token, the last time."""
    at = repeated(probe)
    return np.stack([np.where(at < 0, -1, at - 1), at], axis=-1)


@estimator(spans={"induction": induction})
def induction_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean probability on the token behind the row's own in the block that is repeated, in [0, 1].

        score = mean_t sum_{s in R_t} a_t,s      R_t = {s : ids[s] = y_t, ids[s-1] = ids[t]}

    over the answer rows t with a repeated pair. This is the prefix-matching score of Olsson et al. (arXiv 2209.11895),
    and RazorAttention's induction score (arXiv 2407.15891), on the repeated block that the answer is; `source_mass`
    also has rows whose own token did not come before, as the first of an answer.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no pair comes again.
    """
    return _mean_of_repeated("induction", probe, evidence)


@estimator(spans={"echo": echo})
def echo_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean probability on the row's own token in the block that is repeated, in [0, 1]: a duplicate-token head's.

        score = mean_t sum_{s in R_t} a_t,s-1      R_t as in `induction_mass`

    RazorAttention's echo score (arXiv 2407.15891), a mean over rows and not over rows x keys as in Huawei's code.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no pair comes again.
    """
    return _mean_of_repeated("echo", probe, evidence)


def _mean_of_repeated(name: str, probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    known = (repeated(probe) >= 0).any(axis=1)
    if not known.any():
        return evidence.unscored()
    return evidence.hidden_as_nan(evidence.mass[name][..., known].mean(axis=-1))
