"""hs.plot: every figure is a function that draws on the axes it is given, and the page of names lists them."""

from __future__ import annotations

import re
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import headscope as hs
from made_ablations import make_ablation
from made_answers import make_answers
from made_up_scores import make_scores
from made_up_trajectory import make_trajectory
from tiny_models import build

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {name for name in hs.plot.__all__ if name.startswith("save_")}
FIGURES = sorted(set(hs.plot.__all__) - WRITERS - {"Evolution", "evolve", "overview", "three_levels"})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What figures are drawn of, by the name of their first parameter."""
    run = make_trajectory(6)
    path = tmp_path_factory.mktemp("scores") / "ruler.csv"
    path.write_text("step,ruler\n" + "\n".join(f"{step},{i}" for i, step in enumerate(run.steps)))
    profile = hs.copy_profile(build("llama", num_hidden_layers=2), np.tile(np.arange(3, 33), 3))
    evolution = replace(hs.plot.evolve(run, downstream=path), answers={5: make_answers(5)})
    found = {"agreement": hs.agree(make_scores()), "ablation": make_ablation()}
    found["comparison"] = hs.compare(make_scores(), make_scores())
    return {"scores": make_scores(), "evolution": evolution, "profile": profile, **found}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_on_the_axes_it_is_given(name: str, sources: dict[str, object]) -> None:
    draw = getattr(hs.plot, name)
    first, second = list(signature(draw).parameters.values())[:2]
    assert (second.name, second.default, second.kind) == ("ax", None, Parameter.POSITIONAL_OR_KEYWORD)
    for source in (sources["scores"], sources["evolution"]) if first.name == "source" else (sources[first.name],):
        ax = Figure(figsize=(8, 4), layout="constrained").add_subplot()
        assert draw(source, ax=ax) is ax
        assert ax.get_title(loc="left") and ax.has_data()


def test_one_name_draws_length_by_depth_of_scores_and_of_a_run(sources: dict[str, object]) -> None:
    scores, run = sources["scores"], sources["evolution"]
    first = hs.plot.length_depth(run, Figure().add_subplot(), value="exact_match", checkpoint=0)
    last = hs.plot.length_depth(run, Figure().add_subplot(), value="exact_match")
    assert not np.array_equal(first.images[0].get_array(), last.images[0].get_array())
    with pytest.raises(ValueError, match="got 'entropy'"):
        hs.plot.length_depth(scores, value="entropy")


def test_every_public_name_is_on_the_page_of_names() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:hs\.)?([\w.]+)", page))
    expected = {*hs.__all__, *(f"plot.{name}" for name in hs.plot.__all__), *(f"errors.{n}" for n in hs.errors.__all__)}
    assert expected - named - {"__version__"} == set()
