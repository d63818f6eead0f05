"""Pass@k against every choice of k answers, and the analytic one against drawn answers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from headscope.errors import ArgumentError
from headscope.interp.tasks import analytic, best_of_k, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_mean_over_all_choices(n: int) -> None:
    for right in range(n + 1):
        answers = [1] * right + [0] * (n - right)
        for k in range(1, n + 1):
            every = [max(chosen) for chosen in combinations(answers, k)]
            assert pass_at_k(n, right, k) == pytest.approx(np.mean(every), abs=1e-12)
            assert best_of_k(answers, k) == pytest.approx(pass_at_k(n, right, k), abs=1e-12)


def test_best_of_k_is_the_mean_of_the_best_over_all_choices() -> None:
    scores = np.random.default_rng(0).random((3, 6))
    for k in range(1, 7):
        every = [[max(chosen) for chosen in combinations(row, k)] for row in scores]
        np.testing.assert_allclose(best_of_k(scores, k), np.mean(every, axis=1))
    scores[0, 2] = np.nan
    assert np.isnan(best_of_k(scores, 1)).tolist() == [True, False, False]


def test_it_is_unbiased_where_the_plain_estimate_is_not() -> None:
    """Over all outcomes of n draws, weighted by how likely they are."""
    n, k, p = 5, 3, 0.3
    likely = [
        np.prod([p if i in chosen else 1 - p for i in range(n)])
        for r in range(n + 1)
        for chosen in combinations(range(n), r)
    ]
    right = [r for r in range(n + 1) for _ in combinations(range(n), r)]
    expected = sum(w * pass_at_k(n, c, k) for w, c in zip(likely, right, strict=True))
    plain = sum(w * (1 - (1 - c / n) ** k) for w, c in zip(likely, right, strict=True))
    assert expected == pytest.approx(1 - (1 - p) ** k) != pytest.approx(plain, abs=0.01)


def test_analytic() -> None:
    np.testing.assert_allclose(analytic(-np.log([0.3, 1.0, 1e-12]), 3), [1 - 0.7**3, 1.0, 3e-12], rtol=1e-9)
    assert np.isnan(analytic(np.nan, 3)) and analytic(np.inf, 3) == 0
    drawn = np.random.default_rng(0).random((4000, 3)) < 0.3
    assert analytic(-np.log(0.3), 3) == pytest.approx(drawn.any(axis=1).mean(), abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pass_at_k(3, 1, 4),
        lambda: pass_at_k(3, 4, 1),
        lambda: best_of_k([1.0], 2),
        lambda: best_of_k([], 1),
        lambda: analytic(1.0, 0),
    ],
)
def test_what_cannot_be_chosen_is_refused(wrong: object) -> None:
    with pytest.raises(ArgumentError, match="k"):
        wrong()  # type: ignore[operator]
