"""Probe.from_ids and from_text where an argument is at its border, or of another kind: a probe, or one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headscope as hs
from headscope.errors import HeadscopeError
from headscope.probes import Probe
from tiny_bpe import tiny_bpe
from tiny_models import build

IDS = np.arange(1, 14) % 6 + 1
TOKENIZER = tiny_bpe(__doc__ or "")
NOT_TEXT = (None, 3, b"x", ["a"])


def from_ids(**changes: Any) -> Probe:
    given: dict[str, Any] = {"input_ids": IDS, "prompt_len": 9, "needles": [(1, 4)]} | changes
    return Probe.from_ids(given.pop("input_ids"), **given)


def from_text(**changes: Any) -> Probe:
    given: dict[str, Any] = {
        "context": "One day. The sky is blue today. Another sentence follows. And more text.",
        "needle": "The code of Ada is 4711.",
        "question": "What is the code of Ada?",
        "answer": "4711",
    }
    return Probe.from_text(TOKENIZER, **given | changes)


@pytest.mark.parametrize("question_start", [0, 1, 2, 4, 8, 9, None, np.int64(3)])
def test_every_place_of_the_question_gives_the_same_scores(question_start: int | None) -> None:
    model, probe = build("llama"), from_ids(question_start=question_start)
    shared, alone = hs.score_heads(model, [probe]), hs.score_heads(model, [probe], alone=True)
    for name in shared.estimators:
        np.testing.assert_allclose(shared.per_probe[name], alone.per_probe[name], atol=1e-5)
    np.testing.assert_allclose(shared.nll, alone.nll, rtol=1e-5)


def test_a_prompt_of_one_token_and_sets_of_both_kinds_are_scored() -> None:
    ids = np.array([3, 3, 5, 3])
    probes = [
        from_ids(input_ids=ids, prompt_len=1, needles=[(0, 1)], id="one"),
        from_ids(),
        from_ids(id="0", question_start=0),
    ]
    scores = hs.score_heads(build("llama"), probes)
    assert np.isfinite(scores.nll).all() and np.isfinite(scores.retrieval).all()


@pytest.mark.parametrize(
    "changes",
    [
        *({"question_start": value} for value in (-1, 10, 2**70, 2.5, "x", [1])),
        *(
            {"needles": value}
            for value in ([], 3, None, [3], [(1,)], [(1, 2, 3)], [(4, 1)], [(1, 1)], [(-3, 2)], ["ab"])
        ),
        *({"needles": value} for value in ([(0, 10**9)], [(1, 4), (2, 5)], [(1.5, 3)])),
        *({"distractors": value} for value in (3, [3], [(3, 5)], [(20, 30)], [(1, 4)])),
        *({"prompt_len": value} for value in (0, 13, 14, -1, 9.0, None, "3", 10**20)),
        *(
            {"input_ids": value}
            for value in ([], [[1, 2]], [[1], [2, 3]], [1.5, 2], ["a"], [1, -2, 3] * 5, None, 3, [2**70])
        ),
        *({name: value} for name in ("id", "family", "answer_text", "tokenizer_fp") for value in NOT_TEXT),
        {"needle_id": 3},
    ],
    ids=repr,
)
def test_other_values_of_from_ids_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(HeadscopeError, match=f"(?i){next(iter(changes)).rstrip('s')}|span") as caught:
        from_ids(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {name: value}
            for name in ("context", "needle", "question", "answer", "id")
            for value in (*NOT_TEXT, "\ud800")
        ),
        *({name: value} for name in ("needle", "answer") for value in ("", " \n")),
        *({"depth": value} for value in (-0.1, 1.1, float("nan"), float("inf"), None, "a", 1j, [0.5])),
        *({"system": 3}, {"template_args": 3}),
    ],
    ids=repr,
)
def test_other_values_of_from_text_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(HeadscopeError, match=next(iter(changes))) as caught:
        from_text(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"context": ""}, {"question": ""}, {"depth": 0}, {"depth": 1}, {"depth": np.float32(0.5)}]
)
def test_borders_of_from_text_are_probes(changes: dict[str, Any]) -> None:
    assert 0 <= from_text(**changes).depth <= 1
