"""`headscope sft-probe`, as a user without a terminal runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import headscope as hs
from command_line import fail, succeed
from headscope.interp.store import validate
from made_sft_probes import QUICK, ask, make_writer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("model") / "checkpoint-10")


def test_a_model_is_asked_before_and_after(model: Path, tmp_path: Path) -> None:
    recipe, saved, output = tmp_path / "mine.json", tmp_path / "asked.npz", tmp_path / "run.h5"
    recipe.write_text(json.dumps(QUICK))
    ask(hs.load_model(model).tokenizer).save(saved)
    given = ("sft-probe", model, "--tasks", saved, "--recipe", recipe, "-o", output)
    told = succeed(*given, "--seeds", 1)
    assert "before" in told and "niah_multikey_2" in told and "of 1 tasks better by every seed" in told
    assert validate(output) == [] and hs.SftProbe.load(output, 0).seeds == (0,)
    assert "of 3 answers" in succeed("answers", output)
    again = succeed(*given, "--seeds", 1)
    assert told.splitlines()[:3] == again.splitlines()[:3], "what is there gives way to the same"
    assert "--sft-probe: is for --tasks" in fail("sweep", model, "--sft-probe", "-o", tmp_path / "no.h5")
    with_probe = ("sweep", model, "--tasks", saved, "--sft-probe")
    assert "mix of a recipe names" in fail(*with_probe, _wrong(tmp_path), "-o", tmp_path / "no.h5")


def _wrong(folder: Path) -> Path:
    (folder / "wrong.json").write_text(json.dumps({"mix": {"nothing": 1}}))
    return folder / "wrong.json"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--recipe", "defualt"), "no recipe is called 'defualt'; give one of default, small, or a .json file"),
        (("--seeds", "0"), "--seeds: got 0"),
        (
            ("--tasks", "practice/lockers", "--lengths", "224", "--recipe", "quick"),
            "has the task practice/lockers as well",
        ),
        (("--tasks", "vt", "--lengths", "2k"), "the recipe's practice/crew of length 192 cannot be written: "),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_run(model: Path, tmp_path: Path, given: tuple, told: str) -> None:
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    given = tuple(tmp_path / "quick.json" if word == "quick" else word for word in given)
    assert told in fail("sft-probe", model, *given, "-o", tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()
