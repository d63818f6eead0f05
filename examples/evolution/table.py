"""The tables of README.md from a results file: python examples/evolution/table.py demo/evolution/evolution.h5"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from typer import echo

from headscope.interp.analysis.trajectory import Trajectory, read_trajectory
from headscope.interp.lengths import group_lengths
from headscope.interp.levels import counting_level
from headscope.interp.report.evolution import Evolution, evolve
from headscope.interp.results import RETRIEVAL_THRESHOLD, observed_mean


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the heads and answers of every checkpoint as a table.")
    parser.add_argument("file", type=Path, metavar="FILE.h5")
    file = parser.parse_args().file
    trajectory = read_trajectory(file)
    header = [
        "step",
        "tokens",
        "heads",
        *(f"heads {length}" for length in by_length(trajectory)),
        "> 0.1",
        "leading heads",
        *(f"NLL / exact {length}" for length in by_length(trajectory)),
    ]
    echo("| " + " | ".join(header) + " |")
    echo("|" + "---|" * len(header))
    for checkpoint in range(trajectory.n_checkpoints):
        echo("| " + " | ".join(row(trajectory, checkpoint)) + " |")
    levels = three_levels(evolve(file))
    if len(levels) > 2:
        echo("")
        for line in levels:
            echo(line)


def three_levels(evolution: Evolution) -> list[str]:
    """A row for every checkpoint that has answers: all curves of the three levels, and the SFT probe seed by seed."""
    found = evolution.three
    curves = {name: curve.estimate for lane in found.lanes() for name, curve in lane.curves.items()}
    names = list(curves)
    rows = ["| step | " + " | ".join(names) + " | seeds |", "|" + "---|" * (len(names) + 2)]
    for place in sorted(found.answers):
        cells = [f"{curves[name][place]:.2f}" if np.isfinite(curves[name][place]) else "-" for name in names]
        tuned = found.sft.get(place)
        seeds = ", ".join(f"{score:.2f}" for score in tuned.after["score"].mean(axis=1)) if tuned else "-"
        rows.append(f"| {evolution.trajectory.steps[place]} | {' | '.join(cells)} | {seeds} |")
    return rows


def by_length(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Length -> bool [P]: the probes of that length, or a few tokens shorter."""
    lengths, group = group_lengths(trajectory.probes["length"])
    return {length: group == number for number, length in enumerate(lengths)}


def row(trajectory: Trajectory, checkpoint: int) -> list[str]:
    """Step, tokens, how many heads (above chance: on all probes, by length; above 0.1), the leading ones, and by length
    the NLL and the share of exact answers."""
    scores = trajectory.maps[checkpoint]
    leading = np.argsort(-scores, axis=None, kind="stable")[:4]
    heads = [f"L{index // scores.shape[1]}H{index % scores.shape[1]} {scores.flat[index]:.2f}" for index in leading]
    cells, counts = [], [heads_above_chance(trajectory, checkpoint, slice(None))]
    for probes in by_length(trajectory).values():
        counts.append(heads_above_chance(trajectory, checkpoint, probes))
        nll, exact = trajectory.nll["nll"][checkpoint][probes], trajectory.exact_match[checkpoint][probes]
        cells.append(f"{nll.mean():.2f} / {exact.mean():.0%}")
    return [
        str(trajectory.steps[checkpoint]),
        f"{trajectory.tokens[checkpoint]:,.0f}",
        *map(str, counts),
        str(int((scores > RETRIEVAL_THRESHOLD).sum())),
        ", ".join(heads),
        *cells,
    ]


def heads_above_chance(trajectory: Trajectory, checkpoint: int, probes: np.ndarray | slice) -> int:
    """How many heads count as retrieval heads by these probes alone."""
    scores = trajectory.scores[checkpoint, probes]
    about = {name: values[probes] for name, values in trajectory.probes.items()}
    level = counting_level(~np.isnan(scores), about, RETRIEVAL_THRESHOLD)
    return int((observed_mean(scores)[0].astype(np.float32) > level).sum())


if __name__ == "__main__":
    main()
