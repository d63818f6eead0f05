"""How often does the regression watch cry wolf in a whole run, and what does it notice?

    python -m benchmarks.regression [--runs 1000] [--everything]

A made-up training run of 20 or of 100 measurements, seeded: 32 needles with one probe each (or 12 with four), 64 heads
of which 12 retrieve. A score counts distinct hits out of 12, so it is bounded and skewed. Behind it lie, on the logit
scale: what the head is, what it makes of this needle, and noise that drifts with the weights (first-order
autoregressive): of this head on this probe, of this needle for all heads and, in the worlds that "wander", of this head
on all needles. That last one no number of needles averages out, so it is what the margin is for.

False alarms: runs with one or more alarms although the heads never got worse, or by just the margin (the hardest
case of what is stated). Beside the watch stand the naive alarm (lower than at the best measurement so far, its ten best
heads, paired t test at 5 % every time) and the watch's parts left out one by one.
Power: runs in which a fall half-way through is noticed, at once and within five measurements.

With --everything: probes of four lengths, 24 needles with two probes a length, and all that the watch looks at then
(leading heads over all and at each length, longest over shortest, NLL at the shortest and over all). Alarms of any
kind, and by kind; what is noticed of a fall at one length or of an NLL that rises, beside the leading heads over all
probes, in the same watch and alone, as when nothing else is watched.
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


LENGTHS = np.array([1024, 2048, 4096, 8192])


def made_up_lengths(
    rng: np.random.Generator,
    measurements: int,
    *,
    kept: np.ndarray | None = None,
    risen: np.ndarray | None = None,
    wander: float = 0.0,
    needles: int = 24,
    each: int = 2,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Scores [T, P, 1, H], NLL [T, P], and the probes' columns; scores fade with length.

    kept: [T, 4], by what factor true scores are lower than they were at each length. risen: [T, 4], nats by which the
    true NLL is higher.
    """
    of_probe, length = np.repeat(np.arange(needles), 4 * each), np.tile(np.repeat(np.arange(4), each), needles)
    n = len(of_probe)
    head = np.full(HEADS, -5.0)
    head[:RETRIEVING] = rng.uniform(-1.5, 1.5, RETRIEVING)
    logit = (
        head
        - 0.4 * length[:, None]
        + rng.normal(0, 0.8, (needles, HEADS))[of_probe]
        + drift(rng, measurements, (n, HEADS), 0.5)
        + drift(rng, measurements, (needles, 1), 0.2)[:, of_probe]
        + drift(rng, measurements, (1, HEADS), wander)
    )
    hits = np.rint(TOKENS / (1 + np.exp(-logit))).astype(int)
    if kept is not None:
        hits = rng.binomial(hits, kept[:, length, None])
    log_nll = -1.5 + 0.15 * length + rng.normal(0, 0.8, needles)[of_probe] + drift(rng, measurements, (n,), 0.3)
    log_nll = log_nll + drift(rng, measurements, (needles,), 0.15)[:, of_probe]
    log_nll = log_nll + drift(
        rng, measurements, (1,), wander / 3
    )  # more, and it rises by more than the margin in truth
    nll = np.exp(log_nll)
    if risen is not None:
        nll = nll + risen[:, length]
    return (hits / TOKENS)[:, :, None], nll, {"needles": of_probe, "lengths": LENGTHS[length]}


def alarms_of(
    scores: np.ndarray, nll: np.ndarray, probes: dict[str, np.ndarray], margin: float = MARGIN
) -> dict[str, int]:
    """What is watched -> the measurement of its first alarm."""
    watching, first = Watch(**probes, planned=len(scores), margin=margin), {}
    for t in range(len(scores)):
        watching.add(t, scores[t], nll[t])
        for regression in watching.regressions:
            if regression.fell:
                first.setdefault(regression.what, t)
    return first


def at_lengths(where: tuple[int, ...], amount: float, otherwise: float, measurements: int, at: float) -> np.ndarray:
    """[T, 4]: `amount` at these lengths from a share `at` of the run on."""
    found = np.full((measurements, 4), otherwise)
    found[int(at * measurements) :, list(where)] = amount
    return found


def everything(runs: int) -> dict[str, Any]:
    margin_nats, everywhere = -np.log1p(-MARGIN), (0, 1, 2, 3)
    wrong, right = [], []
    for measurements, count in ((20, runs), (100, max(runs // 4, 1))):
        early = {"measurements": measurements, "at": 0.15}
        worlds: dict[str, dict[str, Any]] = {
            "steady": {},
            "steady, margin 0": {"margin": 0.0},
            "wanders": {"wander": 0.15},
            "all falls by the margin": {
                "kept": at_lengths(everywhere, 1 - MARGIN, 1.0, **early),
                "risen": at_lengths(everywhere, margin_nats, 0.0, **early),
            },
            "8K falls by the margin": {"kept": at_lengths((3,), 1 - MARGIN, 1.0, **early)},
        }
        for name, world in worlds.items():
            margin = world.pop("margin", MARGIN)
            found = [
                alarms_of(*made_up_lengths(np.random.default_rng([3, measurements, i]), measurements, **world), margin)
                for i in range(count)
            ]
            kinds = {
                what: n for what in dict.fromkeys(w for f in found for w in f) if (n := sum(what in f for f in found))
            }
            rate = sum(map(bool, found)) / count
            wrong.append({"world": name, "measurements": measurements, "runs": count, "any": rate, "kinds": kinds})
            say(f"  {measurements:3}  {name:28} any {rate:.3f} of {count}  {kinds}")
    measurements, count = 20, max(runs // 4, 1)
    half = {"measurements": measurements, "at": 0.5}
    cases: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
    for fall in (0.15, 0.2, 0.3):
        factor = 1 - fall
        cases[f"8K falls by {fall:.0%}"] = ("the leading heads at 8K", {"kept": at_lengths((3,), factor, 1.0, **half)})
        cases[f"all fall by {fall:.0%}"] = ("the leading heads", {"kept": at_lengths(everywhere, factor, 1.0, **half)})
    for rise in (0.2, 0.4):
        risen = {"risen": at_lengths((0,), rise, 0.0, **half)}
        cases[f"NLL at 1K rises by {rise} nats"] = ("the NLL of tokens that only the needle tells at 1K", risen)
    for name, (what, world) in cases.items():
        made = [made_up_lengths(np.random.default_rng([4, i]), measurements, wander=0.1, **world) for i in range(count)]
        found = [alarms_of(*each) for each in made]
        alone = [alarms_of(s, n, {"needles": p["needles"]}) for s, n, p in made]
        after = measurements // 2

        def noticed(firsts: list[dict[str, int]], what: str, after: int = after) -> float:
            return sum(after <= first.get(what, -1) < after + 5 for first in firsts) / len(firsts)

        row = {"case": name, "runs": count, "what": what, "noticed": noticed(found, what)}
        row |= {"overall": noticed(found, "the leading heads"), "overall_alone": noticed(alone, "the leading heads")}
        row["ratio"] = noticed(found, "the leading heads' score at 8K over that at 1K")
        row["before"] = sum(any(t < after for t in first.values()) for first in found) / count
        right.append(row)
        say(
            f"  {name:28} in five: {what} {row['noticed']:.2f}; leading heads {row['overall']:.2f}, alone "
            f"{row['overall_alone']:.2f}; 8K over 1K {row['ratio']:.2f}; before the fall {row['before']:.2f}"
        )
    return {"false_alarms": wrong, "power": right}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--everything", action="store_true", help="all that is watched, at four lengths")
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    if options.everything:
        say(f"everything watched; stated: {RATE}")
        results = {"runs": options.runs, "rate": RATE, "margin": MARGIN, **everything(options.runs)}
        say(write_results("regression-everything", results, found).name)
        return
    say(f"false alarms: share of {options.runs} runs with one or more; stated: {RATE}")
    wrong = false_alarms(options.runs)
    say("power")
    results = {"runs": options.runs, "rate": RATE, "margin": MARGIN, "false_alarms": wrong}
    say(write_results("regression", {**results, "power": power(max(options.runs // 4, 1))}, found).name)


if __name__ == "__main__":
    main()
