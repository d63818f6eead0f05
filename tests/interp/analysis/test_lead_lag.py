"""Which level changes first: two checkpoints are seen, none are not, and too little is said to be too little."""

from __future__ import annotations

import numpy as np
import pytest

from headscope.errors import ArgumentError
from headscope.interp.analysis import lead_lag
from headscope.interp.analysis.lead_lag import family
from made_up_worlds import worlds


def halves(base: float, lead: float) -> dict[str, float]:
    return {"behaviour": base + lead / 2, "NLL": base - lead / 2, "heads": base - lead / 2}


@pytest.mark.parametrize(("shape", "memory"), [("S", 0.0), ("onset", 0.5)])
def test_a_lead_of_two_checkpoints_is_seen_and_none_is_not(shape: str, memory: float) -> None:
    rng, seen, cried = np.random.default_rng(0), 0, 0
    for seed in range(4):
        for lead in (0, 2):
            values, needles = worlds.three_levels(
                rng,
                halves(rng.uniform(4, 6), lead),
                checkpoints=12,
                needles=24,
                cells=4,
                shapes={"behaviour": shape},
                memory=memory,
            )
            found = lead_lag(values, needles, np.arange(12.0), draws=199, seed=seed)
            calls = {(each.first, each.second) for each in found.leads if each.call == "leads"}
            seen += lead == 2 and calls == {("NLL", "behaviour"), ("heads", "behaviour")}
            cried += lead == 0 and bool(calls)
    assert seen >= 3 and cried == 0


def test_the_times_are_those_of_the_curves() -> None:
    """Without noise, on checkpoints that are not evenly spaced: half of an exponential rise, and of a logistic one."""
    progress, needles = np.array([0, 1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32.0]), np.arange(12)
    late = 1 - np.exp(-progress / 6)
    soon = 1 / (1 + np.exp(-(np.arange(12) - 2.0) / 0.7))
    found = lead_lag(
        {"late": late[:, None] + np.zeros((12, 12)), "soon": -soon[:, None] + np.zeros((12, 12))},
        {"late": needles, "soon": needles},
        progress,
        draws=199,
    )
    half = np.interp(late[-1] / 2, late, np.arange(12))
    np.testing.assert_allclose(found.half.estimate, [half, 2.0], atol=0.25)
    np.testing.assert_allclose(found.half_progress, np.interp(found.half.estimate, np.arange(12), progress))
    assert found.verdict == "soon leads late" and "soon leads late (+" in found.words


def test_what_rises_together_is_said_to_and_noise_is_not() -> None:
    rng, needles = np.random.default_rng(3), np.repeat(np.arange(24), 4)
    risen = worlds.rising("S", 20, 8.0, 1.2, np.zeros(96))
    quiet = {name: risen + 0.02 * rng.normal(size=risen.shape) for name in ("a", "b")}
    labels = dict.fromkeys(quiet, needles)
    assert lead_lag(quiet, labels, np.arange(20.0), draws=199).verdict == "together"
    noise = {"a": quiet["a"], "b": rng.normal(size=risen.shape)}
    assert lead_lag(noise, labels, np.arange(20.0), draws=199).verdict == "cannot tell"
    curves, at = family(tuple(np.linspace(0, 1, 12).tolist()))
    assert (np.diff(curves, axis=1) >= -1e-12).all() and (at >= 0).all() and (at <= 11).all()


def test_too_little_cannot_tell_and_nonsense_is_refused() -> None:
    rng = np.random.default_rng(0)
    values, needles = worlds.three_levels(rng, halves(3, 2), checkpoints=7, needles=24, cells=1)
    assert "7 checkpoints have all levels; 8" in lead_lag(values, needles, np.arange(7.0)).words
    values, needles = worlds.three_levels(rng, halves(5, 2), checkpoints=12, needles=6, cells=2)
    assert "6 needles; 12" in lead_lag(values, needles, np.arange(12.0)).words
    values, needles = worlds.three_levels(rng, halves(5, 2), checkpoints=12, needles=12, cells=1)
    still = lead_lag(values | {"heads": np.zeros((12, 12))}, needles, np.arange(12.0))
    assert still.verdict == "cannot tell" and "heads did not change" in still.words and still.leads == ()
    values["NLL"][3] = np.nan
    assert lead_lag(values, needles, np.arange(12.0), draws=99).n == 11
    for levels, progress, words in (
        ({"NLL": values["NLL"]}, np.arange(12.0), "two levels"),
        (values, np.zeros(12), "increases"),
        (values | {"NLL": values["NLL"][:, :3]}, np.arange(12.0), "a needle for every item"),
    ):
        with pytest.raises(ArgumentError, match=words):
            lead_lag(levels, needles, progress)
