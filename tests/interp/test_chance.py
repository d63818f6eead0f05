"""What a head scores that looks at random needle positions, against such heads; and that none of them is counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import stats

import headscope as hs
from headscope.interp.analysis.drop_alarm import Watch
from headscope.interp.analysis.evolution import head_counts, panel
from headscope.interp.analysis.heads import life
from headscope.interp.analysis.trajectory import read_trajectory
from headscope.interp.analysis.verdicts import judge
from headscope.interp.estimators.chance import chance
from headscope.interp.levels import counting_level, in_words
from headscope.interp.store.merging import merge
from headscope.interp.store.results_file import read_scores
from headscope.probes import Probe, ProbeSet
from made_scores import make_scores, with_chance

GOLDEN = Path(__file__).parents[1] / "golden"
DRAWS = 100_000


def simulate(rng: np.random.Generator, probe: Probe) -> np.ndarray:
    """float64 [DRAWS]: the retrieval scores of heads whose top key is, at every answer row, any copyable position."""
    places = [j for j in range(probe.length) if probe.needle_mask[j] and probe.input_ids[j] in probe.answer_ids]
    held, hit = probe.input_ids[places], np.zeros((DRAWS, len(places)), bool)
    for gold in probe.answer_ids:
        top = rng.integers(0, len(places), DRAWS)
        right = np.flatnonzero(held[top] == gold)
        hit[right, top[right]] = True
    return hit.mean(axis=1)


def from_tokens(needle: list[int], answer: list[int], **options: Any) -> Probe:
    ids = [1, 2, *needle, 3, 4, *answer]
    return Probe.from_ids(ids, prompt_len=len(ids) - len(answer), needles=[(2, 2 + len(needle))], **options)


def families() -> dict[str, ProbeSet]:
    """Every family and form of answer, by a byte-level tokenizer that cuts numbers and UUIDs into digits."""
    from pydoc_data.topics import topics

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: dict[str, Any] = {"initial_alphabet": alphabet, "special_tokens": ["<s>"], "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=3000, **options)
    bpe.train_from_iterator([topics[name] for name in sorted(topics)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")
    small: dict[str, Any] = {"lengths": 512, "depths": [0.5], "needles": 1, "haystack": "noise"}
    made = {kind: hs.probes.build("grid", tokenizer, kind=kind, **small) for kind in ("sentence", "biography")}
    for kind in ("number", "uuid"):
        made[kind] = hs.probes.build("grid", tokenizer, kind=kind, **small)
        made[f"{kind} sentence"] = hs.probes.build("grid", tokenizer, kind=kind, answer="sentence", **small)
    heads = hs.probes.build("heads", tokenizer, **small)
    return made | {"induction": heads.subset(lambda probe: probe.family == "induction")}


def test_chance_is_what_such_heads_score_in_every_family() -> None:
    rng, seen = np.random.default_rng(0), {}
    for name, probes in families().items():
        for probe in probes:
            scores, (mean, sd) = simulate(rng, probe), chance(probe)
            assert scores.mean() == pytest.approx(mean, rel=0.01), name
            assert scores.std() == pytest.approx(sd, rel=0.02), name
            seen[name] = mean
    assert seen["number"] > 0.13 and seen["sentence"] < 0.06 and seen["uuid"] < seen["number"]


@pytest.mark.parametrize(
    ("needle", "answer", "mean", "sd"),
    [
        ([10, 11, 12, 13, 14, 15, 16], [10, 11, 12, 13, 14, 15, 16], 1 / 7, np.sqrt(7 * (1 / 7) * (6 / 7)) / 7),
        ([10, 11], [10, 11], 1 / 2, np.sqrt(2 * 0.25) / 2),
        ([9, 10, 8], [10], 1.0, 0.0),  # one place: who knows it hits it
        ([10, 10], [10], 1 / 2, 0.0),  # one of two, always
        ([10, 10, 10], [10, 10], 5 / 9, np.sqrt(2 / 9) / 3),  # two rows hit one place in a third of draws, else two
        ([10, 11, 10], [11, 10, 5], (2 / 3 * 1 / 3 * 1 + 1 / 3) / 3 + 0 + 1 / 9 - 1 / 27 * 2, None),
        ([10, 11], [12], np.nan, np.nan),
    ],
)
def test_small_cases_by_hand(needle: list[int], answer: list[int], mean: float, sd: float | None) -> None:
    found = chance(from_tokens(needle, answer))
    if sd is not None:
        np.testing.assert_allclose(found, (mean, sd), atol=1e-12)
    else:
        scores = simulate(np.random.default_rng(1), from_tokens(needle, answer))
        assert found == pytest.approx((scores.mean(), scores.std()), rel=0.01)


def columns(needles: int, each: int, k: int) -> dict[str, np.ndarray]:
    """Probes columns of needles of k different tokens, each answer token once: hits are binomial."""
    n = needles * each
    mean, sd = 1 / k, np.sqrt((1 - 1 / k) / k**2)
    return {"needle_id": np.repeat(np.arange(needles), each), "chance": np.full(n, mean), "chance_sd": np.full(n, sd)}


@pytest.mark.parametrize("k", [7, 20, 33])
@pytest.mark.parametrize("needles", [1, 2, 4, 12, 48])
@pytest.mark.parametrize("heads", [16, 270, 1024])
def test_no_chance_head_of_a_model_counts_but_once_in_a_hundred_models(k: int, needles: int, heads: int) -> None:
    """Exactly: over the needles the hits of a head that chooses anew for each are binomial."""
    seen = np.ones((needles * 3, 1, heads), bool)
    level = float(counting_level(seen, columns(needles, 3, k), 0.0)[0, 0])
    hits = np.arange(needles * k + 1)
    counted = stats.binom(needles * k, 1 / k).pmf(hits)[hits / (needles * k) > level].sum()
    assert 1 - (1 - counted) ** heads <= 0.01
    needed = hits[stats.binom(needles * k, 1 / k).sf(hits) <= 0.01 / heads].min() / (needles * k)
    assert level <= min(needed + 2.5 / (needles * k), 1.0), "nor is it much higher than it has to be"


def test_the_level_falls_with_needles_and_not_with_probes() -> None:
    def level(needles: int, each: int = 1) -> float:
        return float(counting_level(np.ones((needles * each, 30, 9), bool), columns(needles, each, 20), 0.1)[0, 0])

    levels = [level(needles) for needles in (1, 2, 4, 12, 48)]
    assert levels == sorted(levels, reverse=True) and levels[0] > 0.3
    assert levels[-1] == np.float32(0.1)
    assert level(2) == pytest.approx(0.24, abs=0.01)
    assert level(4, 25) == level(4)


def test_heads_whose_window_hides_needles_have_a_level_of_their_own() -> None:
    probes = columns(12, 2, 20)
    seen = np.ones((24, 3, 2), bool)
    seen[4:, 1] = False  # layer 1 sees two needles only
    seen[:, 2] = False
    level = counting_level(seen, probes, 0.1)
    assert (level[1] > level[0]).all() and np.isnan(level[2]).all()
    two = {name: values[:4] for name, values in probes.items()}
    np.testing.assert_array_equal(level[1], counting_level(np.ones((4, 3, 2), bool), two, 0.1)[0])
    assert in_words(level, probes, 0.1) == f"chance (level {level[0, 0]:.2f} to {level[1, 0]:.2f} with 12 needles)"


@pytest.mark.parametrize("odd", [np.inf, 3e38, 1e-160, 5e-324, -1.0, np.nan])
def test_odd_numbers_of_a_damaged_file_give_a_level(odd: float) -> None:
    for name in ("chance", "chance_sd"):
        probes = columns(4, 1, 20)
        probes[name] = np.array([odd, *probes[name][1:]])
        with np.errstate(all="raise", under="ignore"):
            level = counting_level(np.ones((4, 2, 2), bool), probes, 0.1)
        assert (level >= np.float32(0.1)).all() and (level <= 1).all()


def test_words() -> None:
    seen = np.ones((1, 2, 4), bool)
    assert in_words(counting_level(seen, columns(1, 1, 20), 0.1), columns(1, 1, 20), 0.1).endswith("with 1 needle)")
    many = columns(60, 1, 30)
    level = counting_level(np.ones((60, 2, 4), bool), many, 0.1)
    assert in_words(level, many, 0.1) == "0.1 (chance with 60 needles is lower)"
    assert in_words(level, {"needle_id": many["needle_id"]}, 0.1) == "0.1 (chance unknown)"


# In scores and files


def test_scores_tell_chance_and_count_above_it() -> None:
    scores = with_chance()
    assert scores.chance.dtype == np.float32 and (scores.chance == np.float32(0.2)).all()
    level = scores.counting_level()
    assert level.dtype == np.float32 and level.shape == scores.retrieval.shape
    np.testing.assert_array_equal(np.isnan(level), np.isnan(scores.retrieval))
    counted = scores.retrieval_heads()
    assert 0 < len(counted) < len(scores.retrieval_heads(plain=True))
    assert all(scores.retrieval[head] > level[head] for head in counted)
    assert scores.retrieval_heads(0.7) == scores.retrieval_heads(0.7, plain=True), "a higher threshold is the level"
    assert len(scores.retrieval_heads(0.0)) == len(counted), "chance holds below the threshold, too"


def test_without_chance_the_threshold_alone_counts() -> None:
    scores = make_scores()
    assert np.isnan(scores.chance).all() and scores.n_heads_above_chance is None
    assert scores.retrieval_heads() == scores.retrieval_heads(plain=True)
    assert np.nanmax(scores.counting_level()) == np.float32(0.1)


def test_the_file_holds_both_counts(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    for step in (0, 1000):
        with_chance(step).save(path, checkpoint=step)
    assert hs.interp.store.validate(path) == []
    ds = hs.open(path)
    for i, step in enumerate((0, 1000)):
        scores = with_chance(step)
        assert int(ds.n_heads_above_chance[i]) == len(scores.retrieval_heads())
        assert int(ds.n_retrieval_heads[i]) == len(scores.retrieval_heads(plain=True))
        np.testing.assert_array_equal(read_scores(path, step).chance, scores.chance)
    with h5py.File(path, "r+") as file:
        file["n_heads_above_chance"][1] = 11
        file["probes/chance"][0] = 1.5
    problems = hs.interp.store.validate(path)
    assert problems[0] == "probes/chance has values outside 0 to 1"
    assert "n_heads_above_chance is 11, but" in problems[-1]


def test_a_file_of_schema_1_0_goes_on_without_chance(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(GOLDEN / "store-1.0.h5", path)
    with_chance(2000, n_probes=4, n_layers=2).save(path, checkpoint=2000)
    assert hs.interp.store.validate(path) == []
    assert "n_heads_above_chance" not in hs.open(path) and np.isnan(read_scores(path).chance).all()
    assert "above 0.1 (chance unknown)" in judge(read_trajectory(path))[0].words


def test_scores_of_schema_1_0_may_be_added_to_a_newer_file(tmp_path: Path) -> None:
    """As when a sweep is resumed after an upgrade: its shards are of both kinds."""
    path = tmp_path / "run.h5"
    with_chance(0).save(path, checkpoint=0)
    make_scores(1000).save(path, checkpoint=1000)
    assert hs.interp.store.validate(path) == []
    np.testing.assert_array_equal(read_scores(path, 1000).chance, with_chance(1000).chance)
    for name, scores in (("old", make_scores(5)), ("new", with_chance(6))):
        scores.save(tmp_path / f"{name}.h5", checkpoint=int(scores.model_id[-1]))
    merge([tmp_path / "old.h5", tmp_path / "new.h5"], tmp_path / "both.h5")
    assert hs.interp.store.validate(tmp_path / "both.h5") == []
    assert read_trajectory(tmp_path / "both.h5").steps.tolist() == [5, 6]


def test_other_chance_for_the_same_probes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with_chance(0).save(path, checkpoint=0)
    with pytest.raises(hs.interp.store.StoreError, match="column 'chance' has other values"):
        with_chance(1000, mean=0.3).save(path, checkpoint=1000)


def test_a_run_counts_heads_above_chance(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    for step in (0, 1000, 2000):
        with_chance(step).save(path, checkpoint=step)
    run = read_trajectory(path)
    found = [len(with_chance(step).retrieval_heads()) for step in (0, 1000, 2000)]
    assert head_counts(run).estimate.tolist() == found == life(run).alive.sum(axis=(1, 2)).tolist()
    whole = panel(run)
    assert whole.n_plain.tolist() == [len(with_chance(s).retrieval_heads(plain=True)) for s in (0, 1000, 2000)]
    assert whole.initial_heads == with_chance(0).retrieval_heads()
    assert panel(read_trajectory(path, "wu_count")).n_heads.estimate.tolist() != found, "chance is retrieval's"


def test_the_watch_follows_no_chance_head() -> None:
    rng = np.random.default_rng(0)
    needles = np.arange(32)
    told = np.column_stack([np.full(32, 0.21), np.full(32, 0.12)])
    scores = [np.clip(rng.normal(0.2, 0.1, (32, 2, 8)), 0, 1) for _ in range(3)]
    plain, above = Watch(needles, planned=3), Watch(needles, planned=3, chance=told)
    for step, values in enumerate(scores):
        found = [watch.add(step, values) for watch in (plain, above)]
    assert found[0].steps and not found[0].words.startswith("insufficient")
    assert not found[1].steps and found[1].words.startswith("insufficient: no retrieval heads yet")
    for values in scores:
        values[:, 1, 3] = 0.9
    watch = Watch(needles, planned=2, chance=told)
    watch.add(0, scores[0])
    found = watch.add(1, scores[1])
    assert found is not None and found.reference == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"chance must be \[n_probes, 2\]"):
        Watch(needles, planned=3, chance=told[:, 0])
