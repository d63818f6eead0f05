"""One of two processes whose monitors measure at different steps, or of which one has none; see test_monitor_ranks.py.

python unequal_ranks.py FOLDER    with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import torch
from torch import distributed

import headscope as hs
from headscope.interp import monitor
from tiny_models import build
from two_ranks import PROBES


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    logging.basicConfig(level=logging.WARNING)
    monitor.TOGETHER = 2.0
    distributed.init_process_group("gloo")
    model = build("llama", num_hidden_layers=2)
    watch = hs.HeadMonitor(PROBES, folder / "run.h5", model=model)
    found = []
    # Rank zero measures at steps 0, 2, 4 and both meet at 0 and 4: the others are measured by one of them alone.
    for step in range(5):
        if step in ((0, 2, 4), (0, 3, 4))[rank]:
            found.append([step, watch.measure(step) is not None])
        distributed.all_reduce(torch.ones(1))  # the training
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
