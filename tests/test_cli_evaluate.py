"""`headscope evaluate` and `headscope answers`, as a user without a terminal runs them."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

import headscope as hs
from command_line import fail, succeed
from headscope.cli.tasks import read_tasks
from headscope.interp.store import validate
from headscope.probes import ProbeSet, Task
from made_answers import make_answers, write_golden
from tiny_run import make_checkpoint, small_probes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint-10")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probes with a task: of random words, so a random model is wrong."""
    from dataclasses import replace

    task = Task("string_match_part", ("w5",), 4, rivals=tuple(f"w{n}" for n in range(100, 199)), length=64)
    path = tmp_path_factory.mktemp("probes") / "tasks.npz"
    ProbeSet(tuple(replace(probe, task=task) for probe in small_probes()), "small").save(path)
    return path


def test_a_model_is_evaluated_and_its_answers_are_shown(model: Path, saved: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.h5"
    told = succeed("evaluate", model, "--tasks", saved, "--samples", 1, "-o", output)
    assert "score" in told and "ids" in told and f"headscope answers {output} --wrong" in told
    assert validate(output) == [] and hs.read_scores(output).model_id == "checkpoint-10"
    answers = hs.Answers.load(output)
    assert answers.n_samples == 1 and answers.nll.shape == (4,)
    shown = succeed("answers", output, "--wrong")
    assert shown.count("  said   ") == len(answers.wrong()) > 0
    assert f"{len(answers.wrong())} of 4 answers are not wholly right" in shown
    assert fail("answers", output, "--task", "idz").endswith("did you mean ids? it has ids")
    assert "no answers of checkpoint 5; it has those of 0" in fail("answers", output, "--checkpoint", 5)
    again = fail("evaluate", model, "--tasks", saved, "-o", output)
    assert "already holds checkpoint 0; append with --checkpoint 1 or later" in again
    unscored = fail("evaluate", model, "--tasks", saved, "--no-heads", "-o", tmp_path / "other.h5")
    assert "answers go with scores: leave out --no-heads, or score first" in unscored
    assert "--samples 0" in fail("evaluate", model, "--tasks", saved, "--no-heads", "-o", output)


def test_answers_that_hold_what_a_terminal_obeys_are_shown_as_escapes(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    write_golden(path)
    with h5py.File(path, "r+") as file:
        file["answers/text"][1, 0, 0] = "\x1b[2Jgone\nsecond line"
    shown = succeed("answers", path, "--task", "one")
    assert "\\x1b[2Jgone second line" in shown and "\x1b" not in shown
    assert shown.count("  asked  ") == 2 and "2 of 2 answers" in shown
    assert "right  0 | ünï" in shown
    rival = make_answers(1000).to_dataframe()["rival"].tolist()
    assert shown.count("which is, of the context's other answers") == sum(map(bool, rival[:2]))


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("--tasks", "niah_singel_1"), "no suite, task or set is called 'niah_singel_1'; did you mean niah_single_1?"),
        (("--tasks", "ruler/niah_singel_1"), "did you mean ruler/niah_single_1?"),
        (("--tasks", "gone.npz"), "gone.npz"),
        (("--tasks", "grid", "--items", "3"), "--items is for suites of tasks ("),
        (("--samples", "-1"), "--samples"),
        (("--temperature", "0"), "--temperature"),
        (("--lengths", "4kb"), "--lengths"),
        (("--tasks", "qa_1"), "--qa-file"),
        (("--qa-file", "dev.json", "--tasks", "mrcr"), "--qa-file is for ruler, which --tasks does not name; add it"),
        (("--haystack", "nowhere"), "nowhere does not exist; give a folder of texts"),
        (("--chat",), "chat template"),
    ],
)
def test_mistakes_cost_one_line(model: Path, tmp_path: Path, arguments: tuple[str, ...], phrase: str) -> None:
    given = arguments if "--tasks" in arguments else (*arguments, "--tasks", "ruler")
    lengths = () if "--lengths" in arguments or "--samples" in arguments else ("--lengths", "1k")
    assert phrase in fail("evaluate", model, *given, *lengths, "-o", tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


def test_a_model_without_a_tokenizer_is_told(saved: Path, tmp_path: Path) -> None:
    from tiny_models import build

    build("llama", num_hidden_layers=2).save_pretrained(tmp_path / "bare")
    assert "tokenizer" in fail("evaluate", tmp_path / "bare", "--tasks", saved, "-o", tmp_path / "run.h5")


def test_names_of_tasks(saved: Path, tmp_path: Path) -> None:
    from tiny_bpe import tiny_bpe

    tokenizer = tiny_bpe("The grass is green. The sky is blue. One of the special magic numbers is hidden.")

    def build(text: str, lengths: str = "1k") -> ProbeSet:
        return read_tasks(text, lengths=lengths, items=2, seed=0, chat=False)(tokenizer)

    alone = build("niah_single_1")
    assert {probe.variant for probe in alone} == {"niah_single_1"} and len(alone) == 2
    assert build("ruler/niah_single_1").hash == build("niah_single_1, ruler/niah_single_1").hash == alone.hash
    assert build("niah")[0].id == alone[0].id, "all that begin so"
    assert {probe.variant for probe in build("qa", "2k")} == {"qa_1_own", "qa_2_own"}, "no file, no qa_1"
    both = build(f"{saved},niah_single_1")
    assert both.name == "small+ruler" and len(both) == 6
