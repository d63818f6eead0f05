"""Do the statistics of several levels keep their word? Comparisons, choices, predictions, leads, limits; known truth.

    python -m benchmarks.levels              # about twenty minutes on one core; --quick for a first look
    python -m benchmarks.levels lead stopping

Worlds are in benchmarks/worlds.py. Rows are as in benchmarks/statistics.py. Seeded: the same command, the same table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from headscope.interp.analysis.choosing import choose_best
from headscope.interp.analysis.item_prediction import predict_items
from headscope.interp.analysis.lead_lag import lead_lag
from headscope.interp.analysis.paired import paired_difference
from headscope.interp.analysis.stopping import stopping_advice
from headscope.interp.analysis.three_levels import three_levels

from . import worlds
from .machine import machine, one_line, write_results
from .smollm2 import say
from .statistics import Row


def paired(draws: int, seed: int) -> Iterator[Row]:
    """How often the interval of a paired difference holds the true one, and how often p <= .05 where there is none."""
    for needles, cells in ((12, 6), (24, 6), (48, 6)):
        for name, change in (
            ("NLL, none", 0.0),
            ("NLL, -10 %", -0.1),
            ("match, none", 0.0),
            ("match, one in 40", 0.025),
        ):
            rng, held, low = np.random.default_rng([seed, needles, len(name)]), [], []
            needle = np.repeat(np.arange(needles), cells)
            for _ in range(draws):
                own = rng.normal(size=needles)[needle]
                if name.startswith("NLL"):
                    size = np.exp(-1 + 0.6 * own + 0.4 * rng.normal(size=len(needle)))
                    a = size * np.exp(0.1 * rng.normal(size=len(needle)))
                    factor = np.exp(0.1 * rng.normal(size=needles)[needle] + 0.1 * rng.normal(size=len(needle)))
                    b = size * (1 + change) * factor * np.exp(-0.01)
                    true = (change + 1) * np.exp(-1 + 0.26) - np.exp(-1 + 0.26 + 0.005)
                    found = paired_difference(name, a, b, needle)
                else:
                    ready = own + rng.normal(size=len(needle)) > -1
                    flips = rng.random((2, len(needle))) < 0.02 + 0 * own
                    a = ready ^ flips[0]
                    b = (ready ^ flips[1]) | (rng.random(len(needle)) < change)
                    true = _match_gain(change)
                    found = paired_difference(name, a, b, needle, bounds=(0, 1))
                held.append(found.change.low <= true <= found.change.high)
                low.append(found.p <= 0.05)
            where = f"{name}, {needles} needles x {cells}"
            yield Row("paired interval holds the difference", where, float(np.mean(held)), draws, low=0.93)
            if not change and name.startswith("match"):
                yield Row("  p <= .05 without a difference", where, float(np.mean(low)), draws, high=0.06)


def _match_gain(change: float) -> float:
    """Of `ready ^ flip`: not ready in 24 %, flipped in 2 %; what is wrong then becomes right by `change`."""
    from scipy.special import ndtr

    ready = float(ndtr(1 / np.sqrt(2)))
    right = ready * 0.98 + (1 - ready) * 0.02
    return (1 - right) * change


def prediction(draws: int, seed: int) -> Iterator[Row]:
    """AUC within families: how often its interval holds the true one; p and the mean of permuted labels without any."""
    for needles, cells, families in ((24, 8, 1), (48, 6, 4), (240, 1, 3), (16, 20, 2)):
        for effect in (0.0, 0.5, 0.9):
            rng = np.random.default_rng([seed, needles, int(10 * effect)])
            big = worlds.items(rng, needles=3000 - 3000 % families, cells=1, families=families, effect=effect)
            true = predict_items(*big, permutations=0).within.auc.estimate if effect else 0.5
            held, low, permuted, pooled = [], [], [], []
            for i in range(draws):
                world = worlds.items(rng, needles=needles, cells=cells, families=families, effect=effect)
                found = predict_items(*world, permutations=0 if effect else 99, seed=i)
                held.append(found.within.auc.low <= true <= found.within.auc.high)
                low.append(found.within.p <= 0.05)
                permuted.append(found.within.permuted)
                pooled.append(found.pooled.auc.low > 0.5)
            where = f"{needles} needles x {cells}, {families} families, true AUC {true:.2f}"
            yield Row("AUC: interval holds the true one", where, float(np.mean(held)), draws, 0.93, 0.985)
            if not effect:
                yield Row("  p <= .05 without prediction", where, float(np.mean(low)), draws, high=0.07)
                yield Row("  mean AUC of permuted labels", where, float(np.mean(permuted)), draws, 0.45, 0.55)
                if families > 1:
                    yield Row("  pooled families look like it", where, float(np.mean(pooled)), draws)


def lead(draws: int, seed: int) -> Iterator[Row]:
    """A lead of two checkpoints is called, and none where there is none. Shapes are S or onset, each level its own."""
    sizes = ((12, 24), (20, 48))
    for noise, memory in ((0.02, 0.0), (0.02, 0.5), (0.05, 0.0)):
        for checkpoints, needles in sizes:
            for ahead in (0, 2):
                rng = np.random.default_rng([seed, checkpoints, needles, ahead, int(100 * noise), int(10 * memory)])
                called, right, together = [], [], []
                for i in range(draws):
                    middle = rng.uniform(0.3, 0.6) * (checkpoints - 1)
                    halves = {"behaviour": middle + ahead / 2, "NLL": middle - ahead / 2, "heads": middle - ahead / 2}
                    shapes = {name: str(rng.choice(["S", "onset"])) for name in halves}
                    values, labels = worlds.three_levels(
                        rng,
                        halves,
                        checkpoints=checkpoints,
                        needles=needles,
                        shapes=shapes,
                        score_jitter=noise,
                        memory=memory,
                    )
                    found = lead_lag(values, labels, np.arange(checkpoints) + 1.0, draws=199, seed=i)
                    calls = {(each.first, each.second) for each in found.leads if each.call == "leads"}
                    called.append(bool(calls))
                    right.append(("NLL", "behaviour") in calls and ("heads", "behaviour") in calls and len(calls) == 2)
                    together.append(found.verdict == "together")
                where = f"{checkpoints} checkpoints, {needles} needles, jitter {noise:.0%}"
                where += ", with memory" if memory else ""
                if ahead:
                    goal = 0.9 if checkpoints >= 12 and noise < 0.05 else None
                    yield Row("a lead of 2: both called, no other", where, float(np.mean(right)), draws, low=goal)
                else:
                    yield Row("no lead: silent", where, 1 - float(np.mean(called)), draws, low=0.95)
                    yield Row("  of these: said to be together", where, float(np.mean(together)), draws)


def stopping(draws: int, seed: int) -> Iterator[Row]:
    """How often the limit of the gain holds: over all laws, and of each alone; and how far above the gain it lies."""
    for checkpoints in (6, 8, 12, 20):
        for noise, memory in ((0.02, 0.0), (0.03, 0.5)):
            every = []
            for kind in ("log", "exponential", "power", "S"):
                rng = np.random.default_rng([seed, checkpoints, int(100 * noise), len(kind)])
                held, slack, given = [], [], []
                for i in range(draws):
                    more = rng.uniform(0.3, 1.0)
                    values, needles, progress, true = worlds.continued(
                        kind, rng, checkpoints=checkpoints, more=more, score_jitter=noise, memory=memory
                    )
                    found = stopping_advice(values, needles, progress, more, draws=499, seed=i)
                    given.append(found.answer == "at most")
                    held.append(true <= found.most)
                    slack.append(found.most - true)
                every += held
                where = f"{kind}, {checkpoints} checkpoints, jitter {noise:.0%}{', with memory' if memory else ''}"
                yield Row("limit of the gain holds", where, float(np.mean(held)), draws)
                yield Row("  median excess, shares of the rise", where, float(np.median(slack)), draws, spread=0.0)
                yield Row("  advice given", where, float(np.mean(given)), draws)
            where = f"all laws, {checkpoints} checkpoints, jitter {noise:.0%}{', with memory' if memory else ''}"
            yield Row("limit of the gain holds", where, float(np.mean(every)), len(every), 0.93, 0.97)


def verdict(draws: int, seed: int) -> Iterator[Row]:
    """Deceptive saturation with three levels: found whichever level shows it, and not cried more than 5 %."""
    move = {"nll_slope": -0.2, "head_slope": 0.15}
    true = {"NLL falls": {"nll_slope": -0.2}, "heads rise": {"head_slope": 0.15}, "both": move}
    false = {
        "all level": {},
        "all move": move | {"score_slope": 0.15, "level": 0.85},
        "behaviour by the margin": move | {"score_slope": 0.05, "level": 0.92},
        "NLL by the margin": {"nll_slope": -0.05},
        "heads by the margin": {"head_slope": 0.05},
        "NLL and heads by the margin": {"nll_slope": -0.05, "head_slope": 0.05},
    }
    for checkpoints, needles in ((6, 24), (6, 48), (8, 48), (12, 24), (12, 48)):
        for name, world in (true | false).items():
            rng = np.random.default_rng([seed, checkpoints, needles, len(name)])
            found = [
                three_levels(worlds.run(rng, checkpoints=checkpoints, needles=needles, **world)).verdict
                for _ in range(draws)
            ]
            fired = float(np.mean([each == "deceptive" for each in found]))
            where = f"{name}, {checkpoints} checkpoints, {needles} needles x 6"
            if name in true:
                goal = 0.9 if needles >= 48 else None
                yield Row("three levels: deceptive found", where, fired, draws, low=goal)
            else:
                yield Row("three levels: deceptive cried", where, fired, draws, high=0.06)


def choosing(draws: int, seed: int) -> Iterator[Row]:
    """The best checkpoint's value beside its true one, in units of a checkpoint's standard error: naive, and ours."""
    for checkpoints, needles, spread in ((12, 24, 0.0), (12, 24, 0.5), (20, 48, 0.0), (20, 48, 1.0)):
        rng = np.random.default_rng([seed, checkpoints, int(10 * spread)])
        needle, error = np.repeat(np.arange(needles), 4), 0.3 / np.sqrt(needles)
        naive, ours, held = [], [], []
        for i in range(draws):
            true = spread * error * rng.normal(size=checkpoints)
            values = true[:, None] + 0.3 * rng.normal(size=(checkpoints, needles))[:, needle]
            found = choose_best(values, needle, splits=50, seed=i)
            naive.append((found.naive - true[found.checkpoint]) / error)
            ours.append((float(found.value.estimate) - float(found.chosen @ true)) / error)
            held.append(found.value.low <= float(found.chosen @ true) <= found.value.high)
        where = f"{checkpoints} checkpoints, {needles} needles, true spread {spread:g} errors"
        yield Row(
            "best checkpoint, naive: bias, errors", where, float(np.mean(naive)), draws, spread=float(np.std(naive))
        )
        yield Row("  ours: bias, errors", where, float(np.mean(ours)), draws, -0.15, 0.15, spread=float(np.std(ours)))
        yield Row("  our interval holds", where, float(np.mean(held)), draws, low=0.93)


PARTS: dict[str, tuple[Callable[[int, int], Iterator[Row]], int]] = {
    "paired": (paired, 200),
    "prediction": (prediction, 200),
    "lead": (lead, 60),
    "stopping": (stopping, 100),
    "verdict": (verdict, 200),
    "choosing": (choosing, 200),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    arguments.add_argument("--quick", action="store_true", help="a fifth of the draws")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    if odd := [part for part in options.parts if part not in PARTS]:
        arguments.error(f"no part is called {odd[0]}; there are {', '.join(PARTS)}")
    found = machine()
    say(one_line(found))
    say(f"{'what':38} {'world':62} {'share':>7} {'s.e.':>6} {'goal':>12}")
    rows = []
    for name in options.parts or PARTS:
        part, draws = PARTS[name]
        for row in part(draws // 5 if options.quick else draws, options.seed):
            goal = " to ".join(f"{end:.0%}" for end in (row.low, row.high) if end is not None)
            goal = f">= {goal}" if row.low is not None and row.high is None else goal
            goal = f"<= {goal}" if row.high is not None and row.low is None else goal
            say(f"{row.what:38} {row.world:62} {row.share:7.1%} {row.error:6.1%} {goal:>12} {row.met}")
            rows.append(asdict(row) | {"part": name, "error": row.error, "met": row.met})
    name = "-".join(["levels", *options.parts]) if options.parts else "levels"
    say(write_results(name, {"seed": options.seed, "rows": rows}, found).name)


if __name__ == "__main__":
    main()
