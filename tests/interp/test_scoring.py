"""score_heads as users call it: what comes back, and what bad input says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from builders import random_grid, random_probe
from headscope import probes as hp
from headscope.errors import HeadscopeError
from headscope.interp.checkpoint_names import model_name
from headscope.interp.copying import copy_profile
from headscope.interp.estimators import DEFAULT
from headscope.interp.model import load_model
from headscope.interp.scoring import score_heads
from headscope.probes import Probe, ProbeSet
from tiny_models import build
from tiny_run import make_checkpoint

GRID = random_grid()


def test_what_comes_back_is_labelled() -> None:
    model = build("llama")
    scores = score_heads(model, GRID)
    assert set(scores.per_probe) == set(DEFAULT)
    assert scores.retrieval.shape == (4, 8) and scores.retrieval.dtype == np.float32
    assert scores.per_probe["retrieval"].shape == (len(GRID), 4, 8)
    assert (scores.n_layers, scores.n_heads, scores.n_kv_heads) == (4, 8, 2)
    assert list(scores.probes["id"]) == [probe.id for probe in GRID]
    assert scores.probe_set_hash == GRID.hash
    assert scores.provenance["sharing"] == "auto"
    assert scores.provenance["dtype"] == "float32"
    assert scores.provenance["kernels"] == {"attend": "sdpa:cpu", "row_evidence": "reference"}
    assert scores.probes["grafted"].all()


@pytest.mark.parametrize("given", ["object", "relative object", "path", "loaded"])
def test_no_path_of_this_machine_is_in_a_file(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are for sharing: of a path to the model, or in an environment variable, only the last part is told."""
    folder = make_checkpoint(tmp_path / "secret" / "my-llama")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "secret" / "cache"))
    monkeypatch.chdir(tmp_path)
    source = Path("secret/my-llama") if given == "relative object" else folder
    model = AutoModelForCausalLM.from_pretrained(source) if "object" in given else folder
    scores = score_heads(load_model(model) if given == "loaded" else model, ProbeSet([random_probe()]))
    assert scores.model_id == "my-llama"
    scores.save("run.h5", checkpoint=3)
    profile = copy_profile(model, np.arange(3, 60))
    profile.save("copies.h5")
    for file in ("run.h5", "copies.h5"):
        assert b"secret" not in Path(file).read_bytes()
        assert b"my-llama" in Path(file).read_bytes()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("org/name", "org/name"),
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("/data/runs/step-100", "step-100"),
        ("/data/runs/step-100/", "step-100"),
        ("./step-100", "step-100"),
        ("../runs/step-100", "step-100"),
        ("~/models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
        ("/home/me/.cache/huggingface/hub/models--org--name/snapshots/0123abc", "org/name"),
        ("/cache/models--org--name/snapshots/0123abc/step-20", "org/name/step-20"),
        ("", ""),
    ],
)
def test_what_a_model_is_called_in_a_file(name: str, told: str) -> None:
    assert model_name(name) == told


def test_scores_do_not_depend_on_the_order_of_probes() -> None:
    model = build("llama")
    there, back = score_heads(model, GRID), score_heads(model, ProbeSet(list(GRID)[::-1]))
    np.testing.assert_array_equal(there.per_probe["retrieval"], back.per_probe["retrieval"][::-1])


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda probes: {probe.id: probe for probe in probes}.values()])
def test_any_iterable_of_probes_is_scored_like_the_set(kind: Callable[[ProbeSet], Iterable[Probe]]) -> None:
    model, some = build("llama"), GRID[:4]
    scores, wanted = score_heads(model, kind(some)), score_heads(model, some)
    np.testing.assert_array_equal(scores.per_probe["retrieval"], wanted.per_probe["retrieval"])
    assert scores.probe_set_hash == some.hash and list(scores.probes["id"]) == [probe.id for probe in some]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("grid", "got str; hs.probes.build makes a set"),
        (Path("grid.npz"), "got PosixPath"),
        (GRID[0], "got Probe; put it into a list"),
        ([GRID[0], GRID[1].input_ids], "got list that holds ndarray"),
        ({"probes": GRID}, "got dict that holds str"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_probe_is_told_before_a_model_is_loaded(given: object, told: str) -> None:
    with pytest.raises(TypeError, match=f"^probes must be a ProbeSet or an iterable of Probe, {told}") as caught:
        score_heads("./nowhere", given)  # type: ignore[arg-type]
    assert isinstance(caught.value, HeadscopeError) and "\n" not in str(caught.value)


def test_nll_classes_add_up() -> None:
    probe = random_probe(answer=6)
    mixed = replace(probe, token_class=("echo", "novel", "novel", "format", "echo", "novel"))
    scores = score_heads(build("llama"), ProbeSet([mixed]))
    whole = score_heads(build("llama"), ProbeSet([probe]))
    assert scores.nll[0] == whole.nll[0]
    parts = scores.nll_echo[0] * 2 + scores.nll_novel[0] * 3
    assert parts < scores.nll[0] * 6  # the rest is the format token's
    no_echo = score_heads(build("llama"), ProbeSet([replace(probe, token_class=("novel",) * 6)]))
    assert np.isnan(no_echo.nll_echo[0])
    assert no_echo.nll_novel[0] == no_echo.nll[0]


def test_check_sharing_measures_the_difference() -> None:
    """The report must be the difference between two runs that anyone can make."""
    model = build("llama")
    scores = score_heads(model, GRID, check_sharing=len(GRID))
    found = scores.provenance["check_sharing"]
    exact = score_heads(model, GRID, sharing="exact")
    a, b = scores.retrieval.ravel(), exact.retrieval.ravel()
    assert found["n_probes"] == found["n_grafted"] == len(GRID)
    assert found["max_difference"] == pytest.approx(np.abs(a - b).max(), abs=1e-6)
    assert found["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
    assert found["nll_gap"] == pytest.approx((scores.nll - exact.nll).mean(), abs=1e-5)


def test_check_sharing_warns_where_grafting_is_far_off(caplog: pytest.LogCaptureFixture) -> None:
    """A random model attends everywhere, so its grafted scores differ; the user must hear of it."""
    with caplog.at_level(logging.WARNING):
        score_heads(build("llama"), GRID, check_sharing=6)
    assert "sharing" in caplog.text and "exact" in caplog.text


def test_exact_sharing_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = score_heads(build("llama"), GRID, sharing="exact", check_sharing=6).provenance["check_sharing"]
    assert found["max_difference"] == 0
    assert not caplog.text


@pytest.mark.filterwarnings("error")
def test_check_sharing_where_no_head_sees_a_needle(caplog: pytest.LogCaptureFixture) -> None:
    """Every layer of this model has a window, and every needle lies before it: there is nothing to compare."""
    far = ProbeSet([random_probe(200, depth, seed=i) for i, depth in enumerate((0.0, 0.1, 0.2, 0.3))])
    with caplog.at_level(logging.WARNING):
        scores = score_heads(build("mistral"), far, check_sharing=3)
    found = scores.provenance["check_sharing"]
    assert np.isnan(scores.retrieval).all() and found["n_probes"] == 3
    assert [found[x] for x in ("pearson", "top10_overlap", "max_difference", "leading_difference")] == [None] * 4
    assert np.isfinite(found["nll_gap"]) and not caplog.text


def test_check_sharing_compares_means_over_the_probes_that_a_head_sees() -> None:
    """One needle before every window must not take the other probes, which all heads see, out of the comparison."""
    probes = ProbeSet([random_probe(200, depth, seed=i) for i, depth in enumerate((0.0, 1.0, 0.98, 0.96))])
    model = build("mistral")
    scores, exact = (score_heads(model, probes, sharing=how, check_sharing=4) for how in ("grafted", "exact"))
    gap = np.nanmax(np.abs(scores.retrieval - exact.retrieval))
    assert np.isnan(scores.per_probe["retrieval"][0]).all() and not np.isnan(scores.retrieval).any()
    assert scores.provenance["check_sharing"]["max_difference"] == pytest.approx(gap, abs=1e-6)


def test_a_path_is_loaded(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = build("llama")
    model.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(199)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(tmp_path)
    scores = score_heads(tmp_path, GRID)
    np.testing.assert_array_equal(scores.retrieval, score_heads(model, GRID).retrieval)
    assert scores.provenance["weights_sha256"].startswith("safetensors:")


def test_a_probe_longer_than_the_context_is_refused() -> None:
    model = build("llama", max_position_embeddings=128)
    with pytest.raises(ValueError, match=r"200 tokens.*made for 128"):
        score_heads(model, GRID)


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    ids = np.array([1, 5, 6, 7, 900, 8, 9, 5, 6])
    with pytest.raises(ValueError, match="token id 900 and the embedding of LlamaForCausalLM has 199 rows"):
        score_heads(build("llama"), ProbeSet([Probe.from_ids(ids, prompt_len=7, needles=[(1, 3)])]))


def test_another_tokenizer_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(199)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    made = ProbeSet([replace(probe, tokenizer_fp="49152-of-another") for probe in GRID])
    with pytest.raises(hp.ProbeError, match="49152-of-another"):
        score_heads(build("llama"), made, tokenizer=tokenizer)
    fitting = ProbeSet([replace(probe, tokenizer_fp=hp.fingerprint(tokenizer)) for probe in GRID])
    score_heads(build("llama"), fitting, tokenizer=tokenizer)


def test_a_tokenizer_that_gained_tokens_scores_the_same_probes() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    def words(n: int) -> PreTrainedTokenizerFast:
        made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(n)}, unk_token="w0"))
        return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0")

    base, grown, other = words(199), words(203), words(198)
    made = ProbeSet([replace(probe, tokenizer_fp=hp.fingerprint(base)) for probe in GRID])
    model = build("llama")
    plain, scores = (score_heads(model, made, tokenizer=tokenizer) for tokenizer in (base, grown))
    np.testing.assert_array_equal(plain.per_probe["retrieval"], scores.per_probe["retrieval"])
    assert scores.provenance["tokenizer_fp"] == hp.fingerprint(grown)
    assert scores.provenance["probes_tokenizer_fp"] == [hp.fingerprint(base)]
    with pytest.raises(hp.ProbeError, match="--tokenizer BASE"):
        score_heads(model, made, tokenizer=other)


def test_a_tokenizer_larger_than_the_model_says_which_token() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(901)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    small, large = ([1, 5, 6, 7, token, 8, 9, 5, 6] for token in (150, 900))
    given = {"prompt_len": 7, "needles": [(1, 3)], "tokenizer_fp": hp.fingerprint(tokenizer)}
    score_heads(build("llama"), ProbeSet([Probe.from_ids(small, **given)]), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"token id 900 \('w900'\).* 199 rows: its tokenizer \(901 tokens\)"):
        score_heads(build("llama"), ProbeSet([Probe.from_ids(large, **given)]), tokenizer=tokenizer)


def nothing_to_copy() -> ProbeSet:
    """The last of four probes asks for tokens that its needle does not hold."""
    odd = Probe.from_ids(np.arange(20, 40), prompt_len=17, needles=[(3, 9)], id="odd")
    return ProbeSet([*(random_probe(seed=i) for i in range(3)), odd])


def test_an_answer_that_no_needle_token_gives_has_no_head_scores_and_costs_the_others_nothing(caplog) -> None:
    model, probes = build("llama"), nothing_to_copy()
    scores = score_heads(model, probes, estimators=[*DEFAULT, "wu_count_top5"])
    others = score_heads(model, ProbeSet(list(probes)[:3]))
    assert "1 of 4 probes have no head scores (NaN)" in caplog.text and "odd" in caplog.text
    for name in ("retrieval", "wu_count", "wu_count_top5", "aligned_copy", "source_mass"):
        assert np.isnan(scores.per_probe[name][3]).all() and np.isfinite(scores.per_probe[name][:3]).all()
    assert np.isfinite(scores.per_probe["needle_mass"]).all() and np.isfinite(scores.nll).all()
    assert np.isnan(scores.chance[3])
    np.testing.assert_array_equal(scores.retrieval, others.retrieval)
    np.testing.assert_array_equal(scores.counting_level(), others.counting_level())
    nothing = score_heads(model, ProbeSet([probes[3]]))
    assert np.isnan(nothing.retrieval).all() and nothing.retrieval_heads() == [] and nothing.top(3) == []


def test_probes_are_checked_before_weights_are_loaded(tmp_path: Path) -> None:
    """There is no model in that folder, and it is not the first to be complained of."""
    odd = ProbeSet([replace(probe, graft=None) for probe in GRID])
    with pytest.raises(ValueError, match="no single inserted piece"):
        score_heads(tmp_path, odd, sharing="grafted")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sharing": "graft"}, "'graft'"),
        ({"chunk": 0}, "chunk must be"),
        ({"generate": True}, "needs tokenizer"),
        ({"check_sharing": -1}, "check_sharing must be"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_heads(build("llama"), GRID, **arguments)


def test_needles_at_the_borders() -> None:
    """Right at the start, and right before the question, with one-token answers."""
    probes = ProbeSet([random_probe(80, depth, answer=1, seed=i) for i, depth in enumerate((0.0, 1.0))])
    scores = score_heads(build("llama"), probes)
    assert not np.isnan(scores.per_probe["retrieval"]).any()
