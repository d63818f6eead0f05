"""Made-up runs whose truth is known: what the statistics of interp/analysis are tried on, here and in the tests.

Scores are bounded and skewed, probes of one needle move together, heads mostly score near 0, checkpoints jitter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headscope.interp.analysis.trajectory import Trajectory


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _parts(rng: np.random.Generator, shape: tuple[int, int, int], needle: float, probe: float) -> np.ndarray:
    """A needle's part, shared by its cells, and each probe's own; [samples, needles, cells]."""
    return needle * rng.normal(size=(*shape[:2], 1)) + probe * rng.normal(size=shape)


# name -> values [samples, needles, cells] and the least and greatest value possible
Sampler = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]
VALUES: dict[str, tuple[Sampler, tuple[float, float]]] = {
    "score near 0": (lambda rng, s: np.floor(_logistic(-2.5 + _parts(rng, s, 1.2, 0.8)) * 13) / 13, (0, 1)),
    "score in the middle": (lambda rng, s: _logistic(_parts(rng, s, 1.0, 0.7)), (0, 1)),
    "score near 1": (lambda rng, s: np.ceil(_logistic(2.5 + _parts(rng, s, 1.2, 0.8)) * 12) / 12, (0, 1)),
    "NLL": (lambda rng, s: np.exp(-1 + _parts(rng, s, 0.5, 0.5)), (0, np.inf)),
    "NLL, heavy tail": (lambda rng, s: np.exp(-1 + _parts(rng, s, 0.8, 0.6)), (0, np.inf)),
    "NLL, heavier tail": (lambda rng, s: np.exp(-1 + _parts(rng, s, 1.0, 0.6)), (0, np.inf)),
    "NLL, gamma": (lambda rng, s: rng.gamma(0.5, 1, (*s[:2], 1)) * rng.gamma(2, 0.5, s), (0, np.inf)),
    # a sample of 12 needles holds no hard one in 28 % of draws, and nothing in it says that there are any
    "NLL, one needle in ten is hard": (
        lambda rng, s: np.where(rng.random((*s[:2], 1)) < 0.1, 3.0, 0.3) * np.exp(_parts(rng, s, 0.3, 0.3)),
        (0, np.inf),
    ),
    "exact match, 70 %": (lambda rng, s: (rng.random(s) < _logistic(1 + _parts(rng, s, 1.2, 0))) * 1.0, (0, 1)),
    "exact match, 93 %": (lambda rng, s: (rng.random(s) < _logistic(3 + _parts(rng, s, 1.2, 0))) * 1.0, (0, 1)),
}


def truth(sampler: Sampler, rng: np.random.Generator) -> float:
    """The mean over all needles there could be."""
    return float(np.mean([sampler(rng, (500, 1000, 1)).mean() for _ in range(8)]))


def head_scores(
    rng: np.random.Generator, base: np.ndarray, samples: int, needles: int, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [samples, P, 1, H] of heads with the strengths base [H], and the needle of each probe."""
    shape = (samples, needles, cells, len(base))
    z = base + 0.4 * rng.normal(size=(samples, needles, 1, 1)) + rng.normal(size=(samples, needles, 1, len(base)))
    scores = np.clip(np.floor(13 * _logistic(z + 0.7 * rng.normal(size=shape))) / 12, 0, 1).astype(np.float32)
    return scores.reshape(samples, needles * cells, 1, len(base)), np.repeat(np.arange(needles), cells)


def head_strengths(rng: np.random.Generator, heads: int) -> np.ndarray:
    """Most heads near 0, one in seven strong, some close to the threshold."""
    base = rng.normal(-4.5, 1.5, size=heads)
    return np.where(rng.random(heads) < 0.15, base + 3, base)


def curves(kind: str, rng: np.random.Generator, progress: np.ndarray, count: int) -> np.ndarray:
    """Smooth curves [count, n] from 0 to 1: "exponential", "power" or "S" (late starts, as when a head is born)."""
    x = (progress - progress.min()) / np.ptp(progress)
    if kind == "exponential":
        found = -np.exp(-x / np.exp(rng.uniform(np.log(0.08), np.log(1.5), (count, 1))))
    elif kind == "power":
        offset = np.exp(rng.uniform(np.log(0.02), np.log(0.5), (count, 1)))
        found = -((x + offset) ** -rng.uniform(0.3, 1.5, (count, 1)))
    else:
        found = _logistic((x - rng.uniform(0.1, 0.5, (count, 1))) / rng.uniform(0.05, 0.2, (count, 1)))
    found = found - found[:, :1]
    return np.asarray(found / np.ptp(found, axis=1)[:, None])


def jitter(rng: np.random.Generator, count: int, n: int, memory: float = 0.0) -> np.ndarray:
    """Noise [count, n] of standard deviation 1; `memory` is its correlation from checkpoint to checkpoint."""
    noise = rng.normal(size=(count, n))
    for i in range(1, n):
        noise[:, i] = memory * noise[:, i - 1] + np.sqrt(1 - memory**2) * noise[:, i]
    return noise


def faded(
    rng: np.random.Generator, lengths: np.ndarray, needles: int, *, fades: float, steep: float, heads: int = 16
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores [P, 1, H], one probe a needle and length, of which half the heads retrieve less and less from about 2 **
    `fades` tokens on, and the probes' columns. Needles differ in how hard they are, for whom, and where they fade."""
    logs, retrieves = np.log2(lengths), np.arange(heads) < heads // 2
    z = np.where(retrieves, 1.5, -4.0) + 0.4 * rng.normal(size=(needles, 1, 1)) + rng.normal(size=(needles, 1, heads))
    beyond = logs[:, None] - fades - 0.4 * rng.normal(size=(needles, 1, 1))
    z = z - retrieves * steep * np.logaddexp(0, 2 * beyond) / 2 + 0.7 * rng.normal(size=(needles, len(logs), heads))
    scores = np.clip(np.floor(13 * _logistic(z)) / 12, 0, 1)
    columns = {"needle_id": np.repeat(np.arange(needles), len(logs)), "length": np.tile(lengths, needles)}
    return scores.reshape(-1, 1, heads), columns


def faded_truth(share: float, *, fades: float, steep: float, batches: int = 40) -> float:
    """Tokens at which the retrieving heads keep `share` of their mean score at 1024, over all possible needles."""
    lengths, rng = 2 ** np.linspace(10, 16, 97), np.random.default_rng(0)
    kept = np.mean(
        [
            faded(rng, lengths, 500, fades=fades, steep=steep)[0].reshape(500, 97, 16)[..., :8].mean((0, 2))
            for _ in range(batches)
        ],
        axis=0,
    )
    kept = kept / kept[0]
    after = int(np.argmax(kept < share))
    part = (kept[after - 1] - share) / (kept[after - 1] - kept[after])
    return float(2 ** (np.log2(lengths[after - 1]) + part / 16))


def run(
    rng: np.random.Generator,
    *,
    checkpoints: int,
    needles: int,
    cells: int = 6,
    level: float = 0.9,
    score_slope: float = 0.0,
    nll_slope: float = 0.0,
    flips: float = 0.1,
    score_jitter: float = 0.005,
    nll_noise: float = 0.1,
    nll_jitter: float = 0.01,
    head_slope: float = 0.0,
    head_jitter: float = 0.01,
) -> Trajectory:
    """The last doubling of a run: exact match around `level`, slopes per doubling (the NLL's of its logarithm).

    A probe is answered when its difficulty, which it keeps and shares in part with its needle, lies below the
    checkpoint's ability; `flips` is the part of difficulty that is drawn anew each time. All probes of a checkpoint
    share its jitter. Needles differ in how fast their NLL falls. Two heads score about .4, and move by `head_slope`.
    """
    p = needles * cells
    progress = np.linspace(0.5, 1.0, checkpoints)
    x = np.log2(progress)
    x = x - x.mean()
    needle = np.repeat(np.arange(needles), cells)
    hard = (np.sqrt(0.3) * rng.normal(size=needles)[needle] + np.sqrt(0.7) * rng.normal(size=p)) / np.sqrt(1 + flips**2)
    hard = hard + flips / np.sqrt(1 + flips**2) * rng.normal(size=(checkpoints, p))
    share = np.clip(level + score_slope * x + score_jitter * rng.normal(size=checkpoints), 1e-3, 1 - 1e-3)
    matched = _normal_cdf(hard) < share[:, None]
    slopes = nll_slope + 0.1 * abs(nll_slope) * rng.normal(size=needles)[needle]
    log_nll = -1 + 0.6 * rng.normal(size=needles)[needle] + 0.5 * rng.normal(size=p) + np.outer(x, slopes)
    log_nll = log_nll + nll_noise * rng.normal(size=(checkpoints, p)) + nll_jitter * rng.normal(size=(checkpoints, 1))
    nll = np.exp(log_nll).astype(np.float32)
    shared = head_jitter * rng.normal(size=(checkpoints, 1, 1))
    needle_part = 0.1 * rng.normal(size=(needles, 2))[needle] + 0.1 * rng.normal(size=(p, 2))
    moved = head_slope * x[:, None, None] * (1 + 0.2 * rng.normal(size=(needles, 2))[needle])
    scores = 0.4 + needle_part + moved + shared + 0.05 * rng.normal(size=(checkpoints, p, 2))
    scores = np.concatenate([scores, np.zeros((checkpoints, p, 2))], axis=2).clip(0, 1)
    return trajectory(scores[:, :, None].astype(np.float32), needle, progress * 1e11, nll, matched)


def pair(
    rng: np.random.Generator, *, heads: int, needles: int, cells: int, changed: float, effect: float, skewed: bool
) -> tuple[Trajectory, np.ndarray]:
    """Two checkpoints, and bool [H] which heads' means really differ. Needles respond in their own ways.

    skewed: unchanged heads gain much on few needles and lose little on many, with a mean of 0: no flip of signs leaves
    that alike, so it is harder than the test was made for.
    """
    base = head_strengths(rng, heads)
    true = (rng.random(heads) < changed) & (base > -4)  # weaker heads hardly score at all
    scores, needle = head_scores(rng, base, 1, needles, cells)
    before = scores[0, :, 0]
    # what a checkpoint does to a needle, it does in part to all heads alike
    own = rng.normal(size=(needles, heads)) + 0.5 * rng.normal(size=(needles, 1))
    own = 0.3 * (rng.exponential(size=own.shape) - 1) if skewed else 0.3 * np.tanh(own)
    room = before * (1 - before)  # so that nothing has to be cut at 0 or 1, which would be a change
    after = before + room * (own[needle] + true * effect + 0.2 * np.tanh(rng.normal(size=before.shape)))
    both = np.stack([before, after])[:, :, None].astype(np.float32)
    return trajectory(both, needle, np.array([1e9, 2e9])), true


def rising(shape: str, checkpoints: int, half: float, width: float, spread: np.ndarray) -> np.ndarray:
    """Curves [checkpoints, P] from 0 to 1 of items that rise earlier or later by `spread` [P], in widths.

    They are placed so that the mean over normally spread items has done half of its rise in the run at position `half`.

    shape: "S", logistic; "onset", exponential from an onset on. width: in checkpoints.
    """
    from scipy.stats import norm

    scale = float(np.sqrt((spread**2).mean())) if len(spread) else 0.0
    typical = scale * norm.ppf((np.arange(41) + 0.5) / 41)
    fine = np.linspace(0, checkpoints - 1, 401)

    def curve(x: np.ndarray, centre: float, later: np.ndarray) -> np.ndarray:
        z = (x[:, None] - centre) / width - later
        return _logistic(z) if shape == "S" else 1 - np.exp(-np.maximum(z + 2, 0) / 2.5)

    low, high = -1.5 * checkpoints, 2.5 * checkpoints
    for _ in range(40):
        centre = (low + high) / 2
        mean = curve(fine, centre, typical).mean(axis=1)
        at = fine[np.searchsorted(mean, (mean[0] + mean[-1]) / 2)]
        begun = mean[-1] - mean[0] > 1e-9 or centre < half  # far behind the run nothing has risen in it
        low, high = (centre, high) if at < half and begun else (low, centre)
    mean = curve(fine, centre, typical).mean(axis=1)
    found = curve(np.arange(checkpoints), centre, spread)
    return np.asarray((found - mean[0]) / (mean[-1] - mean[0]))


def three_levels(
    rng: np.random.Generator,
    halves: dict[str, float],
    *,
    checkpoints: int,
    needles: int,
    cells: int = 6,
    shapes: dict[str, str] | None = None,
    score_jitter: float = 0.02,
    memory: float = 0.0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Values [C, P] of the levels named in `halves`, which have done half of their rise there, and items' needles.

    "behaviour" answers or does not, "NLL" falls from 3 to 0.5 with needles of very different size, "heads" score from
    0.1 to 0.6. score_jitter: standard deviation, as a share of the rise, of what all items of a checkpoint share.
    """
    needle = np.repeat(np.arange(needles), cells)
    p, values = len(needle), {}
    for name, half in halves.items():
        spread = 0.5 * rng.normal(size=needles)[needle] + 0.5 * rng.normal(size=p)
        width = rng.uniform(0.5, 1.5) * checkpoints / 16
        risen = rising((shapes or {}).get(name, "S"), checkpoints, half, width, spread)
        risen = risen + score_jitter * jitter(rng, 1, checkpoints, memory)[0][:, None]
        own = rng.normal(size=needles)[needle]
        if name == "behaviour":
            values[name] = (rng.random(risen.shape) < 0.1 + 0.7 * risen + 0.15 * own).astype(np.float64)
        elif name == "NLL":
            values[name] = (3 - 2.5 * risen) * np.exp(0.5 * own + 0.1 * rng.normal(size=risen.shape))
        else:
            values[name] = np.clip(0.1 + 0.5 * risen + 0.1 * own + 0.08 * rng.normal(size=risen.shape), 0, 1)
    return values, dict.fromkeys(values, needle)


def items(
    rng: np.random.Generator, *, needles: int, cells: int, families: int, effect: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores before [P], success after [P], needles [P] and families [P] of a needle's family each.

    Within a family, what both rest on has the correlation `effect`; half of either is a needle's. Families differ in
    difficulty, which is in both, so that all pairs together say more than there is.
    """
    needle = np.repeat(np.arange(needles), cells)
    family = needle % families
    before, rest = (
        np.sqrt(0.5) * rng.normal(size=needles)[needle] + np.sqrt(0.5) * rng.normal(size=len(needle)) for _ in range(2)
    )
    hard = np.linspace(-1, 1, families)[family] if families > 1 else np.zeros(len(needle))
    after = effect * before + np.sqrt(1 - effect**2) * rest + hard
    return before + 1.5 * hard, (after > 0).astype(np.float64), needle, family


def continued(
    kind: str,
    rng: np.random.Generator,
    *,
    checkpoints: int,
    more: float,
    needles: int = 24,
    cells: int = 6,
    score_jitter: float = 0.02,
    memory: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A run that rises by 1 over progress 0 to 1: values [C, P], needles [P], progress [C], and the true gain to come.

    kind: "log", "exponential", "power" or "S". Needles rise by more or less (30 %), start anywhere, and are noisy.
    """
    offset = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    tau, alpha = np.exp(rng.uniform(np.log(0.1), np.log(1.5))), rng.uniform(0.25, 1.5)
    centre, width = rng.uniform(0, 0.4), rng.uniform(0.05, 0.15)
    curves: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "log": lambda x: np.log(x + offset),
        "exponential": lambda x: -np.exp(-x / tau),
        "power": lambda x: -((x + offset) ** -alpha),
        "S": lambda x: _logistic((x - centre) / width),
    }
    progress = np.linspace(0, 1, checkpoints)
    curve = curves[kind](np.append(progress, 1 + more))
    curve = (curve - curve[0]) / (curve[-2] - curve[0])
    needle = np.repeat(np.arange(needles), cells)
    values = curve[:-1, None] * (1 + 0.3 * rng.normal(size=needles)[needle]) + 0.5 * rng.normal(size=needles)[needle]
    values = values + score_jitter * jitter(rng, 1, checkpoints, memory)[0][:, None]
    return values + 0.2 * rng.normal(size=values.shape), needle, progress, float(curve[-1] - curve[-2])


def trajectory(
    scores: np.ndarray,
    needle: np.ndarray,
    progress: np.ndarray,
    nll: np.ndarray | None = None,
    matched: np.ndarray | None = None,
) -> Trajectory:
    """A trajectory from scores [C, P, L, H]; what is not given is NaN."""
    c, p = scores.shape[:2]
    unknown = np.full((c, p), np.nan, np.float32)
    text = {"family": "needle", "variant": "sentence"}
    whole = {"seed": 0, "length": 1024, "distance": 512, "interference": 512, "n_answer": 8}
    probes = {name: np.full(p, value) for name, value in (text | whole | {"depth": 0.5, "depth_nominal": 0.5}).items()}
    probes |= {"id": np.array([f"p{i}" for i in range(p)]), "needle_id": np.array([f"needle-{i}" for i in needle])}
    return Trajectory(
        steps=np.arange(c),
        tokens=progress,
        scores=scores,
        nll=dict.fromkeys(("nll", "nll_novel", "nll_echo", "nll_first"), unknown if nll is None else nll),
        exact_match=unknown if matched is None else matched.astype(np.float32),
        probes=probes,
    )


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return np.asarray(ndtr(x))
