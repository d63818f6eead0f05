"""The pictures say what the scores say, stay legible at every shape, and come out the same every time."""

from dataclasses import replace
from io import StringIO
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from headscope.interp.lengths import LengthError, group_lengths, human_length, parse_length
from headscope.interp.report import palette
from headscope.interp.report.figures.scores import head_heatmap, length_depth, overview, save_figures, top_heads
from headscope.interp.report.terminal import summary
from made_up_scores import SMOLLM2, make_scores


@pytest.fixture
def ax():
    return Figure(figsize=(10, 4), layout="constrained").add_subplot()


def ringed(ax) -> set[tuple[int, int]]:
    rings = [artist for artist in ax.collections if isinstance(artist, PathCollection)]
    return {(int(x), int(y)) for ring in rings for x, y in ring.get_offsets()}


def names(ax) -> list[str]:
    return sorted(name for text in ax.texts for name in text.get_text().split("\n"))


def test_the_heatmap_shows_the_scores_and_marks_the_heads_above_the_threshold(ax):
    scores = make_scores()
    assert head_heatmap(scores, ax) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), scores.retrieval.T)
    assert ax.images[0].get_clim() == (0, 1)
    assert ringed(ax) == {(layer, head) for layer, head, _ in SMOLLM2}
    assert names(ax) == sorted(f"L{layer}H{head}" for layer, head, _ in SMOLLM2)
    assert ax.get_title(loc="left") == "7 of 270 heads score above 0.1 (chance unknown)"


def test_small_scores_get_a_smaller_scale_that_says_so(ax):
    small = tuple((layer, head, score / 20) for layer, head, score in SMOLLM2)
    scores = make_scores(leading=small)
    head_heatmap(scores, ax, k=3)
    top = ax.images[0].get_clim()[1]
    assert scores.retrieval.max() <= top < 2 * scores.retrieval.max()
    assert any(f"colours end at {top:g}" in other.get_ylabel() for other in ax.figure.axes)
    assert ringed(ax) == {(head.layer, head.head) for head in scores.top(3)}, "none above 0.1: the leading ones"


def test_unobservable_heads_are_hatched_and_explained(ax):
    head_heatmap(make_scores(34, 8, 4, leading=((5, 1, 0.6), (11, 4, 0.8)), seen_every=6), ax)
    hatched = [artist for artist in ax.collections if isinstance(artist, PolyCollection) and artist.get_hatch()]
    centres = {
        (round(path.vertices[:4, 0].mean()), round(path.vertices[:4, 1].mean())) for path in hatched[0].get_paths()
    }
    assert centres == {(layer, head) for layer in range(34) if layer % 6 != 5 for head in range(8)}
    assert "not observable" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("layers", "heads", "leading"),
    [
        (12, 12, ((5, 1, 0.6), (6, 9, 0.4))),
        (30, 9, SMOLLM2),
        (80, 64, tuple((layer, layer % 64, 0.9) for layer in range(40, 50))),
        (80, 64, tuple((layer, layer % 64, 0.9) for layer in (0, 1, 2, 76, 77, 78, 79))),
        (96, 96, tuple((95, head, 0.9) for head in range(5))),
    ],
)
def test_no_text_overlaps_or_leaves_the_picture(layers, heads, leading):
    figure = overview(make_scores(layers, heads, heads, leading=leading), Figure(dpi=100))
    figure.draw_without_rendering()
    page, boxes = figure.bbox, []
    for ax in figure.axes:
        labels = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label] if ax.axison else []
        texts = [text for text in [*ax.texts, *labels, ax._left_title] if text.get_text() and text.get_visible()]
        # Of an annotation the words count, not its line to the column.
        boxes += [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in texts]
    for (a, box_a), (b, box_b) in combinations(boxes, 2):
        assert not box_a.overlaps(box_b), (a, b)
    for text, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text


def test_length_depth_is_the_mean_over_needles(ax):
    scores = make_scores(lengths=(512, 1024, 4096), depths=(0.0, 0.25, 0.5, 1.0), needles=3)
    length_depth(scores, ax, value="nll")
    wanted = [
        [
            scores.nll[(scores.probes["length"] == length) & (scores.probes["depth_nominal"] == depth)].mean()
            for length in (512, 1024, 4096)
        ]
        for depth in (0.0, 0.25, 0.5, 1.0)
    ]
    np.testing.assert_allclose(ax.images[0].get_array(), wanted, rtol=1e-6)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["512", "1K", "4K"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0%", "25%", "50%", "100%"]
    assert ax.images[0].origin == "upper", "the start of the context is at the top"
    assert [text.get_text() for text in ax.texts] == [f"{cell:.2f}" for row in wanted for cell in row]
    assert "3 probes a cell" in ax.get_xlabel()


def test_missing_values_are_left_out_of_the_mean(ax):
    scores = make_scores(lengths=(512,), depths=(0.0, 1.0), needles=2)
    scores.nll_novel[[0, 2, 3]] = np.nan
    length_depth(scores, ax)
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), [[scores.nll_novel[1]], [np.nan]], rtol=1e-6)
    assert len(ax.texts) == 1


def test_probes_that_are_no_grid_are_gathered_into_tenths_of_the_context(ax):
    scores = make_scores(lengths=(512,), depths=tuple(np.linspace(0, 1, 51)), needles=1)
    length_depth(scores, ax, value="exact_match")
    tenth = np.minimum((scores.probes["depth_nominal"] * 10).astype(int), 9)
    wanted = [[scores.exact_match[tenth == i].mean()] for i in range(10)]
    np.testing.assert_allclose(ax.images[0].get_array(), wanted)
    assert ax.get_yticklabels()[9].get_text() == "90-100%"


def test_unknown_values_and_formats_are_refused(ax, tmp_path):
    with pytest.raises(ValueError, match=r"value must be one of nll, .*got 'ppl'"):
        length_depth(make_scores(), ax, value="ppl")
    with pytest.raises(ValueError, match="formats must be among png, svg, pdf; got bmp"):
        save_figures(make_scores(), tmp_path / "new", formats=["bmp"])
    assert not (tmp_path / "new").exists()


def test_numbers_in_cells_stand_out_from_their_cell(ax):
    def luminance(colour) -> float:
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    scores = make_scores(lengths=tuple(2**i for i in range(6, 12)), depths=tuple(np.linspace(0, 1, 11)))
    for value in ("nll_novel", "exact_match"):
        ax.clear()
        length_depth(scores, ax, value=value)
        image = ax.images[0]
        for text in ax.texts:
            column, row = map(int, text.get_position())
            pair = sorted([luminance(text.get_color()), luminance(image.to_rgba(image.get_array())[row, column, :3])])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) > 3.5, text.get_text()


@pytest.mark.parametrize("stops", [palette.BLUES, palette.AMBERS])
def test_colours_darken_in_even_steps(stops):
    """Lightness in OKLab (Ottosson 2020), from its definition."""
    rgb = np.array([to_rgb(stop) for stop in stops])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    lightness = np.cbrt(linear @ np.array(to_lms).T) @ [0.2104542553, 0.7936177850, -0.0040720468]
    steps = -np.diff(lightness)
    assert steps.min() > 0.07
    assert steps.max() - steps.min() < 0.01


def test_bars_are_the_scores_with_needle_clustered_errors(ax):
    scores = make_scores(needles=4)
    top_heads(scores, ax, k=5)
    heads = scores.top(5)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([head.score for head in heads])
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(head) for head in heads]
    low_high = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    assert (low_high[:, 1] - low_high[:, 0]) / 2 == pytest.approx([head.stderr for head in heads])
    assert "4 needles" in ax.get_xlabel()


def test_wide_error_bars_and_their_numbers_stay_inside(ax):
    scores = make_scores(leading=((1, 1, 0.02),), needles=2)
    scores.per_probe["retrieval"][::2] *= 2.0
    top_heads(scores, ax)
    ax.figure.draw_without_rendering()
    for segment in ax.collections[0].get_segments():
        assert segment[:, 0].max() < ax.get_xlim()[1]
    for text in ax.texts:
        assert Text.get_window_extent(text).x1 <= ax.figure.bbox.x1


def test_one_needle_gives_no_error_bars(ax):
    scores = make_scores(needles=1)
    top_heads(scores, ax)
    assert "no standard error" in ax.get_xlabel()
    assert not any("±" in text.get_text() for text in ax.texts)


def test_the_overview_is_titled_with_what_was_run():
    header = " ".join(text.get_text() for text in overview(make_scores(), Figure()).axes[0].texts)
    for part in (
        "org/model",
        "grid",
        "18 probes",
        "2 needles",
        "512 to 4K",
        "30 layers x 9 heads (3 KV)",
        "sharing: grafted",
    ):
        assert part in header


def test_saved_figures_are_the_same_bytes_every_time(tmp_path):
    scores = make_scores(model_id="a $weird$ \\name_1")
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None}):
        first = save_figures(scores, tmp_path / "a" / "deep")
    second = save_figures(scores, tmp_path / "b")
    assert [path.name for path in second] == [
        f"{name}.{end}" for name in ("overview", "heads", "length_depth", "top_heads") for end in ("png", "svg")
    ]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    for path in second:
        if path.suffix == ".svg":
            ElementTree.parse(path)
            assert "<dc:date>" not in path.read_text()
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_drawing_leaves_the_users_settings_alone():
    before = dict(matplotlib.rcParams)
    overview(make_scores(), Figure())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("width", [30, 40, 60, 120])
def test_the_terminal_summary_fits_and_names_the_heads(width):
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(summary(make_scores(80, 64, 8, leading=((33, 12, 0.91), (70, 60, 0.3)))))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "L33H12" in text and "L70H60" in text
    assert "2 of 5120 heads are retrieval heads" in text


def test_the_terminal_summary_tells_kinds_of_needles_apart_where_there_are_several():
    scores = make_scores()
    assert "keyvalue" not in printed(scores)
    number = np.arange(scores.n_probes) % 2 == 0
    columns = {"family": np.where(number, "keyvalue", "needle"), "variant": np.where(number, "number", "sentence")}
    mixed = replace(scores, exact_match=number, probes={**scores.probes, **columns})
    lines = printed(mixed).split()
    assert lines[lines.index("keyvalue/number") :][3:5] == ["100%", "9"]
    assert lines[lines.index("needle/sentence") :][3:5] == ["0%", "9"]


def test_the_terminal_summary_survives_an_ascii_terminal(tmp_path):
    with (tmp_path / "out.txt").open("w", encoding="ascii") as file:
        Console(file=file, width=80).print(summary(make_scores(seen_every=2, leading=((17, 3, 0.8),))))
    text = (tmp_path / "out.txt").read_text()
    assert "L17H3" in text and "####" in text
    assert "135 could not be observed" in " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "tokens"), [("1k", 1024), ("1024", 1024), ("2K", 2048), ("0.5k", 512), (" 1M ", 2**20), (".5k", 512)]
)
def test_lengths_are_read_as_people_write_them(text, tokens):
    assert parse_length(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "1kb", "-1k", "0", "0.3k", "1e3", "12.5", "four"])
def test_bad_lengths_say_what_is_accepted(text):
    with pytest.raises(LengthError, match=r"is no length; write whole tokens as 1024, 1k"):
        parse_length(text)


@pytest.mark.parametrize("tokens", [1, 511, 512, 1000, 1024, 1536, 4096, 131072, 262144])
def test_a_written_length_reads_back(tokens):
    assert parse_length(human_length(tokens)) == tokens


def test_lengths_a_few_tokens_short_count_as_what_was_asked_for():
    labels, group = group_lengths(np.array([1024, 2040, 1019, 2048, 1016, 1015]))
    assert labels == ["1015", "1K", "2K"]
    assert group.tolist() == [1, 2, 1, 2, 1, 0]


def test_many_lengths_are_gathered_by_doublings():
    labels, group = group_lengths(np.arange(1000, 3000, 100))
    assert labels == ["512-1K", "1K-2K", "2K-4K"]
    assert [group.tolist().count(i) for i in range(3)] == [1, 10, 9]


def printed(scores) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(summary(scores))
    return console.export_text()


def with_chance(mean: float = 0.05, sd: float = 0.048):
    scores = make_scores()
    told = {"chance": np.full(scores.n_probes, mean), "chance_sd": np.full(scores.n_probes, sd)}
    return replace(scores, probes={**scores.probes, **told})


def test_heads_are_counted_above_chance_and_the_level_is_drawn(ax):
    scores = with_chance()
    level = float(np.nanmax(scores.counting_level()))
    assert 0.22 < level < 0.26
    head_heatmap(scores, ax)
    assert (
        ax.get_title(loc="left")
        == f"6 of 270 heads score above chance (level {level:.2f} with 2 needles); above 0.1: 7"
    )
    assert ringed(ax) == {(layer, head) for layer, head, score in SMOLLM2 if score > 0.3}
    bars = top_heads(scores, Figure().add_subplot())
    assert [line.get_xdata()[0] for line in bars.lines if line.get_linestyle() == "--"] == pytest.approx([level])
    assert bars.get_xlabel().endswith(f"dashed: heads count above chance (level {level:.2f} with 2 needles)")


def test_the_summary_tells_chance_and_the_papers_count():
    shown = printed(with_chance())
    assert "6 of 270 heads are retrieval heads: mean score above chance (level 0.2" in shown
    assert "with 2 needles); by the paper's plain count, above 0.1: 7" in shown
    assert "above 0.1 (chance unknown)" in printed(make_scores())
