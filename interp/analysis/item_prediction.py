"""Does what a model does on an item now tell whether it will succeed on that very item after a light fine-tune?

Within one checkpoint, over items: no trend is needed, and none can fool it. What can are families of different
difficulty and items that share a needle, so pairs are counted within families, and whole needles are drawn and dealt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..results import HeadScores
from ..tasks import Answers
from .bootstrap import MIN_NEEDLES, Interval

MOST_ITEMS = 4000  # all pairs are held at once
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Auc:
    """How often an item that succeeded had the higher score before than one that failed, ties counting half.

    auc: estimate with its interval over needles; NaN where all succeed or all fail; the interval also with fewer than
        12 needles. p: two-sided, from dealing successes anew to whole needles, within families. permuted: mean AUC of
        these deals, .5 where they are fair. n, n_needles: items with both values, and their needles.
    pairs: pairs of items compared, each weighed by the probability that the one succeeds and the other fails.
    """

    auc: Interval
    p: float
    permuted: float
    n: int
    n_needles: int
    pairs: float


@dataclass(frozen=True, eq=False)
class ItemPrediction:
    """One score of the items before against their success after.

    pooled: over all pairs; family difficulty is in it. within: only pairs of items of one family are compared, so that
        it is not. families: of each alone, where there are several. success: mean success after.
    """

    name: str
    pooled: Auc
    within: Auc
    families: dict[str, Auc]
    success: float


def predict_items(
    before: np.ndarray,
    success: np.ndarray,
    needles: np.ndarray,
    families: np.ndarray | None = None,
    *,
    name: str = "score",
    permutations: int = 999,
    level: float = 0.95,
    seed: int = 0,
) -> ItemPrediction:
    """AUC of `before` for `success`, over all pairs, within families, and in each family.

    The AUC is Mann and Whitney's U over the number of pairs. A success between 0 and 1 (a partial score, or the mean of
    several seeds) is a probability: a pair (i, j) counts with success_i * (1 - success_j). The interval is the
    jackknife's over needles on the logit scale, t with one degree of freedom less than needles: for a U statistic
    of clustered items it has the variance of Obuchowski (1997, Biometrics 53(2)), without taking items as independent.
    Where every pair is in order, it is that of as many independent pairs as there are needles on the rarer side.

    p: successes are dealt anew. Within a family they move with their needle, whole needle to whole needle, in random
    order inside it, and a needle that has items in several families moves in all of them together.

    Args:
        before: [P], higher should mean success (give -nll); NaN where unknown.
        success: [P], or [seeds, P], in [0, 1]; NaN where unknown.
        needles: [P], any labels of what belongs together.
        families: [P], labels; one family when not given. Give family and length together to hold both fixed.
        permutations: how many deals; 0 for none (p is NaN).

    Raises ArgumentError when shapes do not fit, success lies outside [0, 1], or there are more than 4000 items.
    """
    before, success = np.asarray(before, np.float64), np.asarray(success, np.float64)
    if success.ndim == 2:
        known = ~np.isnan(success)
        success = np.where(known.any(0), np.where(known, success, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)
    needles = np.asarray(needles)
    families = np.zeros(before.shape, int) if families is None else np.asarray(families)
    if before.ndim != 1 or not before.shape == success.shape == needles.shape == families.shape:
        raise ArgumentError(
            f"before, success, needles and families must be [items] alike, got {before.shape}, {success.shape}, "
            f"{needles.shape} and {families.shape}"
        )
    if ((success < 0) | (success > 1)).any():
        raise ArgumentError(f"success must lie in [0, 1], got {np.nanmin(success):g} to {np.nanmax(success):g}")
    seen = ~np.isnan(before) & ~np.isnan(success)
    if seen.sum() > MOST_ITEMS:
        raise ArgumentError(f"{seen.sum()} items are too many to compare in pairs; give at most {MOST_ITEMS}")
    before, success, needles, families = before[seen], success[seen], needles[seen], families[seen]
    names = dict.fromkeys(families.tolist())

    def auc(chosen: np.ndarray, strata: np.ndarray) -> Auc:
        return _auc(before[chosen], success[chosen], needles[chosen], strata[chosen], permutations, level, seed)

    everything = np.ones(len(before), bool)
    pooled = auc(everything, np.zeros(len(before), int))
    return ItemPrediction(
        name=name,
        pooled=pooled,
        within=auc(everything, families) if len(names) > 1 else pooled,
        families={str(each): auc(families == each, families) for each in names} if len(names) > 1 else {},
        success=float(success.mean()) if len(success) else float("nan"),
    )


def predict_from(
    scores: HeadScores,
    after: Answers | Mapping[str, np.ndarray],
    *,
    top: int = 10,
    threshold: float | None = None,
    hold_length: bool = False,
    permutations: int = 999,
    seed: int = 0,
) -> list[ItemPrediction]:
    """What a checkpoint's NLL and its leading heads' hits on every probe tell about success on the same probes later.

    Of `scores`: the NLL of the answer and of its novel tokens (their negatives, so that more predicts success), and the
    mean retrieval score of the `top` leading heads, which are chosen by all probes without a look at success.

    Args:
        scores: before.
        after: the answers to the same probes afterwards, or probe id -> success, a number or one for each seed.
        threshold: success is a score of at least this; without, the score is taken as a probability.
        hold_length: compare only items of one family *and* length.

    Raises ArgumentError when no probe is in both.
    """
    ids = scores.probes["id"]
    if isinstance(after, Answers):
        if after.probe_set_hash != scores.probe_set_hash:
            raise ArgumentError(
                f"the scores are of {scores.probe_set_name!r} ({scores.probe_set_hash[:12]}) and the answers to "
                f"{after.probe_set_name!r} ({after.probe_set_hash[:12]}); both must be of the same probes"
            )
        after = dict(zip(after.probes["id"].tolist(), after.score.astype(np.float64), strict=True))
    found = [np.atleast_1d(np.asarray(after.get(name, np.nan), np.float64)) for name in ids.tolist()]
    if all(np.isnan(each).all() for each in found):
        raise ArgumentError("no probe of the scores has a success afterwards; give it by the ids of the same probes")
    success = np.array([np.nan if np.isnan(each).all() else _mean_success(each, threshold) for each in found])
    families = scores.probes["variant"] if len(np.unique(scores.probes["variant"])) > 1 else scores.probes["family"]
    if hold_length:
        pairs = zip(families.tolist(), scores.probes["length"].tolist(), strict=True)
        families = np.array([f"{family}, {length} tokens" for family, length in pairs])
    heads = [(head.layer, head.head) for head in scores.top(top)]
    per_probe = scores.per_probe["retrieval"]
    hits = np.stack([per_probe[:, layer, head] for layer, head in heads], axis=1) if heads else per_probe[:, 0, :1]
    seen = ~np.isnan(hits)
    means = np.where(seen.any(1), np.where(seen, hits, 0).sum(1) / np.maximum(seen.sum(1), 1), np.nan)
    before = {
        "NLL of novel tokens": -scores.nll_novel,
        "NLL of the answer": -scores.nll,
        f"hits of the {len(heads)} leading heads": means,
    }
    return [
        predict_items(
            values, success, scores.probes["needle_id"], families, name=name, permutations=permutations, seed=seed
        )
        for name, values in before.items()
        if not np.isnan(values).all()
    ]


def _mean_success(values: np.ndarray, threshold: float | None) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean() if threshold is None else (known >= threshold).mean())


def _auc(
    before: np.ndarray,
    success: np.ndarray,
    needles: np.ndarray,
    strata: np.ndarray,
    permutations: int,
    level: float,
    seed: int,
) -> Auc:
    n = len(before)
    labels, cluster = np.unique(needles, return_inverse=True)
    cluster = cluster.ravel()
    stratum = np.unique(strata, return_inverse=True)[1].ravel()
    order = np.lexsort((cluster, stratum))
    before, success, cluster, stratum = (each[order] for each in (before, success, cluster, stratum))
    alike = np.equal.outer(stratum, stratum).astype(np.float32)  # which pairs are compared
    np.fill_diagonal(alike, 0)
    better = alike * (np.sign(before[:, None] - before[None]).astype(np.float32) + 1) / 2  # ties count half
    weight = np.outer(success, 1 - success)
    won, pairs = (_by_needle(each * weight, cluster, len(labels)) for each in (better, alike))
    estimate = float(won.sum() / pairs.sum()) if pairs.sum() > 1e-9 else float("nan")
    low, high = _jackknife(won, pairs, estimate, level)
    p = permuted = float("nan")
    if permutations and not np.isnan(estimate):
        dealt = _deals(success, cluster, stratum, permutations, seed)
        drawn = _aucs(dealt, better, alike)
        drawn = drawn[~np.isnan(drawn)]
        if len(drawn):
            reached = np.abs(drawn - 0.5) >= abs(estimate - 0.5) - 1e-9
            p, permuted = float((reached.sum() + 1) / (len(drawn) + 1)), float(drawn.mean())
    found = Interval(estimate, low, high, level, n, len(labels))
    return Auc(found, p, permuted, n, len(labels), float(pairs.sum()))


def _by_needle(values: np.ndarray, cluster: np.ndarray, count: int) -> np.ndarray:
    """Sums [needle, needle] of values of pairs [P, P], the succeeding item's needle first."""
    from scipy.sparse import csr_array

    member = csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))), shape=(count, len(cluster)))
    return np.asarray((member @ (member @ values).T).T)


def _jackknife(won: np.ndarray, pairs: np.ndarray, estimate: float, level: float) -> tuple[float, float]:
    """Interval from leaving out a needle at a time, on the logit scale."""
    from scipy import stats

    g = len(won)
    if np.isnan(estimate) or g < MIN_NEEDLES:
        return float("nan"), float("nan")
    without = [each.sum() - each.sum(0) - each.sum(1) + np.diag(each) for each in (won, pairs)]
    informs = without[1] > 1e-9
    if not informs.all():  # all successes, or all failures, are of one needle
        return float("nan"), float("nan")
    if min(estimate, 1 - estimate) < 1e-9:
        sides = [(pairs.sum(axis) > 1e-9).sum() for axis in (0, 1)]
        bound = float(((1 - level) / 2) ** (1 / min(sides)))
        return (bound, 1.0) if estimate > 0.5 else (0.0, 1 - bound)
    edge = 0.5 / max(pairs.sum(), 1.0)
    share = np.clip(without[0] / without[1], edge, 1 - edge)
    logit = np.log(share / (1 - share))
    centre = np.log(estimate / (1 - estimate))
    spread = np.sqrt((g - 1) / g * ((logit - logit.mean()) ** 2).sum())
    reach = stats.t.ppf((1 + level) / 2, g - 1) * spread
    low, high = (1 / (1 + np.exp(-(centre + side * reach))) for side in (-1, 1))
    return float(low), float(high)


def _deals(success: np.ndarray, cluster: np.ndarray, stratum: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[count, P]: successes dealt anew within strata, by needles in random order, the same order in all strata.

    Items are sorted by stratum and needle. Where needles have as many items each, a needle's successes go to one other
    needle; where they have not, they go to neighbours, so that what belongs together stays together as far as it can.
    """
    rng = np.random.default_rng(seed)
    dealt = np.empty((count, len(success)))
    for i in range(count):
        place = rng.permutation(cluster.max() + 1)[cluster] + rng.random(len(success))
        dealt[i] = success[np.lexsort((place, stratum))]
    return dealt


def _aucs(dealt: np.ndarray, better: np.ndarray, alike: np.ndarray) -> np.ndarray:
    found = np.empty(len(dealt))
    step = max(1, _BLOCK // dealt.shape[1])
    for start in range(0, len(dealt), step):
        rows = dealt[start : start + step].astype(np.float32)
        won, pairs = (((rows @ each) * (1 - rows)).sum(1) for each in (better, alike))
        found[start : start + step] = np.divide(won, pairs, out=np.full(len(rows), np.nan), where=pairs > 1e-6)
    return found
