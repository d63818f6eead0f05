"""Made-up HeadScores for tests of what comes after scoring: realistic shapes, a few leading heads, no model."""

import numpy as np

from headscope.interp.results import HeadScores

# The heads that lead in SmolLM2-135M.
SMOLLM2 = ((18, 6, 0.91), (17, 3, 0.80), (18, 7, 0.72), (17, 4, 0.66), (20, 6, 0.50), (23, 2, 0.41), (12, 1, 0.22))


def make_scores(
    layers: int = 30,
    heads: int = 9,
    kv_heads: int = 3,
    leading: tuple[tuple[int, int, float], ...] = SMOLLM2,
    lengths: tuple[int, ...] = (512, 1024, 4096),
    depths: tuple[float, ...] = (0.0, 0.5, 1.0),
    needles: int = 2,
    seen_every: int = 1,
    model_id: str = "org/model",
) -> HeadScores:
    """Scores of a made-up model: a few leading heads, noise elsewhere; only every n-th layer sees the needle."""
    rng = np.random.default_rng(0)
    cells = [(length, depth, f"needle-{i}") for length in lengths for depth in depths for i in range(needles)]
    length, depth = np.array([cell[0] for cell in cells]), np.array([cell[1] for cell in cells])
    mean = rng.gamma(0.15, 0.04, (layers, heads)).clip(0, 0.05)
    for layer, head, score in leading:
        mean[layer, head] = score
    retrieval = (mean * (1 + 0.1 * rng.standard_normal((len(cells), 1, 1)))).clip(0, 1)
    retrieval[:, np.arange(layers) % seen_every != seen_every - 1] = np.nan
    novel = 0.1 * np.log2(length) + 0.5 * depth + 0.05 * rng.random(len(cells))
    n = len(cells)
    return HeadScores(
        model_id=model_id,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        per_probe={"retrieval": retrieval, "needle_mass": retrieval * 0.6},
        nll=novel / 3,
        nll_novel=novel,
        nll_echo=novel / 9,
        nll_first=novel * 2,
        exact_match=novel < 1.2,
        probes={
            "id": np.array([f"p{i}" for i in range(n)]),
            "family": np.array(["needle"] * n),
            "variant": np.array(["sentence"] * n),
            "needle_id": np.array([cell[2] for cell in cells]),
            "seed": np.zeros(n, int),
            "length": length,
            "depth": depth,
            "depth_nominal": depth,
            "distance": ((1 - depth) * length).astype(int),
            "interference": (depth * length).astype(int),
            "n_answer": np.full(n, 12),
        },
        probe_set_name="grid",
        probe_set_hash="ab" * 16,
        provenance={"sharing": "grafted"},
    )
