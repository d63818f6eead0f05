"""A light fine-tune before a model is asked: what it learns, what is left of it, and what a kill costs."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headscope as hs
from headscope.errors import ArgumentError, FinetuneError, RecipeError, StoreError
from headscope.interp.finetune import (
    RECIPES,
    Recipe,
    check_disjoint,
    finetuned,
    lessons,
    probing,
    read_recipe,
    training,
)
from headscope.interp.model import LoadedModel
from headscope.interp.report import sft_notes, sft_table
from headscope.interp.store import find_beside, read_scores, validate
from headscope.interp.sweep.same import differences
from headscope.probes import Codec, ProbeSet, build
from headscope.probes.suites import practice
from headscope.probes.words import ADJECTIVES, FIRST, LAST, MORE_WORDS, NOUNS
from made_sft_probes import QUICK, ask, make_sft_probe, make_writer
from tiny_models import build as build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return hs.load_model(folder)


@pytest.fixture(scope="module")
def asked(folder: Path) -> ProbeSet:
    return ask(hs.load_model(folder).tokenizer)


def test_a_recipe_is_data_and_its_hash_is_what_is_trained() -> None:
    assert RECIPES["default"].hash == "622037560d6c" and RECIPES["small"].hash == "8a90cead360a"
    again = Recipe(**json.loads(RECIPES["default"].json))
    assert again == RECIPES["default"] and again.json == RECIPES["default"].json
    assert replace(again, seeds=(0, 1, 2)).hash == again.hash != replace(again, lr=5e-4).hash
    assert sum(again.counts().values()) == again.steps * again.sequences
    assert Recipe(steps=1, sequences=2, mix={"practice/relay": 1, "practice/crew": 2}).counts() == {
        "practice/crew": 1,
        "practice/relay": 1,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("defualt", r"no recipe is called 'defualt'; give one of default, small, or a .json file"),
        ({"stepz": 3}, "the recipe has 'stepz'; give a mapping with some of method, steps"),
        ({"steps": 0}, "steps of a recipe must be a whole number from 1 up, got 0"),
        ({"method": "qlora"}, "method of a recipe must be one of lora, full"),
        ({"lr": "1e-3"}, "lr of a recipe must be a number above 0"),
        ({"lr": float("nan")}, "lr of a recipe must be a number above 0"),
        ({"seeds": [1, 1]}, "seeds of a recipe must be different whole numbers"),
        ({"seeds": 3}, "seeds of a recipe must be different whole numbers"),
        ({"mix": {"practice/nothing": 1}}, "names 'practice/nothing', which is no task that is built"),
        ({"mix": {"practice/relay": 0}}, "weighs practice/relay by 0; give a number above 0"),
        ({"mix": {}}, "must map tasks to weights"),
        (["steps"], "the recipe is a list"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(given)
    if isinstance(given, dict):
        (tmp_path / "mine.json").write_text(json.dumps(given))
        with pytest.raises(RecipeError, match=message):
            read_recipe(tmp_path / "mine.json")


def test_nothing_that_is_trained_on_is_asked_elsewhere(folder: Path) -> None:
    """The default recipe beside every other task there is, on another seed: wording, keys, values and needles."""
    tokenizer = hs.load_model(folder).tokenizer
    recipe = Recipe(length=1200, steps=9)
    trained = lessons(recipe, 0, tokenizer)
    assert [p.hash for p in trained] == [p.hash for p in lessons(recipe, 0, tokenizer)]
    assert {p.needle_id for p in trained}.isdisjoint(p.needle_id for p in lessons(recipe, 1, tokenizer))
    for suite, tasks, length in (
        ("ruler", ["niah_multikey_1", "niah_multiquery", "vt", "qa_1_own"], 1800),
        ("mrcr", ["mrcr_2"], 2500),
        ("longbio", ["standard", "pronoun", "multihop_2"], 2500),
        ("nolit", ["onehop", "literal"], 1500),
    ):
        check_disjoint(trained, build(suite, tokenizer, tasks=tasks, lengths=[length], items=2), Codec(tokenizer))
    told = " ".join((*practice.WHO, *practice.DID, *practice.WHAT, *practice.WHERE, *practice.THEN)).lower().split()
    assert {*told}.isdisjoint(word.lower() for word in (*ADJECTIVES, *NOUNS, *MORE_WORDS, *FIRST, *LAST))


@pytest.mark.parametrize(
    ("mix", "change", "message"),
    [
        ({"ruler/niah_multikey_2": 1}, {}, "has the task ruler/niah_multikey_2 as well"),
        ({"ruler/niah_multikey_1": 1}, {}, "has the words 'for .* is .*' as well|has the words '.*' as well"),
        ({"practice/lockers": 1}, {"seed": 1_000_000_000}, "has the seed 1000000000 as well"),
    ],
)
def test_what_is_trained_on_may_not_be_asked(
    folder: Path, asked: ProbeSet, mix: dict[str, float], change: dict[str, Any], message: str
) -> None:
    recipe = Recipe(**{**QUICK, "length": 700, "mix": mix})
    with pytest.raises(RecipeError, match=message) as told:
        hs.sft_probe(folder, [replace(probe, **change) for probe in asked], recipe=recipe)
    assert "\n" not in str(told.value) and "change the recipe's mix" in str(told.value)


def test_a_shared_key_or_value_is_found_whatever_is_said_about_it(folder: Path, asked: ProbeSet) -> None:
    codec = Codec(hs.load_model(folder).tokenizer)
    trained = build("practice", codec.tokenizer, tasks=["lockers"], lengths=[224], items=4, seed=9)
    key, value = trained[2].needle_text.split()[1], trained[2].value
    for text, told in ((f"Nobody met {key} 12.", f"the key '{key}'"), (f"It cost {value}", f"the value '{value}'")):
        other = hs.probes.Probe.from_text(
            codec.tokenizer, context=f"Words. {text} More words.", needle=text, question="What?", answer=f" {text}"
        )
        with pytest.raises(RecipeError, match=told):
            check_disjoint(trained, [replace(other, value=value if "cost" in text else "")], codec)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_model_is_what_it_was_and_the_same_recipe_gives_the_same(loaded: LoadedModel, method: str) -> None:
    model, recipe = loaded.model, Recipe(**{**QUICK, "method": method})
    probes = lessons(recipe, 0, loaded.tokenizer)
    ids = torch.from_numpy(probes[0].input_ids[None].astype(np.int64))
    model.model.embed_tokens.weight.requires_grad_(False)
    model.train()
    held, names = {name: value.clone() for name, value in model.state_dict().items()}, {*vars(model)}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    random = torch.random.get_rng_state()
    with torch.no_grad():
        before = model.eval()(ids).logits
    model.train()
    curves, logits = [], []
    for _ in range(2):
        with finetuned(model, recipe, 0, probes, 0) as trained:
            curves.append(trained.loss)
            logits.append(model(ids).logits)
        assert model.training and not any(module.training is False for module in model.modules())
    np.testing.assert_array_equal(*curves)
    assert torch.equal(*logits) and not torch.equal(logits[0], before), "it has learnt, and the same"
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    assert {*vars(model)} == names and torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, before)
    with finetuned(model, recipe, 1, lessons(recipe, 1, loaded.tokenizer), 0) as trained:
        assert (trained.loss != curves[0]).all(), "another seed is another training"


def test_a_model_that_does_not_come_back_is_told(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(**{**QUICK, "method": "full", "steps": 1})
    monkeypatch.setattr(training, "_all_weights", lambda model, recipe: lambda: None)
    with (
        pytest.raises(FinetuneError, match="logits are not what they were"),
        finetuned(loaded.model, recipe, 0, lessons(recipe, 0, loaded.tokenizer), 0),
    ):
        pass


def test_a_loss_that_is_not_finite_is_one_line_and_leaves_the_model(loaded: LoadedModel) -> None:
    recipe = Recipe(**{**QUICK, "method": "full", "lr": 1e30, "steps": 3, "warmup": 0, "schedule": "constant"})
    held = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    with (
        pytest.raises(FinetuneError, match=r"step \d of 3: the loss is .*; give a recipe with a lower lr than 1e\+30"),
        finetuned(loaded.model, recipe, 0, lessons(recipe, 0, loaded.tokenizer), 0),
    ):
        raise AssertionError("it cannot be asked")
    assert all(torch.equal(value, held[name]) for name, value in loaded.model.state_dict().items())


def test_a_small_model_learns_to_copy() -> None:
    """The word behind the first token, once more: by the end of 30 steps it is said, whichever it is."""
    torch.manual_seed(0)
    config = build_model("llama", num_hidden_layers=1, vocab_size=32).config
    model = type(build_model("llama", num_hidden_layers=1, vocab_size=32))(config)
    words = np.random.default_rng(0).integers(4, 32, 8 * 30).tolist()
    probes = [
        hs.probes.Probe.from_ids([1, word, 2, word], prompt_len=3, needles=[(1, 2)], id=f"p{i}")
        for i, word in enumerate(words)
    ]
    recipe = Recipe(method="full", steps=30, sequences=8, lr=1e-2)
    with finetuned(model, recipe, 0, probes, None) as trained:
        said = [int(model(torch.tensor([[1, word, 2]])).logits[0, -1].argmax()) for word in range(4, 32)]
    assert trained.loss[-1] < 0.5 * trained.loss[0] and trained.answer_tokens == len(probes)
    assert np.mean(np.array(said) == np.arange(4, 32)) > 0.8


def test_the_whole_path_and_a_kill_between_seeds(
    folder: Path, asked: ProbeSet, tmp_path: Path, monkeypatch: Any
) -> None:
    how: dict[str, Any] = {"recipe": QUICK, "seeds": 2, "checkpoint": 7}
    on_disk = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = hs.sft_probe(folder, asked, output=tmp_path / "whole.h5", **how)
    assert validate(tmp_path / "whole.h5") == []
    assert on_disk == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found.provenance["files_sha256"].startswith("sha256:") and found.seeds == (0, 1)

    train, runs = probing.finetuned, []

    def killed(model: Any, recipe: Recipe, seed: int, *rest: Any) -> Any:
        runs.append(seed)
        if runs == [0, 1]:
            raise KeyboardInterrupt
        return train(model, recipe, seed, *rest)

    monkeypatch.setattr(probing, "finetuned", killed)
    with pytest.raises(KeyboardInterrupt):
        hs.sft_probe(folder, asked, output=tmp_path / "killed.h5", **how)
    assert (tmp_path / "killed.h5.sft" / "step-0000000007-seed-0.json").is_file()
    hs.sft_probe(folder, asked, output=tmp_path / "killed.h5", **how)
    assert runs == [0, 1, 1], "seed 0 was not trained again"
    assert differences(tmp_path / "whole.h5", tmp_path / "killed.h5") == []
    assert not (tmp_path / "killed.h5.sft").exists()

    again = hs.SftProbe.load(tmp_path / "killed.h5")
    np.testing.assert_array_equal(again.after["score"], found.after["score"])
    np.testing.assert_array_equal(again.loss, found.loss)
    base = find_beside(tmp_path / "killed.h5", 7).answers
    assert base is not None and base.text == hs.Answers.load(tmp_path / "whole.h5").text
    np.testing.assert_array_equal(again.before["nll"], base.nll)
    assert read_scores(tmp_path / "killed.h5", 7).probe_set_hash == asked.hash
    assert again.answers(1).text == [*found.after["text"][1]]
    with pytest.raises(ArgumentError, match="seed 5 was not trained"):
        again.answers(5)

    with pytest.raises(StoreError, match="holds SFT probes on other tasks"):
        hs.sft_probe(folder, asked[:1], output=tmp_path / "whole.h5", **{**how, "checkpoint": 8})
    with pytest.raises(StoreError, match="holds SFT probes by the recipe"):
        hs.sft_probe(folder, asked, output=tmp_path / "whole.h5", **{**how, "checkpoint": 8, "seeds": 3})


def test_files_that_change_meanwhile_are_told(folder: Path, asked: ProbeSet, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    loaded = hs.load_model(copy)

    def meddle(done: int, of: int, what: str) -> None:
        (copy / "config.json").write_text("{}")

    with pytest.raises(FinetuneError, match="the files of .* are not what they were"):
        hs.sft_probe(loaded, asked, recipe=QUICK, seeds=1, files=copy, progress=meddle)


def test_what_cannot_be_trained_is_one_line(loaded: LoadedModel, asked: ProbeSet, monkeypatch: Any) -> None:
    recipe = Recipe(**QUICK)
    with pytest.raises(ArgumentError, match="before holds answers to other probes"):
        said = hs.evaluate(loaded, asked[:1], heads=False)
        hs.sft_probe(loaded, asked, recipe=recipe, before=said)
    with (
        pytest.raises(ArgumentError, match="a Linear cannot be fine-tuned here"),
        finetuned(torch.nn.Linear(2, 2), recipe, 0, [], 0),
    ):
        pass
    loaded.model.peft_config = {}
    with (
        pytest.raises(ArgumentError, match="has an adapter already; merge it first"),
        finetuned(loaded.model, recipe, 0, [], 0),
    ):
        pass
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(hs.errors.MissingPackageError, match=r"pip install 'headscope\[sft\]'"):
        hs.sft_probe(loaded, asked, recipe=recipe)


@pytest.mark.parametrize(("seeds", "told"), [(1, "one seed says"), (2, "two seeds tell a range"), (3, "recipe")])
def test_the_table_says_how_far_seeds_are_apart(seeds: int, told: str) -> None:
    from rich.console import Console

    found = make_sft_probe(seeds=tuple(range(seeds)))
    rows = found.by_task().to_dict("records")
    assert [row["task"] for row in rows] == ["one", "one", "two", "two"], "two lengths each"
    np.testing.assert_allclose(rows[0]["seeds"], found.after["score"][:, 0])
    if seeds < 3:
        assert np.isnan([rows[0]["seed_sd"], rows[0]["sd_low"]]).all()
    else:
        assert rows[0]["seed_sd"] == pytest.approx(np.std(rows[0]["seeds"], ddof=1))
        assert rows[0]["sd_low"] < rows[0]["seed_sd"] < rows[0]["sd_high"]
    console = Console(width=140, record=True, file=StringIO())
    console.print(sft_table(found))
    text = console.export_text()
    assert "one" in text and ("SD (95 %)" in text) == (seeds > 2)
    assert told in " ".join(sft_notes(found))


def test_a_sweep_fine_tunes_every_checkpoint_and_goes_on(asked: ProbeSet, tmp_path: Path) -> None:
    """Swept at once, one after the other, or through what `sft_probe` gives: the same file."""
    run = tmp_path / "run"
    for step in (1, 2):
        make_writer(run / f"checkpoint-{step}", seed=step)
    how: dict[str, Any] = {"answers": True, "sft": Recipe(**QUICK, method="full", seeds=(0,))}
    tasks = asked[:2]
    assert hs.sweep(run, tasks, tmp_path / "once.h5", **how).done == (1, 2)
    assert validate(tmp_path / "once.h5") == []
    assert hs.sweep(run / "checkpoint-1", tasks, tmp_path / "twice.h5", **how).done == (1,)
    result = hs.sweep(run, tasks, tmp_path / "twice.h5", **how)
    assert (result.done, result.skipped) == ((2,), (1,))
    assert differences(tmp_path / "once.h5", tmp_path / "twice.h5") == []
    alone = hs.sft_probe(run / "checkpoint-2", tasks, recipe=how["sft"])
    there = hs.SftProbe.load(tmp_path / "once.h5", 2)
    for name in ("score", "nll"):
        np.testing.assert_array_equal(there.after[name], alone.after[name], "also in a module used before")
    assert there.provenance["files_sha256"] == alone.provenance["files_sha256"]

    with pytest.raises(hs.errors.SweepError, match="was scored with recipe="):
        hs.sweep(run, tasks, tmp_path / "once.h5", **{**how, "sft": replace(how["sft"], lr=1e-4)})
    assert not hs.sweep(run, tasks, tmp_path / "once.h5", answers=True).failed, "what is there stays"
    assert (tmp_path / "once.h5").is_file() and len(hs.SftProbe.load(tmp_path / "once.h5")) == 2
    with pytest.raises(RecipeError, match="the recipe trains on what is asked"):
        hs.sweep(
            run,
            tasks,
            tmp_path / "no.h5",
            answers=True,
            sft=Recipe(**{**QUICK, "length": 700, "mix": {"ruler/niah_multikey_2": 1}}),
        )
    with pytest.raises(ArgumentError, match=r"sft=\.\.\. is for answers=True"):
        hs.sweep(run, tasks, tmp_path / "no.h5", sft="small")
