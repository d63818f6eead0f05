"""HeadMonitor in two processes: the ranks stay together, rank zero alone writes, and training does not notice.

The same two processes merge evidence of keys that lie on both.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

import two_ranks
from headscope.interp.scoring import score_heads
from headscope.interp.store import all_perplexities
from headscope.interp.store import results_file as store
from tiny_models import build


def check_merged(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0] == ranks[1], "the same bits everywhere"
    whole = two_ranks.evidence(range(two_ranks.KEYS), torch.linspace(-1, 2, 4))
    for name in two_ranks.SHARDS:
        for field, wanted in vars(whole).items():
            got = torch.tensor(ranks[0][name][field], dtype=wanted.dtype)
            if wanted.dtype == torch.int64:
                assert torch.equal(got, wanted), (name, field)
            torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-6)
    assert "[2, 4, 5, 2, 3, 4] and [2, 4, 5, 2, 4, 4]" in ranks[0]["refusal"]


def run_ranks(folder: Path, python: list[str]) -> list[str]:
    """Run two_ranks.py as two ranks; what each said."""
    # The ranks meet at a port that is taken from here on; one that is merely free may be another's a moment later.
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    root = Path(two_ranks.__file__).parents[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    path = [str(root), str(root / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    shared["PYTHONPATH"] = os.pathsep.join(path)
    command = [*python, two_ranks.__file__, str(folder)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate()[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)

    return said


@pytest.mark.long
def test_two_ranks(tmp_path: Path, warm: list[str]) -> None:
    now = score_heads(build("llama", num_hidden_layers=2), two_ranks.PROBES)
    past = np.zeros_like(now.per_probe["retrieval"])
    past[:, 1, :2] = np.random.default_rng(0).uniform(0.8, 1.0, (len(past), 2))
    replace(now, per_probe={**now.per_probe, "retrieval": past}).save(tmp_path / "ddp.h5", checkpoint=0)

    said = run_ranks(tmp_path, warm)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["forwards"] == found[1]["forwards"] > 0
    for one in found:
        assert one["ddp"]["wrapped"] == "DistributedDataParallel"
        assert one["ddp"]["steps"] == 2, "rank zero found the regression, and both stopped"
        assert one["ddp"]["losses"] == one["ddp plain"]["losses"][:2]
        assert one["fsdp2"]["wrapped"].startswith("FSDP")
        assert one["fsdp2"]["losses"] == one["fsdp2 plain"]["losses"]
        assert len(one["fsdp1"]["refusals"]) == 2 and one["fsdp1"]["scores"] is None and one["fsdp1"]["loss"] > 0
        assert all("FSDP version 1" in refusal and "fully_shard" in refusal for refusal in one["fsdp1"]["refusals"])
    assert None not in found[0]["fsdp2"]["scored"], said[0]
    check_merged([one["merged"] for one in found])
    assert found[0]["fsdp2"]["scored"] == pytest.approx(found[1]["fsdp2"]["scored"])
    assert found[0]["fsdp2"]["read"] == pytest.approx(found[1]["fsdp2"]["read"])
    written = all_perplexities(tmp_path / "fsdp2.h5")
    assert [each.by_corpus["text"] for each in written.values()] == found[0]["fsdp2"]["read"] and len(written) == 3
    assert store.checkpoints(tmp_path / "ddp.h5") == [0, 2]
    assert store.checkpoints(tmp_path / "fsdp2.h5") == [0, 1, 2]
    assert "step 2: the leading heads fell" in said[0] and "the leading heads fell" not in said[1]

    assert [one["unequal"] for one in found] == [[[0, True], [2, False], [4, True]], [[0, True], [3, False], [4, True]]]
    assert store.checkpoints(tmp_path / "unequal.h5") == [0, 4] and not all_perplexities(tmp_path / "unequal.h5")
    assert said[0].count("the ranks have not the same texts") == 1
    for rank, step in ((0, 2), (1, 3)):
        lines = [line for line in said[rank].splitlines() if "nothing is measured" in line]
        assert len(lines) == 1 and f"rank {rank} came to measure step {step}, and others did not within 2 s" in lines[0]
