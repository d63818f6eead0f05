"""Estimators from the literature against plain loops over eager attention maps in float64, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import oracle
from builders import random_grid, random_probe
from headscope.interp.analysis import NULLS
from headscope.interp.estimators import DEFAULT, ESTIMATORS, Estimator, choose, duo_deviation, estimator
from headscope.interp.evidence import Measure, ProbeEvidence, Rows
from headscope.interp.scoring import score_heads
from headscope.probes import Probe, ProbeSet, Span
from tiny_models import FAMILIES, LENGTH_DEPENDENT, LINEAR, build

SINKS, RECENT = 9, 20  # of the streaming head, for contexts of a hundred tokens
GATED = ("qwen3_next",)


@dataclass
class Maps:
    """Of one probe: per layer attention [H, T, T], values [H, T, Dv] and W_O [d, H, Dv] in float64, and U [V, d].

    log_attention: [H, T, T + 1], the learned sink last.
    """

    probe: Probe
    attention: dict[int, np.ndarray]
    log_attention: dict[int, np.ndarray]
    values: dict[int, np.ndarray]
    projection: dict[int, np.ndarray]
    unembedding: np.ndarray
    embedded: dict[int, Callable[[np.ndarray], np.ndarray]]  # tokens [T] -> [Hkv, T, Dv], values of their embeddings


def naive(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **how: Any) -> tuple[Any, None]:
    """Attention as a whole map in float64; what it was is left on the module."""
    group = query.shape[1] // key.shape[1]
    q, k, v = query.double(), *(x.double().repeat_interleave(group, 1) for x in (key, value))
    scores = q @ k.mT * (how.get("scaling") or query.shape[-1] ** -0.5)
    if how.get("softcap"):
        scores = (scores / how["softcap"]).tanh() * how["softcap"]
    hidden = attention_mask[:, :, :, : key.shape[2]] < -1
    scores = scores.masked_fill(hidden, -torch.inf)
    sinks = (
        scores.new_full((1, 1, 1, 1), -torch.inf) if how.get("s_aux") is None else how["s_aux"].double()[:, None, None]
    )
    log_p = torch.cat((scores, sinks.expand(1, *scores.shape[1:3], 1)), -1).log_softmax(-1)
    p = log_p[..., :-1].exp()
    module.seen = p[0].numpy(), v[0].numpy(), log_p[0].numpy()
    return (p @ v).to(query.dtype).transpose(1, 2), None


def maps_of(model: Any, probe: Probe) -> Maps:
    AttentionInterface.register("naive", naive)
    AttentionMaskInterface.register("naive", eager_mask)
    model.set_attn_implementation("naive")
    oracle._forget_lengths(model)
    with torch.no_grad():
        model(torch.from_numpy(probe.input_ids.astype(np.int64))[None], use_cache=False)
        layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
        seen = {i: part for i, layer in enumerate(layers) for part in layer.modules() if hasattr(part, "seen")}
        found = Maps(
            probe=probe,
            attention={i: part.seen[0] for i, part in seen.items()},
            log_attention={i: part.seen[2] for i, part in seen.items()},
            values={i: part.seen[1] for i, part in seen.items()},
            projection={i: _projection(part, part.seen[1]) for i, part in seen.items()},
            unembedding=model.get_output_embeddings().weight.double().numpy(),
            embedded={i: _embedded(model, layers[i], part) for i, part in seen.items()},
        )
    return found


def _projection(part: Any, values: np.ndarray) -> np.ndarray:
    if hasattr(part, "c_proj"):
        weight = part.c_proj.weight.T
    else:
        weight = (part.dense if hasattr(part, "dense") else part.o_proj).weight
    return weight.double().numpy().reshape(-1, len(values), values.shape[-1])


def _embedded(model: Any, layer: Any, part: Any) -> Callable[[np.ndarray], np.ndarray]:
    """By the names of each architecture, and in its own dtype: how the layer makes values of embeddings alone."""

    @torch.no_grad()
    def values(tokens: np.ndarray) -> np.ndarray:
        x = model.get_input_embeddings()(torch.from_numpy(tokens.astype(np.int64)))[None]
        if hasattr(model, "transformer"):  # gpt2
            x = layer.ln_1(x + model.transformer.wpe.weight[0])
            found = part.c_attn(x)[..., 2 * x.shape[-1] :]
        else:
            x = layer.input_layernorm(x)
            if hasattr(part, "kv_b_proj"):
                latent = part.kv_a_proj_with_mqa(x)[..., : part.kv_lora_rank]
                both = part.kv_b_proj(part.kv_a_layernorm(latent)).unflatten(-1, (-1, part.qk_nope_head_dim + 12))
                return both[0, ..., part.qk_nope_head_dim :].transpose(0, 1).double().numpy()
            if hasattr(part, "query_key_value"):
                return part.query_key_value(x)[0].unflatten(-1, (8, 3, 8))[:, :, 2].transpose(0, 1).double().numpy()
            found = part.qkv_proj(x)[..., -16:] if hasattr(part, "qkv_proj") else part.v_proj(x)
        return found[0].unflatten(-1, (-1, 8)).transpose(0, 1).double().numpy()

    return values


# The twins: (maps, layer, head) -> score; NaN is made of what cannot be seen afterwards.


def needle(maps: Maps) -> list[int]:
    return [j for start, end in maps.probe.needle_spans for j in range(start, end)]


def contrast(maps: Maps, phi: np.ndarray, t: int) -> float:
    """phi [T] on the needle against all else up to t, for as many keys."""
    inside = maps.probe.needle_mask[: t + 1]
    return phi[: t + 1][inside].sum() - inside.sum() / (~inside).sum() * phi[: t + 1][~inside].sum()


def first_token_mass(maps: Maps, layer: int, head: int) -> float:
    return np.mean([maps.attention[layer][head, t, 0] for t in maps.probe.answer_rows])


def attention_spatial(maps: Maps, layer: int, head: int) -> float:
    return np.mean([contrast(maps, maps.attention[layer][head, t], t) for t in maps.probe.answer_rows])


def locos(maps: Maps, layer: int, head: int) -> float:
    wrote = maps.values[layer][head] @ maps.projection[layer][:, head].T  # [T, d], by every key
    towards = wrote @ maps.unembedding[maps.probe.answer_ids].T
    rows = maps.probe.answer_rows
    return np.mean([contrast(maps, maps.attention[layer][head, t] * towards[:, n], t) for n, t in enumerate(rows)])


def qrhead(maps: Maps, layer: int, head: int) -> float:
    question = range(maps.probe.question_start, maps.probe.prompt_len)
    return np.mean([maps.attention[layer][head, t, needle(maps)].sum() for t in question])


def duo(maps: Maps, layer: int, head: int) -> float:
    found, v = [], maps.values[layer][head]
    for t in maps.probe.answer_rows:
        kept = [*(j for j in range(t + 1) if j < SINKS or j > t - RECENT), -1]  # and the learned sink
        log_p = maps.log_attention[layer][head, t, kept]
        weights = np.exp(log_p - np.logaddexp.reduce(log_p))[:-1]
        full = maps.attention[layer][head, t] @ v
        found.append(np.linalg.norm(full - weights @ v[kept[:-1]]) / np.linalg.norm(full))
    return np.mean(found)


@cache
def pairs(probe: Probe) -> list[tuple[int, int]]:
    """(row, place of its token) where the needle goes on as the answer does."""
    ids, inside = probe.input_ids, probe.needle_mask
    return [
        (t, j)
        for t in probe.answer_rows
        for j in range(t)
        if inside[j + 1] and ids[j] == ids[t] and ids[j + 1] == ids[t + 1]
    ]


def echo_mass(maps: Maps, layer: int, head: int) -> float:
    at = pairs(maps.probe)
    return sum(maps.attention[layer][head, t, j] for t, j in at) / len({t for t, _ in at})


def induction_mass(maps: Maps, layer: int, head: int) -> float:
    at = pairs(maps.probe)
    return sum(maps.attention[layer][head, t, j + 1] for t, j in at) / len({t for t, _ in at})


def headkv_r2(maps: Maps, layer: int, head: int) -> float:
    k, total = needle(maps), 0.0
    for t in maps.probe.answer_rows:
        a = maps.attention[layer][head, t]
        total += sum(a[i] for i in np.argsort(-a, kind="stable")[: min(len(k), 16)] if i in k)
    return total / len(k)


def wu_count_top5(maps: Maps, layer: int, head: int) -> float:
    k, ids, total = needle(maps), maps.probe.input_ids, 0.0
    for t in maps.probe.answer_rows:
        for i in np.argsort(-maps.attention[layer][head, t], kind="stable")[:5]:
            if i in k and ids[i] == ids[t + 1]:
                total += 1 / len(k)
                break
    return total


def copy_score(maps: Maps, layer: int, head: int) -> float:
    tokens = np.array(sorted(set(maps.probe.answer_ids.tolist())))
    values = maps.embedded[layer](tokens)
    v = values[head // (maps.projection[layer].shape[1] // len(values))]
    circuit = maps.unembedding[tokens] @ maps.projection[layer][:, head] @ v.T
    eigenvalues = np.linalg.eigvals(circuit)
    return (eigenvalues.sum() / abs(eigenvalues).sum()).real


def distractor_mass(maps: Maps, layer: int, head: int) -> float:
    inside = [j for span in maps.probe.spans if span.role == "distractor" for j in range(span.start, span.end)]
    return np.mean([maps.attention[layer][head, t, inside].sum() for t in maps.probe.answer_rows])


TWINS = {
    "attention_spatial": attention_spatial,
    "copy_score": copy_score,
    "distractor_mass": distractor_mass,
    "duo_deviation": duo,
    "echo_mass": echo_mass,
    "first_token_mass": first_token_mass,
    "headkv_r2": headkv_r2,
    "induction_mass": induction_mass,
    "locos": locos,
    "qrhead": qrhead,
    "wu_count_top5": wu_count_top5,
}
WHATEVER_IS_SEEN = ("copy_score", "distractor_mass", "duo_deviation", "first_token_mass")
EVERY = (*FAMILIES, *LENGTH_DEPENDENT, *LINEAR)


# One with its needle at the front, which windows hide, and decoys; one with a needle of more than sixteen tokens.
FAR = random_probe(64, 0.2, seed=1)
PROBES = ProbeSet(
    [
        replace(FAR, spans=(*FAR.spans, Span(2, 5, "distractor"), Span(40, 42, "distractor"))),
        random_probe(60, 1.0, needle=19, seed=3),
    ]
)


def twin_of(name: str, maps: Maps, n_layers: int) -> np.ndarray:
    heads = max(len(a) for a in maps.attention.values())
    found = np.full((n_layers, heads), np.nan)
    if name == "distractor_mass" and len(maps.probe.spans) == 1:
        return found
    rows = range(maps.probe.question_start, maps.probe.prompt_len) if name == "qrhead" else maps.probe.answer_rows
    for layer, attention in maps.attention.items():
        if name in WHATEVER_IS_SEEN or attention[:, rows][..., needle(maps)].any():
            found[layer] = [TWINS[name](maps, layer, head) for head in range(heads)]
    return found


def test_every_estimator_has_a_twin() -> None:
    """The six have theirs in oracle.py, nulls in test_null.py."""
    assert {*TWINS} == {*ESTIMATORS} - {*DEFAULT, *NULLS}


@pytest.mark.parametrize("family", EVERY)
def test_scores_equal_their_naive_twins(
    family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(duo_deviation, "SINKS", SINKS)
    monkeypatch.setattr(duo_deviation, "RECENT", RECENT)
    model = build(family)
    scores = score_heads(model, PROBES, sharing="exact", chunk=48, estimators=["all"])
    for i, probe in enumerate(PROBES):
        maps = maps_of(model, probe)
        for name in TWINS:
            found = scores.per_probe[name][i]
            if family in GATED and name in ("locos", "copy_score"):
                assert np.isnan(found).all()
                continue
            expected = twin_of(name, maps, scores.n_layers)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-4, err_msg=f"{name} {probe.id}")
    told = [record.getMessage() for record in caplog.records if "no scores (NaN)" in record.getMessage()]
    assert len(told) == (family in GATED)


# Grafted, moved and shared rows


def lost(rows: Rows) -> torch.Tensor:
    """How far the parts are from all of it, in output and in probability, by what a log-sum-exp is rounded to."""
    share = (rows.part_lse - rows.lse).exp()
    gap = (rows.out - rows.part * share[..., None]).norm(dim=-1) + (1 - share).abs()
    return gap / (1 + rows.lse.abs())


def everything(rows: str) -> Estimator:
    """What is lost of attention that is taken together of three parts: 0."""

    def parts(probe: Probe) -> np.ndarray:
        third, most = probe.length // 3, probe.length
        return np.array([[0, third], [third, 2 * third], [2 * third, most]])

    @estimator(name=f"lost_{rows}", measures={f"parts_{rows}": Measure(parts, lost, rows)})
    def worst(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        found = evidence.measured[f"parts_{rows}"]
        assert found.shape[2] == (probe.n_answer if rows == "answer" else probe.prompt_len - probe.question_start)
        return found.max(axis=-1)

    return worst


@pytest.mark.parametrize("family", ["llama", "gemma2", "llama4_text", "deepseek_v3"])
def test_parts_of_attention_are_complete_beside_a_shared_prefix(family: str) -> None:
    """Needles before, in and behind the parts' borders, several lengths, and rows that two probes have in common."""
    same = [random_probe(length, 0.0, seed=7) for length in (60, 90)]
    grid = ProbeSet([*random_grid(lengths=(60, 121), depths=(0.0, 0.4, 1.0)), *same])
    scores = score_heads(
        build(family), grid, sharing="grafted", chunk=48, estimators=[everything("answer"), everything("question")]
    )
    assert scores.probes["grafted"].all()
    for name in ("lost_answer", "lost_question"):
        assert scores.per_probe[name].max() < 4e-6


def test_grafted_scores_are_exact_where_nothing_is_approximated() -> None:
    """With the needle right before the question."""
    model, grid = build("llama"), random_grid(lengths=(60, 121), depths=(1.0,))
    exact, grafted = (score_heads(model, grid, sharing=how, estimators=["all"]) for how in ("exact", "grafted"))
    assert grafted.probes["grafted"].all()
    for name in exact.estimators:
        np.testing.assert_allclose(grafted.per_probe[name], exact.per_probe[name], atol=1e-5, err_msg=name)


def test_all_stands_for_those_that_are_not_named_beside_it() -> None:
    assert list(choose(["all"])) == list(ESTIMATORS)
    assert list(choose(["locos", "all"])) == ["locos", *(name for name in ESTIMATORS if name != "locos")]
    asked = [name for name, each in ESTIMATORS.items() if each.weights]
    assert asked == ["copy_score", "locos"]


def test_output_projections_that_are_no_plain_weight() -> None:
    """Asked by what they do: the same numbers, and a user's own module need have no weight."""

    class Halves(torch.nn.Module):
        def __init__(self, whole: torch.nn.Linear):
            super().__init__()
            self.a, self.b = torch.nn.Parameter(whole.weight / 4), torch.nn.Parameter(whole.weight * 3 / 4)
            self.bias = torch.nn.Parameter(torch.ones(whole.out_features))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.a.T + x @ self.b.T + self.bias * 0 + 0

    model, asked = build("llama", num_hidden_layers=2), ["locos", "copy_score"]
    plain = score_heads(model, PROBES, estimators=asked)
    for layer in model.model.layers:
        layer.self_attn.o_proj = Halves(layer.self_attn.o_proj)
    taken = score_heads(model, PROBES, estimators=asked)
    for name in asked:
        np.testing.assert_allclose(taken.per_probe[name], plain.per_probe[name], rtol=1e-3, atol=1e-4)


def test_measures_that_cannot_work_are_refused_before_the_model_runs() -> None:
    model = build("llama", num_hidden_layers=1)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    wrong = estimator(name="own", measures={"rows": Measure(lambda probe: np.zeros((99, 1, 2), int), lost)})
    with pytest.raises(ValueError, match="spans 'rows' of probe .* are of 99 rows, not 5"):
        score_heads(model, PROBES, estimators=[wrong(lambda probe, evidence: evidence.unscored())])
    with pytest.raises(ValueError, match="'own' measures something else by 'locos' than another one"):
        other = estimator(name="own", measures={"locos": Measure(lambda probe: None, lost)})
        score_heads(model, PROBES, estimators=["locos", other(lambda probe, evidence: evidence.unscored())])
