"""The evolution demo at toy size: checkpoints that a sweep reads, lessons that teach what they say, and resuming.

That heads are born and grow takes the full run (`make evolution-demo`; examples/evolution/README.md has its outcome).
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import headscope as hs

FOLDER = Path(__file__).parents[1] / "examples" / "evolution"
DOCUMENTS = 120  # as in --quick
STEPS = [0, 10, 20, 30]

pytestmark = [pytest.mark.slow, pytest.mark.long]


# A script, until it says that it is at step 10: then its process is killed.
DIES_AT_10 = """
import os, runpy, signal, sys, rich
tell = rich.print

def tell_and_die(*words, **options):
    tell(*words, **options)
    if words[0].startswith("step    10:"):
        os.kill(os.getpid(), signal.SIGKILL)

rich.print = tell_and_die
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(output: Path) -> list[str]:
    return [str(FOLDER / "train.py"), "--output", str(output), "--quick", "--threads", "1"]


def checkpoint(output: Path, step: int) -> Path:
    return output / f"checkpoint-{step}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, warm: list[str]) -> Path:
    """The folder that an uninterrupted `--quick` run leaves."""
    output = tmp_path_factory.mktemp("evolution")
    subprocess.run([*warm, *command(output)], check=True)
    return output


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import lessons

    return lessons


def test_keeps_checkpoints_with_step_tokens_and_rope_base(trained: Path) -> None:
    assert {path.name for path in trained.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in STEPS}
    told = {step: json.loads((checkpoint(trained, step) / "trainer_state.json").read_text()) for step in STEPS}
    assert [told[step]["global_step"] for step in STEPS] == STEPS
    assert [told[step]["num_input_tokens_seen"] for step in STEPS] == [0, 10240, 20480, 30720]
    bases = [json.loads((checkpoint(trained, step) / "config.json").read_text()) for step in STEPS]
    assert [base["rope_parameters"]["rope_theta"] for base in bases] == [10_000, 10_000, 10_000, 50_000]
    assert not list(trained.glob(".*"))


def test_a_sweep_of_it_is_a_trajectory_and_a_report(trained: Path, tmp_path: Path) -> None:
    from headscope.interp.analysis.trajectory import read_trajectory
    from headscope.interp.model.loading import load_tokenizer
    from headscope.interp.report.page.html import write_report

    tokenizer = load_tokenizer(trained / "checkpoint-0")
    probes = hs.probes.build(
        "grid", tokenizer, lengths=[192, 384], depths=2, needles=3, kind="number", haystack=trained / "haystack"
    )
    result = hs.sweep(str(trained / "checkpoint-*"), probes, tmp_path / "run.h5")
    assert (list(result.done), result.failed) == (STEPS, {})
    trajectory = read_trajectory(result.path)
    assert trajectory.scores.shape == (4, 12, 2, 4)
    assert np.isfinite(trajectory.scores).all()
    assert trajectory.tokens.tolist() == [0, 10240, 20480, 30720]
    nll = trajectory.nll["nll"].mean(axis=1)
    assert nll[0] == pytest.approx(np.log(len(tokenizer)), abs=0.1)  # before the first step it knows nothing
    assert nll[-1] < nll[0] - 1.5
    write_report(result.path, tmp_path / "run.html")
    assert "</html>" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_starts_over_after_another_recipe_and_goes_on_after_a_kill(
    trained: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, warm: list[str]
) -> None:
    (tmp_path / "recipe.json").write_text('{"fingerprint": "another"}')
    for name in ("checkpoint-7", "evolution.h5.shards"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("mine")

    dies = tmp_path_factory.mktemp("dies") / "at_10.py"
    dies.write_text(DIES_AT_10)
    assert subprocess.run([*warm, dies, *command(tmp_path)]).returncode == -signal.SIGKILL
    assert checkpoint(tmp_path, 10).exists() and not checkpoint(tmp_path, 30).exists()
    (tmp_path / ".checkpoint").mkdir(exist_ok=True)  # as a kill in the middle of a save leaves it

    python = [sys.executable]  # that hashes with another seed than the process before
    again = subprocess.run([*python, *command(tmp_path)], check=True, capture_output=True, text=True)
    assert ", 0 of 30" not in again.stdout
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in trained.iterdir()} | {"notes.txt"}
    # Bit for bit is what the demo promises: the same sums, of one thread on one machine.
    for step in STEPS:
        ours, theirs = (checkpoint(folder, step) / "model.safetensors" for folder in (tmp_path, trained))
        assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_said_to_be_copied_stood_there_before(lessons: ModuleType) -> None:
    school = _school(lessons)
    for number in range(40):
        ids, copied = school.sequence(np.random.default_rng(number), 256)
        assert len(ids) == len(copied) == 256
        assert copied[0] == 0
        for run in _runs(copied):
            assert _occurs(ids[run.start : run.stop], ids[: run.start]), (number, run)
    assert copied.sum() > 20


def test_facts_use_no_word_of_the_probes(lessons: ModuleType) -> None:
    school = _school(lessons)
    taken = lessons.words_of_the_probes()
    assert {"lighthouse", "amber", "otter", "cartography"} <= taken
    assert not taken & set(school.words)
    said = " ".join(text for fact in lessons.FACTS for text in fact).lower()
    assert "magic" not in said
    assert "special" not in said


def test_held_out_text_is_not_learned(trained: Path, lessons: ModuleType) -> None:
    import corpus

    learned, held_out = corpus.split_documents(DOCUMENTS)
    seen = {line for document in learned for line in document.splitlines()}
    texts = [path.read_text(encoding="utf-8") for path in sorted((trained / "haystack").iterdir())]
    assert texts == held_out
    assert not seen & {line for text in texts for line in text.splitlines() if line}


def test_the_readme_tells_what_the_committed_file_holds() -> None:
    printed = subprocess.run(
        [sys.executable, str(FOLDER / "table.py"), str(FOLDER / "evolution.h5")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert len(printed.splitlines()) == 2 + 17
    assert printed in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_heads_are_born_and_reach_further_after_the_extension() -> None:
    from headscope.interp.analysis.trajectory import read_trajectory

    trajectory = read_trajectory(FOLDER / "evolution.h5")
    born, extended = trajectory.steps.tolist().index(1000), -1
    assert not (trajectory.maps[0] > 0.1).any()
    assert (trajectory.maps[extended] > 0.3).sum() >= 4
    far = trajectory.probes["length"] > 600
    best_far = trajectory.scores[:, far].mean(axis=1).max(axis=(1, 2))
    assert best_far[born] < 0.05
    assert best_far[extended] > 0.9


def _school(lessons: ModuleType):  # type: ignore[no-untyped-def]
    import corpus

    learned, _ = corpus.split_documents(DOCUMENTS)
    tokenizer = corpus.train_tokenizer(learned)
    words = corpus.common_words(learned, without=lessons.words_of_the_probes())
    return lessons.Lessons(tokenizer, corpus.sentences(learned, tokenizer), words, seed=0)


def _runs(copied: np.ndarray) -> list[range]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], copied, [0]])))
    return [range(start, stop) for start, stop in edges.reshape(-1, 2)]


def _occurs(part: np.ndarray, within: np.ndarray) -> bool:
    if len(part) > len(within):
        return False
    return bool((np.lib.stride_tricks.sliding_window_view(within, len(part)) == part).all(axis=1).any())
