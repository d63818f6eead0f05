"""HeadMonitor in a Trainer and in a plain loop: training must not notice it, and nothing it does may end a run."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, default_data_collator

import headscope as hs
from builders import random_grid, random_probe
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.model.prefix_cache import PrefixCache
from headscope.interp.model.training_state import preserve_training_state
from headscope.interp.monitor import monitor as watching
from headscope.interp.monitor.scalars import scalars
from headscope.interp.perplexity import tokenise
from headscope.interp.scoring import score_heads
from headscope.interp.store import all_perplexities, backlog
from headscope.interp.store import results_file as store
from headscope.probes import ProbeSet, fingerprint
from made_perplexities import assert_same_perplexity, make_perplexity
from made_scores import make_scores
from tiny_models import VOCAB, build
from tiny_run import tiny_tokenizer

# transformers 5.23 has another word for it, 5.17 only this one
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

PROBES = ProbeSet([random_probe(100, depth, answer=4, seed=i) for i, depth in enumerate(np.linspace(0, 1, 10))])
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


def train(
    folder: Path,
    callbacks: list[TrainerCallback],
    *,
    model: PreTrainedModel | None = None,
    steps: int = 6,
    tokenizer: Any = None,
    **more: Any,
) -> Trainer:
    """A real Trainer on random tokens; dropout in the attention, and a hook that draws from every generator."""
    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, VOCAB, (32, 48), generator=generator)]
    model = model or build("llama", attention_dropout=0.2, num_hidden_layers=2)
    model.register_forward_pre_hook(draw)
    defaults = {"per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3, "report_to": []}
    arguments = TrainingArguments(
        folder, max_steps=steps, use_cpu=True, save_strategy="no", disable_tqdm=True, **{**defaults, **more}
    )
    told = {"processing_class": tokenizer, "data_collator": default_data_collator}
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks, **told)
    trainer.train()
    return trainer


def draw(*_: Any) -> None:
    torch.rand(3), np.random.rand(3), random.random()


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def measured(trainer: Trainer) -> dict[int, dict[str, float]]:
    return {entry["step"]: entry for entry in trainer.state.log_history if "heads/nll" in entry}


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16 autocast"])
def test_training_does_not_notice(tmp_path: Path, bf16: bool) -> None:
    without = train(tmp_path, [], bf16=bf16, **CHECKPOINTED)
    watched = train(tmp_path, [hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=2)], bf16=bf16, **CHECKPOINTED)
    assert len(losses(without)) == 6
    assert losses(without) == losses(watched)
    for (name, a), b in zip(without.model.state_dict().items(), watched.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert store.checkpoints(tmp_path / "run.h5") == [0, 2, 4, 6] == list(measured(watched))
    last = store.read_scores(tmp_path / "run.h5")
    assert last.provenance["dtype"] == ("bfloat16" if bf16 else "float32")
    assert measured(watched)[6]["heads/nll"] == pytest.approx(float(last.nll.mean()))
    cost = last.provenance["monitor"]
    assert cost["seconds"] > 0 and 0 < cost["share_of_time"] < 1
    assert measured(watched)[6]["heads/seconds"] == cost["seconds"]


def test_what_is_measured_is_the_model_of_that_step(tmp_path: Path) -> None:
    """In bf16 too: the last scores are those of the trained model, under the same autocast."""
    for bf16 in (False, True):
        path = tmp_path / f"{bf16}.h5"
        trained = train(tmp_path, [hs.HeadMonitor(PROBES, path, every=6)], bf16=bf16).model
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            again = score_heads(trained, PROBES)
        np.testing.assert_array_equal(store.read_scores(path).nll, again.nll)
        np.testing.assert_array_equal(store.read_scores(path).per_probe["retrieval"], again.per_probe["retrieval"])


def test_autocast_changes_the_model_and_not_the_sums() -> None:
    """Under autocast the NLL is that of the model's own forward; the kernels' sums stay in float32."""
    model = build("llama")
    probe = PROBES[3]
    ids = torch.from_numpy(probe.input_ids.astype(np.int64))[None]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        scores = score_heads(model, ProbeSet([probe]), sharing="exact")
        logits = model(ids[:, :-1]).logits[0, probe.prompt_len - 1 :].float()
    own = torch.nn.functional.cross_entropy(logits, ids[0, probe.prompt_len :])
    exact = score_heads(model, ProbeSet([probe]), sharing="exact")
    assert scores.provenance["dtype"] == "bfloat16"
    assert float(scores.nll[0]) == pytest.approx(float(own), abs=0.05)
    np.testing.assert_allclose(scores["needle_mass"], exact["needle_mass"], atol=0.05)


class Tracker(TrainerCallback):
    """Where TensorBoard, W&B and trackio get their numbers from."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, Any]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.seen.setdefault(state.global_step, {}).update(logs)


def test_scalars_reach_the_trackers(tmp_path: Path) -> None:
    tracker = Tracker()
    trainer = train(tmp_path, [tracker, hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=3)], logging_steps=3)
    counts = ("retrieval_heads", "retrieval_heads_plain", "counting_level")
    names = {f"heads/{name}" for name in (*counts, "leading", "nll", "nll_novel", "exact_match", "seconds")}
    for step in (0, 3, 6):
        assert names <= tracker.seen[step].keys()
        assert all(isinstance(tracker.seen[step][name], float) for name in names)
    assert "heads/share_of_time" not in tracker.seen[0] and 0 < tracker.seen[6]["heads/share_of_time"] < 1
    assert len(losses(trainer)) == 2, "the trainer's own values of the same step are logged as well"


def a_past(path: Path, step: int = 0) -> None:
    """A file whose measurement says that two heads copied everything."""
    scores = score_heads(build("llama", num_hidden_layers=2), PROBES)
    retrieval = np.zeros_like(scores.per_probe["retrieval"])
    retrieval[:, 1, :2] = np.random.default_rng(0).uniform(0.8, 1.0, (len(PROBES), 2))
    replace(scores, per_probe={**scores.per_probe, "retrieval": retrieval}).save(path, checkpoint=step)


def test_a_regression_stops_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_past(tmp_path / "run.h5")
    monitor = hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=2, on_regression="stop")
    trainer = train(tmp_path, [monitor], steps=20)
    assert trainer.state.global_step == 2
    assert monitor.should_stop and monitor.regression is not None and monitor.regression.fell
    assert monitor.regression.steps == (0,)
    assert "step 2: the leading heads fell by more than 10%" in caplog.text
    assert measured(trainer)[2]["heads/drop"] > 0.7


def test_a_regression_only_warns_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_past(tmp_path / "run.h5")
    trainer = train(tmp_path, [hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=3)])
    assert trainer.state.global_step == 6
    assert "step 3: the leading heads fell" in caplog.text


def test_a_resumed_run_goes_on_after_the_last_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_past(tmp_path / "run.h5", step=4)
    before = store.read_scores(tmp_path / "run.h5", 4)
    monitor = hs.HeadMonitor(list(PROBES), tmp_path / "run.h5", model=build("llama", num_hidden_layers=2))
    with caplog.at_level(logging.INFO):
        for step in (4, 4, 6, 8):
            assert (monitor.measure(step) is None) == (step == 4)
    assert store.checkpoints(tmp_path / "run.h5") == [4, 6, 8]
    np.testing.assert_array_equal(store.read_scores(tmp_path / "run.h5", 4).nll, before.nll)
    assert caplog.text.count("already holds step 4") == 1
    assert monitor.regression is not None and monitor.regression.steps == (4,)
    assert [path.name for path in tmp_path.glob("*.h5")] == ["run.h5"]


def test_training_that_went_back_leaves_the_branch_in_a_file_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, model = tmp_path / "run.h5", build("llama", num_hidden_layers=2)
    first = hs.HeadMonitor(PROBES, path, model=model)
    for step in (10, 20, 30, 40):
        first.measure(step)
    branch = path.read_bytes()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    resumed = hs.HeadMonitor(PROBES, path, model=model)
    scores = resumed.measure(20)  # as measured after training went back to 10, or to 20 itself
    assert scores is not None
    assert (tmp_path / "run.abandoned-20.h5").read_bytes() == branch
    assert store.checkpoints(path) == [10, 20] and store.validate(path) == []
    np.testing.assert_array_equal(store.read_scores(path, 20).nll, scores.nll)
    (record,) = [r for r in caplog.records if "went back" in r.message or "given up" in r.message]
    assert record.levelno == logging.WARNING
    assert "training goes on at step 20" in record.message and "run.abandoned-20.h5" in record.message
    assert "up to step 40" in record.message
    assert resumed.measure(35) is not None and store.checkpoints(path) == [10, 20, 35]
    assert resumed.measure(20) is not None, "also within one process"
    assert (tmp_path / "run.abandoned-20-2.h5").exists() and store.checkpoints(path) == [10, 20]


def test_training_from_the_start_begins_a_file_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_past(tmp_path / "run.h5", step=4)
    monitor = hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=2)
    trainer = train(tmp_path, [monitor], steps=4)
    assert store.checkpoints(tmp_path / "run.h5") == [0, 2, 4] == list(measured(trainer))
    assert store.checkpoints(tmp_path / "run.abandoned-0.h5") == [4]
    assert "fell by more" not in caplog.text, "the heads of another branch are no reference"


def test_where_nothing_can_be_set_aside_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_past(tmp_path / "run.h5", step=4)
    before = (tmp_path / "run.h5").read_bytes()
    monitor = hs.HeadMonitor(PROBES, tmp_path / "run.h5", model=build("llama", num_hidden_layers=2))
    with monkeypatch.context() as full:
        full.setattr(store.shutil, "copy", no_room)
        assert monitor.measure(2) is None
    assert "No space left on device" in caplog.text and "training goes on" in caplog.text
    assert (tmp_path / "run.h5").read_bytes() == before
    assert monitor.measure(3) is not None and store.checkpoints(tmp_path / "run.h5") == [3]


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monitor = hs.HeadMonitor(PROBES, tmp_path / "gone" / "run.h5", every=2)
    (tmp_path / "gone").rmdir()
    trainer = train(tmp_path, [monitor])
    assert trainer.state.global_step == 6
    assert list(measured(trainer)) == [0, 2, 4, 6], "the scores are still logged"
    assert caplog.text.count("writing") == 1 and "does not exist" in caplog.text and "training goes on" in caplog.text
    (rescued,) = tmp_path.glob("run.unsaved-*.h5")
    assert store.checkpoints(rescued) == [0, 2, 4, 6]
    assert f"the scores are in {rescued}: headscope merge {rescued} -o {tmp_path / 'gone' / 'run.h5'}" in caplog.text


def test_a_model_that_breaks_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 3:
                model.lm_head.weight.data.fill_(torch.nan)

    trainer = train(tmp_path, [Break(), hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=2)])
    assert trainer.state.global_step == 6
    assert store.checkpoints(tmp_path / "run.h5") == [0, 2]
    assert caplog.text.count("NaN or overflow") == 1


def test_a_model_that_cannot_be_followed_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = train(tmp_path, [hs.HeadMonitor(PROBES, tmp_path / "run.h5", every=3)], model=build("bloom"))
    assert trainer.state.global_step == 6
    assert "computes attention in its own code" in caplog.text
    assert not (tmp_path / "run.h5").exists()


class Counting(type(tiny_tokenizer())):  # type: ignore[misc]
    """A tokenizer that counts how often its vocabulary is asked for."""

    asked = 0

    def get_vocab(self) -> dict[str, int]:
        type(self).asked += 1
        return super().get_vocab()


def test_the_vocabulary_is_hashed_once(tmp_path: Path) -> None:
    model, path = build("llama", num_hidden_layers=2), tmp_path / "run.h5"
    monitor, tokenizer, other = hs.HeadMonitor(PROBES, path, model=model), tiny_tokenizer(), tiny_tokenizer()
    tokenizer.__class__ = other.__class__ = Counting
    other.add_tokens(["another"])
    Counting.asked = 0
    monitor.measure(0, tokenizer=tokenizer)
    once = Counting.asked
    assert once > 0
    for step in (1, 2, 3):
        monitor.measure(step, tokenizer=tokenizer)
    assert Counting.asked == once
    monitor.measure(4, tokenizer=other)
    monitor.measure(5)
    assert Counting.asked == 2 * once
    with store.reading(path) as file:
        told = [json.loads(entry)["tokenizer_fp"] for entry in file["provenance/json"].asstr()[:]]
    assert told == [*[fingerprint(tokenizer)] * 4, fingerprint(other), None]


def test_a_loop_of_your_own(tmp_path: Path) -> None:
    def losses_of(monitor: bool) -> list[float]:
        torch.manual_seed(0)
        model = build("llama", attention_dropout=0.2, num_hidden_layers=2).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        watching = hs.HeadMonitor(PROBES, tmp_path / "run.h5", model=model) if monitor else None
        found = []
        for step in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                ids = torch.randint(3, VOCAB, (2, 32))
                if watching and step == 0:  # before the step's weights have been cast
                    assert watching.measure(step, tokens_seen=0.0) is not None
                loss = model(ids, labels=ids).loss
                if watching and step == 2:  # between two forwards of one step
                    assert watching.measure(step, tokens_seen=128.0) is not None
                    assert not watching.should_stop
                loss = loss + model(ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    assert losses_of(True) == losses_of(False)
    assert store.read_steps(tmp_path / "run.h5") == {0: 0.0, 2: 128.0}
    assert store.read_scores(tmp_path / "run.h5").provenance["dtype"] == "bfloat16"


def test_a_file_is_continued_with_other_estimators(tmp_path: Path) -> None:
    def needle_peak(probe: hs.probes.Probe, evidence: ProbeEvidence) -> np.ndarray:
        return evidence.mass["needle"].max(axis=-1)

    model, path = build("llama", num_hidden_layers=2), tmp_path / "run.h5"
    assert hs.HeadMonitor(PROBES, path, model=model, estimators=["wu_count"]).measure(0) is not None
    scores = hs.HeadMonitor(PROBES, path, model=model, estimators=[needle_peak]).measure(1)
    assert scores is not None and scores.estimators == ("retrieval", "needle_peak")
    run = hs.open(path)
    assert np.isnan(run.needle_peak[0]).all() and np.isnan(run.wu_count[1]).all() and store.validate(path) == []
    np.testing.assert_array_equal(run.needle_peak[1], scores["needle_peak"])


def test_without_a_model_the_reason_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert hs.HeadMonitor(PROBES, tmp_path / "run.h5").measure(0) is None
    assert "HeadMonitor(model=...)" in caplog.text


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "training": [m.training for m in model.modules()],
        "checkpointing": model.is_gradient_checkpointing,
        "config": {**model.config.to_dict(), "attention": model.config._attn_implementation},
        "gradients": [p.requires_grad for p in model.parameters()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(), torch.is_grad_enabled()),
        "buffers": {name: buffer.tolist() for name, buffer in model.named_buffers()},
        "longest": [v for m in model.modules() for k, v in vars(m).items() if k.endswith("max_seq_len_cached")],
        "hooks": [len(m._forward_pre_hooks) for m in model.modules()],
    }


@pytest.mark.parametrize("family", ["llama", "llama_dynamic", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("fails", [False, True], ids=["measured", "failed"])
def test_the_model_is_what_it_was(tmp_path: Path, family: str, fails: bool) -> None:
    model = build(family).train()
    next(module for module in model.modules() if "Attention" in type(module).__name__).eval()  # as users freeze parts
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    next(model.parameters()).requires_grad_(False)
    if fails:
        model.get_output_embeddings().weight.data[:] = torch.nan
    before = state_of(model)
    scores = hs.HeadMonitor(PROBES, tmp_path / "run.h5", model=model).measure(0)
    assert (scores is None) == fails
    assert not any(type(thing) is PrefixCache for thing in gc.get_objects()), "the keys and values are freed"
    after = state_of(model)
    for name in before:
        assert before[name] == after[name], name


def test_undisturbed_puts_back_what_is_drawn_and_set_inside() -> None:
    model = build("llama").train()
    before = state_of(model)
    with contextlib.suppress(KeyError), preserve_training_state(model, torch.bfloat16):
        assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
        torch.rand(3), np.random.rand(3), random.random()
        model.eval()
        model.config.use_cache = False
        model.set_attn_implementation("eager")
        raise KeyError
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probes": [*PROBES, "needle"]}, TypeError, "ProbeSet or an iterable of Probe, got list that holds str"),
        ({"every": 0}, ValueError, "every"),
        ({"every": "500"}, ValueError, "every"),
        ({"on_regression": "raise"}, ValueError, "'warn' or 'stop'"),
        ({"planned": -1}, ValueError, "planned"),
        ({"margin": 1.5}, ValueError, "margin"),
        ({"path": "no/such/folder/run.h5"}, ValueError, "does not exist"),
        ({"path": "x" * 256}, ValueError, "File name too long"),
        ({"estimators": ["needlemass"]}, ValueError, "did you mean 'needle_mass'"),
        ({"model": {}}, TypeError, "give a transformers causal LM"),
    ],
)
def test_arguments_are_refused_at_once(tmp_path: Path, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hs.HeadMonitor(**{"probes": PROBES, "path": tmp_path / "run.h5", **arguments})


def test_a_file_of_other_probes_is_refused_at_once(tmp_path: Path) -> None:
    score_heads(build("llama"), random_grid()).save(tmp_path / "run.h5")
    with pytest.raises(ValueError, match=r"keep them with ProbeSet.save; .*chat template.*another file"):
        hs.HeadMonitor(PROBES, tmp_path / "run.h5")


def test_a_branch_that_cannot_be_set_aside_is_never_mixed_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_past(tmp_path / "run.h5", step=4)
    monitor = hs.HeadMonitor(PROBES, tmp_path / "run.h5", model=build("llama", num_hidden_layers=2))
    with monkeypatch.context() as full:
        full.setattr(store.shutil, "copy", no_room)
        assert [monitor.measure(step) for step in (2, 3, 6)] == [None] * 3
    assert store.checkpoints(tmp_path / "run.h5") == [4]
    assert monitor.measure(8) is not None
    assert store.checkpoints(tmp_path / "run.h5") == [8] and store.checkpoints(tmp_path / "run.abandoned-2.h5") == [4]


@pytest.mark.parametrize("ends", ["next", "trainer", "program"])
def test_a_file_that_another_program_holds_does_not_hold_up_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(backlog, "WAIT", 0.05)
    monkeypatch.setattr(backlog, "LAST_WAIT", 0.05)
    path, model = tmp_path / "run.h5", build("llama", num_hidden_layers=2)
    monitor = hs.HeadMonitor(PROBES, path, model=model)
    assert monitor.measure(1) is not None
    with FileLock(tmp_path / ".run.h5.lock"):
        assert monitor.measure(2) is not None and monitor.measure(3) is not None
        assert store.checkpoints(path) == [1]
        assert "kept in memory" in caplog.text and "training goes on" in caplog.text
        if ends == "program":
            monitor._backlog._at_exit()
    if ends == "next":
        assert monitor.measure(4) is not None
        assert store.checkpoints(path) == [1, 2, 3, 4]
    elif ends == "trainer":
        monitor.on_train_end(None, None, None)  # type: ignore[arg-type]
        assert store.checkpoints(path) == [1, 2, 3]
    else:
        (rescued,) = tmp_path.glob("run.unsaved-*.h5")
        assert store.checkpoints(rescued) == [2, 3] and store.checkpoints(path) == [1]
    assert len(monitor._backlog) == 0
    assert ends == "program" or not list(tmp_path.glob("*unsaved*"))


def test_what_waits_is_rescued_before_it_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "WAIT", 0.02)
    monkeypatch.setattr(backlog, "MOST", 3)
    scores = score_heads(build("llama", num_hidden_layers=2), PROBES)
    held = backlog.Backlog(tmp_path / "run.h5")
    with FileLock(tmp_path / ".run.h5.lock"):
        told = [held.add(scores, step, None) for step in (1, 2, 3)]
    assert ["memory" in (words or "") for words in told] == [True, True, False]
    assert str(held.rescued) in (told[2] or "") and store.checkpoints(held.rescued) == [1, 2, 3] and len(held) == 0


AT_LENGTHS = ProbeSet(
    [random_probe(length, 0.1 + 0.8 * i / 11, answer=4, seed=i) for length in (60, 100, 140) for i in range(12)]
)


def retrieving(scores: hs.HeadScores, factors: tuple[float, float, float]) -> hs.HeadScores:
    """The same, as if two heads copied by these shares at the three lengths."""
    retrieval = np.zeros_like(scores.per_probe["retrieval"])
    share = np.random.default_rng(0).uniform(0.8, 1.0, 12)
    retrieval[:, 1, :2] = (np.array(factors)[:, None] * share).reshape(-1, 1)
    return replace(scores, per_probe={**scores.per_probe, "retrieval": retrieval})


def test_every_length_is_watched_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, path = build("llama", num_hidden_layers=2), tmp_path / "run.h5"
    scores = score_heads(model, AT_LENGTHS)
    retrieving(scores, (1.0, 1.0, 0.95)).save(path, checkpoint=0)
    monitor = hs.HeadMonitor(AT_LENGTHS, path, every=2, model=model, on_regression="stop", planned=5)
    monitor._begin()
    monitor._judge(retrieving(scores, (1.0, 1.0, 0.4)), 1)
    fell = [regression.what for regression in monitor.regressions if regression.fell]
    assert "the leading heads at 140" in fell and "the leading heads at 60" not in fell
    assert monitor.should_stop and monitor.regression is monitor.regressions[0]
    assert "; also: " in caplog.text and "the leading heads at 140" in caplog.text
    sent = scalars(retrieving(scores, (1.0, 1.0, 0.4)), {"seconds": 1.0, "drop": np.nan, "initial": None})
    assert sent["heads/leading_140"] == pytest.approx(0.4 * sent["heads/leading_60"])
    assert sent["heads/target_over_shortest"] == pytest.approx(0.4)
    assert 100 < sent["heads/effective_length_low"] <= sent["heads/effective_length"] < 140
    assert sent["heads/nll_novel_short"] == pytest.approx(np.nanmean(scores.nll_novel[:12]))
    assert {"heads/drop", "heads/initial"} & sent.keys() == set() and sent["heads/seconds"] == 1.0


def test_rope_is_looked_at_before_the_first_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build("llama", num_hidden_layers=2, max_position_embeddings=80)
    monitor = hs.HeadMonitor(PROBES, tmp_path / "run.h5", model=model)
    assert [monitor.measure(step) for step in (0, 1)] == [None, None]
    assert caplog.text.count("sequences of 100 tokens are longer than the 80") == 1


def sentences(n: int) -> list[str]:
    return [" ".join(f"w{3 + (7 * i + k * k) % (VOCAB - 3)}" for k in range(60)) for i in range(n)]


WORDS = {"en": sentences(2), "zh": sentences(3)[2:]}


def test_texts_are_measured_beside_the_heads_and_training_does_not_notice(tmp_path: Path) -> None:
    path, how = tmp_path / "run.h5", {"bf16": True, "steps": 4, **CHECKPOINTED}
    without = train(tmp_path, [], **how)
    monitor = hs.HeadMonitor(PROBES, path, every=2, texts=WORDS, lengths=[16, 48])
    watched = train(tmp_path, [monitor], **how, tokenizer=tiny_tokenizer())
    assert losses(without) == losses(watched)
    assert store.checkpoints(path) == [0, 2, 4] == list(measured(watched)) and store.validate(path) == []
    with torch.autocast("cpu", torch.bfloat16):
        again = hs.perplexity(watched.model, WORDS, tiny_tokenizer(), lengths=[16, 48])
    last = hs.Perplexity.load(path)
    np.testing.assert_array_equal(last.nll, again.nll)
    assert last.texts_hash == again.texts_hash and hs.Perplexity.load(path, 0).by_corpus != last.by_corpus
    for name, nll in again.by_corpus.items():
        assert measured(watched)[4][f"heads/texts_{name}"] == nll


def test_texts_that_cannot_be_measured_cost_the_heads_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "run.h5", build("llama", num_hidden_layers=2)
    monitor = hs.HeadMonitor(PROBES, path, model=model, texts=iter(WORDS["en"]), lengths=[16, 48])
    for step in (0, 1):
        assert monitor.measure(step) is not None and monitor.perplexity is None
    assert caplog.text.count("there is no tokenizer: give the Trainer a processing_class") == 1
    assert monitor.measure(2, tokenizer=tiny_tokenizer()) is not None
    assert monitor.perplexity is not None and monitor.perplexity.names == ["text"]
    assert monitor.measure(3) is not None and monitor.perplexity is not None, "they are tokenised once"
    with monkeypatch.context() as broken:
        broken.setattr(watching, "perplexity", no_room)
        assert monitor.measure(4) is not None and monitor.perplexity is None
    assert "measuring the loss on the texts failed: No space left on device; training goes on" in caplog.text
    other = hs.HeadMonitor(PROBES, path, model=model, texts=WORDS, lengths=[16, 48])
    assert other.measure(5, tokenizer=tiny_tokenizer()) is not None and other.perplexity is None
    assert "its others are of other texts or windows (text at lengths 16, 48, stride 0)" in caplog.text
    assert store.checkpoints(path) == [0, 1, 2, 3, 4, 5] and store.validate(path) == []
    assert [*all_perplexities(path)] == [2, 3] and not list(tmp_path.glob("*unsaved*"))


def test_texts_that_are_wrong_are_refused_at_once(tmp_path: Path) -> None:
    tokenised = tokenise(WORDS, tiny_tokenizer(), [16, 48])
    path, model = tmp_path / "run.h5", build("llama", num_hidden_layers=2, max_position_embeddings=128)
    for given, error, words in (
        ({"lengths": [16]}, ValueError, r"lengths are for texts"),
        ({"texts": WORDS}, ValueError, r"lengths are missing"),
        ({"texts": WORDS, "lengths": [1]}, ValueError, r"each at least 4, got \[1\]"),
        ({"texts": WORDS, "lengths": "1k"}, TypeError, r"whole numbers, such as \[1024, 4096\], got '1k'"),
        ({"texts": WORDS, "lengths": [16, 256], "model": model}, ValueError, r"256 tokens, .* is made for 128"),
        ({"texts": tmp_path / "gone", "lengths": [16]}, ValueError, r"gone"),
        ({"texts": 7, "lengths": [16]}, TypeError, r"corpus 'text' must be a file, a folder or texts, got 7"),
        ({"texts": {"en": ["w3 w4", 7]}, "lengths": [16]}, TypeError, r"text 1 of corpus 'en' is a int"),
        ({"texts": {"en": ["w3 w4", " "]}, "lengths": [16]}, ValueError, r"text '1' of corpus 'en' is empty"),
        ({"texts": tokenised, "lengths": [16]}, ValueError, r"those of the tokenised texts"),
    ):
        with pytest.raises(error, match=words):
            hs.HeadMonitor(PROBES, path, **given)
    assert hs.HeadMonitor(PROBES, path, model=model, texts=tokenised).measure(0) is not None
    with pytest.raises(ValueError, match=r"does not take the loss on these texts: its others are of other texts"):
        hs.HeadMonitor(PROBES, path, texts=tokenise(WORDS, tiny_tokenizer(), [16]))


@pytest.mark.parametrize("rescued", [False, True], ids=["held", "rescued"])
def test_the_loss_on_texts_waits_and_is_rescued_with_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rescued: bool
) -> None:
    monkeypatch.setattr(backlog, "WAIT", 0.02)
    monkeypatch.setattr(backlog, "LAST_WAIT", 0.02)
    held, path = backlog.Backlog(tmp_path / "run.h5"), tmp_path / "run.h5"
    with FileLock(tmp_path / ".run.h5.lock"):
        for step in (1, 2):
            assert "memory" in (held.add(make_scores(step), step, None, make_perplexity(step)) or "")
        if rescued:
            assert "the scores and the perplexity are in" in (held.finish() or "")
    if not rescued:
        assert held.finish() is None
    assert held.rescued is None or path.exists() is False
    for step in (1, 2):
        assert_same_perplexity(hs.Perplexity.load(held.rescued or path, step), make_perplexity(step))
