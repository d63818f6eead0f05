"""Losses over checkpoints: sums by document, laws that are found again, and what is said where nothing can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from headscope.errors import ArgumentError, StoreError
from headscope.interp.analysis import Losses, clustered_interval, context_gain, fit_laws, losses, read_losses
from made_perplexities import make_perplexity
from made_scores import make_scores

TOKENS = np.geomspace(1e9, 1.28e11, 9)
LAWS = {
    "log": lambda n: 4 - 0.08 * np.log(n),
    "power": lambda n: 2 + 0.5 * (n / 1e9) ** -0.4,
    "exponential": lambda n: 2 + 0.5 * np.exp(-n / 3e10),
}


def world(law: str, n: int = 9, documents: int = 24, noise: float = 0.002, seed: int = 0) -> Losses:
    """Documents of other sizes and levels about a law."""
    rng, tokens = np.random.default_rng(seed), TOKENS[:n]
    counts = rng.integers(500, 4000, documents)
    level = rng.normal(0, 0.3, documents)
    level -= (level * counts).sum() / counts.sum()  # so that these documents have the law's own level
    rest = rng.normal(0, noise, (n, documents))
    return Losses((LAWS[law](tokens)[:, None] + level + rest) * counts, counts, np.arange(n), tokens, law)


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_found_again_and_what_it_has_left(law: str) -> None:
    found = fit_laws(world(law), draws=399)
    assert found.best is not None and found.best.name == law and found.n == 9
    np.testing.assert_allclose(found.best.at(TOKENS), LAWS[law](TOKENS), atol=0.005)
    left = LAWS[law](TOKENS[-1]) - LAWS[law](2 * TOKENS[-1])
    assert found.gain.low <= left <= found.gain.high and found.gain.high - found.gain.low < 0.03
    assert f"best of log, power, exponential by AICc: {law}" in found.words
    if law == "log":
        assert found.a.low <= -0.08 <= found.a.high and found.b.low <= 4 <= found.b.high
        expected = np.polyfit(np.log(TOKENS), world(law).mean, 1)
        np.testing.assert_allclose([found.a.estimate, found.b.estimate], expected, rtol=1e-9)


def test_scatter_of_checkpoints_widens_what_documents_alone_would_say() -> None:
    still, jumps = world("log"), np.random.default_rng(1).normal(0, 0.02, (9, 1))
    moved = Losses(still.sums + jumps * still.counts, still.counts, still.steps, still.tokens_seen, "moved")
    widths = [fit.a.high - fit.a.low for fit in (fit_laws(each, draws=99) for each in (still, moved))]
    assert widths[1] > 4 * widths[0]


def test_too_little_is_said_to_be_too_little() -> None:
    few = fit_laws(world("power", n=6), draws=99)
    assert [law.name for law in few.laws] == ["log"] and np.isfinite(few.a.low)
    assert np.isnan(few.gain.low) and "(no interval)" in few.words, "six checkpoints cannot tell a floor"
    assert np.isnan(fit_laws(world("log", documents=11), draws=99).a.low)
    two = fit_laws(world("log", n=2))
    assert two.best is None and np.isnan(two.a.estimate) and "2 checkpoints with progress; 3 are needed" in two.words
    first = world("log", n=8)
    first.tokens_seen[0] = 0
    assert fit_laws(first, draws=99).n == 7


def test_losses_are_weighed_by_tokens_and_documents_without_one_are_left_out() -> None:
    found = [make_perplexity(step) for step in (0, 1000)]
    mine = losses(found, "en", steps=[0, 1000], tokens_seen=[0, 4e9])
    first, short = (0, 2)  # the documents of that corpus; the second has nothing at its last positions
    for c, each in enumerate(found):
        total = sum((each.nll[d] * each.tokens[d])[each.tokens[d] > 0].sum() for d in (first, short))
        assert mine.mean[c] == pytest.approx(total / sum(each.tokens[d].sum() for d in (first, short)))
        assert each.by_corpus["en"] == pytest.approx(mine.mean[c])
    assert mine.progress.tolist() == [0, 4e9] and losses(found, "en").progress.tolist() == [0, 1]
    late = losses(found, "en", at=32)
    assert late.counts.tolist() == [42] and late.mean[0] == pytest.approx(found[0].nll[0, 2])
    gain = losses(found, "en", "gain")
    assert gain.signed and gain.mean[1] == pytest.approx(found[1].tail_nll[0, 0] - found[1].tail_nll[0, 1])
    assert losses(found, "en", "context", 16).mean[1] == pytest.approx(found[1].tail_nll[0, 0])
    assert np.exp(losses(found, "en", "key").mean[0]) == pytest.approx(found[0].long_ppl["en"])
    for wrong, words in (
        ({"measure": "ppl"}, "measure must be one of nll, context, gain, key"),
        ({"corpus": "de"}, "there is no corpus 'de'; there are en, zh ✓"),
        ({"measure": "context", "at": 17}, "at: there is no length 17; there are 16, 64"),
        ({"at": 2}, "at: there is no bucket 2"),
        ({"found": [found[0], make_perplexity(1, texts_hash="0" * 32)]}, "of different texts"),
    ):
        with pytest.raises(ArgumentError, match=words):
            losses(**{"found": found, "corpus": "en", **wrong})


def test_intervals_are_those_over_documents() -> None:
    many = make_perplexity(5, n_documents=40, corpora=np.full(40, "en"))
    interval = losses([many], "en", "context", 64).interval()
    kept = many.tail_tokens[:, 1] > 0
    by_token = np.repeat(many.tail_nll[kept, 1], many.tail_tokens[kept, 1])
    expected = clustered_interval(
        by_token, np.repeat(np.flatnonzero(kept), many.tail_tokens[kept, 1]), bounds=(0, np.inf)
    )
    np.testing.assert_allclose([interval.low[0], interval.high[0]], [expected.low, expected.high], rtol=1e-9)
    assert interval.n_clusters == 39


def test_they_are_read_from_a_results_file(tmp_path: Path) -> None:
    path = tmp_path / "loss.h5"
    for step in (0, 500, 1000):
        make_perplexity(step).save(path, checkpoint=step, tokens_seen=step * 4e6)
    found = read_losses(path, "en", "key")
    assert found.steps.tolist() == [0, 500, 1000] and found.tokens_seen.tolist() == [0, 2e9, 4e9]
    assert found.mean[2] == pytest.approx(make_perplexity(1000).key_nll[0])
    with pytest.raises(StoreError, match="holds no perplexity"):
        read_losses(Path(__file__).parents[2] / "golden" / "store-1.3.h5", "en")


def test_the_gain_of_a_needle_is_its_twins_loss_less_its_own() -> None:
    scores = make_scores(n_probes=40)
    scores.probes["needle_id"] = np.array([f"needle-{i % 20}" for i in range(40)])
    order = np.random.default_rng(0).permutation(40)
    twins = make_scores(
        n_probes=40,
        nll_novel=(scores.nll_novel + 3 + np.arange(40) / 40)[order].astype(np.float32),
        probes={**scores.probes, "id": np.array([f"{id}/no_needle" for id in scores.probes["id"]])[order]},
    )
    found = context_gain(scores, twins)
    np.testing.assert_allclose(found.per_probe, 3 + np.arange(40) / 40, atol=1e-5)
    assert found.mean.low < found.mean.estimate < found.mean.high and found.mean.n_clusters == 20
    with pytest.raises(ArgumentError, match="twins has no 'sentence-0/no_needle' \\(40 of 40 are missing\\)"):
        hs.analysis.context_gain(scores, scores)
    with pytest.raises(ArgumentError, match="value must be one of nll, nll_novel"):
        context_gain(scores, twins, "exact_match")
