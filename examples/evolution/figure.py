"""The picture of README.md from a results file: python examples/evolution/figure.py evolution.h5 evolution.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from headscope.interp.report.evolution import Evolution, evolve
from headscope.interp.report.figures.heads import head_curves, level_lines
from headscope.interp.report.figures.style import house_style
from table import by_length
from train import FULL


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the leading heads, and their score by length of the probes.")
    parser.add_argument("file", type=Path, metavar="FILE.h5")
    parser.add_argument("picture", type=Path, metavar="FILE.png")
    given = parser.parse_args()
    evolution = evolve(given.file)
    with house_style():
        draw(evolution).savefig(given.picture, dpi=110)


def draw(evolution: Evolution) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained", width_ratios=(1.35, 1))
    head_curves(evolution, left, k=6)
    trajectory = evolution.trajectory
    lengths = by_length(trajectory)
    for number, (length, probes) in enumerate(lengths.items(), 1):
        colour = plt.get_cmap("Blues")(0.25 + 0.75 * number / len(lengths))
        best = trajectory.scores[:, probes].mean(axis=1).max(axis=(1, 2))  # each checkpoint's best head at this length
        right.plot(trajectory.tokens / 1e6, best, "o-", color=colour, markersize=4, label=f"{length} tokens")
    right.set(xlabel="tokens seen (millions)", ylabel="retrieval score", ylim=(0, 1.05))
    right.set_title("The best head, by length of the context")
    level_lines(right, evolution)
    right.legend(loc="upper left", frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    first, second = FULL.phases
    longer, whole = (sum(p.steps * p.rows * p.length for p in phases) for phases in ((first,), FULL.phases))
    if trajectory.tokens[-1] == whole:  # the demo's own run: where its context grows
        for ax in (left, right):
            ax.axvline(longer / 1e6, color="0.5", linewidth=1, linestyle=":")
            words = f"context {first.length} to {second.length}"
            place = {"textcoords": "offset points", "ha": "right", "va": "top", "rotation": 90, "color": "0.35"}
            ax.annotate(words, (longer / 1e6, 0.97), (-4, 0), **place)
    return figure


if __name__ == "__main__":
    main()
