"""Which checkpoints are meant, and at which step each is: certain, or an error that lists what was found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headscope.interp.checkpoint_names import stage_in, steps_in, tokens_in
from headscope.interp.sweep.checkpoints import CheckpointError, find_checkpoints


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


def test_folders_above_a_glob_are_taken_as_they_are_written(tmp_path: Path):
    for name in ("run[lr=1e-4]", "run[lr=3e-4]", "who? me@home*", "run1"):
        folder(tmp_path / name / "checkpoint-10")
        folder(tmp_path / name / "[v2] checkpoint-30")
    assert steps(tmp_path / "run[lr=1e-4]" / "checkpoint-*") == [10]
    assert [c.run for c in find_checkpoints(tmp_path / "run[lr=1e-4]*" / "checkpoint-*")] == ["run[lr=1e-4]"]
    assert steps(tmp_path / "who? me@home*" / "*check*-[13]0") == [10, 30]
    assert steps(tmp_path / "run[lr=3e-4]" / "[v2]*-*") == [30]
    assert [c.run for c in find_checkpoints(tmp_path / "run[0-9]" / "checkpoint-*")] == ["run1"], "still a pattern"
    refused("matches nothing", tmp_path / "run[lr=1e-4]" / "ckpt-*")


# Several stages and runs


def stages(given, **kwargs) -> list[tuple[str, int]]:
    return [(checkpoint.stage, checkpoint.step) for checkpoint in find_checkpoints(given, **kwargs)]


def many(root: Path, **runs: tuple[int, ...]) -> Path:
    for name, told in runs.items():
        for step in told:
            folder(root / name.replace("__", "/").replace("_", "-") / f"checkpoint-{step}")
    return root


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("stage3-step20-tokens1B", "stage3"),
        ("phase_2_iter_0000100", "phase_2"),
        ("lc-32k-to-64k-step-4000", "lc-32k-to-64k"),
        ("anneal_step100", "anneal"),
        ("run2-global_step7", "run2"),
        ("epoch=3-step=900-val_loss=2.31", ""),
        ("checkpoint-300-final", ""),
        ("step1000-unsharded", ""),
        ("step100-a1b2c3", ""),
        ("00001200", ""),
        ("0.5T", ""),
    ],
)
def test_stages_in_names(name: str, stage: str):
    assert stage_in(name) == stage


def test_a_number_of_a_stage_is_its_place():
    hub = "org/model@"
    given = [f"{hub}stage{n}-step{step}" for n, step in ((10, 5), (2, 40), (2, 7), (1, 300))]
    assert stages(given) == [("stage1", 300), ("stage2", 307), ("stage2", 340), ("stage10", 345)]
    found = find_checkpoints([f"{hub}main-phase2-ckpt9-tokens3B", f"{hub}main-phase1-ckpt100-tokens2T"])
    assert [(c.step, c.tokens_seen, c.step_in_stage) for c in found] == [(100, 2e12, 100), (109, 2.003e12, 9)]
    assert [c.place for c in found] == ["main-phase1 step 100", "main-phase2 step 9"]


def test_longer_context_comes_later_in_names_of_one_form(tmp_path: Path):
    many(tmp_path, ext_16k=(50, 100), ext_4k=(200, 400), ext_128k=(10,))
    wanted = [("ext-4k", 200), ("ext-4k", 400), ("ext-16k", 450), ("ext-16k", 500), ("ext-128k", 510)]
    for given in (tmp_path / "*" / "checkpoint-*", sorted(tmp_path.iterdir()), sorted(tmp_path.glob("*/*"))):
        assert stages(given) == wanted
    hub = [f"org/m@lc-{names}-step-{step}" for names, step in (("32k-to-64k", 4), ("4k-to-32k", 20))]
    assert stages(hub) == [("lc-4k-to-32k", 20), ("lc-32k-to-64k", 24)]


def test_else_the_order_is_that_of_the_arguments(tmp_path: Path):
    many(tmp_path, base=(100, 200), long_32k=(0, 50), cool=(30,))
    base, long, cool = tmp_path / "base", tmp_path / "long-32k", tmp_path / "cool"
    wanted = [("base", 100), ("base", 200), ("long-32k", 201), ("long-32k", 250), ("cool", 280)]
    assert stages([base, long, cool]) == wanted
    assert stages([base / "check*", long / "checkpoint-?*", cool / "checkpoint-30"]) == wanted
    assert stages([*base.iterdir(), *long.iterdir(), *cool.iterdir()]) == wanted, "no shell gives this order by itself"
    assert stages([cool, base])[0] == ("cool", 30)
    message = refused("nothing tells which came first", tmp_path / "*" / "checkpoint-*")
    assert "base (steps 100 to 200), cool (step 30), long-32k (steps 0 to 50)" in message and "step,stage" in message
    refused("nothing tells", sorted(tmp_path.glob("*/checkpoint-*")))
    refused("nothing tells", [base / "checkpoint-100", long, base / "checkpoint-200"])


def test_other_names_in_one_folder_are_other_stages(tmp_path: Path):
    for name in ("warm-step10", "warm-step20", "main-step5", "main-step15"):
        folder(tmp_path / "x" / name)
    refused("main .steps 5 to 15., warm .steps 10 to 20.", tmp_path / "x")
    ordered = stages([tmp_path / "x" / "warm*", tmp_path / "x" / "main*"])
    assert ordered == [("warm", 10), ("warm", 20), ("main", 25), ("main", 35)]
    refused("nothing tells", [f"org/m@{name}-step5" for name in ("stage2", "long", "stage1")])


def test_branches_side_by_side_are_not_chained(tmp_path: Path):
    hub = "allenai/OLMo@"
    branches = [f"{hub}stage2-ingredient{n}-step{n}00-tokens5B" for n in (1, 2, 3)]
    message = refused("stage2-ingredient1 and stage2-ingredient2 and stage2-ingredient3 are branches", branches)
    assert "choose one" in message
    refused("branches side by side", [f"{hub}stage1-step900-tokens3T", *branches[1:]])
    assert stages([f"{hub}stage1-step900-tokens3T", branches[2]]) == [("stage1", 900), ("stage2-ingredient3", 1200)]
    many(tmp_path, run_seed1=(10, 20), run_seed2=(15,))
    refused("run-seed1 and run-seed2", [tmp_path / "run-seed1", tmp_path / "run-seed2"])


def test_counts_that_go_on_are_not_added(tmp_path: Path):
    def told(*runs: tuple[tuple[int, int], ...]) -> list[tuple[int, float | None]]:
        shutil.rmtree(tmp_path, ignore_errors=True)
        for n, run in enumerate(runs, 1):
            for step, tokens in run:
                state = {"global_step": step, "num_input_tokens_seen": tokens}
                folder(tmp_path / f"phase{n}" / f"checkpoint-{step}", state=state)
        return [(c.step, c.tokens_seen) for c in find_checkpoints(tmp_path / "*" / "*")]

    first = ((10, 1000), (20, 2000))
    assert told(first, ((30, 2500), (40, 3000))) == [(10, 1000), (20, 2000), (30, 2500), (40, 3000)]
    assert told(first, ((5, 500), (10, 900))) == [(10, 1000), (20, 2000), (25, 2500), (30, 2900)]
    assert told(first, ((30, 100),)) == [(10, 1000), (20, 2000), (50, 2100)], "tokens fall: both began anew"
    assert told(first, ((5, 2500),)) == [(10, 1000), (20, 2000), (25, None)], "of all stages, or of this one?"
    assert told(first, ((5, 500),), ((8, 800),)) == [(10, 1000), (20, 2000), (25, 2500), (28, 2800)]
    untold = told(((10, 0), (20, 0)), ((5, 500),))
    assert untold == [(10, None), (20, None), (25, None)], "never a count of one stage only"


def test_steps_and_millions_of_tokens_do_not_add_up(tmp_path: Path):
    many(tmp_path, phase1=(10, 20))
    folder(tmp_path / "phase2" / "3B")
    refused("some of these stages tell steps and others only tokens", tmp_path / "*" / "*")
    folder(tmp_path / "phase0" / "checkpoint-2147483647")
    refused("add up to 2147483657, more than 2147483647", [tmp_path / "phase0", tmp_path / "phase1"])


def test_a_table_tells_stages(tmp_path: Path):
    many(tmp_path, a=(10, 20), b=(5,), c_seed1=(1,), c_seed2=(2,))
    table = tmp_path / "steps.csv"
    table.write_text("checkpoint,step,tokens_seen,stage\nb/checkpoint-5,,1M,warm\na/checkpoint-20,200,8M,main\n"
                     "a/checkpoint-10,100,4M,main\n")  # fmt: skip
    found = find_checkpoints([tmp_path / "a", tmp_path / "b"], table)
    assert [(c.stage, c.step, c.tokens_seen) for c in found] == [
        ("warm", 5, 1e6),
        ("main", 100, 4e6),
        ("main", 200, 8e6),
    ]
    refused("tells no stage of checkpoint-1", [tmp_path / "a", tmp_path / "b", tmp_path / "c-seed1"], table=table)
    table.write_text("checkpoint,step\na/checkpoint-10,10\na/checkpoint-20,20\nb/checkpoint-5,15\n")
    assert stages([tmp_path / "a", tmp_path / "b"], table=table) == [("", 10), ("", 15), ("", 20)], "one count for all"


def test_runs_are_called_as_short_as_tells_them_apart(tmp_path: Path):
    many(tmp_path, a__ckpts=(10,), b__ckpts=(5,))
    (tmp_path / "link").symlink_to(tmp_path / "a" / "ckpts")
    assert stages([tmp_path / "a" / "ckpts", tmp_path / "b" / "ckpts"]) == [("a/ckpts", 10), ("b/ckpts", 15)]
    assert stages([tmp_path / "link", tmp_path / "a" / "ckpts"]) == [("", 10)]
    folder(tmp_path / "n" / "step_10" / "hf")
    folder(tmp_path / "n" / "step_20" / "hf")
    assert stages(tmp_path / "n" / "*" / "hf") == [("", 10), ("", 20)]


def test_the_same_step_twice_is_listed(run: Path, tmp_path: Path):
    folder(run / "step-20")
    message = refused("step 20: .*checkpoint-20 .* and .*step-20", run)
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
