"""What going on is worth: the limit holds, by every law, and what cannot be said is not."""

from __future__ import annotations

import numpy as np
import pytest

from headscope.errors import ArgumentError
from headscope.interp.analysis import stopping_advice
from headscope.interp.analysis.stopping import laws
from made_up_worlds import worlds


def test_the_limit_holds_about_as_often_as_it_says() -> None:
    """Stated is 95 %; of 48 runs by four laws at least 41 gain no more, and limits are no empty words."""
    held, slack = 0, []
    for kind in ("log", "exponential", "power", "S"):
        rng = np.random.default_rng(len(kind))
        for _ in range(12):
            values, needles, progress, true = worlds.continued(kind, rng, checkpoints=12, more=0.7)
            found = stopping_advice(values, needles, progress, 0.7, draws=299)
            held += true <= found.most
            slack.append(found.most - true)
    assert 41 <= held <= 48 and np.median(slack) < 0.15


def test_an_nll_and_a_bounded_score() -> None:
    rng = np.random.default_rng(0)
    values, needles, progress, true = worlds.continued("log", rng, checkpoints=20, more=0.5, score_jitter=0.005)
    up = stopping_advice(values, needles, progress * 1e11, 5e10, draws=999)
    down = stopping_advice(3 - values, needles, progress * 1e11, 5e10, measure="NLL", higher_is_better=False, draws=999)
    assert down.most == pytest.approx(up.most) and down.so_far == pytest.approx(up.so_far)
    assert up.expected == pytest.approx(true, abs=0.05) and up.answer == "at most" and up.laws[0] > 0.3
    for part in ("5e+10 more tokens", "at most", "NLL", "95%", "24 needles"):
        assert part in down.words
    full = stopping_advice(values, needles, progress, 0.5, bounds=(-9, float(values[-1].mean())), draws=999)
    assert full.most <= 0.2, "what is nearly full has no room"


def test_what_cannot_be_said_is_not() -> None:
    rng = np.random.default_rng(1)
    values, needles, progress, _ = worlds.continued("log", rng, checkpoints=5, more=0.5)
    few = stopping_advice(values, needles, progress, 0.5)
    assert few.answer == "insufficient" and np.isnan(few.most) and "5 checkpoints and 24 needles" in few.words
    noise = stopping_advice(rng.normal(size=(8, 144)), needles, np.arange(8.0), 7.0)
    assert noise.answer == "insufficient" and "more than all of the run so far" in noise.words
    with pytest.raises(ArgumentError, match="at most 7, the progress so far, got 8"):
        stopping_advice(rng.normal(size=(8, 144)), needles, np.arange(8.0), 8.0)
    with pytest.raises(ArgumentError, match="checkpoints, items"):
        stopping_advice(values[:, :3], needles, progress, 0.5)
    with pytest.raises(ArgumentError, match="increase"):
        stopping_advice(values, needles, progress[::-1], 0.5)
    curves, further, kind = laws(tuple(np.linspace(0, 1, 9).tolist()), 1.0)
    assert np.allclose(curves[:, -1], 1) and (further > 0).all() and set(kind) == {0, 1, 2, 3}
