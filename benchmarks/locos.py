"""LOCOS as its authors' code computes it, on the same tokens: do the heads come out the same?

    python -m benchmarks.locos --locos CHECKOUT [MODEL] [--lengths 256,512] [--depths 2] [--needles 4]

CHECKOUT is one of aryopg/locos; of it `compute_logit_contribution_per_step` is taken as it stands, and
nothing is copied here. It is given what it asks for, every attention row of an eager forward, all values, W_O and the
unembedding; answer rows are those of the right answer for both, since headscope lets no answer be written first.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headscope as hs

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

NAME = "compute_logit_contribution_per_step"


def published(checkout: Path) -> Any:
    """The authors' function, of their file."""
    tree = ast.parse((checkout / "locos" / "detectors" / "logit_contrib.py").read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == NAME]
    names: dict[str, Any] = {"torch": torch, "np": np}
    exec(compile(ast.Module(found, []), "logit_contrib.py", "exec"), names)
    return names[NAME]


def theirs(model: Any, probe: hs.probes.Probe, function: Any) -> np.ndarray:
    """[n_layers, n_heads] of one probe."""
    ids = torch.from_numpy(probe.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        out = model(ids, output_attentions=True, use_cache=True)
    ((start, end),) = probe.needle_spans
    config, unembedding = model.config, model.get_output_embeddings().weight
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    found = np.zeros((config.num_hidden_layers, heads))
    for layer in range(len(found)):
        weight = model.model.layers[layer].self_attn.o_proj.weight
        weight = weight.reshape(len(weight), heads, -1).permute(1, 2, 0)
        for row, token in zip(probe.answer_rows, probe.answer_ids, strict=True):
            attention = out.attentions[layer][0, :, row, : row + 1]
            values = out.past_key_values.layers[layer].values[0, :, : row + 1]
            with torch.no_grad():
                inside, outside = function(
                    attention, values, weight, unembedding[int(token)], heads, groups, start, end, int(row) + 1
                )
            found[layer] += (inside - outside) / probe.n_answer
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--locos", type=Path, required=True, help="checkout of aryopg/locos")
    arguments.add_argument("--lengths", default="256,512")
    arguments.add_argument("--depths", type=int, default=2)
    arguments.add_argument("--needles", type=int, default=4)
    options = arguments.parse_args()
    found, loaded, function = machine(), load(options.model), published(options.locos)
    say(one_line(found))
    lengths = [int(length) for length in options.lengths.split(",")]
    probes = hs.probes.build("grid", loaded.tokenizer, lengths=lengths, depths=options.depths, needles=options.needles)
    ours = hs.score_heads(loaded, probes, sharing="exact", estimators=["locos"])
    loaded.model.set_attn_implementation("eager")
    other = np.stack([theirs(loaded.model, probe, function) for probe in probes])
    from scipy import stats

    mine = ours.per_probe["locos"]
    means = mine.mean(axis=0).ravel(), other.mean(axis=0).ravel()
    leading = [np.argsort(-each, kind="stable")[:10].tolist() for each in means]
    rows = {
        "probes": len(probes),
        "heads": means[0].size,
        "spearman": float(stats.spearmanr(*means).statistic),
        "smallest_spearman_of_a_probe": float(
            min(stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(mine, other, strict=True))
        ),
        "largest_difference": float(np.abs(mine - other).max()),
        "largest_score": float(np.abs(other).max()),
        "leading_ten_in_common": len({*leading[0]} & {*leading[1]}),
        "leading_ten_in_the_same_order": leading[0] == leading[1],
        "leading": [f"L{i // mine.shape[2]}H{i % mine.shape[2]}" for i in leading[0]],
    }
    for name, value in rows.items():
        say(f"{name:32s} {value}")
    say(write_results("locos", {"lengths": lengths, **rows}, found).name)


if __name__ == "__main__":
    main()
