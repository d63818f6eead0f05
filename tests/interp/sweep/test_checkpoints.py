"""Which checkpoints are meant, and at which step each is: certain, or an error that lists what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headscope.interp.sweep.checkpoints import CheckpointError, find_checkpoints
from headscope.interp.sweep.names import steps_in, tokens_in


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("checkpoint-2000", {2000}),
        ("step_1000", {1000}),
        ("step1000-tokens4B", {1000}),
        ("iter_0001000", {1000}),
        ("iteration-7", {7}),
        ("global_step500", {500}),
        ("stage1-step140000-tokens294B", {140000}),
        ("epoch=3-step=900", {900}),
        ("ckpt-00012", {12}),
        ("00001200", {1200}),
        ("model-step12-q4", {12}),
        ("checkpoint-10-step-20", {10, 20}),
        ("step5k", set()),
        ("step12k", set()),
        ("step1.5", set()),
        ("footstep3", set()),
        ("llama-3-8B", set()),
        ("final", set()),
    ],
)
def test_steps_in_names(name: str, steps: set[int]):
    assert steps_in(name) == steps


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("step1000-tokens4B", 4e9),
        ("20B", 20e9),
        ("0.5T", 0.5e12),
        ("tokens_300M", 300e6),
        ("20B-tokens", 20e9),
        ("SmolLM2-1.7B-step100", None),
        ("checkpoint-20", None),
        ("20", None),
        ("tokenizer3", None),
        ("20B-tokens-tokens30B", None),
    ],
)
def test_tokens_in_names(name: str, tokens: float | None):
    assert tokens_in(name) == tokens


def folder(path: Path, *, state: dict | None = None, config: bool = True) -> Path:
    path.mkdir(parents=True)
    if config:
        (path / "config.json").write_text("{}")
    if state is not None:
        (path / "trainer_state.json").write_text(json.dumps(state))
    return path


def steps(given, **kwargs) -> list[int]:
    return [checkpoint.step for checkpoint in find_checkpoints(given, **kwargs)]


def refused(match: str, given, **kwargs) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        find_checkpoints(given, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (20, 100, 3):
        folder(tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "args.json").write_text("{}")
    folder(tmp_path / "run" / "tmp-checkpoint-120")
    return tmp_path / "run"


def test_folders_globs_and_parents_mean_the_same(run: Path, monkeypatch: pytest.MonkeyPatch):
    assert steps(run) == steps(str(run / "checkpoint-*")) == steps(f"{run}/*") == [3, 20, 100]
    assert steps([run / "checkpoint-20", str(run / "checkpoint-3")]) == [3, 20]
    assert steps([run, run / "checkpoint-20", f"{run}/checkpoint-2*"]) == [3, 20, 100], "named twice, scored once"
    monkeypatch.chdir(run)
    assert steps("checkpoint-*") == steps(["."]) == [3, 20, 100]
    first = find_checkpoints(run)[0]
    assert (first.name, first.source) == ("checkpoint-3", str(run / "checkpoint-3"))
    assert (first.tokens_seen, first.told_by) == (None, "from its name")


def test_a_trainers_folder_with_a_final_copy_means_its_checkpoints(run: Path):
    (run / "config.json").write_text("{}")
    assert steps(run) == [3, 20, 100]
    (run / "checkpoint-3" / "global_step3").mkdir()  # an optimizer's state
    assert steps(run / "checkpoint-3") == [3]


def test_a_checkpoint_without_config_is_a_broken_one_and_not_overlooked(run: Path):
    folder(run / "checkpoint-200", config=False)
    assert steps(run) == steps(f"{run}/checkpoint-*") == [3, 20, 100, 200]


def test_gguf_files_and_the_part_above(tmp_path: Path):
    (tmp_path / "model-step30.gguf").write_bytes(b"GGUF")
    folder(tmp_path / "step_10" / "hf")
    folder(tmp_path / "step_20" / "hf")
    assert steps([tmp_path / "model-step30.gguf", f"{tmp_path}/step_*/hf"]) == [10, 20, 30]
    assert find_checkpoints(tmp_path / "step_10" / "hf")[0].name == "step_10/hf"


def test_step_and_tokens_from_table_then_state_then_name(tmp_path: Path):
    folder(tmp_path / "run" / "a", state={"global_step": 7, "num_input_tokens_seen": 9000})
    folder(tmp_path / "run" / "step1000-tokens4B")
    folder(tmp_path / "run" / "final")
    table = tmp_path / "steps.csv"
    table.write_text("checkpoint,step,tokens_seen\nfinal,2000,8.4e9\nrun/step1000-tokens4B,,5B\nelsewhere,1,\n")
    found = {c.step: c for c in find_checkpoints(tmp_path / "run", table=table)}
    assert {step: c.tokens_seen for step, c in found.items()} == {7: 9000, 1000: 5e9, 2000: 8.4e9}
    assert found[7].told_by == "from trainer_state.json" and found[2000].told_by == "from the table"
    table.write_text("step, checkpoint\n5,final\n6,run/a\n")
    assert steps(tmp_path / "run", table=table) == [5, 6, 1000]


def test_uncounted_tokens_are_not_zero(tmp_path: Path):
    folder(tmp_path / "checkpoint-10", state={"global_step": 10, "num_input_tokens_seen": 0})
    assert find_checkpoints(tmp_path / "checkpoint-10")[0].tokens_seen is None


def test_tokens_alone_stand_for_steps_in_millions(tmp_path: Path):
    for name in ("0B", "20B", "0.5B"):
        folder(tmp_path / name)
    found = find_checkpoints(tmp_path)
    assert [(c.step, c.tokens_seen) for c in found] == [(0, 0.0), (500, 5e8), (20_000, 20e9)]
    assert found[-1].told_by == "millions of tokens"


def test_uncertain_steps_are_listed(run: Path, tmp_path: Path):
    folder(run / "best")
    folder(run / "checkpoint-7-step-8")
    folder(run / "checkpoint-30", state={"global_step": 31})
    message = refused("3 of 6 checkpoints is not clear", run)
    assert "best: neither" in message and "its name says 7 and 8" in message
    assert "checkpoint-30: trainer_state.json says 31, its name 30" in message and 'table="steps.csv"' in message


def test_the_same_step_twice_is_listed(run: Path, tmp_path: Path):
    folder(tmp_path / "other" / "step-20")
    message = refused("step 20: .*checkpoint-20 .* and .*step-20", [run, tmp_path / "other"])
    assert "leave some out" in message


def test_nothing_there(tmp_path: Path, run: Path):
    refused("none given", [])
    refused("there is no file or folder", tmp_path / "nowhere")
    refused("there is no file or folder", "checkpoint-5")
    refused("matches nothing", f"{tmp_path}/nowhere-*")
    refused("matches 1 files and folders, but none is a checkpoint", f"{run}/args*")
    refused("not a .gguf file", run / "args.json")
    refused("holds no checkpoint .it holds nothing.", run / "logs")
    refused("not of the form hub_id@revision", "a b/c@main")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name,step\n", "columns name, step; it needs checkpoint and step"),
        ("checkpoint,step\na,x\n", "line 2: step is 'x'"),
        ("checkpoint,step\na,-1\n", "line 2: step is '-1'"),
        ("checkpoint,step,tokens_seen\na,1,many\n", "line 2: tokens_seen is 'many'"),
        ("checkpoint,step\na,1\na,2\n", "lines 2 and 3"),
        ("", "columns none"),
    ],
)
def test_a_bad_table_is_refused(text: str, match: str, run: Path, tmp_path: Path):
    table = tmp_path / "steps.csv"
    table.write_text(text)
    refused(match, run, table=table)


def test_a_missing_table_is_refused(run: Path, tmp_path: Path):
    refused("No such file", run, table=tmp_path / "none.csv")


def test_hub_revisions():
    found = find_checkpoints(["org/model@step1000-tokens4B", "org/model@step10"])
    assert [(c.step, c.source, c.tokens_seen) for c in found] == [
        (10, "org/model@step10", None),
        (1000, "org/model@step1000-tokens4B", 4e9),
    ]
    refused("org/model@main: neither", "org/model@main")


def test_transformer_lens_names_and_labels_without_the_network():
    pytest.importorskip("transformer_lens")
    found = find_checkpoints(["pythia-70m@1000", "EleutherAI/pythia-70m@512", "pythia-70m@step3000"])
    assert [c.source for c in found] == [f"EleutherAI/pythia-70m@step{n}" for n in (512, 1000, 3000)]
    assert steps("pythia-70m@*42000") == [42000, 142000]
    assert len(steps("pythia-70m@*")) == 154
    assert find_checkpoints("stanford-gpt2-small-a@400")[0].source.endswith("@checkpoint-400")
    refused("pythia-70m has no checkpoint '1001': its 154 labels go from 0 to 143000", "pythia-70m@1001")
    refused("patterns of revisions", "org/model@*")
