"""Pictures of a run say what the run says, take the axes they are given, and come out the same every time."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from full_disk import room_for
from headscope.interp.report import evolve
from headscope.interp.report.figures import (
    agreement,
    distance_interference,
    downstream,
    head_count,
    head_curves,
    head_map,
    head_strip,
    initial_heads,
    length_depth,
    log_curve,
    nll_curves,
    rank_flow,
    save_evolution_figures,
)
from headscope.interp.report.figures import evolution as evolution_figures
from headscope.interp.report.figures import scores as score_figures
from headscope.interp.report.page.plots import rank_flow as page_rank_flow
from headscope.interp.report.page.plots import trajectories as page_curves
from headscope.interp.report.page.sections import sections
from headscope.interp.results import NLL_CLASSES
from headscope.interp.store.results_file import StoreError, read_scores
from made_up_scores import make_scores
from made_up_trajectory import BORN, DYING, GROWING, STEADY, in_stages, make_trajectory


@pytest.fixture
def ax():
    return Figure(figsize=(9, 4.5), layout="constrained").add_subplot()


@pytest.fixture(scope="module")
def evolution():
    return evolve(make_trajectory(8))


@pytest.fixture
def with_scores(tmp_path):
    run = make_trajectory(8)
    path = tmp_path / "scores.csv"
    path.write_text("step,RULER $x$\n" + "\n".join(f"{step},{i}" for i, step in enumerate(run.steps)))
    return evolve(run, downstream=path)


def lines(ax) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), float) for line in ax.lines]


def has_line(ax, values) -> bool:
    return any(len(line) == len(values) and np.allclose(line, values, equal_nan=True) for line in lines(ax))


def test_the_curves_are_the_heads_with_their_names_and_crossings(ax, evolution):
    assert head_curves(evolution, ax) is ax
    for head in (GROWING, STEADY, BORN, DYING):
        assert has_line(ax, evolution.maps[:, *head])
    assert {"L2H1", "L3H4", "L4H0", "L1H5"} == {text.get_text() for text in ax.texts}
    marks = [m for m in ax.collections if isinstance(m, PathCollection) and len(m.get_offsets())]
    at = sorted(float(x) for mark in marks for x in mark.get_offsets()[:, 0])
    born = np.flatnonzero(evolution.maps[:, *BORN] > 0.1)[0]
    died = np.flatnonzero(evolution.maps[:, *DYING] <= 0.1)[0]
    np.testing.assert_allclose(at, sorted(evolution.x[[born, died]]))


def test_the_panel_is_drawn_as_it_is(evolution):
    panel = evolution.panel
    for draw, wanted in (
        (head_count, [panel.n_heads.estimate]),
        (initial_heads, [panel.initial_mean.estimate]),
        (agreement, [panel.overlap / panel.top, panel.spearman]),
        (rank_flow, [evolution.ranks[:, *GROWING], evolution.ranks[:, *DYING]]),
        (log_curve, [evolution.log_fit("nll").fitted[1:]]),
    ):
        ax = draw(evolution, Figure().add_subplot())
        assert all(has_line(ax, values) for values in wanted), draw.__name__


def test_maps_of_two_checkpoints_share_their_colours(evolution):
    images = [head_map(evolution, Figure().add_subplot(), checkpoint=c).images[0] for c in (0, -1)]
    assert images[0].get_clim() == images[1].get_clim()
    np.testing.assert_array_equal(images[0].get_array(), evolution.maps[0].T)
    strip = head_strip(evolution, Figure().add_subplot())
    np.testing.assert_allclose(
        strip.images[0].get_array()[-1], evolution.maps[:, *BORN], err_msg="born last, lowest row"
    )
    cells = [length_depth(evolution, Figure().add_subplot(), checkpoint=c) for c in (0, -1)]
    assert cells[0].images[0].get_clim() == cells[1].images[0].get_clim()
    assert "step 0" in cells[0].get_xlabel() and "step 3,500" in cells[1].get_xlabel()


def test_unobservable_heads_are_hatched(ax):
    run = make_trajectory(3)
    run.scores[:, :, 2] = np.nan
    head_map(evolve(run), ax)
    (hatched,) = [artist for artist in ax.collections if isinstance(artist, PolyCollection) and artist.get_hatch()]
    assert len(hatched.get_paths()) == 8 and "not observable" in ax.get_xlabel()


def test_downstream_scores_are_a_row_each(ax, with_scores, evolution):
    downstream(with_scores, ax)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 4 and names[0].startswith("RULER $x$: ")
    drawn = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn, [pair.correlation.pearson for pair in with_scores.correlations])
    empty = downstream(evolution, Figure().add_subplot())
    assert "No downstream scores" in empty.texts[0].get_text()


def test_every_picture_is_saved_and_comes_out_the_same(tmp_path, with_scores, monkeypatch):
    """In a few formats of a few pictures: drawing all of them twice takes long."""
    few = {"head_curves", "head_strip", "downstream"}
    every = evolution_figures._pictures(with_scores)
    assert few < set(every) and {"heads", "heads_first", "log_fit", "rank_flow"} < set(every)
    monkeypatch.setattr(evolution_figures, "_pictures", lambda evolution: {name: every[name] for name in few})
    first, second = (save_evolution_figures(with_scores, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [path.name for path in second]
    assert {path.name for path in first} == {f"{name}.{kind}" for name in few for kind in ("png", "svg", "pdf")}
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_few_checkpoints_give_fewer_pictures(tmp_path):
    """Those of two are drawn below."""
    paths = save_evolution_figures(make_trajectory(1, needles=3), tmp_path, formats=["png"])
    for names, curves in (
        ({path.stem for path in paths}, False),
        (evolution_figures._pictures(evolve(make_trajectory(2, needles=3))).keys(), True),
    ):
        assert "heads" in names and ("head_curves" in names) == curves
    with pytest.raises(ValueError, match="formats must be among png, svg, pdf; got bmp"):
        save_evolution_figures(make_trajectory(1), tmp_path / "new", formats=["bmp"])
    assert not (tmp_path / "new").exists()


def is_in(place: float, ends: np.ndarray) -> bool:
    return min(ends) - 1e-9 <= place <= max(ends) + 1e-9


STAGED = in_stages(make_trajectory(9), stage1=5, stage2=3, a_long_name_of_a_stage_that_is_cut=1)


@pytest.mark.parametrize("trajectory", [make_trajectory(2), make_trajectory(60), STAGED], ids=["2", "60", "stages"])
def test_no_text_overlaps_or_leaves_the_picture(tmp_path, trajectory):
    csv = tmp_path / "scores.csv"
    csv.write_text("step,RULER,LongBio (long names)\n" + "\n".join(f"{step},{step},1" for step in trajectory.steps))
    run = evolve(trajectory, downstream=csv)
    for name, (draw, size) in evolution_figures._pictures(run).items():
        figure = Figure(figsize=size, layout="constrained", dpi=100)
        with evolution_figures.house_style():
            draw(run, figure.add_subplot())
            figure.draw_without_rendering()
        boxes = []
        for ax in figure.axes:
            ticks = [(axis, tick) for axis in (ax.xaxis, ax.yaxis) for tick in axis.get_major_ticks()]
            seen = [tick.label1 for axis, tick in ticks if is_in(tick.get_loc(), axis.get_view_interval())]
            labels = [*seen, ax.xaxis.label, ax.yaxis.label] if ax.axison else []
            texts = [text for text in [*ax.texts, *labels, ax._left_title] if text.get_text() and text.get_visible()]
            boxes += [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in texts]
        boxes = [(text, box) for text, box in boxes if box.width > 0]
        for (a, box_a), (b, box_b) in combinations(boxes, 2):
            assert not box_a.overlaps(box_b), (name, a, b)
        for text, box in boxes:
            inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
            assert inside, (name, text)


def test_stages_have_a_border_and_their_names():
    run = evolve(STAGED)
    assert run.labels[4] == "stage1 step 2,000, 8.4B tokens" and run.step_names[5] == "stage2 step 500"
    assert run.x_title == "tokens seen (billions), stages added up"
    for draw in (head_curves, rank_flow, head_count, agreement, nll_curves, log_curve):
        ax = draw(run, Figure(figsize=(8, 4)).add_subplot())
        x = run.trajectory.tokens if draw is log_curve else run.x
        lines = [line.get_xdata() for line in ax.lines if line.get_linestyle() == ":"]
        assert lines == [[x[4]] * 2, [x[7]] * 2], draw
        assert {"stage1 | stage2", "stage2 | a_long_name_of_a_stage_t"} <= {text.get_text() for text in ax.texts}
    strip = head_strip(run)
    assert [text.get_text() for text in strip.texts][:2] == ["stage1", "stage2"]
    assert [label.get_text() for label in strip.get_xticklabels()][4:6] == ["2,000", "500"]
    page = page_curves(run)
    assert [shape.x0 for shape in page.layout.shapes if shape.line.dash == "dot"] == [run.x[4], run.x[7]]
    assert "stage1 | stage2" in [about.text for about in page.layout.annotations]
    close = evolve(in_stages(make_trajectory(60), one=30, two=1, three=29))
    assert [name for _, name, _ in close.border_names(close.x)] == ["one | two", ""]


def test_a_grid_of_distance_and_interference_leaves_empty_cells_open(ax, evolution):
    distance_interference(evolution, ax)
    run, cells = evolution.trajectory, ax.images[0].get_array()
    row = [label.get_text() for label in ax.get_yticklabels()].index("512")
    column = [label.get_text() for label in ax.get_xticklabels()].index("512")
    chosen = (run.probes["distance"] == 512) & (run.probes["interference"] == 512)
    np.testing.assert_allclose(cells[row, column], run.nll["nll_novel"][-1, chosen].mean(), rtol=1e-6)
    assert np.ma.getmaskarray(cells).sum() == 25 - 6 or np.isnan(np.ma.filled(cells, np.nan)).sum() == 25 - 6


def test_a_head_has_one_colour_in_all_pictures():
    run = make_trajectory(8)
    run.scores[3, :, 0, 0] = 0.95  # leads for a moment: among the curves, not among the ranks
    evolution = evolve(run)
    drawn = [Figure().add_subplot() for _ in range(2)]
    head_curves(evolution, drawn[0])
    rank_flow(evolution, drawn[1])
    colours = [{text.get_text(): text.get_color() for text in ax.texts} for ax in drawn]
    assert "L0H0" in colours[0] and "L0H0" not in colours[1] and len(colours[1]) > 1
    assert colours[1].items() <= colours[0].items()
    pages = [page_curves(evolution), page_rank_flow(evolution)]
    told = [{note.text: note.font.color for note in page.layout.annotations} for page in pages]
    assert told[1].items() <= told[0].items()


def test_heads_that_only_lead_get_colours_that_are_free(evolution):
    named = evolution.named(8)
    other = next((layer, head) for layer in range(6) for head in range(8) if (layer, head) not in named)
    pens = evolution.pens([named[1], other, named[0]])
    assert (pens[0], pens[2]) == (1, 0) and pens[1] == len(named)


def test_on_a_full_disk_no_half_picture_is_left(tmp_path, evolution):
    with room_for(3000), pytest.raises(StoreError, match="File too large"):
        save_evolution_figures(evolution, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gap", "depths", "rows"),
    [
        (True, (0.0, 0.25, 0.5, 1.0), ["0%", "25%", "50%", "100%"]),
        (False, (0.1, 0.9), ["10%", "90%"]),
        (True, tuple(np.linspace(0, 1, 40)), [f"{10 * tenth}-{10 * tenth + 10}%" for tenth in range(10)]),
    ],
    ids=["a cell without a probe", "few depths", "many depths"],
)
def test_one_file_has_one_grid(tmp_path, gap, depths, rows):
    """The picture of a checkpoint, that of a run and the page gather lengths and depths alike."""
    scores, path = make_scores(3, 4, 2, leading=(), lengths=(512, 1020, 1024), depths=depths), tmp_path / "run.h5"
    kept = np.ones(len(scores.probes["length"]), bool)
    if gap:  # as in nested grids: a short context does not reach the last needle
        kept = ~((scores.probes["length"] == 512) & (scores.probes["depth_nominal"] == 1.0))
    replace(
        scores,
        per_probe={name: values[kept] for name, values in scores.per_probe.items()},
        probes={name: values[kept] for name, values in scores.probes.items()},
        **{name: getattr(scores, name)[kept] for name in (*NLL_CLASSES, "exact_match")},
    ).save(path, checkpoint=5)
    run, one = evolve(path), score_figures.length_depth(read_scores(path), Figure().add_subplot(), value="nll")
    many = length_depth(run, Figure().add_subplot(), value="nll")
    for read in (lambda ax: ax.get_yticklabels(), lambda ax: ax.get_xticklabels()):
        assert [text.get_text() for text in read(one)] == [text.get_text() for text in read(many)]
    assert [text.get_text() for text in one.get_yticklabels()] == rows
    assert [text.get_text() for text in one.get_xticklabels()] == ["512", "1K"]
    np.testing.assert_allclose(one.images[0].get_array().filled(np.nan), many.images[0].get_array().filled(np.nan))
    assert one.images[0].get_clim() == many.images[0].get_clim()
    (page,) = [figure for part in sections(run) for figure in part.figures if figure.id == "cells-nll_novel"]
    assert list(page.plot.data[0].y) == rows and list(page.plot.data[0].x) == ["512", "1K"]
