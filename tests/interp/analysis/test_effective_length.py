"""Effective length: what it is on curves that are known, what it says at the edges, and whose heads it reads."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

import headscope as hs
from builders import random_grid
from headscope.interp.analysis import effective_length, effective_lengths, read_trajectory
from headscope.interp.lengths import about_length
from headscope.interp.report.terminal import summary
from headscope.interp.results import NLL_CLASSES, PROBE_COLUMNS
from headscope.interp.sweep.summary import summary_table
from made_up_worlds import worlds
from tiny_models import build

LENGTHS = (1024, 2048, 4096, 8192)


def curve(*means: float, needles: int = 12, lengths: tuple[int, ...] = LENGTHS, spread: float = 0.0, seed: int = 0):  # noqa: ANN201
    """Scores [P, 1, 6] of which three heads have these means by length and three score nothing, and the columns."""
    rng = np.random.default_rng(seed)
    of, length = np.repeat(np.arange(needles), len(lengths)), np.tile(lengths, needles)
    scores = np.zeros((len(of), 1, 6))
    scores[:, 0, :3] = np.tile(means, needles)[:, None] * (1 + spread * rng.uniform(-1, 1, (needles, 3))[of])
    return scores, {"needle_id": of, "length": length}


def test_the_curve_crosses_where_it_does() -> None:
    found = effective_length(*curve(0.9, 0.85, 0.6, 0.2))
    smooth = PchipInterpolator([10, 11, 12, 13], [0.9, 0.85, 0.6, 0.2])
    assert found.tokens == pytest.approx(2 ** brentq(lambda x: smooth(x) - 0.72, 10, 13), rel=1e-4)
    assert 2048 < found.tokens < 4096
    assert (found.low, found.high) == pytest.approx((found.tokens, found.tokens)), "all needles are alike"
    np.testing.assert_allclose(found.score, [0.9, 0.85, 0.6, 0.2])
    np.testing.assert_allclose(found.kept, np.array([0.9, 0.85, 0.6, 0.2]) / 0.9)
    assert found.target_over_shortest == pytest.approx(0.2 / 0.9)
    assert not (found.at_least or found.below) and found.words.startswith("3.1K tokens (95% 3.1K to 3.1K)")
    assert effective_length(*curve(0.9, 0.85, 0.6, 0.2), share=0.5).tokens > found.tokens


def test_a_dip_that_comes_back_does_not_end_the_context() -> None:
    assert effective_length(*curve(0.9, 0.7, 0.9, 0.85)).at_least
    held = effective_length(*curve(0.9, 0.7, 0.9, 0.1))
    assert 4096 < held.tokens < 8192 and held.kept[1] == held.kept[2] == pytest.approx(0.8 / 0.9)


def test_the_edges_are_told() -> None:
    lasts = effective_length(*curve(0.9, 0.9, 0.85, 0.8))
    assert lasts.at_least and lasts.tokens == lasts.low == 8192 and np.isinf(lasts.high)
    assert lasts.words == "at least 8K tokens: not lost at any length probed" and lasts.short == ">= 8K"
    nowhere = effective_length(*curve(0.05, 0.05, 0.05, 0.05))
    assert nowhere.below and nowhere.tokens == 1024 and np.isnan(nowhere.low)
    assert nowhere.words == "below 1K tokens: no head retrieves there" and nowhere.short == "< 1K"
    few = effective_length(*curve(0.9, 0.9, 0.85, 0.8, needles=11))
    assert np.isnan(few.tokens) and few.short == "-" and few.words.startswith("insufficient: 11 needles")
    one = effective_length(*curve(0.9, lengths=(1024,)))
    assert np.isnan(one.tokens) and "all probes have about 1K tokens" in one.words
    unsure = effective_length(*curve(0.9, 0.9, 0.8, 0.7, spread=0.4))
    assert unsure.low < unsure.tokens


def test_heads_are_read_on_needles_that_did_not_choose_them() -> None:
    """Heads that score on half of the needles each: chosen by one half, they score nothing on the other."""
    scores, probes = curve(0.0, 0.0, 0.0, 0.0, needles=24)
    for head in (0, 1):
        scores[probes["needle_id"] % 2 == head, 0, head] = 0.9
    found = effective_length(scores, probes)
    assert found.below and found.score[0] == 0


def test_heads_hidden_at_some_length_are_not_followed() -> None:
    scores, probes = curve(0.9, 0.85, 0.6, 0.2)
    windowed = scores.copy()
    windowed[:, 0, 3] = np.where(probes["length"] < 4096, 1.0, np.nan)
    assert effective_length(windowed, probes).tokens == effective_length(scores, probes).tokens


def test_probes_without_numbers_are_left_out() -> None:
    scores, probes = curve(0.9, 0.85, 0.6, 0.2, needles=14)
    scores[probes["needle_id"] == 3] = np.nan
    assert effective_length(scores, probes).n_needles == 13
    assert np.isnan(effective_length(np.full_like(scores, np.nan), probes).tokens)


def test_intervals_hold_the_true_length() -> None:
    """The full table is in benchmarks/statistics.py; 30 runs at .95: under 25 have a probability of .3 %."""
    true, probed = worlds.faded_truth(0.8, fades=12.5, steep=1.0, batches=4), 2 ** np.arange(10, 15)
    held = 0
    for seed in range(30):
        scores, probes = worlds.faded(np.random.default_rng(seed), probed, 12, fades=12.5, steep=1.0, heads=6)
        found = effective_length(scores, probes, draws=399)
        held += found.low <= true <= found.high
    assert held >= 25


def scores_of(values: np.ndarray, probes: dict[str, np.ndarray]) -> hs.HeadScores:
    """HeadScores of one layer with these scores."""
    model = hs.score_heads(build("llama", num_hidden_layers=2), random_grid())
    assert model.effective_length().words.startswith("insufficient: 4 needles at a length")
    p = len(values)
    columns = {name: np.zeros(p, np.int64) for name in PROBE_COLUMNS} | probes | {"id": np.arange(p)}
    texts = {name for name in PROBE_COLUMNS if model.probes[name].dtype.kind == "U"}
    return replace(
        model,
        n_layers=1,
        n_heads=6,
        n_kv_heads=6,
        per_probe={"retrieval": values},
        exact_match=np.ones(p, bool),
        probes={name: column.astype(str) if name in texts else column for name, column in columns.items()},
        **dict.fromkeys(NLL_CLASSES, np.ones(p)),
    )


def test_of_scores_in_files_tables_and_pictures(tmp_path: Path) -> None:
    values, probes = curve(0.9, 0.85, 0.6, 0.2, spread=0.1)
    scores, later = scores_of(values, probes), curve(0.9, 0.9, 0.85, 0.8)[0]
    assert scores.effective_length().words == effective_length(values, probes).words
    scores.save(tmp_path / "run.h5", checkpoint=1)
    replace(scores, per_probe={"retrieval": later}).save(tmp_path / "run.h5", checkpoint=2)
    over, each = effective_lengths(read_trajectory(tmp_path / "run.h5"))
    assert over.estimate == pytest.approx([each[0].tokens, 8192]) and [e.at_least for e in each] == [False, True]
    assert over.low[0] < over.estimate[0] < over.high[0] and over.high[1] == 8192, "as far as was probed"
    shown = io.StringIO()
    Console(file=shown, width=120).print(summary(scores), summary_table(tmp_path / "run.h5"))
    assert f"80% of the score at the shortest: {scores.effective_length().words}" in shown.getvalue()
    assert ["holds", "to"] in [line.split()[-2:] for line in shown.getvalue().splitlines()]
    assert shown.getvalue().splitlines()[-2].split()[-1] == "3.1K" and ">= 8K" in shown.getvalue().splitlines()[-1]
    (line,) = hs.plot.effective_length(hs.plot.evolve(tmp_path / "run.h5"), Figure().add_subplot()).lines
    np.testing.assert_array_equal(line.get_ydata(), over.estimate)


@pytest.mark.parametrize("share", [0.0, 1.0, -1])
def test_bad_arguments_are_named(share: float) -> None:
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        effective_length(*curve(0.9, 0.5, 0.2, 0.1), share=share)
    with pytest.raises(ValueError, match="needle_id and length"):
        effective_length(np.zeros((3, 4)), {"needle_id": np.zeros(3), "length": np.zeros(3)})


def test_lengths_in_words() -> None:
    assert [about_length(n) for n in (500.4, 1024, 1500, 3481.2, 65536, 150_001)] == [
        *("500", "1K", "1.5K", "3.4K", "64K", "146K")
    ]
