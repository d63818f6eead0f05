"""Do ways of finding heads find the same ones? Rank agreement between estimators, groups of probes, published lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np

from ...errors import ArgumentError
from ..results import HeadScores
from ..store import read_scores
from .bootstrap import MIN_NEEDLES, Interval, needle_sums, needle_weights
from .head_lists import HeadList, read_head_list

RESAMPLES, OF_KENDALL = 199, 49  # of needles: only their spread is asked for; Kendall's tau looks at all pairs of heads
_BLOCK = 1 << 22  # pairs of heads held at a time
HALVES = 50  # ways to cut the needles in two
MOST = 24  # views side by side
NULLS = ("dealt_mean", "dealt_sd")  # what retrieval is compared with, and no ways of finding heads


@dataclass(frozen=True, eq=False)
class ListAgreement:
    """One published list against every view; intervals hold arrays [n_views].

    top: heads of the list that overlap counts. Where the list has no scores, spearman and kendall are NaN.
    """

    list: HeadList
    top: int
    spearman: Interval
    kendall: Interval
    overlap: Interval


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike views of a model's heads rank them. A view is a mean score of every head: by an estimator, or over a
    group of probes.

    Attributes:
        by: "estimator", or the column of the probes whose values are the groups.
        estimator: whose scores the groups are compared by; "" where estimators are compared.
        names: the views, [n].
        left_out: views without a score of any head, or that score all alike.
        spearman: rank correlation over all heads, ties sharing their mean rank, Interval of arrays [n, n].
        kendall: Kendall's tau-b, the same.
        overlap: share of the `top` leading heads that two views have in common, the same; of random rankings top /
            n_compared. Of equal scores the first in (layer, head) order lead.
        split_half: float64 [n]: mean Spearman between a view's means over two halves of its needles, at random: how far
            a ranking is this model's and not these needles'. Estimators see the same probes, so two that are nearly
            one may agree better with each other than either with itself. NaN with fewer than four needles.
        n_heads, n_compared: heads of the model, and those that every view could observe, which are compared.
        n_needles: of each view, [n].
        lists: published lists, in the order given.
        maps: float64 [n, n_layers, n_heads], the views.
    """

    by: str
    estimator: str
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    top: int
    spearman: Interval
    kendall: Interval
    overlap: Interval
    split_half: np.ndarray
    n_heads: int
    n_compared: int
    n_needles: np.ndarray
    lists: tuple[ListAgreement, ...]
    maps: np.ndarray


def agree(
    source: HeadScores | str | PathLike[str],
    *,
    checkpoint: int | None = None,
    by: str = "estimator",
    estimator: str = "retrieval",
    lists: Iterable[str | PathLike[str]] = (),
    top: int = 10,
) -> Agreement:
    """Compare rankings of a model's heads.

    Intervals are the estimate and its standard error over resampled needles, on Fisher's scale for correlations, with
    Student's t of one degree of freedom less than needles: how far another draw of as many needles would move it. They
    do not undo that noisy scores agree less than exact ones would; `split_half` shows how much that is. NaN with fewer
    than 12 needles.

    Args:
        source: scores, or a results file.
        checkpoint: which one of a file; default the last.
        by: "estimator" for all estimators against each other, but nulls; or a column of the probes, such as "length",
            "family", "variant" (a language of i18n, a task of RULER) or "needle_id", for the same estimator on groups
            of probes.
        estimator: which one, where groups are compared.
        lists: files with published lists of this model's heads, see `read_head_list`.
        top: how many leading heads overlap counts; of a list without scores, as many as it has.

    Raises:
        ArgumentError: an unknown column, too many groups, nothing to compare, or a `top` that is no number of heads.
        UnknownEstimatorError: `estimator` is not among the scores. HeadListError: a list cannot be read.
        StoreError: the file cannot be read, or has no such checkpoint.
    """
    if isinstance(source, HeadScores) and checkpoint is not None:
        raise ArgumentError(f"checkpoint={checkpoint} chooses within a file; HeadScores are of one checkpoint already")
    scores = source if isinstance(source, HeadScores) else read_scores(source, checkpoint)
    if by != "estimator" and by not in scores.probes:
        raise ArgumentError(f"by={by!r} is unknown; give 'estimator' or a column: {', '.join(scores.probes)}")
    if not 1 <= top <= scores.n_layers * scores.n_heads:
        raise ArgumentError(f"top must be 1 to {scores.n_layers * scores.n_heads}, the number of heads, got {top}")
    scores[estimator]  # the error for an unknown one
    views = _by_estimator(scores) if by == "estimator" else _by_group(scores, by, estimator)
    shape = (scores.n_layers, scores.n_heads)
    needles = scores.probes["needle_id"]
    sums, counts = needle_sums(np.moveaxis(np.stack([*views.values()]), 1, -1).astype(np.float64), needles)
    maps = _mean(sums.sum(-1), counts.sum(-1))
    says = np.array([np.unique(each[~np.isnan(each)]).size > 1 for each in maps])
    left_out = tuple(name for name, some in zip(views, says, strict=True) if not some)
    published = [read_head_list(path, *shape, scores.n_kv_heads) for path in lists]
    if says.sum() < 2 - bool(published):
        none = f"; {', '.join(left_out)} say nothing of any head" if left_out else ""
        raise ArgumentError(
            f"nothing to compare: by={by!r} there is only {says.sum()}{none}; score with more estimators "
            "(--estimators all), or compare groups of probes (by='length') or a published list"
        )
    sums, counts = sums[says], counts[says]
    names = tuple(name for name, some in zip(views, says, strict=True) if some)
    found = rank_agreement(sums, counts, top=top, n_probes=scores.n_probes, names=names)
    weights = needle_weights(sums.shape[-1], RESAMPLES)
    return Agreement(
        by=by,
        estimator="" if by == "estimator" else estimator,
        names=names,
        left_out=left_out,
        top=found.top,
        spearman=found.spearman,
        kendall=found.kendall,
        overlap=found.overlap,
        split_half=found.split_half,
        n_heads=scores.n_layers * scores.n_heads,
        n_compared=int(found.seen.sum()),
        n_needles=found.n_needles,
        lists=tuple(
            _against(each, maps[says], sums, counts, weights, found.n_needles, scores.n_probes, found.top, shape)
            for each in published
        ),
        maps=maps[says],
    )


@dataclass(frozen=True, eq=False)
class RankAgreement:
    """How alike n views rank heads; spearman, kendall, overlap, top, split_half, n_needles as in `Agreement`.

    seen: bool [heads], those that every view could observe, which are compared.
    """

    top: int
    spearman: Interval
    kendall: Interval
    overlap: Interval
    split_half: np.ndarray
    n_needles: np.ndarray
    seen: np.ndarray


def rank_agreement(
    sums: np.ndarray, counts: np.ndarray, *, top: int, n_probes: int, names: Sequence[str]
) -> RankAgreement:
    """Compare views by their sums and numbers of scores per needle, [n, heads, needles] (`needle_sums`).

    Raises ArgumentError where fewer than three heads can be observed in all views.
    """
    maps = _mean(sums.sum(-1), counts.sum(-1))
    seen = ~np.isnan(maps).any(axis=0)
    if seen.sum() < 3:
        raise ArgumentError(f"only {seen.sum()} heads can be observed in all of {', '.join(names)}; leave some out")
    own = counts[:, seen].any(axis=1).sum(axis=-1)
    weights = needle_weights(sums.shape[-1], RESAMPLES)
    drawn = [_mean(sums[:, seen] @ w, counts[:, seen] @ w) for w in weights]
    top = min(top, int(seen.sum()))

    def interval(of: Callable[[np.ndarray], np.ndarray], scale: str) -> Interval:
        resampled = np.stack([of(each) for each in drawn[: OF_KENDALL if of is _kendall else None]])
        return _interval(of(maps[:, seen]), resampled, np.minimum.outer(own, own), n_probes, scale)

    return RankAgreement(
        top=top,
        spearman=interval(_spearman, "correlation"),
        kendall=interval(_kendall, "correlation"),
        overlap=interval(lambda rows: _overlap(rows, top), "share"),
        split_half=_split_half(sums[:, seen], counts[:, seen]),
        n_needles=own,
        seen=seen,
    )


def _by_estimator(scores: HeadScores) -> dict[str, np.ndarray]:
    ways = {name: values for name, values in scores.per_probe.items() if name not in NULLS}
    return {name: values.reshape(scores.n_probes, -1) for name, values in ways.items()}


def _by_group(scores: HeadScores, by: str, estimator: str) -> dict[str, np.ndarray]:
    column = scores.probes[by]
    groups = np.unique(column)
    if len(groups) > MOST:
        raise ArgumentError(f"by={by!r} has {len(groups)} values, and at most {MOST} are compared side by side")
    values = scores.per_probe[estimator].reshape(scores.n_probes, -1)
    return {str(group): np.where((column == group)[:, None], values, np.float32(np.nan)) for group in groups}


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _ranks(rows: np.ndarray) -> np.ndarray:
    from scipy import stats

    found: np.ndarray = stats.rankdata(rows, axis=1)
    return found


def _spearman(rows: np.ndarray) -> np.ndarray:
    """[n, n] of [n, heads]; NaN for a row that is all alike or holds a NaN."""
    ranks = _ranks(np.where(np.isnan(rows).any(axis=1, keepdims=True), 0.0, rows))
    return _cosines(ranks - ranks.mean(axis=1, keepdims=True))


def _kendall(rows: np.ndarray) -> np.ndarray:
    """tau-b, [n, n]: the cosine of which of two heads is higher, over all pairs of heads."""
    rows = np.where(np.isnan(rows).any(axis=1, keepdims=True), 0.0, rows)
    n, heads = rows.shape
    step = max(1, _BLOCK // (n * heads))
    product = np.zeros((n, n))
    for start in range(0, heads, step):
        higher = np.sign(rows[:, start : start + step, None] - rows[:, None]).astype(np.float32).reshape(n, -1)
        product += higher @ higher.T
    return _over_norms(product)


def _cosines(rows: np.ndarray) -> np.ndarray:
    return _over_norms(rows @ rows.T)


def _over_norms(product: np.ndarray) -> np.ndarray:
    norm = np.sqrt(np.diag(product))
    size = np.outer(norm, norm)
    return np.divide(product, size, out=np.full(product.shape, np.nan), where=size > 0).clip(-1, 1)


def _overlap(rows: np.ndarray, top: int) -> np.ndarray:
    leading = np.zeros(rows.shape, np.float32)
    np.put_along_axis(leading, np.argsort(-rows, axis=1, kind="stable")[:, :top], 1.0, axis=1)
    leading[np.isnan(rows).any(axis=1)] = np.nan
    return (leading @ leading.T).astype(np.float64) / top


def _interval(estimate: np.ndarray, drawn: np.ndarray, needles: np.ndarray, n_probes: int, scale: str) -> Interval:
    """Estimate and needles [...], drawn [draws, ...]."""
    from scipy import stats

    there, back = (np.arctanh, np.tanh) if scale == "correlation" else (np.positive, lambda x: np.clip(x, 0.0, 1.0))
    near_one = 1 - 1e-9
    on_scale = there(np.clip(drawn, -near_one, near_one))
    known = np.isfinite(on_scale)
    n = known.sum(axis=0)
    mean = np.where(known, on_scale, 0.0).sum(axis=0) / np.maximum(n, 1)
    spread = np.sqrt(np.where(known, (on_scale - mean) ** 2, 0.0).sum(axis=0) / np.maximum(n - 1, 1))
    reach = stats.t.ppf(0.975, np.maximum(needles - 1, 1)) * spread
    at = there(np.clip(estimate, -near_one, near_one))
    enough = (needles >= MIN_NEEDLES) & (n >= len(drawn) // 2)
    exact = np.abs(np.abs(estimate) - 1) < 1e-12  # with itself, or another name of the same
    low, high = (np.where(exact, estimate, back(at + side * reach)) for side in (-1, 1))
    low, high = (np.where(enough & np.isfinite(estimate), x, np.nan) for x in (low, high))
    return Interval(estimate, low, high, 0.95, n_probes, int(needles.min()))


def _split_half(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[n] of sums and counts [n, heads, G]."""
    rng, found = np.random.default_rng(0), []
    for view_sums, view_counts in zip(sums, counts, strict=True):
        own = np.flatnonzero(view_counts.any(axis=0))
        if len(own) < 4:
            found.append(np.nan)
            continue
        halves = []
        for _ in range(HALVES):
            order = rng.permutation(own)
            parts = order[: len(own) // 2], order[len(own) // 2 :]
            maps = np.stack([_mean(view_sums[:, part].sum(-1), view_counts[:, part].sum(-1)) for part in parts])
            halves.append(_spearman(maps[:, ~np.isnan(maps).any(axis=0)])[0, 1])
        found.append(float(np.nanmean(halves)) if np.isfinite(halves).any() else np.nan)
    return np.array(found)


def _against(
    published: HeadList,
    maps: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray,
    own: np.ndarray,
    n_probes: int,
    top: int,
    shape: tuple[int, int],
) -> ListAgreement:
    """One list beside every view. Of key-value heads, ours is the best of the query heads that share it."""
    wanted = published.scores

    def to_list(rows: np.ndarray) -> np.ndarray:
        if wanted.shape == shape:
            return rows
        groups = rows.reshape(len(rows), shape[0], wanted.shape[1], -1)
        best = np.where(np.isnan(groups), -np.inf, groups).max(axis=-1)
        return np.where(np.isneginf(best), np.nan, best).reshape(len(rows), -1)

    theirs, ours = wanted.ravel(), to_list(maps)
    ranked = np.where(np.isnan(theirs), 0.0, theirs) if not published.ranked else theirs
    k = int(np.isfinite(theirs).sum()) if not published.ranked else min(top, int(np.isfinite(theirs).sum()))
    if not k:
        raise ArgumentError(f"{published.name} has a score for no head")
    drawn = [to_list(_mean(sums @ w, counts @ w)) for w in weights]

    def beside(of: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        seen = ~np.isnan(ranked) & ~np.isnan(ours).any(axis=0)
        both: np.ndarray = of(np.vstack([ranked[None, seen], rows[:, seen]]))
        return both[0, 1:]

    def interval(of: Callable[[np.ndarray], np.ndarray], scale: str) -> Interval:
        resampled = np.stack([beside(of, each) for each in drawn[: OF_KENDALL if of is _kendall else None]])
        return _interval(beside(of, ours), resampled, own, n_probes, scale)

    def nothing(rows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        return np.full((len(rows), len(rows)), np.nan)

    spearman, kendall = (_spearman, _kendall) if published.ranked else (nothing, nothing)
    return ListAgreement(
        list=published,
        top=k,
        spearman=interval(spearman, "correlation"),
        kendall=interval(kendall, "correlation"),
        overlap=interval(lambda rows: _overlap(rows, k), "share"),
    )
