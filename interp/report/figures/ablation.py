"""Pictures of an ablation: what the leading heads do together, beside random others, and one by one beside their score.

ax = dose_response(ablation)                   # hs.Ablation.load("run.h5")
ax = head_effects(ablation)
save_ablation_figures(ablation, "figures")     # both as PNG and SVG, identical bytes for identical ablations
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...analysis import dose_response as doses_of
from ...analysis import head_effects as effects_of
from ..ablation_terminal import NAMES, taken
from ..palette import INK, LINES, MUTED
from .heads import nothing
from .style import axes_of, house_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...ablation import Ablation

CONTROL_NAMES = {"layer_matched": "random, same layers", "mass_matched": "random, same attention on the needle"}
NAMED = 6  # heads with the largest effects


def dose_response(ablation: Ablation, ax: Axes | None = None, *, measure: str | None = None) -> Axes:
    """A measure over the number of leading heads that are changed, with its 95 % interval over needles; as bands from
    the least to the most harmful, random sets of as many heads, with their means. Dashed: the model as it is.

    measure: one of `Ablation.measured`; by default the NLL of what only the needle has, where it was measured.
    """
    measure = measure or taken(ablation)[0]
    doses = doses_of(ablation, measure)
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if not doses:
            return nothing(ax, "No leading heads were changed.")
        before = float(np.nanmean(ablation.measured[measure][0].astype(np.float64)))
        k = np.arange(len(doses))
        for number, (kind, name) in enumerate(CONTROL_NAMES.items(), 1):
            held = [i for i, dose in enumerate(doses) if kind in dose.controls]
            if held:
                spread = np.array([[f(doses[i].controls[kind]) for f in (np.min, np.mean, np.max)] for i in held])
                low, mean, high = before + spread.T
                ax.fill_between(k[held], low, high, color=LINES[number + 1], alpha=0.16, linewidth=0)
                ax.plot(k[held], mean, color=LINES[number + 1], marker="s^"[number - 1], markersize=4, label=name)
        effect = np.array([[d.effect.estimate, d.effect.low, d.effect.high] for d in doses]) + before
        ax.plot(k, effect[:, 0], color=LINES[0], marker="o", markersize=5, linewidth=1.8, label="the leading ones")
        if np.isfinite(effect[:, 1:]).all():
            away = [effect[:, 0] - effect[:, 1], effect[:, 2] - effect[:, 0]]
            ax.errorbar(k, effect[:, 0], yerr=away, color=LINES[0], capsize=3, linestyle="none")
        ax.axhline(before, color=INK, linewidth=1, linestyle="--")
        ax.set_xticks(k, [str(dose.k) for dose in doses])
        unit = {"head": "heads", "kv_group": "groups of heads with one key-value head"}[ablation.unit]
        ax.set_xlabel(f"{unit} changed ({ablation.mode.replace('_', ' ')}, rows of {', '.join(ablation.rows)})")
        ax.set_ylabel(NAMES[measure])
        ax.set_title("Do the leading heads matter?")
        _open(ax)
        ax.legend(frameon=False, fontsize=8)
    return ax


def head_effects(ablation: Ablation, ax: Axes | None = None, *, measure: str | None = None) -> Axes:
    """What changing each leading head alone does (upwards, with its 95 % interval) beside its retrieval score."""
    measure = measure or taken(ablation)[0]
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if not ablation.of("one"):
            return nothing(ax, "No head was changed by itself.")
        found = effects_of(ablation, measure)
        known = np.isfinite(found.score)
        x = found.score if known.all() else np.arange(1, len(found.heads) + 1)
        y, low, high = (
            np.asarray(side, float) for side in (found.effect.estimate, found.effect.low, found.effect.high)
        )
        if np.isfinite(low).all():
            ax.errorbar(x, y, yerr=[y - low, high - y], color=MUTED, linewidth=0.8, linestyle="none", zorder=1)
        ax.scatter(x, y, s=26, color=LINES[0], zorder=2)
        for i in np.argsort(-np.abs(y), kind="stable")[:NAMED]:
            name = found.heads[i].split(" ")[0] + (" ..." if " " in found.heads[i] else "")
            ax.annotate(name, (x[i], y[i]), (4, 3), textcoords="offset points", fontsize=7.5)
        ax.axhline(0.0, color=INK, linewidth=1, linestyle="--")
        ax.set_xlabel("retrieval score on the needles that chose it" if known.all() else "rank")
        ax.set_ylabel(f"change in {NAMES[measure]}")
        ax.set_title("One head at a time")
        _open(ax)
        ax.margins(x=0.08)
    return ax


def save_ablation_figures(ablation: Ablation, folder: str | PathLike[str]) -> list[Path]:
    """Write both pictures into `folder` (made when missing) as PNG and SVG, and return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with house_style():
        from matplotlib.figure import Figure

        for name, draw in (("dose_response", dose_response), ("head_effects", head_effects)):
            figure = Figure(figsize=(5.4, 3.4), layout="constrained")
            draw(ablation, figure.add_subplot())
            paths += [save_picture(figure, folder / f"{name}.{format}") for format in ("png", "svg")]
    return paths


def _open(ax: Axes) -> None:
    ax.grid(axis="y", color="#e8ebef", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
