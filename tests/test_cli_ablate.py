"""`headscope ablate`, as a user without a terminal runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from command_line import fail, succeed
from headscope.interp.store import validate
from tiny_run import make_checkpoint, small_probes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint-10")


def test_heads_of_a_file_are_ablated_and_the_file_has_it(model: Path, tmp_path: Path) -> None:
    output, saved = tmp_path / "run.h5", tmp_path / "probes.npz"
    small_probes().save(saved)
    succeed("score", model, "--probes", saved, "-o", output)
    asked = ("ablate", output, "--model", model, "--probes", saved, "--top", "1,2", "--controls", 1, "--each", 2)
    told = succeed(*asked, "--answers", "--figures", tmp_path / "figures")
    assert "top 2" in told and "needles that did not choose them" in told and f"Ablation {output}, checkpoint 0" in told
    assert (tmp_path / "figures" / "dose_response.png").is_file()
    found = hs.Ablation.load(output)
    assert validate(output) == [] and found.top == [1, 2] and len(found.of("one")) == 2
    assert not np.isnan(found.measured["answer_score"][found.of("top")]).any()
    succeed(*asked, "--mode", "needle_only", "--kv-groups")
    assert hs.Ablation.load(output).mode == "needle_only" and hs.Ablation.load(output).unit == "kv_group"

    assert "cannot read 'ten'; give numbers of heads" in fail("ablate", output, "--model", model, "--top", "ten")
    wrong = fail(*asked, "--mode", "resample", "--rows", "all")
    assert "is defined in the rows of answer, not in those of context and question" in wrong
    assert "has no checkpoint 7" in fail(*asked, "--checkpoint", 7)
    other = tmp_path / "other.npz"
    type(small_probes())(list(small_probes())[:1], "other").save(other)
    assert "was scored on 'random grid'" in fail("ablate", output, "--model", model, "--probes", other)
