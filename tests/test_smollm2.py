"""The real small model, end to end: loading, probes, leading heads, agreement with eager attention, a file that opens.

All tests that load it are in this file, because loading takes ten seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import headscope as hs
import oracle
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.model.adapt import adapt
from headscope.interp.model.loading import LoadedModel

pytestmark = [pytest.mark.slow, pytest.mark.long]

LEADING = {"L18H6", "L17H3", "L18H7", "L17H4", "L20H6", "L23H2"}  # on every needle tried, 500 to 4000 tokens


@pytest.fixture(scope="module")
def probes(smollm2: LoadedModel) -> hs.probes.ProbeSet:
    return hs.probes.build("grid", smollm2.tokenizer, lengths=[256, 384], depths=3, needles=2, kind="number")


@pytest.fixture(scope="module")
def grafted(smollm2: LoadedModel, probes: hs.probes.ProbeSet) -> hs.HeadScores:
    return hs.score_heads(smollm2, probes)


def test_it_loads_without_a_word_and_knows_paris(
    request: pytest.FixtureRequest, smollm2_gguf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stands first in this file: what loading prints shows only once."""
    import gguf

    reader = gguf.GGUFReader
    loaded = request.getfixturevalue("smollm2")
    assert capfd.readouterr() == ("", "")
    assert gguf.GGUFReader is reader
    assert loaded.model_id == smollm2_gguf.stem and loaded.fingerprint.startswith("gguf:")
    assert (loaded.model.config.num_hidden_layers, loaded.model.config.num_attention_heads) == (30, 9)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"


def test_its_number_probe_is_exactly_as_documented(smollm2: LoadedModel) -> None:
    """Exact lengths, digits one by one, no BOS, every family canonical."""
    tokenizer, build = smollm2.tokenizer, hs.probes.build
    for name in ("smoke", "heads", "grid_nested"):
        build(name, tokenizer).verify(tokenizer)
    for kind in ("sentence", "number", "uuid", "biography"):
        probes = build("grid", tokenizer, depths=2, needles=2, kind=kind)  # type: ignore[arg-type]
        probes.verify(tokenizer)
        assert {probe.length for probe in probes} == {1024, 2048, 4096}
        assert {probe.alignment for probe in probes} == {"exact"}
    number = build("grid", tokenizer, kind="number")[0]
    assert number.n_answer == 8  # a space and seven digits
    assert number.token_class == ("format", *["novel"] * 7)
    chat = build("grid", tokenizer, lengths=[1024], chat=True)
    chat.verify(tokenizer)
    assert tokenizer.decode(chat[0].input_ids).startswith("<|im_start|>system")


def test_the_known_heads_lead(grafted: hs.HeadScores) -> None:
    assert {str(head) for head in grafted.top(8)} >= LEADING
    assert all(head.score > 0.3 for head in grafted.top(6))
    assert len(grafted.retrieval_heads()) < 40  # most heads retrieve nothing


def test_it_knows_the_answers(grafted: hs.HeadScores) -> None:
    assert grafted.exact_match.mean() > 0.9
    assert grafted.nll_novel.mean() < 0.3


def test_evidence_equals_materialised_attention(smollm2: LoadedModel, probes: hs.probes.ProbeSet) -> None:
    few = probes[:2]
    model = adapt(smollm2.model)
    with model.routed(few[0].length):
        found = dict(Engine(model, few).run(plan(few, "exact")))
    for i, probe in enumerate(few):
        truth = oracle.run(smollm2.model, probe)
        different = found[i].argmax_key != truth.argmax
        assert different.mean() <= 1e-3
        assert truth.margin(found[i].argmax_key)[different].max(initial=0) < 1e-4
        np.testing.assert_allclose(-found[i].logprob, truth.nll, rtol=0, atol=1e-4)


def test_grafted_is_close_to_exact(smollm2: LoadedModel, probes: hs.probes.ProbeSet, grafted: hs.HeadScores) -> None:
    assert grafted.probes["grafted"].all()
    exact = hs.score_heads(smollm2, probes[::2], sharing="exact")
    a, b = grafted.per_probe["retrieval"][::2].mean(0).ravel(), exact.retrieval.ravel()
    assert np.corrcoef(a, b)[0, 1] >= 0.99
    best = np.argsort(-b)[:8]
    assert np.abs(a - b)[best].max() < 0.1  # 6 probes; the benchmark's bound of .05 is for 60 and more
    assert len(set(best) & set(np.argsort(-a)[:8])) >= 7


def test_the_file_opens(grafted: hs.HeadScores, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    grafted.save(path, checkpoint=2000, tokens_seen=8.4e9)
    ds = hs.open(path)
    assert dict(ds.sizes) == {"checkpoint": 1, "layer": 30, "head": 9}
    np.testing.assert_array_equal(ds.retrieval.sel(checkpoint=2000), grafted.retrieval)
    assert float(ds.tokens_seen[0]) == 8.4e9
