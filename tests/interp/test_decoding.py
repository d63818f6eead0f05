"""Answers decoded beside a shared prefix are those of transformers' generate, whatever else is decoded with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from builders import VOCAB, random_grid, random_probe
from headscope.errors import ArgumentError
from headscope.interp.engine import Decoded, decode, longest_answered, plan
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.own_keys import StepPass
from headscope.interp.model.adapt import adapt
from headscope.interp.model.attention import current_pass
from headscope.interp.scoring import score_heads
from headscope.probes import Codec, Probe, Task
from tiny_models import FAMILIES, LENGTH_DEPENDENT, LINEAR, build


@pytest.fixture(scope="module")
def codec() -> Codec:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(199)}, unk_token="w0"))
    return Codec(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0"))


def asking(probe: Probe, tokens: int, *stop: str) -> Probe:
    return replace(probe, task=Task("exact", ("anything",), tokens, stop))


def asked_again(probe: Probe, question: int, context: int) -> Probe:
    """Another question, of so many tokens, about the first tokens of the probe's context."""
    asked = np.random.default_rng(question).integers(3, VOCAB, question)
    ids = np.concatenate([probe.input_ids[:context], asked, probe.answer_ids])
    end, needles = context + question, probe.needle_spans
    again = Probe.from_ids(ids, prompt_len=end, needles=needles, question_start=context, id=f"again {question}")
    return asking(again, 6)


FIRST = asking(random_probe(121, 0.3), 6)
# one prefix: two see all of it, the third not half; its answer crosses the 64 tokens at which LongRoPE changes
GRID = [FIRST, asked_again(FIRST, 10, FIRST.question_start), asked_again(FIRST, 11, 50)]


def answers(
    model: Any, probes: Sequence[Probe], sharing: str, codec: Codec, rows: int = 4096, chunk: int = 48, **how: Any
) -> dict[int, list[Decoded]]:
    adapted = model if hasattr(model, "routed") else adapt(model)
    planned = range(len(probes)) if sharing == "alone" else plan(probes, sharing)
    with adapted.routed(longest_answered(adapted.context, probes, codec)):
        engine = Engine(adapted, probes, chunk=chunk, suffix_rows=rows, cut_alone=sharing == "alone")
        return dict(decode(engine, planned, codec=codec, **how))


def assert_same(a: dict[int, list[Decoded]], b: dict[int, list[Decoded]]) -> None:
    assert sorted(a) == sorted(b)
    for i in a:
        for ours, theirs in zip(a[i], b[i], strict=True):
            assert (ours.ids.tolist(), ours.end, ours.text) == (theirs.ids.tolist(), theirs.end, theirs.text)
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


def assert_generates(model: Any, probe: Probe, answer: Decoded, steps: int, cached: bool) -> None:
    """Equal token by token and in log-probability, to the first tie if there is one."""
    ids = torch.from_numpy(probe.input_ids[: probe.prompt_len].astype(np.int64))[None]
    adapt(model).reset_dynamic_rope()
    how = {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0, "use_cache": cached}
    out = model.generate(ids, do_sample=False, max_new_tokens=steps, **how)
    found, logits = out.sequences[0, probe.prompt_len :].tolist(), torch.stack(out.logits)[:, 0].float()
    ended = found[-1] == 2
    expected = found[:-1] if ended else found
    for step, (ours, theirs) in enumerate(zip(answer.ids.tolist(), expected, strict=False)):
        if ours != theirs:
            assert abs(float(logits[step, ours] - logits[step, theirs])) < 1e-3, "no tie"
            return
    assert (len(answer.ids), answer.end) == (len(expected), "eos" if ended else "length")
    logprob = logits.log_softmax(-1)[torch.arange(len(found)), found].sum()
    assert answer.logprob == pytest.approx(float(logprob), abs=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, *LENGTH_DEPENDENT, *LINEAR])
def test_greedy_answers_are_those_of_generate(family: str, codec: Codec) -> None:
    model = build(family)
    found = answers(model, GRID[1:], "exact" if family in FAMILIES else "alone", codec)
    assert sorted(found) == [0, 1]
    for i, probe in enumerate(GRID[1:]):
        # LongRoPE's keys change with the length: Phi's generate starts over then, Llama's keeps keys that are wrong
        assert_generates(model, probe, found[i][0], 6, cached=family != "llama_longrope")


def test_answers_do_not_depend_on_the_batch(codec: Codec) -> None:
    """In one batch; in batches of one sequence; and each probe by itself, the model's own cache beside it."""
    probes = [asking(probe, 3 + i) for i, probe in enumerate(random_grid(lengths=(121,), depths=(0.3, 1.0)))]
    model, how = build("llama4_text"), {"samples": 2, "seed": 5, "temperature": 1.5}
    together = answers(model, probes, "grafted", codec, **how)
    assert {len(each) for each in together.values()} == {3}
    assert_same(together, answers(model, probes, "grafted", codec, rows=1, **how))
    exact = answers(model, probes, "exact", codec, rows=40, **how)
    assert_same(exact, answers(model, probes, "alone", codec, **how))
    one = answers(model, probes[1:2], "exact", codec, **how)
    assert_same({0: exact[1]}, one)
    assert_same(
        {0: [each[:2] for each in one.values()][0]}, answers(model, probes[1:2], "exact", codec, **how | {"samples": 1})
    )
    assert (
        together[0][1].ids.tolist() != answers(model, probes, "grafted", codec, **how | {"seed": 6})[0][1].ids.tolist()
    )


def test_samples_are_distributed_as_the_model_says(codec: Codec) -> None:
    """The first token, and the second behind the most frequent first, against a plain forward's probabilities."""
    model, probe, how = build("llama"), asking(random_probe(60), 2), {"samples": 800, "temperature": 0.7}
    found = [answer.ids.tolist() for answer in answers(model, [probe], "exact", codec, **how)[0][1:]]
    prompt, first = probe.input_ids[: probe.prompt_len].tolist(), Counter(ids[0] for ids in found if ids)
    ((most, _),) = first.most_common(1)
    second = Counter(ids[1] for ids in found if len(ids) > 1 and ids[0] == most)
    for context, seen in ((prompt, first), ([*prompt, most], second)):
        with torch.no_grad():
            p = (model(torch.tensor([context])).logits[0, -1].double() / 0.7).softmax(-1).numpy()
        p[2] = 0.0  # an end token leaves no id
        expected, observed = np.zeros(1), np.zeros(1)
        for token in np.argsort(-p):  # tokens in groups of ten or more expected
            if expected[-1] >= 10:
                expected, observed = np.append(expected, 0.0), np.append(observed, 0.0)
            expected[-1] += sum(seen.values()) * p[token] / p.sum()
            observed[-1] += seen[int(token)]
        assert len(expected) > 3
        assert chisquare(observed, expected).pvalue > 1e-3


def test_an_answer_ends_before_a_stop_text_that_lies_across_tokens(codec: Codec) -> None:
    model, probe = build("llama"), asking(GRID[0], 6)
    whole = answers(model, [probe], "exact", codec)[0][0]
    words = [f"w{token}" for token in whole.ids]
    stop = f"{words[2][-1]} {words[3]}"
    assert stop not in " ".join(words[:3])
    stopped = asking(probe, 6, "never", stop)
    for sharing in ("exact", "alone"):
        found = answers(model, [stopped], sharing, codec)[0][0]
        assert (found.ids.tolist(), found.end) == (whole.ids[:2].tolist(), "stop")
        assert found.text.strip() == " ".join(words[:3])[:-1]
        assert whole.logprob < found.logprob < 0


def test_end_tokens_and_limits(codec: Codec) -> None:
    model, probe = build("gpt2", n_positions=128), asking(GRID[1], 50)
    limited = answers(model, [probe], "exact", codec)[0][0]
    assert (len(limited.ids), limited.end) == (128 - probe.prompt_len, "length")
    model.generation_config.eos_token_id = [198, int(limited.ids[2])]
    n = limited.ids.tolist().index(limited.ids[2])
    for sharing in ("exact", "alone"):
        ended = answers(model, [probe, GRID[0]], sharing, codec)[0][0]
        assert (ended.ids.tolist(), ended.end) == (limited.ids[:n].tolist(), "eos")
    free = answers(model, [replace(GRID[0], task=None)], "exact", codec)[0][0]
    assert len(free.ids) == GRID[0].n_answer + 8 or free.end == "eos"


def test_nothing_is_left_behind(codec: Codec) -> None:
    for family in ("llama", "llama_dynamic"):
        model = build(family)
        before = score_heads(model, GRID[:1]).nll
        answers(model, GRID, "exact" if family == "llama" else "alone", codec, samples=1)
        np.testing.assert_allclose(score_heads(model, GRID[:1]).nll, before, atol=1e-5)


def test_out_of_memory_begins_a_smaller_batch(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapt(build("llama"))
    expected = answers(model, GRID, "exact", codec, samples=3)
    forward, batches = model.forward, []

    def short(*args: Any) -> torch.Tensor:
        if isinstance(current_pass(), StepPass):
            batches.append(len(args[0]))
            if len(args[0]) > 4:
                raise torch.OutOfMemoryError("made up")
        return forward(*args)

    monkeypatch.setattr(model, "forward", short)
    assert_same(answers(model, GRID, "exact", codec, rows=256, samples=3), expected)
    assert max(batches) > 4


def test_nan_is_one_probe_s_and_is_told(codec: Codec) -> None:
    model = build("llama")
    bad, good = GRID[1], GRID[0]
    token = next(t for t in bad.input_ids[bad.question_start : bad.prompt_len] if t not in good.input_ids)
    expected = answers(model, [good], "exact", codec)
    with torch.no_grad():
        model.get_input_embeddings().weight[int(token)] = torch.nan
    adapted = adapt(model)
    with adapted.routed(longest_answered(None, GRID, codec)):
        engine = Engine(adapted, [good, bad], chunk=48)
        found = dict(decode(engine, plan([good, bad], "exact"), codec=codec))
    assert np.isnan(found[1][0].logprob) and list(engine.not_finite) == [bad.id]
    assert_same({0: found[0]}, expected)


class WithoutCache:
    """An adapter that has what every adapter must, and no more."""

    def __init__(self, adapted: Any):
        self.adapted = adapted

    def __getattr__(self, name: str) -> Any:
        if name in ("go_on", "keys_last", "in_pieces"):
            raise AttributeError(name)
        return getattr(self.adapted, name)


def test_an_adapter_without_a_cache_of_its_own_answers_alone_too(codec: Codec) -> None:
    model = adapt(build("gemma3_text"))
    how = {"samples": 1, "seed": 1}
    expected = answers(model, GRID[:2], "alone", codec, **how)
    assert_same(answers(WithoutCache(model), GRID[:2], "alone", codec, **how), expected)


def test_prompts_that_run_alone_run_in_chunks_where_they_may(codec: Codec) -> None:
    for family in ("llama_dynamic", "phi3_longrope"):
        model = build(family)
        in_one = answers(model, GRID[:1], "alone", codec, chunk=4096, samples=1)
        assert_same(answers(model, GRID[:1], "alone", codec, chunk=40, samples=1), in_one)


def test_what_cannot_be_answered_is_said_before_anything_runs(codec: Codec) -> None:
    model = adapt(build("llama"))
    for how, told in (({"samples": -1}, "samples"), ({"seed": -1}, "seed"), ({"temperature": 0.0}, "temperature")):
        with pytest.raises(ArgumentError, match=told):
            answers(model, GRID, "exact", codec, **how)
    with model.routed(120), pytest.raises(ArgumentError, match=r"routed\(123\)"):
        decode(Engine(model, GRID), plan(GRID, "exact"), codec=codec)
