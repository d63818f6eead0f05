"""A made-up run of checkpoints, for tests without a model: heads that grow, one that is born, one that dies."""

from dataclasses import replace

import numpy as np

from headscope.interp.analysis.trajectory import Trajectory

GROWING, STEADY, BORN, DYING = (2, 1), (3, 4), (4, 0), (1, 5)


def make_trajectory(
    checkpoints: int = 8,
    *,
    layers: int = 6,
    heads: int = 8,
    needles: int = 12,
    lengths: tuple[int, ...] = (1024, 4096),
    depths: tuple[float, ...] = (0.0, 0.5, 1.0),
    noise: float = 0.08,
    seed: int = 0,
) -> Trajectory:
    """Scores with a needle effect (probes of one needle move together), NLL that falls, matches that follow."""
    rng = np.random.default_rng(seed)
    cells = [(length, depth, needle) for length in lengths for depth in depths for needle in range(needles)]
    length, depth, needle = (np.array(column) for column in zip(*cells, strict=True))
    time = np.linspace(0.0, 1.0, checkpoints)
    mean = np.broadcast_to(rng.gamma(0.15, 0.04, (layers, heads)).clip(0, 0.05), (checkpoints, layers, heads)).copy()
    mean[:, *GROWING] = 0.15 + 0.6 * (1 - np.exp(-3 * time))
    mean[:, *STEADY] = 0.5
    mean[:, *BORN] = np.where(time > 0.4, 0.45, 0.01)
    mean[:, *DYING] = 0.35 * np.exp(-4 * time)
    effect = rng.normal(0, 0.1, (needles, layers, heads))[needle] + rng.normal(0, noise, (len(cells), layers, heads))
    fresh = rng.normal(0, noise / 3, (checkpoints, len(cells), layers, heads))
    scores = (mean[:, None] * (1 + effect + fresh)).clip(0, 1).astype(np.float32)
    novel = 2.0 * np.exp(-2 * time)[:, None] * (1 + 0.2 * depth) + rng.gamma(2, 0.05, (checkpoints, len(cells)))
    names = np.array([f"needle-{i}" for i in needle])
    return Trajectory(
        steps=np.arange(checkpoints) * 500,
        tokens=np.arange(checkpoints) * 500 * 4.2e6,
        scores=scores,
        nll={"nll": novel / 3, "nll_novel": novel, "nll_echo": novel / 9, "nll_first": novel * 2},
        exact_match=(novel < 0.8).astype(np.float32),
        probes={
            "id": np.array([f"p{i}" for i in range(len(cells))]),
            "family": np.full(len(cells), "needle"),
            "variant": np.full(len(cells), "sentence"),
            "needle_id": names,
            "seed": np.zeros(len(cells), np.int64),
            "length": length,
            "distance": ((1 - depth) * length).astype(int),
            "interference": (depth * length).astype(int),
            "n_answer": np.full(len(cells), 12),
            "depth": depth,
            "depth_nominal": depth,
        },
        about={"estimator": "retrieval", "model_id": "org/m", "probe_set_name": "grid", "probe_set_hash": "ab" * 8},
    )


def in_stages(run: Trajectory, **stages: int) -> Trajectory:
    """The same run as stages that each count from 0: name -> number of checkpoints."""
    names = np.repeat(list(stages), list(stages.values()))
    begins = np.cumsum([0, *stages.values()])[:-1] - 1
    own = run.steps - np.repeat(np.maximum(begins, 0) * int(run.steps[1]), list(stages.values()))
    return replace(run, stages=names, own_steps=own)
