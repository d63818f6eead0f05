"""Tasks of benchmarks as probes: every suite, every task, on tokenizers of different kinds."""

from __future__ import annotations

import numpy as np
import pytest

from headscope import probes as hp
from headscope.errors import HeadscopeError
from headscope.probes.suites import known_suites

TASKS = [(name, task) for name, suite in known_suites().items() for task in suite.tasks]


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_every_task_is_built_and_verified_and_says_where_its_answer_is(tokenizer, name, task) -> None:
    built = hp.build(name, tokenizer, tasks=[task], lengths=[1024], items=2)
    built.verify(tokenizer)
    assert len({probe.id for probe in built}) == 2
    for probe in built:
        assert (probe.family, probe.variant) == (name, task)
        assert probe.length <= probe.task.length == 1024
        assert probe.copyable == known_suites()[name].tasks[task].scored
        for span in probe.spans:
            assert tokenizer.decode(probe.input_ids[span.start : span.end]).strip()


@pytest.mark.parametrize("name", known_suites())
def test_the_same_seed_gives_the_same_tasks_and_another_gives_others(gpt2_like, name) -> None:
    built, again, other = (hp.build(name, gpt2_like, lengths=[1024], items=1, seed=seed) for seed in (0, 0, 1))
    assert again.hash == built.hash
    assert all(one.hash != another.hash for one, another in zip(built, other, strict=True))


def test_a_saved_set_keeps_its_tasks(tokenizer, tmp_path) -> None:
    built = hp.build("ruler", tokenizer, tasks=["niah_single_1"], lengths=[512], items=2)
    built.save(tmp_path / "tasks.npz")
    loaded = hp.ProbeSet.load(tmp_path / "tasks.npz")
    assert loaded.hash == built.hash and [probe.task for probe in loaded] == [probe.task for probe in built]


def test_what_is_wrong_is_one_line_with_the_remedy(gpt2_like) -> None:
    for given, message in (
        ({"tasks": ["niah_singel_1"]}, "Did you mean 'niah_single_1'"),
        ({"tasks": "niah_single_1"}, "give a list"),
        ({"lengths": [24]}, "at least [0-9]+ are needed"),
        ({"items": 0}, "whole number from 1 up"),
        ({"depths": 3}, "depths is for sets of needles"),
        ({"compat": "lm-eval"}, "use one of '', 'ruler'"),
        ({"compot": "ruler"}, "ruler takes no compot"),
    ):
        with pytest.raises(HeadscopeError, match=message):
            hp.build("ruler", gpt2_like, **{"tasks": ["niah_single_1"], "lengths": [512], **given})
    with pytest.raises(hp.ProbeError, match="items is for suites of tasks"):
        hp.build("grid", gpt2_like, items=3)


def test_a_graft_leaves_plain_haystack_that_all_items_share(gpt2_like) -> None:
    built = hp.build("ruler", gpt2_like, tasks=["niah_single_1"], lengths=[512, 1024], items=3)
    plain = [np.r_[p.input_ids[: p.graft[0]], p.input_ids[p.graft[1] : p.question_start]] for p in built]
    longest = max(plain, key=len)
    assert all(np.array_equal(longest[: len(each)], each) for each in plain)
