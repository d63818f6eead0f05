"""A model that overflows on long sequences: the probes it can compute are scored, the others are NaN and named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import headscope as hs
from headscope.interp.store import read_scores, validate
from headscope.probes import Probe

BROKEN = 90  # positions from here on give NaN


def model(broken: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    made = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=256, n_embd=32, n_layer=2, n_head=4)).eval()
    with torch.no_grad():
        made.transformer.wpe.weight[broken:] = float("nan")
    return made


def probe(length: int) -> Probe:
    ids = np.arange(length) % 40 + 1
    ids[-3:] = ids[5:8]
    return Probe.from_ids(ids, prompt_len=length - 3, needles=[(4, 9)], id=f"of {length}")


@pytest.mark.parametrize("alone", [None, True])
@pytest.mark.parametrize("lengths", [(60, 200, 80), (200, 120, 60)])
def test_one_probe_that_overflows_does_not_cost_the_others(
    lengths: tuple[int, ...], alone: bool | None, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    probes = [probe(length) for length in lengths]
    caplog.set_level(logging.WARNING)
    scores = hs.score_heads(model(BROKEN), probes, alone=alone)
    whole = hs.score_heads(model(256), probes, alone=alone)
    good = np.array(lengths) < BROKEN
    assert scores.computed.tolist() == good.tolist()
    for name in scores.estimators:
        assert np.isnan(scores.per_probe[name][~good]).all()
        np.testing.assert_allclose(scores.per_probe[name][good], whole.per_probe[name][good], atol=1e-6)
    np.testing.assert_allclose(scores.nll[good], whole.nll[good], rtol=1e-5)
    assert np.isnan(scores.nll[~good]).all() and np.isnan(scores.nll_first[~good]).all()
    (told,) = [record.getMessage() for record in caplog.records if "no scores" in record.getMessage()]
    assert f"{(~good).sum()} of 3 probes" in told
    assert all((f"of {length}" in told.split(":")[2]) == (length > BROKEN) for length in lengths)

    scores.save(tmp_path / "run.h5")
    assert validate(tmp_path / "run.h5") == []
    back = read_scores(tmp_path / "run.h5")
    np.testing.assert_array_equal(back.computed, good)
    with hs.open(tmp_path / "run.h5", group="probes") as data:
        assert (data["exact_match"].values[0] == -1).tolist() == (~good).tolist()


@pytest.mark.parametrize("broken", [0, 50])
def test_a_model_that_computes_nothing_is_refused(broken: int) -> None:
    with pytest.raises(hs.errors.ModelError, match="NaN or overflow in torch.float32"):
        hs.score_heads(model(broken), [probe(60), probe(200)])
