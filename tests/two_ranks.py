"""One of two processes that train the same tiny model, with or without a HeadMonitor; see interp/test_monitor_ranks.py.

    python two_ranks.py FOLDER    with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment

Writes FOLDER/<rank>.json: losses by way of training, forwards inside measurements, and whether the run was stopped.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from transformers import Trainer, TrainingArguments

import headscope as hs
from builders import random_probe
from headscope.interp.model.adapt import HuggingFaceModel
from headscope.interp.monitor import ranks
from headscope.interp.perplexity import tokenise
from headscope.probes import ProbeSet
from tiny_models import VOCAB, build
from tiny_run import tiny_tokenizer

TEXTS = [" ".join(f"w{3 + (7 * i + k * k) % (VOCAB - 3)}" for k in range(60)) for i in range(2)]
PROBES = ProbeSet([random_probe(80, depth, answer=4, seed=i) for i, depth in enumerate(np.linspace(0, 1, 8))])
counted = {"forwards": 0}


def count_forwards() -> None:
    plain = HuggingFaceModel.forward

    def forward(self: HuggingFaceModel, *arguments: Any) -> torch.Tensor:
        counted["forwards"] += 1
        return plain(self, *arguments)

    HuggingFaceModel.forward = forward  # type: ignore[method-assign]


def ddp(folder: Path, path: Path | None) -> dict[str, Any]:
    """In a Trainer. The second measurement finds a regression, which only rank zero looks for."""
    ids = torch.randint(3, VOCAB, (64, 32), generator=torch.Generator().manual_seed(0))
    monitor = hs.HeadMonitor(PROBES, path, every=2, on_regression="stop") if path else None
    arguments = TrainingArguments(
        str(folder / "out"),
        max_steps=4,
        use_cpu=True,
        ddp_backend="gloo",
        per_device_train_batch_size=2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=True,
    )
    model = build("llama", attention_dropout=0.2, num_hidden_layers=2)
    data = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[monitor] if monitor else [])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "steps": trainer.state.global_step, "wrapped": type(trainer.model_wrapped).__name__}


def fsdp2(path: Path | None) -> dict[str, Any]:
    """In a plain loop; every forward gathers the shards, so ranks that ran different numbers of them would hang."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    torch.manual_seed(0)
    model = build("llama", attention_dropout=0.2, num_hidden_layers=2).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    texts = tokenise(TEXTS, tiny_tokenizer(), [16, 48])
    monitor = hs.HeadMonitor(PROBES, path, model=model, texts=texts) if path else None
    losses, scored, read = [], [], []
    for step in range(3):
        if monitor:
            scores = monitor.measure(step)
            scored.append(None if scores is None else float(scores.nll.mean()))
            read.append(None if monitor.perplexity is None else monitor.perplexity.by_corpus["text"])
        ids = torch.randint(3, VOCAB, (2, 32), generator=torch.Generator().manual_seed(step))
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"losses": losses, "scored": scored, "read": read, "wrapped": type(model).__name__}


def fsdp1(path: Path) -> dict[str, Any]:
    """Refused on both ranks alike, from outside and inside, before anything is gathered; training goes on."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    model = build("llama", num_hidden_layers=2)
    policy = ModuleWrapPolicy({type(model.model.layers[0])})
    wrapped = FullyShardedDataParallel(
        model, auto_wrap_policy=policy, device_id=torch.device("cpu"), use_orig_params=True
    )
    refusals = []
    for given in (wrapped, wrapped.module):
        try:
            hs.score_heads(given, PROBES)
        except TypeError as error:
            refusals.append(str(error))
    scores = hs.HeadMonitor(PROBES, path, model=wrapped).measure(0)
    loss = wrapped(input_ids=torch.arange(3, 20)[None], labels=torch.arange(3, 20)[None]).loss
    return {"refusals": refusals, "scores": scores, "loss": loss.item()}


KEYS = 40
SHARDS = {  # the keys of either rank: as runs, dealt like cards, all on one
    "runs": (range(17), range(17, KEYS)),
    "dealt": (range(0, KEYS, 2), range(1, KEYS, 2)),
    "all on one": (range(0), range(KEYS)),
}


def evidence(keys: range, sinks: torch.Tensor | None = None, topk: int = 3) -> hs.kernels.RowEvidence:
    """Of whole numbers, which are full of ties; rows that see no key, few and many."""
    gen = torch.Generator().manual_seed(0)
    q, k = (torch.randint(-2, 3, (2, heads, n, 3), generator=gen).float() for heads, n in ((4, 5), (2, KEYS)))
    own = torch.tensor(keys, dtype=torch.int64)
    return hs.kernels.row_evidence(
        q,
        k[:, :, own],
        q_positions=torch.tensor([KEYS - 1, -1, 0, 12, 20]),
        k_positions=own,
        spans=torch.tensor([[[0, 4], [10, 30]], [[5, 5], [3, 40]]]),
        sinks=sinks,
        topk=topk,
    )


def merged(rank: int) -> dict[str, Any]:
    """Evidence of keys on both ranks; a learned sink is part of one."""
    sinks = torch.linspace(-1, 2, 4)
    found: dict[str, Any] = {}
    for name, shards in SHARDS.items():
        ev = hs.kernels.merge_across_ranks(evidence(shards[rank], sinks if rank == 1 else None))
        found[name] = {field: x.tolist() for field, x in vars(ev).items()}
    try:
        hs.kernels.merge_across_ranks(evidence(range(KEYS), topk=3 + rank))
    except ValueError as error:
        found["refusal"] = str(error)
    return found


def unequal(path: Path, rank: int) -> list[list[Any]]:
    """Rank zero measures at steps 0, 2 and 4, and both meet at 0 and 4: 2 and 3 are measured by one of them alone.
    Only rank zero has texts."""
    texts = tokenise(TEXTS, tiny_tokenizer(), [16]) if rank == 0 else None
    monitor = hs.HeadMonitor(PROBES, path, model=build("llama", num_hidden_layers=2), texts=texts)
    usual, found = ranks.TOGETHER, []
    for step in range(5):
        ranks.TOGETHER = usual if step in (0, 4) else 2.0  # the other never comes
        if step in ((0, 2, 4), (0, 3, 4))[rank]:
            found.append([step, monitor.measure(step) is not None])
        distributed.all_reduce(torch.ones(1))  # the training
    return found


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    count_forwards()
    found: dict[str, Any] = {"ddp plain": ddp(folder, None)}
    # one past measurement, with scores that this model cannot hold
    found["ddp"] = ddp(folder, folder / "ddp.h5")
    found["fsdp2 plain"] = fsdp2(None)
    found["fsdp2"] = fsdp2(folder / "fsdp2.h5")
    found["fsdp1"] = fsdp1(folder / "fsdp1.h5")
    found["merged"] = merged(rank)
    found["forwards"] = counted["forwards"]
    found["unequal"] = unequal(folder / "unequal.h5", rank)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
