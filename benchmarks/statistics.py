"""Do the statistics keep their word? Intervals, correlations, saturation and lists of changed heads, on known truth.

    python -m benchmarks.statistics            # about ten minutes on one core; --quick for a first look

Worlds are in benchmarks/worlds.py. Every row says how often something happened, the standard error of that, and what
it should be. Seeded: the same command gives the same table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from headscope.interp.analysis.bootstrap import clustered_interval
from headscope.interp.analysis.effective_length import effective_length
from headscope.interp.analysis.evolution import head_counts
from headscope.interp.analysis.heads import changes
from headscope.interp.analysis.saturation import deceptive_saturation
from headscope.interp.analysis.statistics import correlate

from . import worlds
from .machine import machine, one_line, write_results
from .smollm2 import say


@dataclass(frozen=True)
class Row:
    """How often (share of `count` draws) something happened; low and high: where that should lie; None: no goal."""

    what: str
    world: str
    share: float
    count: int
    low: float | None = None
    high: float | None = None
    spread: float | None = None  # standard deviation over draws, where a draw is a share itself

    @property
    def error(self) -> float:
        spread = np.sqrt(self.share * (1 - self.share)) if self.spread is None else self.spread
        return float(spread / np.sqrt(self.count))

    @property
    def met(self) -> str:
        if self.low is None and self.high is None:
            return ""
        inside = (self.low is None or self.share >= self.low) and (self.high is None or self.share <= self.high)
        return "met" if inside else "missed"


def coverage(draws: int, seed: int) -> Iterator[Row]:
    """How often the 95 % interval over needles holds the mean over all needles there could be."""
    for name, (sampler, bounds) in worlds.VALUES.items():
        rng = np.random.default_rng([seed, len(name)])
        mean = worlds.truth(sampler, rng)
        for needles, cells in ((12, 8), (16, 8), (24, 6), (48, 6), (100, 1)):
            inside = []
            for batch in range(draws // 100):  # other resamples for each batch, or their luck would be in every sample
                values = sampler(rng, (100, needles, cells)).reshape(100, -1)
                needle = np.repeat(np.arange(needles), cells)
                found = clustered_interval(values, needle, bounds=bounds, seed=batch)
                inside.append(np.mean((found.low <= mean) & (mean <= found.high)))
            share, count = float(np.mean(inside)), 100 * len(inside)
            yield Row("interval holds the mean", f"{name}, {needles} needles", share, count, 0.93, 0.97)


def counts(draws: int, seed: int) -> Iterator[Row]:
    """The same for the number of retrieval heads; whole numbers make it wider than asked, never knowingly narrower."""
    for heads in (64, 256):
        rng = np.random.default_rng([seed, heads])
        base = worlds.head_strengths(rng, heads)
        real = np.mean([worlds.head_scores(rng, base, 1, 2000, 8)[0].mean(axis=(0, 1, 2)) for _ in range(5)], axis=0)
        true = int((real > 0.1).sum())
        for needles in (12, 24, 48):
            inside = []
            for _ in range(draws // 50):  # fifty at a time: as many runs of one checkpoint, held as one of fifty
                scores, needle = worlds.head_scores(rng, base, 50, needles, 6)
                found = head_counts(worlds.trajectory(scores, needle, np.arange(50) + 1.0))
                inside.append(np.mean((found.low <= true) & (true <= found.high)))
            world = f"{heads} heads, {needles} needles"
            yield Row("interval holds the number of heads", world, float(np.mean(inside)), len(inside) * 50, 0.93)


def unrelated(draws: int, seed: int) -> Iterator[Row]:
    """How often two curves that have nothing to do with each other are called linked, and how often raw p calls it."""
    for kind, memory in (("exponential", 0.0), ("power", 0.0), ("S", 0.0), ("exponential", 0.5)):
        for n in (6, 8, 12, 20):
            rng = np.random.default_rng([seed, n, len(kind)])
            progress = np.linspace(0, 2e11, n)
            noise = np.exp(rng.uniform(np.log(0.01), np.log(0.1), (2, draws, 1)))  # shares of the rise
            x, y = (
                worlds.curves(kind, rng, progress, draws) + sd * worlds.jitter(rng, draws, n, memory) for sd in noise
            )
            found = [correlate(a, b, progress) for a, b in zip(x, y, strict=True)]
            world = f"two {kind} curves, n = {n}" + (", noise with memory" if memory else "")
            yield Row("raw p <= 0.05", world, np.mean([c.p <= 0.05 for c in found]), draws)
            called = np.mean([c.verdict == "supported" for c in found])
            yield Row("called linked", world, called, draws, high=0.05)
            yield Row("  of these: insufficient", world, np.mean([c.verdict == "insufficient" for c in found]), draws)


def related(draws: int, seed: int) -> Iterator[Row]:
    """Power: one curve's jitter is shared by the other, with this correlation; nothing else links them."""
    for strength in (0.7, 0.9, 0.97):
        for n in (6, 8, 12, 20):
            rng = np.random.default_rng([seed, n, int(100 * strength)])
            progress = np.linspace(0, 2e11, n)
            own, other = worlds.jitter(rng, draws, n), worlds.jitter(rng, draws, n)
            x = worlds.curves("exponential", rng, progress, draws) + 0.05 * own
            y = worlds.curves("exponential", rng, progress, draws)
            y = y + 0.05 * (strength * own + np.sqrt(1 - strength**2) * other)
            called = np.mean([correlate(a, b, progress).verdict == "supported" for a, b in zip(x, y, strict=True)])
            yield Row("called linked, and is", f"jitter shared to {strength}, n = {n}", called, draws)


def saturation(draws: int, seed: int) -> Iterator[Row]:
    """Deceptive when the score is level and the NLL falls; not when both are level, both move, or all is noise."""
    noisy = {"flips": 0.6, "score_jitter": 0.05, "nll_noise": 0.6, "nll_jitter": 0.15}
    true = {"nll_slope": -0.2}
    false = {
        "both level": {},
        "both moving": {"nll_slope": -0.2, "score_slope": 0.15, "level": 0.85},
        "score moving by twice the margin": {"nll_slope": -0.2, "score_slope": 0.1, "level": 0.9},
        "score moving by the margin": {"nll_slope": -0.2, "score_slope": 0.05, "level": 0.92},
        "NLL falling by the margin": {"nll_slope": -0.05},
        "both level and noisy": noisy,
        "both moving and noisy": {"nll_slope": -0.2, "score_slope": 0.15, "level": 0.85, **noisy},
    }
    sizes = ((4, 48), (6, 12), (6, 24), (6, 48), (8, 24), (8, 48), (12, 24), (12, 48))
    for checkpoints, needles in sizes:
        for name, world in ({"true": true} | false).items():
            rng = np.random.default_rng([seed, checkpoints, needles, len(name)])
            verdicts = [
                deceptive_saturation(worlds.run(rng, checkpoints=checkpoints, needles=needles, **world)).verdict
                for _ in range(draws)
            ]
            fired = np.mean([verdict == "deceptive" for verdict in verdicts])
            where = f"{name}, {checkpoints} checkpoints, {needles} needles x 6"
            if name == "true":
                goal = 0.9 if checkpoints >= 6 and needles >= 48 else None
                yield Row("deceptive saturation found", where, fired, draws, low=goal)
                rest = np.mean([verdict == "insufficient" for verdict in verdicts])
                yield Row("  of these: insufficient", where, rest, draws)
            else:
                edge = "by the margin" in name  # the worst case: 5 % by design
                yield Row("deceptive saturation cried", where, fired, draws, high=None if edge else 0.05)


def discoveries(draws: int, seed: int) -> Iterator[Row]:
    """Share of wrong heads among those listed as changed, and of changed heads that were found."""
    for skewed in (False, True):
        for changed in (0.0, 0.1, 0.5):
            for needles in (8, 12, 16, 24):
                rng = np.random.default_rng([seed, needles, int(10 * changed), skewed])
                wrong, hit = [], []
                for _ in range(draws):
                    run, true = worlds.pair(
                        rng, heads=256, needles=needles, cells=6, changed=changed, effect=0.45, skewed=skewed
                    )
                    named = changes(run).changed.ravel()
                    wrong.append((named & ~true).sum() / max(named.sum(), 1))
                    hit.append((named & true).sum() / max(true.sum(), 1))
                world = f"{changed:.0%} of heads changed, {needles} needles" + (", skewed" if skewed else "")
                goal = None if skewed else 0.05
                share = float(np.mean(wrong))
                yield Row("wrong among named heads", world, share, draws, high=goal, spread=float(np.std(wrong)))
                if changed:
                    yield Row("  changed heads found", world, float(np.mean(hit)), draws, spread=float(np.std(hit)))


def effective(draws: int, seed: int) -> Iterator[Row]:
    """How often the interval of the effective length holds the length at which the true curve, smooth between the
    probed lengths, falls below .8; and how often a length beyond those probed is said to be."""
    probed = 2 ** np.arange(10, 16)
    for fades, steep in ((12.5, 1.0), (12.5, 3.0), (13.2, 0.6), (11.2, 1.0)):
        true = worlds.faded_truth(0.8, fades=fades, steep=steep)
        for needles in (12, 24, 48):
            rng = np.random.default_rng([seed, needles, int(10 * fades), int(10 * steep)])
            made = (worlds.faded(rng, probed, needles, fades=fades, steep=steep) for _ in range(draws))
            found = [effective_length(scores, probes) for scores, probes in made]
            world = f"{true / 1024:.1f}K of 1K to 32K, steep {steep:g}, {needles} needles"
            held = float(np.mean([each.low <= true <= each.high for each in found]))
            yield Row("interval holds the effective length", world, held, draws, 0.93, 0.97)
            off = np.log2([each.tokens for each in found]) - np.log2(true)
            yield Row("  estimate: mean error, doublings", world, float(off.mean()), draws, spread=float(off.std()))
    for needles in (12, 48):  # true length 24.8K
        rng = np.random.default_rng([seed, needles])
        made = (worlds.faded(rng, probed[:4], needles, fades=13.2, steep=0.6) for _ in range(draws))
        found = [effective_length(scores, probes) for scores, probes in made]
        world = f"beyond 1K to 8K, {needles} needles"
        yield Row('"at least 8K"', world, float(np.mean([each.at_least for each in found])), draws)
        yield Row(
            "interval reaches beyond", world, float(np.mean([np.isinf(each.high) for each in found])), draws, 0.95
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a fifth of the draws")
    arguments.add_argument("--only", help="one part by its name, such as effective")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    say(f"{'what':36} {'world':58} {'share':>7} {'s.e.':>6} {'goal':>12}")
    rows = []
    parts = [(coverage, 3000), (counts, 1000), (unrelated, 1000), (related, 300), (saturation, 600)]
    parts += [(discoveries, 100), (effective, 500)]
    parts = [(part, draws) for part, draws in parts if options.only in (None, part.__name__)]
    for part, draws in parts:
        for row in part(draws // 5 if options.quick else draws, options.seed):
            goal = " to ".join(f"{end:.0%}" for end in (row.low, row.high) if end is not None)
            goal = f">= {goal}" if row.low is not None and row.high is None else goal
            goal = f"<= {goal}" if row.high is not None and row.low is None else goal
            say(f"{row.what:36} {row.world:58} {row.share:7.1%} {row.error:6.1%} {goal:>12} {row.met}")
            rows.append(asdict(row) | {"error": row.error, "met": row.met})
    name = f"statistics-{options.only}" if options.only else "statistics"
    say(write_results(name, {"seed": options.seed, "rows": rows}, found).name)


if __name__ == "__main__":
    main()
