"""A model answers: what planted copy heads make it say, what is stored of it, and what a kill leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headscope as hs
from headscope.errors import ArgumentError, StoreError
from headscope.interp import evaluating
from headscope.interp.engine import Decoded, Engine, Plan, plan
from headscope.interp.model import LoadedModel
from headscope.interp.report import evolve
from headscope.interp.report.behaviour import LOOKED
from headscope.interp.store import validate
from headscope.interp.unfinished import Unfinished
from headscope.probes import Codec, ProbeSet, Span, Task
from planted import planted_probes, save_checkpoint

STRENGTHS = {"none": 0.0, "half": 0.5, "all": 1.0}
NEEDLES = 5


Models = dict[str, LoadedModel]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Llamas with two copy heads that copy after no word, after half of all, and after every word."""
    folder = tmp_path_factory.mktemp("models")
    strengths = {name: {(1, 2): strength, (2, 1): strength} for name, strength in STRENGTHS.items()}
    return {name: hs.load_model(save_checkpoint(folder / name, heads)) for name, heads in strengths.items()}


@pytest.fixture(scope="module")
def tasks(models: Models) -> ProbeSet:
    """What follows a cue: the right words, each a gold; rivals are the words of the next needle."""
    codec = Codec(models["all"].tokenizer)
    probes = planted_probes(needles=NEEDLES, depths=(0.0, 0.7), lengths=(100,), words=6)
    words = [tuple(codec.decode([int(id)]) for id in probe.answer_ids) for probe in probes]
    found = [
        replace(
            probe,
            variant=("early", "late")[i >= NEEDLES],
            task=Task(
                *("string_match_all", words[i], 5),
                rivals=tuple(word for word in words[(i + 1) % NEEDLES] if word not in words[i]),
                length=128,
            ),
        )
        for i, probe in enumerate(probes)
    ]
    return ProbeSet(tuple(found), "planted tasks")


def test_what_is_said_and_what_heads_do_move_together(models: Models, tasks: ProbeSet, tmp_path: Path) -> None:
    said, copied = [], []
    for step, name in enumerate(STRENGTHS):
        answers = hs.evaluate(models[name], tasks, output=tmp_path / "run.h5", checkpoint=step)
        assert answers.scores is not None
        said.append(answers.score.mean())
        copied.append(answers.scores["retrieval"][1, 2])
        np.testing.assert_array_equal(answers.exact_match, answers.scores.exact_match)
        # a greedy answer is the right one token by token exactly where the teacher-forced one is
        exact = [
            text.split() == json.loads(golds) for text, golds in zip(answers.text, answers.probes["golds"], strict=True)
        ]
        assert exact == answers.exact_match.tolist()
    assert said[0] < said[1] < said[2] == 1.0 and copied[0] < copied[1] < copied[2] == 1.0
    assert validate(tmp_path / "run.h5") == []
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", ".run.h5.lock"}, "nothing unfinished is left"
    again = hs.Answers.load(tmp_path / "run.h5", 2)
    assert again.text == answers.text and again.provenance == answers.provenance
    np.testing.assert_array_equal(again.score, answers.score)


def test_where_heads_looked_in_probes_with_distractors(models: Models, tasks: ProbeSet, tmp_path: Path) -> None:
    """Attention on distractors is measured where there are any, and stands beside the wrong answers."""
    decoys = [replace(probe, spans=(*probe.spans, Span(4, 9, "distractor"))) for probe in tasks[NEEDLES:]]
    answers = hs.evaluate(models["none"], decoys, output=tmp_path / "run.h5")
    assert answers.scores is not None and answers.scores.estimators[-1] == "distractor_mass"
    evolution = evolve(tmp_path / "run.h5")
    assert evolution.behaviour is not None
    wrong = evolution.behaviour.wrong()
    assert len(wrong) == (answers.score < 1).sum() > 0
    for answer in wrong:
        place = answers.probes["id"].tolist().index(answer.id)
        heads = tuple(zip(*evolution.looking, strict=True))
        told = {name: answers.scores.per_probe[name][place][heads].mean() for name in LOOKED}
        assert [*answer.looked.shares.values()][:3] == pytest.approx([*told.values()])
        assert sum(answer.looked.shares.values()) == pytest.approx(1)


def test_the_tables(models: Models, tasks: ProbeSet) -> None:
    answers = hs.evaluate(models["half"], tasks, samples=3, heads=False)
    table = answers.by_task()
    assert list(table.columns[:6]) == ["family", "task", "length", "score", "stderr", "n"]
    assert table[["task", "length", "n"]].values.tolist() == [["early", 128, NEEDLES], ["late", 128, NEEDLES]]
    np.testing.assert_allclose(table["score"], answers.score.reshape(2, -1).mean(axis=1))
    spread = answers.score[:NEEDLES].astype(float).std(ddof=1) / NEEDLES**0.5  # a needle each
    assert table["stderr"][0] == pytest.approx(spread, rel=1e-5)
    np.testing.assert_allclose(table["pass@1"], answers.sample_score.reshape(2, -1).mean(axis=1))
    np.testing.assert_allclose(table["pass@3"], answers.sample_score.max(axis=1).reshape(2, -1).mean(axis=1))
    assert table["exact_match"].isna().all() and table["analytic@1"].isna().all(), "no teacher-forced pass"
    with pytest.raises(ArgumentError, match=r"pass@4 needs at least 4 drawn answers; evaluate with samples=4"):
        answers.pass_at(4)
    wrong = answers.wrong()
    assert len(wrong) > 0 and ((wrong["score"] < 1) | (wrong["precision"] < 1)).all()
    named = answers.to_dataframe()
    for row in named.to_dict("records"):
        assert not row["rival"] or row["rival"] in row["said"]


def test_samples_are_those_of_their_seed_and_analytic_pass_at_k_is_theirs(models: Models, tasks: ProbeSet) -> None:
    how = {"samples": 2, "temperature": 20.0, "heads": False}  # so hot that any word may come
    one, same, other = (hs.evaluate(models["half"], tasks[:2], seed=seed, **how) for seed in (0, 0, 1))
    assert one.text == same.text == other.text
    assert (one.sample_text == same.sample_text).all() and (one.sample_text != other.sample_text).any()
    known = replace(one, nll=np.array([0.1, 0.4], np.float32))
    np.testing.assert_allclose(known.analytic_pass_at(3), 1 - (1 - np.exp([-0.5, -2.0])) ** 3, rtol=1e-6)


def test_probes_without_a_task_are_judged_by_their_answer(models: Models, tasks: ProbeSet) -> None:
    bare = [replace(probe, task=None) for probe in tasks]
    answers = hs.evaluate(models["half"], bare)
    assert answers.score.astype(bool).tolist() == answers.exact_match.tolist()
    assert set(answers.probes["metric"]) == {"exact"} and (answers.probes["length"] == 100).all()


class Killed(BaseException):
    """Nothing that is running catches it, nor does anything on its way out."""


def test_a_kill_costs_little(models: Models, tasks: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []

    def kill(rows: int, total: int, what: str) -> None:
        assert 0 < rows <= total
        ticks.extend([rows] * (what == "answers"))
        if len(ticks) > 2:
            raise Killed

    output, folder = tmp_path / "run.h5", tmp_path / "run.h5.answers"
    with pytest.raises(Killed):
        hs.evaluate(models["half"], tasks, output=output, samples=1, progress=kill)
    assert not output.exists()
    kept = json.loads((folder / "step-0000000000.json").read_text())["answers"]
    assert len(kept) == 2

    asked: list[str] = []
    run = evaluating.score_and_decode

    def watched(engine: Engine, planned: Plan, **how: Any) -> Any:
        asked.extend(engine.probes[suffix.probe].id for prefix in planned.prefixes for suffix in prefix.suffixes)
        return run(engine, planned, **how)

    monkeypatch.setattr(evaluating, "score_and_decode", watched)
    resumed = hs.evaluate(models["half"], tasks, output=output, samples=1)
    assert sorted(asked) == sorted(probe.id for probe in tasks if probe.id not in kept)
    assert not folder.exists() and validate(output) == []
    monkeypatch.undo()
    plain = hs.evaluate(models["half"], tasks, samples=1)
    assert (plain.said["text"] == resumed.said["text"]).all()
    assert plain.scores is not None and resumed.scores is not None
    for name, maps in plain.scores.per_probe.items():
        np.testing.assert_allclose(resumed.scores.per_probe[name], maps, atol=1e-5)
    np.testing.assert_allclose(resumed.nll, plain.nll, atol=1e-5)


def test_a_kill_after_all_was_written_costs_nothing(
    models: Models, tasks: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, folder = tmp_path / "run.h5", tmp_path / "run.h5.answers"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Unfinished, "clear", lambda self: (_ for _ in ()).throw(Killed))
        hs.evaluate(models["half"], tasks[:2], output=output)
    with pytest.raises(StoreError, match="holds checkpoint 0 already"):
        hs.evaluate(models["half"], tasks[:2], output=output, samples=1)  # another call
    assert folder.exists()
    again = hs.evaluate(models["half"], tasks[:2], output=output)
    assert not folder.exists() and again.text == hs.Answers.load(output).text
    assert again.scores is not None and again.scores.n_probes == 2
    with pytest.raises(StoreError, match="holds checkpoint 0 already"):
        hs.evaluate(models["half"], tasks[:2], output=output)


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
def test_haystacks_are_run_once_for_scores_and_answers(
    models: Models, tasks: ProbeSet, sharing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where scores are grafted: an answer is written beside a haystack that holds its needle."""
    rows: list[int] = []
    prefill = Engine.prefill

    def counted(self: Engine, prefix: Any, cache: Any) -> None:
        rows.extend([len(prefix.ids) - prefix.keep] * (len(self.probes) > 1))  # not what preflight tries with one
        prefill(self, prefix, cache)

    model = models["half"]
    alone, scores = hs.evaluate(model, tasks, samples=1, heads=False), hs.score_heads(model, tasks, sharing=sharing)
    monkeypatch.setattr(Engine, "prefill", counted)
    found = hs.evaluate(model, tasks, samples=1, sharing=sharing)
    of_plans = {
        how: sum(len(prefix.ids) - prefix.keep for prefix in plan(tasks, how).prefixes) for how in ("exact", "grafted")
    }
    assert sum(rows) == of_plans["exact"] + (sharing == "grafted") * of_plans["grafted"]
    assert (found.said["text"] == alone.said["text"]).all()
    assert found.scores is not None
    np.testing.assert_allclose(found.scores["retrieval"], scores["retrieval"], atol=1e-5)


def test_what_was_kept_for_other_settings_is_not_used(
    models: Models, tasks: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Unfinished.keep

    def keep_and_stop(self: Unfinished, *what: Any) -> None:
        keep(self, *what)
        raise KeyboardInterrupt

    output, file = tmp_path / "run.h5", tmp_path / "run.h5.answers" / "step-0000000000.json"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Unfinished, "keep", keep_and_stop)
        hs.evaluate(models["half"], tasks[:2], output=output)
    held = json.loads(file.read_text())
    ((first, _),) = held["answers"].items()
    place = [probe.id for probe in tasks].index(first)
    told = [[[3], -1.0, "eos", "planted by hand"]]
    for key, used in ((held["key"], True), (held["key"] | {"seed": 1}, False), (held["key"] | {"weights": "x"}, False)):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"key": key, "answers": {first: told}}))
        found = hs.evaluate(models["half"], tasks[:2], output=output)
        assert (found.text[place] == "planted by hand") == used
        output.unlink()
    for damage in ("", "[]", '{"key": 1}', json.dumps(held | {"answers": {first: 7}})):
        file.parent.mkdir(exist_ok=True)
        file.write_text(damage)
        assert Unfinished(output, 0, held["key"], None).answers() == {}


def test_answers_join_the_scores_that_a_file_has(models: Models, tasks: ProbeSet, tmp_path: Path) -> None:
    output = tmp_path / "run.h5"
    with pytest.raises(StoreError, match="does not exist, and answers go with scores"):
        hs.evaluate(models["half"], tasks[:2], output=output, heads=False)
    hs.score_heads(models["half"], tasks).save(output, checkpoint=7)
    for wrong, message in (
        ({"checkpoint": 8, "heads": False}, "has no checkpoint 8"),
        ({"checkpoint": 7}, "holds checkpoint 7 already"),
        ({"checkpoint": 6}, "holds checkpoint 7; give a later one"),
        ({"checkpoint": 9}, "holds scores on other probes"),
    ):
        with pytest.raises(StoreError, match=message):
            hs.evaluate(models["half"], tasks[:2], output=output, **wrong)  # type: ignore[arg-type]
    answers = hs.evaluate(models["half"], tasks[:2], output=output, checkpoint=7, heads=False)
    assert answers.scores is None and np.isnan(answers.nll).all()
    assert hs.Answers.load(output).text == answers.text and validate(output) == []
    with pytest.raises(StoreError, match=r"with samples=0, and these are to .* with samples=1"):
        hs.evaluate(models["half"], tasks[:2], output=output, checkpoint=7, heads=False, samples=1)


def test_mistakes_are_told_first(models: Models, tasks: ProbeSet) -> None:
    model = models["half"].model
    with pytest.raises(ArgumentError, match=r"needs tokenizer=\.\.\., to read what the model says"):
        hs.evaluate(model, tasks)
    for wrong in ({"samples": -1}, {"temperature": 0.0}, {"seed": -1}):
        with pytest.raises(ArgumentError, match="0 or more and temperature above 0"):
            hs.evaluate(model, tasks, **wrong)  # type: ignore[arg-type]


def test_an_answer_that_the_model_could_not_finish_has_no_score(tasks: ProbeSet) -> None:
    """Where logits are NaN an answer breaks off, and its log-likelihood is NaN."""
    task = tasks[0].task
    assert task is not None
    whole = Decoded(np.arange(3, dtype=np.int32), -1.0, "eos", " ".join(task.golds))
    said = evaluating._judged([task], [[whole, replace(whole, logprob=float("nan"), end="length")]])
    assert said["score"][0, 0] == 1.0 and np.isnan(said["score"][0, 1]) and np.isnan(said["precision"][0, 1])
