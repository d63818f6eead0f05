"""How often does the regression watch cry wolf in a whole run, and what does it notice?

    python -m benchmarks.regression [--runs 1000]

A made-up training run of 20 or of 100 measurements, seeded: 32 needles with one probe each (or 12 with four), 64 heads
of which 12 retrieve. A score counts distinct hits out of 12, so it is bounded and skewed. Behind it lie, on the logit
scale: what the head is, what it makes of this needle, and noise that drifts with the weights (first-order
autoregressive): of this head on this probe, of this needle for all heads and, in the worlds that "wander", of this head
on all needles. That last one no number of needles averages out, so it is what the margin is for.

False alarms: runs with one or more alarms although the heads never got worse, or by just the margin (the hardest
case of what is stated). Beside the watch stand the naive alarm (lower than at the best measurement so far, its ten best
heads, paired t test at 5 % every time) and the watch's parts left out one by one.
Power: runs in which a fall half-way through is noticed, at once and within five measurements.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from headscope.interp.analysis.drop_alarm import MARGIN, RATE, Watch

from .machine import machine, one_line, write_results
from .smollm2 import say

HEADS, RETRIEVING, TOKENS = 64, 12, 12
RHO = 0.8  # of the drift from one measurement to the next
Alarm = Callable[[np.ndarray, np.ndarray], "int | None"]  # scores [T, P, 1, H], needles [P] -> first alarm's index


def made_up_run(
    rng: np.random.Generator,
    measurements: int,
    *,
    needles: int = 32,
    probes_each: int = 1,
    kept: np.ndarray | None = None,
    growing: bool = False,
    wander: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [T, P, 1, H] and the needle of each probe [P].

    kept: [T], by what factor every true score is lower than it was; wander: sd of the drift that all needles share.
    """
    of_probe = np.repeat(np.arange(needles), probes_each)
    n = len(of_probe)
    head = np.full(HEADS, -5.0)
    head[:RETRIEVING] = rng.uniform(-1.5, 1.5, RETRIEVING)
    rise = -2.0 * np.exp(-np.arange(measurements) / (measurements / 8)) if growing else np.zeros(measurements)
    logit = (
        head
        + rise[:, None, None]
        + rng.normal(0, 0.8, (needles, HEADS))[of_probe]
        + drift(rng, measurements, (n, HEADS), 0.5)
        + drift(rng, measurements, (needles, 1), 0.2)[:, of_probe]
        + drift(rng, measurements, (1, HEADS), wander)
    )
    hits = np.rint(TOKENS / (1 + np.exp(-logit))).astype(int)
    if kept is not None:
        hits = rng.binomial(hits, kept[:, None, None])
    return (hits / TOKENS)[:, :, None], of_probe


def drift(rng: np.random.Generator, measurements: int, shape: tuple[int, ...], sd: float) -> np.ndarray:
    """[T, *shape]: stationary first-order autoregressive noise."""
    out = rng.normal(0, sd, (measurements, *shape))
    for t in range(1, measurements):
        out[t] = RHO * out[t - 1] + np.sqrt(1 - RHO**2) * out[t]
    return out


def watch(margin: float = MARGIN) -> Alarm:
    def first_alarm(scores: np.ndarray, needles: np.ndarray) -> int | None:
        watching = Watch(needles, planned=len(scores), rate=RATE, margin=margin)
        for t, now in enumerate(scores):
            found = watching.add(t, now)
            if found is not None and found.fell:
                return t
        return None

    return first_alarm


def same_needles(alpha: Callable[[int], float]) -> Alarm:
    """The best measurement so far, its heads and the test, all on the same needles."""

    def first_alarm(scores: np.ndarray, needles: np.ndarray) -> int | None:
        by_needle = np.stack([scores[:, needles == g, 0].mean(axis=1) for g in np.unique(needles)], axis=1)  # [T, G, H]
        means = by_needle.mean(axis=1)
        heights = np.sort(means, axis=1)[:, -10:].mean(axis=1)
        for t in range(1, len(scores)):
            best = int(heights[:t].argmax())
            heads = np.argsort(-means[best])[:10]
            lost = (by_needle[best] - by_needle[t])[:, heads].mean(axis=1)
            if stats.ttest_1samp(lost, 0, alternative="greater").pvalue <= alpha(len(scores)):
                return t
        return None

    return first_alarm


ALARMS: dict[str, Alarm] = {
    "watch": watch(),
    "watch, margin 0": watch(0.0),
    "one set of needles, rate divided": same_needles(lambda t: RATE / (t - 1)),
    "naive: 5 % each time": same_needles(lambda t: RATE),
}


def falls_to(factor: float, measurements: int, at: float = 0.5) -> np.ndarray:
    return np.where(np.arange(measurements) < at * measurements, 1.0, factor)


def false_alarms(runs: int) -> list[dict[str, Any]]:
    rows = []
    worlds: dict[str, dict[str, Any]] = {
        "steady": {},
        "steady, 12 needles x 4": {"needles": 12, "probes_each": 4},
        "grows, then steady": {"growing": True},
        "wanders": {"wander": 0.15},
        "falls by the margin": {"kept": 1 - MARGIN},
        "falls by the margin, 12 needles x 4": {"kept": 1 - MARGIN, "needles": 12, "probes_each": 4},
    }
    for measurements in (20, 100):
        for name, world in worlds.items():
            world = dict(world)
            if "kept" in world:  # early, so that nearly every test is one of the hardest case
                world["kept"] = falls_to(world["kept"], measurements, 0.15)
            alarms = {kind: 0 for kind in ALARMS if "kept" not in world or kind == "watch"}
            for seed in range(runs):
                scores, needles = made_up_run(np.random.default_rng([1, measurements, seed]), measurements, **world)
                for kind in alarms:
                    alarms[kind] += ALARMS[kind](scores, needles) is not None
            rates = {kind: n / runs for kind, n in alarms.items()}
            rows.append({"world": name, "measurements": measurements, "rates": rates})
            say(f"  {measurements:3}  {name:36}" + "  ".join(f"{kind} {rate:.3f}" for kind, rate in rates.items()))
    return rows


def power(runs: int) -> list[dict[str, Any]]:
    rows = []
    for measurements in (20, 100):
        for needles, each in ((32, 1), (12, 4)):
            for factor in (0.85, 0.8, 0.7, 0.5):
                kept, after = falls_to(factor, measurements), measurements // 2
                seen = []
                for seed in range(runs):
                    rng = np.random.default_rng([2, measurements, seed])
                    made = made_up_run(rng, measurements, needles=needles, probes_each=each, kept=kept, wander=0.1)
                    seen.append(ALARMS["watch"](*made))
                early = sum(t is not None and t < after for t in seen) / runs
                at_once, soon = (sum(t is not None and after <= t < after + n for t in seen) / runs for n in (1, 5))
                shape = f"{needles} needles x {each}"
                row = {"measurements": measurements, "probes": shape, "fall": 1 - factor, "at_once": at_once}
                rows.append({**row, "within_five": soon, "before_the_fall": early})
                say(f"  {measurements:3}  {shape}  fall of {1 - factor:.0%}: at once {at_once:.2f}, in five {soon:.2f}")
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    say(f"false alarms: share of {options.runs} runs with one or more; stated: {RATE}")
    wrong = false_alarms(options.runs)
    say("power")
    results = {"runs": options.runs, "rate": RATE, "margin": MARGIN, "false_alarms": wrong}
    say(write_results("regression", {**results, "power": power(max(options.runs // 4, 1))}, found).name)


if __name__ == "__main__":
    main()
