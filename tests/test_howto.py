"""The pages of docs/howto, followed for real: each page's own block of code is run."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from builders import VOCAB, random_grid
from headscope.interp.estimators import ESTIMATORS
from headscope.interp.scoring import score_heads
from headscope.interp.store import read_scores
from headscope.probes import build as build_probes
from headscope.probes import families
from tiny_models import build

HOWTO = Path(__file__).parents[1] / "docs" / "howto"


def block(page: str) -> str:
    """The one block of Python on a page."""
    (found,) = re.findall(r"```python\n(.*?)```", (HOWTO / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


def module(page: str) -> Any:
    made = ModuleType(page)
    exec(compile(block(page), f"{page}.md", "exec"), made.__dict__)
    return made


def test_an_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest_copy = module("estimator").longest_copy
    monkeypatch.setitem(ESTIMATORS, "longest_copy", longest_copy)
    scores = score_heads(build("mistral"), random_grid())
    longest, copied = scores.per_probe["longest_copy"], scores.per_probe["retrieval"]
    np.testing.assert_array_equal(np.isnan(longest), np.isnan(copied))
    seen = ~np.isnan(longest)
    assert seen.any() and not seen.all()  # windows hide early needles
    assert ((longest[seen] > 0) == (copied[seen] > 0)).all()
    assert longest[seen].max() > 0
    scores.save(tmp_path / "run.h5")
    np.testing.assert_array_equal(read_scores(tmp_path / "run.h5").per_probe["longest_copy"], longest)


def test_the_estimator_counts_unbroken_runs() -> None:
    class Evidence:
        argmax_key = np.zeros((1, 2, 6), np.int32)

        def hits(self, _: object) -> np.ndarray:
            return np.array([[[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]]], bool)

        def hidden_as_nan(self, score: np.ndarray) -> np.ndarray:
            return score

    (probe,) = random_grid(lengths=(60,), depths=(0.5,))
    longest = module("estimator").longest_copy(probe, Evidence())
    assert (longest * probe.n_answer).tolist() == [[3.0, 1.0]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([block("probe_family")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")


def test_a_probe_family(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voyage.py").write_text(block("probe_family"), encoding="utf-8")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    for name in ("grid", "grid_nested"):
        probes = build_probes(name, tokenizer, kind="voyage", lengths=[1200], depths=2, needles=2, haystack="noise")
        probes.verify(tokenizer)
        assert {probe.family for probe in probes} == {"voyage"}
    made = module("probe_family").items
    assert made(5, 7) == made(12, 7)[:5] != made(5, 8)
    assert len({item.value for item in made(39, 0)}) == 39
    scores = score_heads(build("llama", vocab_size=len(tokenizer)), probes, tokenizer=tokenizer)
    assert np.isfinite(scores.retrieval).all()


def test_a_model_adapter() -> None:
    ours = module("model_adapter")
    torch.manual_seed(0)
    model = ours.Transformer(VOCAB)
    with torch.no_grad():
        for weight in model.qkv.parameters():
            weight.mul_(3)
    grid = random_grid()
    shared = score_heads(ours.TransformerAdapter(model), grid, sharing="exact")
    assert shared.provenance["alone_because"] is None
    for i, probe in enumerate(grid):
        top = {}

        def with_map(layer: int, q: Any, k: Any, v: Any, top: dict[int, Any] = top) -> Any:
            rows = torch.arange(q.shape[2])
            top[layer] = (q @ k.mT).masked_fill(rows[None, :] > rows[:, None], -torch.inf).argmax(-1)[0]
            return ours.plain_attention(layer, q, k, v)

        model.attend = with_map
        ids = torch.from_numpy(probe.input_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits = model.unembed(model.hidden(ids, torch.arange(probe.length)[None]))[0].log_softmax(-1)
        model.attend = ours.plain_attention
        rows = probe.answer_rows.astype(np.int64)
        key = torch.stack([top[layer][:, rows] for layer in range(2)]).numpy()
        hits = probe.needle_mask[key] & (probe.input_ids[key] == probe.answer_ids)
        np.testing.assert_array_equal(shared.per_probe["retrieval"][i] > 0, hits.any(-1))
        nll = -logits[rows, ids[0, rows + 1]].mean()
        assert shared.nll[i] == pytest.approx(float(nll), rel=1e-4)


def test_a_figure() -> None:
    scores = score_heads(build("llama"), random_grid())
    ax = module("figure").heads_by_depth(scores, Figure().add_subplot(), k=3)
    lines = ax.get_lines()
    leading = scores.top(3)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [str(head) for head in leading]
    at = scores.probes["depth_nominal"]
    for line, head in zip(lines, leading, strict=True):
        for depth, value in zip(*line.get_data(), strict=True):
            score = scores.per_probe["retrieval"][at == depth, head.layer, head.head]
            assert value == pytest.approx(score.mean())
