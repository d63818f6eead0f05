"""Losses on texts equal plain loops over a model's own eager forwards, one a window, however these are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from headscope.errors import ArgumentError, ArgumentTypeError, KeyTokenError, ModelError
from headscope.interp.perplexity import Keys, KeyTokens, Perplexity, Texts, find_key_tokens, perplexity, tokenise
from headscope.probes import Codec
from tiny_bpe import tiny_bpe
from tiny_models import build

WORDS = "The needle lies in a haystack of words; the words of the haystack say little. Où est l'aiguille ? 针在哪里。"
TEXTS = {
    "en": [" ".join(WORDS.split()[i % 7 :] * 3) for i in range(2)],
    "zh": ["针在哪里。草堆里有一根针。" * 4, "一根针。"],
}
LENGTHS = [16, 64]
# one that keeps all keys, one with windows and a soft-cap behind the head, one of another architecture, and two that
# run alone: in chunks that know the total length, and in one forward
FAMILIES = ("llama", "gemma2", "gpt2", "llama_dynamic", "jamba")


def tokenizer_of(bos: bool = True) -> Any:
    tokenizer = tiny_bpe(WORDS, size=300)
    if bos:
        from tokenizers.processors import TemplateProcessing

        number = tokenizer.convert_tokens_to_ids("<s>")
        start = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
        tokenizer.backend_tokenizer.post_processor = start
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of()


def model_of(family: str, tokenizer: Any, **changes: Any) -> PreTrainedModel:
    return build(family, vocab_size=len(tokenizer), **changes)


def logprobs(model: Any, ids: np.ndarray) -> np.ndarray:
    """float64 [n - 1] of every token but the first, from one eager forward of the whole sequence, in float64."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long), use_cache=False)  # a dynamic RoPE forgets longer ones
        tokens = torch.as_tensor(ids, dtype=torch.long)
        found = model(tokens[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
    model.set_attn_implementation(before)
    return found.gather(1, tokens[1:, None])[:, 0].numpy()


def windows(n: int, lengths: list[int], head: int, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, end, first token that no window before held), said once more in other words."""
    if stride is None or n + head < lengths[0]:
        yield 0, min(n, lengths[-1] - head), 0
        return
    own, end, done = max(length for length in lengths if length <= n + head) - head, 0, 0
    while end < n:
        end = own if not end else min(end + min(stride, own), n)
        yield end - own, end, done
        done = end


def by_hand(model: Any, texts: Texts, stride: int | None) -> list[dict[str, np.ndarray]]:
    """nll, tokens, tail_nll, tail_tokens of each document, token by token."""
    found, head, lengths = [], [*texts.head], [*texts.lengths]
    starts = texts.buckets.tolist()
    for document in texts.documents:
        cells: dict[str, list[list[float]]] = {"nll": [[] for _ in starts], "tail_nll": [[] for _ in lengths]}
        for start, end, fresh in windows(len(document.ids), lengths, len(head), stride):
            logp = logprobs(model, np.array([*head, *document.ids[start:end]]))
            for token in range(fresh, end):
                position = len(head) + token - start
                if position:
                    bucket = max(i for i, first in enumerate(starts) if first <= position)
                    cells["nll"][bucket].append(-logp[position - 1])
            for number, length in enumerate(lengths):
                room = length - len(head)
                if end - room < start:
                    continue
                logp = logprobs(model, np.array([*head, *document.ids[end - room : end]]))
                kept = end - max(fresh, end - lengths[0] // 2)
                cells["tail_nll"][number] += (-logp[-kept:]).tolist()
        row = {}
        for name, held in cells.items():
            row[name] = np.array([np.mean(values) if values else np.nan for values in held])
            row[name.replace("nll", "tokens")] = np.array([len(values) for values in held])
        found.append(row)
    return found


def assert_equal(found: Perplexity, expected: list[dict[str, np.ndarray]]) -> None:
    for name in ("tokens", "tail_tokens"):
        np.testing.assert_array_equal(getattr(found, name), [row[name] for row in expected])
    for name in ("nll", "tail_nll"):
        np.testing.assert_allclose(getattr(found, name), [row[name] for row in expected], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_plain_forwards_give(family: str, tokenizer: Any) -> None:
    model = model_of(family, tokenizer)
    texts = tokenise(TEXTS, tokenizer, LENGTHS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = perplexity(model, texts, chunk=24)
    assert_equal(found, by_hand(model, texts, None))
    assert found.tail_tokens[:3, 1].tolist() == [8, 8, 8] and found.tail_tokens[3].tolist() == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (found.provenance["alone_because"] is None) == (family not in ("llama_dynamic", "jamba"))


@pytest.mark.parametrize(("bos", "stride"), [(True, 40), (False, 19), (False, None)])
def test_windows_may_slide_and_every_token_counts_once(bos: bool, stride: int | None) -> None:
    tokenizer = tokenizer_of(bos)
    model = model_of("llama", tokenizer, num_hidden_layers=2)
    texts = tokenise(TEXTS, tokenizer, LENGTHS, stride=stride, buckets=[10, 50])
    assert texts.head == ((tokenizer.bos_token_id,) if bos else ()) and texts.buckets.tolist() == [1, 10, 50]
    found = perplexity(model, texts)
    assert_equal(found, by_hand(model, texts, stride))
    if stride:
        counted = [len(document.ids) - (not bos) for document in texts.documents]
        assert found.tokens.sum(axis=1).tolist() == counted
    sizes = [len(texts.ids(document, w)) for document in texts.documents for w in texts.sequences(document)]
    assert texts.n_tokens == sum(sizes) and max(sizes) == 64


@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt2"])
def test_key_tokens_are_those_of_a_short_context_for_each(family: str, tokenizer: Any, tmp_path: Path) -> None:
    """One forward per token's own short context, and LongPPL beside it."""
    model, short, alpha, beta = model_of(family, tokenizer), 12, 0.3, -6.0
    texts = tokenise(TEXTS, tokenizer, [16, 56])
    every = find_key_tokens(model, texts, short=short, alpha=alpha, beta=beta, screen=None, chunk=40)
    expected, total, n = {}, 0.0, 0
    for document in texts.documents:
        ids = document.ids[:55]
        long = logprobs(model, np.array([*texts.head, *ids]))
        keys = []
        for i in range(short + 1, len(ids)):
            context = np.array([*texts.head, *ids[i - short : i + 1]])
            if long[i] > beta and long[i] - logprobs(model, context)[-1] > alpha:
                keys.append(i)
        total, n = total - long[keys].sum(), n + len(keys)
        expected[document.sha256] = keys
        np.testing.assert_array_equal(np.flatnonzero(every.marks(document)), keys)
    assert len(every) == n > 0
    found = perplexity(model, texts, key_tokens=every, chunk=40)
    assert found.key_tokens.sum() == n and found.keys_hash == every.hash
    np.testing.assert_allclose((found.key_nll * found.key_tokens)[found.key_tokens > 0].sum() / n, total / n, atol=1e-5)
    assert found.long_ppl["en"] == pytest.approx(np.exp(found._mean("key_nll", found.corpora == "en")))

    screened = find_key_tokens(model, texts, short=short, alpha=alpha, beta=beta, screen=0.5)
    for document in texts.documents:
        assert not (screened.marks(document) & ~every.marks(document)).any(), "a screen only leaves out"
    assert len(screened) >= len(every) / 2

    every.save(tmp_path / "keys.json")
    assert KeyTokens.load(tmp_path / "keys.json") == every


def test_no_key_character_is_lost_where_tokenizers_cut_differently(tokenizer: Any) -> None:
    text = TEXTS["en"][0] + TEXTS["zh"][0]
    (document,) = tokenise([text], tokenizer, [16]).documents
    chosen = np.arange(5, len(document.ids), 9)
    own = Keys.among(document, chosen)
    spans = own.spans
    keys = KeyTokens("m", "", "t", "float32", 4, 16, 2.0, -2.0, None, {document.sha256: own})
    assert np.flatnonzero(keys.marks(document)).tolist() == chosen.tolist()
    other = tiny_bpe("An entirely different text about 针 and trees, haystack haystack words words", size=290)
    (again,) = tokenise([text], other, [16]).documents
    marked = np.zeros(len(text), bool)
    for start, end in zip(again.starts[keys.marks(again)], again.ends[keys.marks(again)], strict=True):
        marked[start:end] = True
    assert all(marked[start:end].all() for start, end in spans)
    near = [(a < e and b > s) for a, b in zip(again.starts, again.ends, strict=True) for s, e in spans]
    assert np.array_equal(keys.marks(again), np.array(near).reshape(len(again.ids), -1).any(axis=1))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("lengths", {"lengths": None}, "lengths are missing; give context lengths"),
    ("tokenizer", {"tokenizer": None}, "texts need tokenizer="),
    ("context", {"lengths": [16, 90]}, "lengths: 90 tokens, and LlamaForCausalLM is made for 80"),
    ("short", {"lengths": [1000]}, "no text has 1000 tokens: the longest"),
    ("empty", {"texts": ["words", " "]}, "the text '1' of corpus 'text' is empty"),
    ("none", {"texts": []}, "corpus 'text' is empty; give at least one text"),
    ("corpora", {"texts": {}}, "texts names no corpus"),
    ("kind", {"texts": [b"words"]}, "text 0 of corpus 'text' is a bytes, not a text"),
    ("stride", {"stride": 0}, "stride must be at least 1 token"),
    ("buckets", {"buckets": [4, 4]}, "buckets must be ascending positions from 1 to 15"),
    ("chunk", {"chunk": 0}, "chunk must be at least 1 token"),
]


@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_measured_is_refused_in_one_line(tokenizer: Any, changes: dict[str, Any], words: str) -> None:
    model = model_of("llama", tokenizer, num_hidden_layers=1, max_position_embeddings=80)
    asked = {"texts": TEXTS, "tokenizer": tokenizer, "lengths": [16]}
    with pytest.raises((ArgumentError, ArgumentTypeError), match=words):
        perplexity(model, **{**asked, **changes})


def test_other_tokenizers_vocabularies_and_texts_are_refused(tokenizer: Any) -> None:
    model = model_of("llama", tokenizer, num_hidden_layers=1)
    texts = tokenise(TEXTS, tokenizer, [16])
    with pytest.raises(ArgumentError, match="leave them out"):
        perplexity(model, texts, lengths=[16])
    with pytest.raises(ArgumentError, match="tokenised with another tokenizer"):
        perplexity(model, texts, tokenizer_of(bos=False))
    more = tokenizer_of()
    more.add_tokens(["<more>"])
    assert texts.fits(Codec(more)), "a tokenizer that only gained a token"
    with pytest.raises(ArgumentError, match="from another tokenizer; use this model's"):
        perplexity(build("llama", num_hidden_layers=1), texts)
    keys = KeyTokens("m", "", "t", "float32", 4, 16, 2.0, -2.0, None, {})
    with pytest.raises(KeyTokenError, match="'0' is not among the 0 that the key tokens are of"):
        perplexity(model, texts, key_tokens=keys)
    with pytest.raises(ArgumentError, match="short must be 2 to 14 tokens"):
        find_key_tokens(model, texts, short=15)


def test_a_model_that_computes_nan_is_no_zero(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("llama", tokenizer, num_hidden_layers=1)
    texts = tokenise(TEXTS, tokenizer, [16])
    only = int(np.setdiff1d(texts.documents[2].ids[:15], np.concatenate([d.ids[:15] for d in texts.documents[:2]]))[0])
    with torch.no_grad():
        model.get_input_embeddings().weight[only] = float("nan")
    found = perplexity(model, texts)
    assert np.isnan(found.nll[2]).all() and np.isnan(found.tail_nll[2]).all() and np.isfinite(found.by_corpus["en"])
    assert "documents have no loss (NaN): 0" in caplog.text
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        perplexity(model, texts)


DAMAGED: list[tuple[str, Any, str]] = [
    ("format", "other", "is no set of key tokens"),
    ("alpha", float("inf"), "is damaged: alpha is no number"),
    ("short", 4.5, "is damaged: short is no whole number"),
    ("texts", {"a": {"ids_hash": "b", "tokens": [2, 1], "spans": []}}, "tokens are no ascending whole numbers"),
    ("texts", {"a": {"ids_hash": "b", "tokens": [], "spans": [[3, 2]]}}, "spans do not ascend, or overlap"),
    ("texts", {"a": {"ids_hash": "b", "tokens": [], "spans": [7]}}, "spans are no pairs of characters"),
    ("beta", -3.0, "was changed: its hash is not that of what it holds"),
]


@pytest.mark.parametrize(("name", "value", "words"), DAMAGED)
def test_a_file_of_key_tokens_is_read_or_refused(tmp_path: Path, name: str, value: Any, words: str) -> None:
    path, keys = tmp_path / "keys.json", {"a" * 64: Keys("b" * 32, (1, 2), ((3, 5), (5, 9)))}
    KeyTokens("m", "sha", "t", "float32", 4, 16, 2.0, -2.0, 1.0, keys).save(path)
    assert KeyTokens.load(path).texts == keys
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(KeyTokenError, match=words):
        KeyTokens.load(path)
    with pytest.raises(KeyTokenError, match="does not exist"):
        KeyTokens.load(tmp_path / "gone.json")
