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

from builders import VOCAB, random_grid
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.scoring import score_heads
from headscope.interp.store import read_scores
from headscope.probes import build as build_probes
from headscope.probes import families
from planted import build_planted, planted_probes
from tiny_bpe import tiny_bpe
from tiny_models import build

HOWTO = Path(__file__).parents[1] / "docs" / "howto"


def block(page: str) -> str:
    """The one block of Python on a page of docs/howto, or of docs where it is named ../page."""
    (found,) = re.findall(r"```python\n(.*?)```", (HOWTO / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


def module(page: str) -> Any:
    made = ModuleType(page)
    exec(compile(block(page), f"{page}.md", "exec"), made.__dict__)
    return made


def test_an_estimator(tmp_path: Path) -> None:
    ours = module("estimator")
    asked = ["retrieval", ours.longest_copy, ours.question_mass, ours.near_copy]
    scores = score_heads(build("mistral"), random_grid(), estimators=asked)
    longest, copied = scores.per_probe["longest_copy"], scores.per_probe["retrieval"]
    np.testing.assert_array_equal(np.isnan(longest), np.isnan(copied))
    seen = ~np.isnan(longest)
    assert seen.any() and not seen.all()  # windows hide early needles
    assert ((longest[seen] > 0) == (copied[seen] > 0)).all()
    assert longest[seen].max() > 0
    mass = scores.per_probe["question_mass"]
    assert (mass >= 0).all() and (mass <= 1 + 1e-6).all() and mass.max() > 0.5
    near = scores.per_probe["near_copy"]
    np.testing.assert_array_equal(np.isnan(near), np.isnan(copied))
    assert ((near[seen] > 0) >= (copied[seen] > 0)).all() and ((near[seen] > 0) & (copied[seen] == 0)).any()
    scores.save(tmp_path / "run.h5")
    stored = read_scores(tmp_path / "run.h5")
    for name in ("longest_copy", "question_mass", "near_copy"):
        np.testing.assert_array_equal(stored.per_probe[name], scores.per_probe[name])


def test_an_ablation() -> None:
    found = module("../ablate").do_they_matter(build_planted({(2, 1): 1.0}), planted_probes(4, (0.5,), (60,), 8))
    assert [(k, heads.split()[0]) for k, heads, *_ in found] == [(1, "L2H1"), (2, "L2H1"), (4, "L2H1")]
    for _, _, effect, worst, p in found:
        assert effect > 0.5 > 1e-3 > worst and p <= 0.5  # two of four heads leave one control


def test_the_estimator_counts_unbroken_runs() -> None:
    (probe,) = random_grid(lengths=(60,), depths=(0.5,))
    (start, _), known = probe.needle_spans[0], np.full((1, 2, probe.n_answer), -1, np.int32)
    source = probe.sources[:, 0]
    assert probe.n_answer == 5 and (source >= start).all()
    known[0, 0] = source
    known[0, 0, 1] = 0  # one copied, a gap, three copied
    known[0, 1, 4] = source[4]
    seen = np.ones((1, 2), bool)
    rows = np.zeros(5)
    evidence = ProbeEvidence(known, np.ones(known.shape), {}, seen, rows, rows.astype(bool))
    longest = module("estimator").longest_copy(probe, evidence)
    np.testing.assert_allclose(longest, [[3 / 5, 1 / 5]])


def test_a_probe_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_bpe(block("probe_family"))
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
    assert (shared.retrieval > 0).sum() > 2
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
