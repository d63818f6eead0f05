"""Which heads are changed together: the leading ones, one by one, and random others that are like them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..ablation import HeadSet
from ..results import HeadScores, observed_mean

Unit = tuple[int, int]
"""(layer, head), or (layer, key-value head), from 0."""

NEAREST = 8  # a mass-matched control is drawn from so many that are nearest
_TRIES = 50  # draws for every control that is asked for, before all there are count as found


@dataclass(frozen=True, eq=False)
class Units:
    """What can be changed by itself: every query head, or all query heads that read one key-value head.

    exists: bool [n_layers, n_units]; where a layer has no attention, none do. size: query heads in a unit.
    score, mass: float64 [n_layers, n_units]: retrieval score, and attention on the needle, of the probes that choose;
        of a group the score is the largest of its heads' and the mass their mean. NaN: unknown, or unobservable.
    """

    exists: np.ndarray
    size: int
    score: np.ndarray
    mass: np.ndarray

    def heads(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        """All query heads of these units."""
        return tuple((layer, unit * self.size + i) for layer, unit in units for i in range(self.size))

    def ranked(self) -> list[Unit]:
        """All with a score, the highest first; equal ones in the order of layers and heads."""
        order = np.argsort(-self.score, axis=None, kind="stable")
        places = (divmod(int(i), self.score.shape[1]) for i in order)
        return [place for place in places if not np.isnan(self.score[place])]


def units_of(
    n_heads: dict[int, int], n_kv_heads: int, groups: bool, scores: HeadScores | None, chosen: np.ndarray
) -> Units:
    """The units of a model whose layers have so many query heads. chosen: bool [n_probes], the scores that choose."""
    n_layers, most = max(n_heads) + 1, max(n_heads.values())
    size = most // n_kv_heads if groups else 1
    exists = np.zeros((n_layers, most // size), bool)
    for layer, n in n_heads.items():
        exists[layer, : n // size] = True
    maps = {}
    for name in ("retrieval", "needle_mass"):
        held = scores is not None and name in scores
        mean = np.full((n_layers, most), np.nan)
        if scores is not None and held:
            of_all = observed_mean(scores.per_probe[name][chosen].astype(np.float64))[0]
            mean[: len(of_all)] = of_all[:n_layers]
        maps[name] = mean.reshape(n_layers, -1, size)
    with np.errstate(invalid="ignore"):
        score = np.where(np.isnan(maps["retrieval"]).all(-1), np.nan, np.nan_to_num(maps["retrieval"], nan=-1).max(-1))
        mass = observed_mean(maps["needle_mass"], axis=-1)[0]
    return Units(exists, size, np.where(exists, score, np.nan), np.where(exists, mass, np.nan))


def needles_that_choose(families: Sequence[str], needles: Sequence[str], seed: int) -> set[str]:
    """Half of the needles, of every family as near to half as can be; the others are left to measure on.

    Raises ArgumentError where there is only one.
    """
    of = sorted({(family, needle) for family, needle in zip(families, needles, strict=True)})
    if len({needle for _, needle in of}) < 2:
        raise ArgumentError(
            "heads are chosen on half of the needles and measured on the other half, and there is one needle; give "
            "probes of more, or a list of heads"
        )
    rng = np.random.default_rng(seed)
    key = {needle: rng.random() for needle in sorted({needle for _, needle in of})}
    order = sorted({needle: (family, key[needle]) for family, needle in of}.items(), key=lambda each: each[1])
    return {needle for needle, _ in order[::2]}


def sets_of(
    units: Units, ranked: Sequence[Unit], top: Sequence[int], each: int, controls: int, seed: int
) -> list[HeadSet]:
    """The sets of an ablation: none, the leading k, controls for each of those, and the leading units one by one.

    Where fewer different controls exist than are asked for, all of them are taken that were found.
    """
    rng = np.random.default_rng(seed)
    drawn = [("layer_matched", layer_matched), ("mass_matched", mass_matched)]
    found = [HeadSet("none", 0, 0, ())]
    found += [_set(units, "top", k, 0, ranked[:k]) for k in top]
    for kind, draw in drawn if controls else []:
        if kind == "mass_matched" and np.isnan(units.mass).all():
            continue
        for k in top:
            different: dict[tuple[Unit, ...], None] = {}
            for _ in range(_TRIES * controls):
                different[tuple(draw(ranked[:k], units, rng))] = None
                if len(different) == controls:
                    break
            found += [_set(units, kind, k, number, control) for number, control in enumerate(different)]
    return found + [_set(units, "one", 1, rank, [unit]) for rank, unit in enumerate(ranked[:each])]


def _set(units: Units, kind: str, k: int, draw: int, chosen: Sequence[Unit]) -> HeadSet:
    scores = np.array([units.score[unit] for unit in chosen])
    return HeadSet(kind, k, draw, units.heads(chosen), float(observed_mean(scores)[0]))


def layer_matched(chosen: Sequence[Unit], units: Units, rng: np.random.Generator) -> list[Unit]:
    """As many random units in every layer as are chosen there, none of them chosen; where a layer has too few, the rest
    from the layers nearest to it."""
    free, wanted = _others(chosen, units), Counter(layer for layer, _ in chosen)
    found: list[Unit] = []
    for far in range(len(free)):
        for layer in sorted(wanted):
            for at in sorted({layer - far, layer + far} & {*range(len(free))}):
                here = rng.permutation(np.flatnonzero(free[at]))[: wanted[layer]]
                found += [(at, int(unit)) for unit in here]
                free[at, here] = False
                wanted[layer] -= len(here)
    return sorted(found)


def mass_matched(chosen: Sequence[Unit], units: Units, rng: np.random.Generator) -> list[Unit]:
    """For every chosen unit, from the one with most attention on the needle on, one of the NEAREST others that are
    nearest in it, drawn at random: do heads matter because they copy, or because they look at the needle?"""
    free = _others(chosen, units) & ~np.isnan(units.mass)
    found: list[Unit] = []
    for unit in sorted(chosen, key=lambda each: (-np.nan_to_num(units.mass[each]), each)):
        away = np.where(free, np.abs(units.mass - np.nan_to_num(units.mass[unit])), np.inf)
        near = np.argsort(away, axis=None, kind="stable")[: min(NEAREST, int(free.sum()))]
        if len(near):
            place = divmod(int(rng.choice(near)), free.shape[1])
            found.append(place)
            free[place] = False
    return sorted(found)


def _others(chosen: Sequence[Unit], units: Units) -> np.ndarray:
    """bool [n_layers, n_units]: what is not chosen. Raises ArgumentError where that is too little for a control."""
    free = units.exists.copy()
    free[tuple(np.array(chosen).T)] = False
    if free.sum() < len(chosen):
        left, all_of = int(free.sum()), int(units.exists.sum())
        raise ArgumentError(
            f"{len(chosen)} of {all_of} heads or groups are changed, which leaves {left} for a control; give a smaller "
            "top, or controls=0"
        )
    return free
