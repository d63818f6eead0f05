"""A sweep: every checkpoint once, whatever happens in between, and a file that does not tell how it came about."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from headscope.errors import ArgumentError
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.model.loading import load_model
from headscope.interp.scoring import score_heads
from headscope.interp.store.merging import merge
from headscope.interp.store.results_file import StoreError, checkpoints, read_scores, read_steps, validate, write
from headscope.interp.sweep.checkpoints import CheckpointError
from headscope.interp.sweep.run import SweepResult
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource, Shards, SweepError
from headscope.interp.sweep.stages import Checkpoint
from tiny_run import make_checkpoint, make_run, small_probes, tiny_tokenizer

pytestmark = pytest.mark.long
PROBES = small_probes()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def plain(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an uninterrupted sweep over `run`."""
    output = tmp_path_factory.mktemp("plain") / "run.h5"
    assert hs.sweep(run, PROBES, output) == SweepResult(output, (10, 20, 30), (), {})
    return output


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run that a test may damage; modification times are kept."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def nan_weights(folder: Path, name: str = "model.norm.weight") -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_file_holds_what_scoring_each_checkpoint_gives(run: Path, plain: Path):
    assert checkpoints(plain) == [10, 20, 30]
    assert validate(plain) == []
    for step in (10, 20, 30):
        alone = score_heads(load_model(run / f"checkpoint-{step}"), PROBES)
        there = read_scores(plain, step)
        for name in alone.estimators:
            assert there.per_probe[name].tobytes() == alone.per_probe[name].tobytes(), "also in a module used before"
        assert there.nll.tobytes() == alone.nll.tobytes()
        assert there.provenance["weights_sha256"] == alone.provenance["weights_sha256"]
    assert hs.sweep(run, iter(PROBES), plain).skipped == (10, 20, 30)


def test_order_and_shards_do_not_show_in_the_file(run: Path, plain: Path, tmp_path: Path):
    """Later checkpoints first, then the others: appended, merged and swept at once are the same file."""
    output = tmp_path / "run.h5"
    hs.sweep([run / "checkpoint-30"], PROBES, output)
    assert hs.sweep([run / "checkpoint-10"], PROBES, output).done == (10,)
    result = hs.sweep(run, PROBES, output)
    assert (result.done, result.skipped) == ((20,), (10, 30))
    assert differences(output, plain) == []
    by_parts = tmp_path / "parts.h5"
    for i in (1, 2):
        hs.sweep(run, PROBES, by_parts, only=(i, 2))
        assert not by_parts.exists(), "a part leaves the file to merge"
    hs.merge(tmp_path / "parts.h5.shards", by_parts)
    assert differences(by_parts, plain) == []


def test_what_differs_is_told(plain: Path, tmp_path: Path):
    other = tmp_path / "other.h5"
    shutil.copy(plain, other)
    assert differences(plain, other) == []
    with h5py.File(other, "r+") as file:
        file["retrieval"][1, 0, 3] += 1
        file.attrs["title"] = "another"
        file["extra"] = 3
        made = json.loads(file["provenance/json"].asstr()[0])
        file["provenance/json"][0] = json.dumps(made | {"sharing": "exact", "created_at": "now", "torch": "9"})
    assert differences(plain, other) == [
        "/: attribute title",
        "extra: only in one of the files",
        "provenance/json: row 0, sharing: 'auto' and 'exact'",
        "retrieval: other values in 1 of 48 places",
    ]
    with h5py.File(other, "r+") as file:
        del file["extra"], file.attrs["title"]
        file["retrieval_stderr"][0, 0, 0] = -0.0 if file["retrieval_stderr"][0, 0, 0] == 0 else np.nan
    assert any("retrieval_stderr" in words for words in differences(plain, other))


def test_probes_are_frozen(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(run / "checkpoint-10", PROBES, output)
    frozen = hs.probes.ProbeSet.load(tmp_path / "run.h5.shards" / "probes.npz")
    assert frozen.hash == PROBES.hash
    others = hs.probes.ProbeSet(PROBES[:2], name="two")
    with pytest.raises(SweepError, match=r"begun with the probe set 'random grid' .* and this one is 'two'"):
        hs.sweep(run, others, output)
    assert hs.sweep(run, tmp_path / "run.h5.shards" / "probes.npz", output).done == (20, 30)


def test_the_same_request_takes_the_frozen_probes(run: Path, tmp_path: Path):
    """Whatever building would give today: another Python has other documentation for a haystack."""
    output = tmp_path / "run.h5"
    others = hs.probes.ProbeSet(PROBES[:2], name="two")
    hs.sweep(run / "checkpoint-10", ProbeSource(lambda tokenizer: PROBES, {"set": "grid", "seed": 0}), output)
    assert hs.sweep(run, ProbeSource(lambda tokenizer: others, {"set": "grid", "seed": 0}), output).done == (20, 30)
    assert read_scores(output, 30).probe_set_hash == PROBES.hash
    with pytest.raises(SweepError, match="this one is 'two'"):
        hs.sweep(run, ProbeSource(lambda tokenizer: others, {"set": "grid", "seed": 1}), output)


def test_a_checkpoint_that_is_still_being_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(shutil.copytree(run / "checkpoint-10", tmp_path / "checkpoint-10"))

    def load_slowly(*args, **kwargs):
        loaded = load_model(*args, **kwargs)
        os.utime(folder / "model.safetensors")
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr("headscope.interp.sweep.worker.load_model", load_slowly)
        result = hs.sweep(folder, PROBES, tmp_path / "run.h5")
    assert "was written to while it was loaded" in result.failed[10]
    assert hs.sweep(folder, PROBES, tmp_path / "run.h5").done == (10,)


def test_merge_keeps_what_is_there(run: Path, plain: Path, tmp_path: Path):
    """Two files of one run in one of them, and no checkpoint lost by leaving a file out."""
    first, last = tmp_path / "first.h5", tmp_path / "last.h5"
    hs.sweep([run / "checkpoint-10", run / "checkpoint-30"], PROBES, first)
    hs.sweep(run / "checkpoint-20", PROBES, last)
    before = first.read_bytes()
    with pytest.raises(StoreError, match="holds checkpoint 10, 30, which is in no shard"):
        hs.merge(last, first)
    with pytest.raises(StoreError, match="checkpoint 20 is in"):
        hs.merge([first, last, tmp_path / "last.h5.shards"], first)
    with pytest.raises(StoreError, match="holds no shards"):
        hs.merge(run, first)
    with pytest.raises(StoreError, match="no shards given"):
        hs.merge([], first)
    assert first.read_bytes() == before
    assert hs.merge([last, first], first) == {}
    assert differences(first, plain) == []


def test_a_broken_checkpoint_is_reported_and_the_others_go_on(copy: Path, plain: Path, tmp_path: Path):
    nan_weights(copy / "checkpoint-10")
    whole = (copy / "checkpoint-20" / "model.safetensors").read_bytes()
    (copy / "checkpoint-20" / "model.safetensors").write_bytes(whole[:5000])
    (copy / "checkpoint-40").mkdir()
    output = tmp_path / "run.h5"
    result = hs.sweep(copy, PROBES, output)
    assert result.done == (30,) and list(result.failed) == [10, 20, 40]
    assert "model.norm.weight holds NaN" in result.failed[10]
    assert "cut short" in result.failed[20] and "no config.json" in result.failed[40]
    note = json.loads((tmp_path / "run.h5.shards" / "step-0000000020.failed.json").read_text())
    assert note["reason"] == result.failed[20] and note["checkpoint"] == "checkpoint-20"
    assert hs.merge(tmp_path / "run.h5.shards", output) == result.failed

    # Mended, and tried again.
    (copy / "checkpoint-20" / "model.safetensors").write_bytes(whole)
    again = hs.sweep(copy, PROBES, output)
    assert (again.done, again.skipped, list(again.failed)) == ((20,), (30,), [10, 40])
    assert not (tmp_path / "run.h5.shards" / "step-0000000020.failed.json").exists()
    a, b = (read_scores(path, 20).per_probe["retrieval"] for path in (output, plain))
    assert a.tobytes() == b.tobytes(), "a failure before does not show"


def test_another_architecture_in_the_middle_is_left_out(copy: Path, tmp_path: Path):
    make_checkpoint(copy / "checkpoint-15", num_hidden_layers=3)
    for given in (sorted(copy.iterdir()), sorted(copy.iterdir(), reverse=True)):
        output = tmp_path / "run.h5"
        result = hs.sweep(given, PROBES, output)
        assert list(result.failed) == [15]
        assert "3 layers, 8 heads and 2 kv heads, not 2 layers, 8 heads and 2 kv heads" in result.failed[15]
        assert checkpoints(output) == [10, 20, 30]
    shutil.move(copy / "checkpoint-15", copy / "checkpoint-5")
    assert list(hs.sweep(copy, PROBES, tmp_path / "first.h5").failed) == [5], "most decide, not the first"


def test_changed_weights_are_not_taken_as_done(copy: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(copy, PROBES, output)
    before = output.read_bytes()
    os.utime(copy / "checkpoint-10" / "model.safetensors")
    assert hs.sweep(copy, PROBES, output).skipped == (10, 20, 30), "a new date and the same bytes"
    make_checkpoint(copy / "checkpoint-20", seed=99)
    with pytest.raises(SweepError, match=r"other weights for checkpoint 20 \(checkpoint-20\); pass replace"):
        hs.sweep(copy, PROBES, output)
    assert output.read_bytes() == before
    result = hs.sweep(copy, PROBES, output, replace_changed=True)
    assert (result.done, result.skipped) == ((20,), (10, 30))
    fresh = score_heads(load_model(copy / "checkpoint-20"), PROBES)
    np.testing.assert_array_equal(read_scores(output, 20).per_probe["retrieval"], fresh.per_probe["retrieval"])
    (aside,) = (tmp_path / "run.h5.shards").glob("outdated-*.h5")
    old = tmp_path / "old.h5"
    old.write_bytes(before)
    np.testing.assert_array_equal(read_scores(aside).retrieval, read_scores(old, 20).retrieval)


def test_a_changed_config_is_a_changed_checkpoint(copy: Path, tmp_path: Path):
    hs.sweep(copy, PROBES, tmp_path / "run.h5")
    config = copy / "checkpoint-10" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-3}))
    with pytest.raises(SweepError, match="other weights for checkpoint 10"):
        hs.sweep(copy, PROBES, tmp_path / "run.h5")


def test_weights_that_are_gone_keep_their_scores(copy: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(copy, PROBES, output)
    (copy / "checkpoint-20" / "model.safetensors").unlink()
    result = hs.sweep(copy, PROBES, output)
    assert list(result.failed) == [20] and "its scores from before are kept" in result.failed[20]
    assert checkpoints(output) == [10, 20, 30]


def test_other_options_are_refused(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(run / "checkpoint-10", PROBES, output, sharing="exact")
    with pytest.raises(SweepError, match="checkpoint 10 in .* was scored with sharing='exact', and now sharing='auto'"):
        hs.sweep(run, PROBES, output)
    with pytest.raises(SweepError, match="dtype='auto', and now dtype='bfloat16'"):
        hs.sweep(run, PROBES, output, sharing="exact", dtype="bfloat16")


def leading_needle_mass(probe: hs.probes.Probe, evidence: ProbeEvidence) -> np.ndarray:
    return evidence.mass["needle"].max(axis=-1)


def test_estimators_asked_for_later_are_nan_before_until_they_are_scored_again(run: Path, tmp_path: Path, caplog):
    output, later = tmp_path / "run.h5", ["wu_count", leading_needle_mass]
    assert hs.sweep(run / "checkpoint-10", PROBES, output, estimators=["sink_mass"]).done == (10,)
    assert read_scores(output).estimators == ("retrieval", "sink_mass")
    assert hs.sweep([run / "checkpoint-10", run / "checkpoint-20"], PROBES, output, estimators=later).done == (20,)
    assert "keeps the scores of checkpoint 10 (checkpoint-10) as they are, without leading_needle_mass" in caplog.text
    shutil.rmtree(tmp_path / "run.h5.shards")  # made again from the file, they still tell what was measured
    caplog.clear()
    assert hs.sweep(run, PROBES, output, estimators=later).done == (30,)
    assert "checkpoint 10 (checkpoint-10) as" in caplog.text
    names = ("retrieval", "sink_mass", "wu_count", "leading_needle_mass")
    missing = {step: [np.isnan(read_scores(output, step)[name]).all() for name in names] for step in (10, 20, 30)}
    assert missing == {10: [0, 0, 1, 1], 20: [0, 1, 0, 0], 30: [0, 1, 0, 0]} and validate(output) == []
    assert hs.sweep(run, PROBES, output, estimators=later, replace_changed=True).done == (10,)
    alone = score_heads(load_model(run / "checkpoint-10"), PROBES, estimators=later)
    assert not np.isnan(alone["leading_needle_mass"]).all()
    np.testing.assert_array_equal(read_scores(output, 10)["leading_needle_mass"], alone["leading_needle_mass"])
    assert hs.sweep(run, PROBES, output, estimators=["wu_count"]).skipped == (10, 20, 30), "more is no less"


def test_every_checkpoint_answers_what_its_heads_are_scored_on(run: Path, plain: Path, tmp_path: Path, caplog):
    output, folders = tmp_path / "run.h5", [run / f"checkpoint-{step}" for step in (10, 20)]
    hs.sweep(folders[0], PROBES, output)
    assert hs.sweep(folders, PROBES, output, answers=True, samples=1).done == (20,)
    assert "checkpoint 10 (checkpoint-10) as they are, without answers, which will be missing there" in caplog.text
    alone = hs.evaluate(load_model(folders[1]), PROBES, samples=1)
    found = hs.Answers.load(output, 20)
    assert found.said["text"].tolist() == alone.said["text"].tolist() and validate(output) == []
    np.testing.assert_array_equal(read_scores(output, 20)["retrieval"], read_scores(plain, 20)["retrieval"])
    with pytest.raises(SweepError, match="was scored with samples=1, and now samples=2 is asked for"):
        hs.sweep(run, PROBES, output, answers=True, samples=2)
    assert hs.sweep(run, PROBES, output, answers=True, samples=1, replace_changed=True).done == (10, 30)
    shutil.rmtree(tmp_path / "run.h5.shards")
    assert hs.sweep(run, PROBES, output, answers=True, samples=1).skipped == (10, 20, 30)
    assert hs.sweep(run, PROBES, output).skipped == (10, 20, 30), "what was said is no less"
    again = tmp_path / "again.h5"
    hs.sweep(run, PROBES, again, answers=True, samples=1)
    assert differences(again, output) == []
    for wrong in ({"generate": True}, {"samples": -1}, {"temperature": 0.0}):
        with pytest.raises(ArgumentError, match="take one of them|0 or more and temperature above 0"):
            hs.sweep(run, PROBES, tmp_path / "no.h5", answers=True, **wrong)


def test_every_checkpoint_may_also_be_read_texts(run: Path, tmp_path: Path, caplog):
    output, folders = tmp_path / "run.h5", [run / f"checkpoint-{step}" for step in (10, 20)]
    read = {"texts": {"words": [" ".join(f"w{n + i}" for n in range(40)) for i in range(3)]}, "lengths": [8, 32]}
    hs.sweep(folders[0], PROBES, output)
    assert hs.sweep(folders, PROBES, output, **read).done == (20,)
    assert "as they are, without perplexity, which will be missing there" in caplog.text
    alone = hs.perplexity(load_model(folders[1]), **read)
    np.testing.assert_array_equal(hs.Perplexity.load(output, 20).nll, alone.nll)
    assert hs.sweep(folders, PROBES, output, replace_changed=True, **read).done == (10,) and validate(output) == []
    assert hs.Perplexity.load(output, 10).texts_hash == alone.texts_hash
    with pytest.raises(SweepError, match=r"was scored with texts='.*', and now texts='.*' is asked for"):
        hs.sweep(folders, PROBES, output, texts=read["texts"], lengths=[8, 16])
    shutil.rmtree(tmp_path / "run.h5.shards")
    assert hs.sweep(folders, PROBES, output, **read).skipped == (10, 20)
    with pytest.raises(ArgumentError, match=r"are for texts; give texts="):
        hs.sweep(folders, PROBES, output, lengths=[8])


def test_a_lost_folder_of_shards_is_made_again_from_the_file(run: Path, plain: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(run, PROBES, output)
    shutil.rmtree(tmp_path / "run.h5.shards")
    assert hs.sweep(run, PROBES, output).skipped == (10, 20, 30)
    assert differences(output, plain) == []


def test_a_file_of_single_scores_is_continued(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    score_heads(load_model(run / "checkpoint-10"), PROBES).save(output, checkpoint=10, tokens_seen=5.0)
    result = hs.sweep(run, PROBES, output)
    assert (result.done, result.skipped) == ((20, 30), (10,))
    assert read_steps(output)[10] == 5.0


def test_a_foreign_file_is_left_alone(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    output.write_text("my thesis")
    with pytest.raises(StoreError, match="not an HDF5 file"):
        hs.sweep(run, PROBES, output)
    assert output.read_text() == "my thesis"


def test_a_sweep_keeps_to_how_the_first_checkpoint_was_run(run: Path, tmp_path: Path):
    """The file was begun with every probe alone; later sweeps go on so, and the worker remembers its own first."""
    output = tmp_path / "run.h5"
    scores = score_heads(load_model(run / "checkpoint-10"), PROBES, alone=True)
    hs.sweep([run / "checkpoint-10"], PROBES, tmp_path / "shared.h5")
    made = read_scores(tmp_path / "shared.h5", 10).provenance["sweep"]
    replace(scores, provenance=scores.provenance | {"sweep": made}).save(output, checkpoint=10)
    assert hs.sweep(run, PROBES, output).done == (20, 30)
    assert [read_scores(output, step).provenance["sharing"] for step in (10, 20, 30)] == ["alone"] * 3


def test_tokens_told_later_are_taken_over(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    hs.sweep(run, PROBES, output)
    assert set(read_steps(output).values()) == {None}
    table = tmp_path / "steps.csv"
    table.write_text("checkpoint,step,tokens_seen\n" + "".join(f"checkpoint-{n},{n},{n}B\n" for n in (10, 20, 30)))
    assert hs.sweep(run, PROBES, output, table=table).done == ()
    assert read_steps(output) == {10: 10e9, 20: 20e9, 30: 30e9}


def test_two_sweeps_at_once(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    inside, go = threading.Event(), threading.Event()

    def wait(done: int, total: int, what: str) -> None:
        inside.set()
        go.wait()

    first = threading.Thread(target=lambda: hs.sweep(run, PROBES, output, progress=wait))
    first.start()
    try:
        assert inside.wait(600)  # for hangs only
        with pytest.raises(SweepError, match="another sweep is writing to"):
            hs.sweep(run, PROBES, output)
    finally:
        go.set()
        first.join()
    assert checkpoints(output) == [10, 20, 30]


def test_an_interrupted_sweep_keeps_what_is_done(run: Path, plain: Path, tmp_path: Path):
    output = tmp_path / "run.h5"

    def interrupt(done: int, total: int, what: str) -> None:
        if what.startswith("checkpoint 30") and "loading" not in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hs.sweep(run, PROBES, output, progress=interrupt)
    assert checkpoints(output) == [10, 20]
    assert hs.sweep(run, PROBES, output).done == (30,)
    assert differences(output, plain) == []


def test_the_file_is_there_after_the_first_checkpoint(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headscope.interp.sweep.run.REFRESH_SHARE", 1e-9)  # as if writing it took very long
    output = tmp_path / "run.h5"
    held: list[list[int]] = []
    hs.sweep(run, PROBES, output, on_checkpoint=lambda *_: held.append(checkpoints(output)))
    assert held == [[10], [10], [10]]
    assert checkpoints(output) == [10, 20, 30]


def test_progress_counts_checkpoints_times_probes(run: Path, tmp_path: Path):
    seen: list[tuple[int, int, str]] = []
    told: list[tuple[int, int, int]] = []
    hs.sweep(
        run,
        PROBES,
        tmp_path / "run.h5",
        progress=lambda *what: seen.append(what),
        on_checkpoint=lambda outcome, *counts: told.append((outcome.checkpoint.step, *counts)),
    )
    done = [d for d, _, _ in seen]
    assert done == sorted(done) and (done[0], done[-1]) == (0, 3 * len(PROBES))
    assert {total for _, total, _ in seen} == {3 * len(PROBES)} and seen[-1][2] == "done"
    assert told == [(10, 1, 3), (20, 2, 3), (30, 3, 3)]


def test_checkpoints_without_a_tokenizer_use_the_first_ones(copy: Path, tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / "checkpoint-20" / name).unlink()
    assert hs.sweep(copy, PROBES, tmp_path / "run.h5").done == (10, 20, 30)
    for folder in copy.iterdir():
        for file in folder.glob("tokenizer*"):
            file.unlink()
    result = hs.sweep(copy, PROBES, tmp_path / "none.h5")
    assert "no tokenizer; pass tokenizer=" in result.failed[20]
    assert hs.sweep(copy, PROBES, tmp_path / "none.h5", tokenizer=tiny_tokenizer()).done == (10, 20, 30)


def test_bad_arguments_cost_nothing(run: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    for error, match, arguments in (
        (CheckpointError, "no file or folder", {"checkpoints": tmp_path / "nowhere"}),
        (SweepError, "no probe set or file is called 'gird'", {"probes": "gird"}),
        (TypeError, "probes must be a ProbeSet or an iterable of Probe, got list that holds int", {"probes": [1]}),
        (StoreError, "does not exist; create it", {"output": tmp_path / "no" / "run.h5"}),
        (StoreError, "is a folder", {"output": tmp_path}),
        (ValueError, "did you mean 'needle_mass'.*built in: retrieval, ", {"estimators": ["needlemass"]}),
        (SweepError, "the parts of 2 are 1 to 2", {"only": (3, 2)}),
    ):
        with pytest.raises(error, match=match):
            hs.sweep(**{"checkpoints": run, "probes": PROBES, "output": output, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_probes_that_cannot_be_scored_are_refused_once_and_not_at_every_checkpoint(run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no single inserted piece"):
        hs.sweep(
            run,
            hs.probes.ProbeSet([replace(probe, graft=None) for probe in PROBES]),
            tmp_path / "run.h5",
            sharing="grafted",
        )
    assert not (tmp_path / "run.h5").exists() and not list(tmp_path.rglob("*.npz"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(run: Path, tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="not writable"):
        hs.sweep(run, PROBES, folder / "run.h5")


def test_a_name_that_fills_what_the_file_system_takes(run: Path, tmp_path: Path):
    output = tmp_path / ("回" * 84 + ".h5")
    assert hs.sweep(run / "checkpoint-10", PROBES, output).done == (10,)
    assert hs.sweep(run, PROBES, output).done == (20, 30) and checkpoints(output) == [10, 20, 30]


def test_scores_that_their_shard_does_not_take_are_elsewhere(run: Path, tmp_path: Path, monkeypatch):
    """The folder of shards goes away while the second checkpoint is being scored."""
    output = tmp_path / "run.h5"

    def lose(outcome, done: int, total: int) -> None:
        if done == 1:
            shutil.move(f"{output}.shards", tmp_path / "moved")

    with pytest.raises(
        StoreError, match="could not write .*step-0000000020.h5.*the scores of checkpoint 20 are in"
    ) as e:
        hs.sweep(run, PROBES, output, on_checkpoint=lose)
    rescued, shard = str(e.value).split(": mv ")[1].split(", and")[0].split()
    assert checkpoints(rescued) == [20] and checkpoints(output) == [10]
    shutil.move(tmp_path / "moved", f"{output}.shards")
    shutil.move(rescued, shard)
    assert hs.sweep(run, PROBES, output) == SweepResult(output, (30,), (10, 20), {})


@pytest.mark.parametrize("wrong", [StoreError("the disk is gone"), RuntimeError("HDF5 gave up"), OSError(5, "I/O")])
def test_what_ended_a_sweep_is_what_is_raised(run: Path, tmp_path: Path, monkeypatch, caplog, wrong: Exception):
    """The results file is brought up to date on the way out; what goes wrong there is a warning."""
    from headscope.interp.sweep import run as sweeping

    def end(outcome, done: int, total: int) -> None:
        if done == 2:
            monkeypatch.setattr(sweeping, "refresh", fail)
            raise ZeroDivisionError("of the caller")

    def fail(*_: object) -> None:
        raise wrong

    output = tmp_path / "run.h5"
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        hs.sweep(run, PROBES, output, on_checkpoint=end)
    assert "all scores are in" in caplog.text
    monkeypatch.undo()
    assert hs.sweep(run, PROBES, output) == SweepResult(output, (30,), (10, 20), {})


def test_a_results_file_that_cannot_be_written_stops_no_sweep(run: Path, tmp_path: Path, monkeypatch, caplog):
    """Somebody puts a folder in its place; the shards hold everything, and the command that is named makes the file."""
    output = tmp_path / "run.h5"

    def block(outcome, done: int, total: int) -> None:
        if done == 1:
            output.unlink()
            output.mkdir()

    with pytest.raises(SweepError, match="all scores are in .*run.h5.shards: headscope merge") as e:
        hs.sweep(run, PROBES, output, on_checkpoint=block)
    output.rmdir()
    _, shards, _, target = str(e.value).split(": headscope ")[1].split()
    merge(shards, target)
    assert checkpoints(output) == [10, 20, 30]


def test_a_part_without_checkpoints_is_no_error(run: Path, tmp_path: Path):
    assert hs.sweep(run, PROBES, tmp_path / "run.h5", only=(4, 4)) == SweepResult(tmp_path / "run.h5", (), (), {})


# Several stages


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    """Checkpoints of both runs have the same names and own steps, and other weights."""
    first = make_run(tmp_path / "ext-4k", (10, 20))
    return first, Path(shutil.move(make_run(tmp_path / "later", (11, 21)), tmp_path / "ext-16k"))


def hashes(path: Path) -> dict[int, str]:
    return {step: read_scores(path, step).provenance["weights_sha256"] for step in checkpoints(path)}


def test_scores_stay_with_their_checkpoint_when_a_stage_grows(run: Path, plain: Path, tmp_path: Path):
    first = Path(shutil.copytree(run / "checkpoint-10", tmp_path / "phase1" / "checkpoint-10")).parent
    later = tmp_path / "phase2"
    for old, new in ((20, 10), (30, 5)):
        shutil.copytree(run / f"checkpoint-{old}", later / f"checkpoint-{new}")
    output = tmp_path / "run.h5"
    assert hs.sweep([first], PROBES, output).done == (10,)
    assert hs.sweep([first, later], PROBES, output).done == (15, 20), "and the one of before is not scored again"
    of = hashes(plain)
    assert hashes(output) == {10: of[10], 15: of[30], 20: of[20]}
    # the first stage gets one more, at an own step that the second has too, and whose place was another's
    make_checkpoint(first / "checkpoint-5", seed=5)
    make_checkpoint(first / "checkpoint-15", seed=15)
    result = hs.sweep([later, first], PROBES, output)
    assert (result.done, result.skipped) == ((5, 15), (10, 20, 25))
    assert validate(output) == [] and len(set(hashes(output).values())) == 5
    assert {step: hashes(output)[step] for step in (10, 20, 25)} == {10: of[10], 20: of[30], 25: of[20]}
    with h5py.File(output) as file:
        assert file["stage"].asstr()[:].tolist() == ["phase1"] * 3 + ["phase2"] * 2
        assert file["step_in_stage"][:].tolist() == [5, 10, 15, 5, 10]
    at_once = tmp_path / "at-once.h5"
    hs.sweep([first, later], PROBES, at_once)
    assert differences(output, at_once) == []
    shutil.rmtree(first / "checkpoint-15")  # as trainers do; its scores stay, and so do the places
    shutil.rmtree(tmp_path / "run.h5.shards")
    assert hs.sweep([first, later], PROBES, output).skipped == (5, 10, 20, 25)
    assert differences(output, at_once) == []


def test_a_sweep_killed_while_places_move_goes_on(two_runs: tuple[Path, Path], tmp_path: Path, monkeypatch):
    first, later = two_runs
    output = tmp_path / "run.h5"
    for number, path in enumerate(sorted(later.iterdir()), 1):
        path.rename(later / f"checkpoint-{number}0")
    hs.sweep([first, later], PROBES, output)
    before = hashes(output)
    assert list(before) == [10, 20, 30, 40]
    make_checkpoint(first / "checkpoint-25", seed=25)
    retell = Shards.retell

    def killed(shards: Shards, path: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.step == 45:
            raise KeyboardInterrupt
        retell(shards, path, checkpoint)

    with monkeypatch.context() as dying:
        dying.setattr(Shards, "retell", killed)
        with pytest.raises(KeyboardInterrupt):
            hs.sweep([first, later], PROBES, output)
    assert hashes(output) == before, "half of the shards have moved, the file has not"
    assert hs.sweep([first, later], PROBES, output).done == (25,)
    after = hashes(output)
    assert list(after) == [10, 20, 25, 35, 45] and [after[35], after[45]] == [before[30], before[40]]


def test_stages_in_parts_and_merged(two_runs: tuple[Path, Path], tmp_path: Path):
    output, parts = tmp_path / "run.h5", tmp_path / "parts.h5"
    hs.sweep(list(two_runs), PROBES, output)
    assert checkpoints(output) == [10, 20, 31, 41]
    for i in (2, 1, 3):
        hs.sweep(list(two_runs), PROBES, parts, only=(i, 3))
    hs.merge(tmp_path / "parts.h5.shards", parts)
    assert differences(output, parts) == []


def test_another_run_has_no_place_in_the_file(two_runs: tuple[Path, Path], tmp_path: Path):
    first, later = two_runs
    output = tmp_path / "run.h5"
    first.rename(tmp_path / "base")
    hs.sweep(tmp_path / "base", PROBES, output)
    before = output.read_bytes()
    with pytest.raises(SweepError, match="also holds checkpoint 10, 20 of base, of another run .* order of training"):
        hs.sweep(later, PROBES, output)
    assert output.read_bytes() == before
    assert hs.sweep([tmp_path / "base", later], PROBES, output).done == (31, 41)
    (tmp_path / "base").rename(tmp_path / "renamed")
    assert hs.sweep([tmp_path / "renamed", later], PROBES, output).skipped == (10, 20, 31, 41)
    shutil.rmtree(tmp_path / "renamed" / "checkpoint-10")
    with pytest.raises(SweepError, match="other weights for checkpoint 31"):
        make_checkpoint(later / "checkpoint-11", seed=1)
        hs.sweep([tmp_path / "renamed", later], PROBES, output)


def test_stages_that_were_interleaved_before_are_put_in_order(run: Path, plain: Path, tmp_path: Path):
    """By a version that told neither run nor stage: weights and names tell which shard is of which checkpoint."""
    names = {50: "stage2-step50", 100: "stage1-step100", 200: "stage1-step200"}
    rows, output = [], tmp_path / "run.h5"
    for (step, name), old in zip(names.items(), (10, 20, 30), strict=True):
        shutil.copytree(run / f"checkpoint-{old}", tmp_path / "all" / name)
        scores = read_scores(plain, old)
        made = {key: scores.provenance["sweep"][key] for key in ("dtype", "stamp")} | {"checkpoint": name}
        rows.append((step, None, replace(scores, provenance=scores.provenance | {"sweep": made})))
    write(output, rows)
    assert hs.sweep(tmp_path / "all", PROBES, output).skipped == (100, 200, 250)
    of = hashes(plain)
    assert hashes(output) == {100: of[20], 200: of[30], 250: of[10]} and validate(output) == []
    shutil.rmtree(tmp_path / "all" / "stage1-step200")
    shutil.rmtree(tmp_path / "all" / "stage1-step100")
    assert hs.sweep(tmp_path / "all", PROBES, output).skipped == (250,), "on top of what is no longer there"
    assert checkpoints(output) == [100, 200, 250]


def test_a_run_keeps_its_scores_when_another_of_its_name_comes_before_it(run: Path, tmp_path: Path):
    for name, old in (("a", 10), ("b", 20)):
        shutil.copytree(run / f"checkpoint-{old}", tmp_path / name / "ckpts" / "checkpoint-5")
    output = tmp_path / "run.h5"
    hs.sweep(tmp_path / "b" / "ckpts", PROBES, output)
    before = hashes(output)
    result = hs.sweep([tmp_path / "a" / "ckpts", tmp_path / "b" / "ckpts"], PROBES, output)
    assert (result.done, result.skipped) == ((5,), (10,)) and hashes(output)[10] == before[5]


def test_files_that_were_swept_apart_are_not_interleaved(two_runs: tuple[Path, Path], tmp_path: Path):
    for path in two_runs:
        hs.sweep(path, PROBES, tmp_path / f"{path.name}.h5")
    with pytest.raises(StoreError, match="checkpoints of ext-4k and of ext-16k would be mixed"):
        hs.merge([tmp_path / "ext-4k.h5", tmp_path / "ext-16k.h5"], tmp_path / "both.h5")
    assert not (tmp_path / "both.h5").exists()


def test_scores_after_a_replaced_checkpoint_are_named(copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    output = tmp_path / "run.h5"
    hs.sweep(copy, PROBES, output)
    shutil.rmtree(copy / "checkpoint-30")
    make_checkpoint(copy / "checkpoint-20", seed=99)
    hs.sweep(copy, PROBES, output, replace_changed=True)
    assert "keeps the scores of checkpoint 30, which come after replaced ones" in caplog.text
    assert checkpoints(output) == [10, 20, 30], "they may be good all the same"
