"""What pictures and page draw alike: colours, where scales end, ticks, and what the values are called."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ArgumentError

# Equal steps of OKLab lightness: equal differences in a score look equal, also without colour vision and in grey.
BLUES = ("#effbfb", "#a6e8f1", "#5ecfec", "#0cb1e5", "#058fd2", "#176ebb", "#2c4f95", "#2d3666", "#222234")
AMBERS = ("#fbf9ee", "#f4d9a2", "#f1b45f", "#e98d20", "#d56b0e", "#bd480b", "#993425", "#6e2b2d", "#3e2629")
INK, MUTED, LINE, ACCENT = "#1f2430", "#5b6472", "#c9ced6", "#d1495b"
LINES = ("#176ebb", "#d56b0e", "#228833", "#aa3377", "#222234", "#0cb1e5", "#998a00", "#ee6677")  # curves, in order
PALE = "#b4bcc8"  # curves in the background
# name of a value -> title, unit, True when more is better
VALUES = {
    "nll": ("NLL of the answer", "nats per token, lower is better", False),
    "nll_novel": ("NLL of answer tokens found only in the needle", "nats per token, lower is better", False),
    "nll_echo": ("NLL of answer tokens the question repeats", "nats per token, lower is better", False),
    "nll_first": ("NLL of the first token found only in the needle", "nats, lower is better", False),
    "exact_match": ("Answers predicted token by token", "share of probes, higher is better", True),
}


def known_value(value: str) -> tuple[str, str, bool]:
    if value not in VALUES:
        raise ArgumentError(f"value must be one of {', '.join(VALUES)}; got {value!r}")
    return VALUES[value]


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9)) * power)


def scale_end(values: np.ndarray) -> float:
    """Where a scale of scores ends: 1, unless every score is small or one is larger."""
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    return 1.0 if largest <= 0 or 0.5 <= largest <= 1 else round_up(largest)


def scale_of(cells: np.ndarray, value: str) -> float:
    """Where the colours of a grid end: 1 for a share, else a round number that the largest cell of all stays below."""
    finite = cells[np.isfinite(cells)]
    return 1.0 if VALUES[value][2] or not finite.size or finite.max() <= 0 else round_up(float(finite.max()))


def spaced_ticks(count: int, letter: str, steps: Sequence[int], most: int) -> tuple[list[int], list[str]]:
    step = next((step for step in steps if count <= step * most), steps[-1])
    places = list(range(0, count, step))
    return places, [f"{letter}{place}" for place in places]


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Places at least `gap` apart, inside [low, high] if there is room, as near to `wanted` (ascending) as can be.

    Least squares: subtracting i * gap turns the condition into "not falling", and neighbours that break it are pooled.
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(wanted):
        pools.append((place - index * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (right, m), (left, n) = pools.pop(), pools.pop()
            pools.append(((left * n + right * m) / (n + m), n + m))
    level = np.concatenate([np.full(size, mean) for mean, size in pools])
    return np.clip(level, low, max(low, high - (len(wanted) - 1) * gap)) + gap * np.arange(len(wanted))
