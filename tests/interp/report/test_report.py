"""What the report says, without a browser: its words, its data, its size, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from headscope.interp.analysis.bootstrap import MIN_NEEDLES
from headscope.interp.analysis.downstream import DownstreamError
from headscope.interp.report.evolution import evolve, human_count, run_name
from headscope.interp.report.figures import evolution as evolution_figures
from headscope.interp.report.page.html import render, write_report
from headscope.interp.report.page.sections import cards, sections, tiles
from headscope.interp.store.results_file import StoreError
from made_up_scores import make_scores
from made_up_trajectory import BORN, DYING, GROWING, STEADY, make_trajectory


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def unpacked(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


@pytest.fixture(scope="module")
def run():
    return make_trajectory(8)


@pytest.fixture
def file(tmp_path) -> Path:
    """Three checkpoints scored on other days, with other weights."""
    path = tmp_path / "run.h5"
    for step, score in ((0, 0.05), (500, 0.3), (1500, 0.8)):
        scores = make_scores(leading=((18, 6, score), (17, 3, 0.5)))
        told = {"sharing": "grafted", "weights_sha256": f"safetensors:{step:08d}", "torch": "2.13.0", "device": "cpu"}
        replace(scores, provenance=told).save(path, checkpoint=step, tokens_seen=step * 4e6)
    return path


def test_the_data_of_the_page_are_the_scores(run):
    data = data_of(render(evolve(run)))
    shape = (8, 8, 6)  # checkpoint, head, layer
    np.testing.assert_array_equal(unpacked(data["scores"], shape), run.maps.transpose(0, 2, 1))
    ranks = unpacked(data["ranks"], shape)
    assert ranks[-1].transpose()[GROWING] == 1 and ranks[0].transpose()[STEADY] == 1
    assert data["steps"] == run.steps.tolist()
    grid = data["grids"]["cells-exact_match"]
    cell = (run.probes["length"] == 4096) & (run.probes["depth_nominal"] == 0.5)
    values = unpacked(grid["data"], (8, *grid["shape"]))
    np.testing.assert_allclose(values[:, 1, 1], run.exact_match[:, cell].mean(axis=1), rtol=1e-6)


def test_standard_errors_are_those_of_the_file(file):
    from headscope.interp.store.results_file import read_scores

    data = data_of(render(evolve(file)))
    stderrs = unpacked(data["stderrs"], (3, 9, 30))
    np.testing.assert_allclose(stderrs[1].transpose(), read_scores(file, 500).stderr(), rtol=1e-6)


def test_verdicts_come_first_with_their_numbers(run):
    page = render(evolve(run))
    for verdict in evolve(run).verdicts:
        assert verdict.question in page
    assert page.index('class="verdicts"') < page.index("<section")
    numbers = {name: value for card in cards(evolve(run)) for name, value in card.numbers}
    assert numbers["needles"] == "12" and numbers["last"] == "3"
    assert all(value for card in cards(evolve(run)) for _, value in card.numbers)


def test_headings_say_what_is_seen(run):
    found = {section.id: section for section in sections(evolve(run))}
    assert found["map"].heading == "3 of 48 heads score above 0.1 (chance unknown) at step 3,500"
    assert found["leading"].heading.startswith("L2H1 leads at the end")
    assert found["leading"].words.startswith("1 birth and 1 death")
    assert found["growth"].heading == "3 retrieval heads at the first checkpoint, 3 at the last"
    changed = [row[0] for row in found["changes"].tables[0].rows]
    assert changed == [f"L{layer}H{head}" for layer, head in (GROWING, BORN, DYING)]
    order = found["order"].tables[0].rows
    assert len(order) == 7 and order[0][2].endswith("of 24")  # half the heads


def test_provenance_is_told_once_where_it_is_the_same(file):
    (whole, each) = sections(evolve(file))[-1].tables
    assert ["device", "cpu"] in whole.rows and ["torch", "2.13.0"] in whole.rows
    assert ["sharing", "grafted"] in whole.rows and ["hash of the probe set", "ab" * 16] in whole.rows
    column = [name.name for name in each.columns].index("weights")
    assert [row[column] for row in each.rows] == [f"safetensors:{step:08d}" for step in (0, 500, 1500)]
    assert [row[:2] for row in each.rows] == [
        ["step 0", "0"],
        ["step 500", "2,000,000,000"],
        ["step 1,500", "6,000,000,000"],
    ]


def test_sharing_is_what_was_done_not_what_was_asked_for(tmp_path):
    scores = make_scores()
    half = {**scores.probes, "grafted": np.arange(scores.n_probes) % 2}
    path = tmp_path / "run.h5"
    replace(scores, probes=half, provenance={"sharing": "auto"}).save(path)
    whole = sections(evolve(path))[-1].tables[0]
    n = int(half["grafted"].sum())
    assert ["sharing", f"grafted for {n} of {scores.n_probes} probes"] in whole.rows


def test_with_few_needles_there_is_no_interval_and_it_says_so(file):
    found = {section.id: section for section in sections(evolve(file))}
    assert f"at least {MIN_NEEDLES} needles, and these probes have 2" in found["growth"].words
    assert found["fit"].heading == "No fit of NLL over log tokens"


def test_without_tokens_the_axis_is_the_step(run):
    evolution = evolve(replace(run, tokens=np.full(8, np.nan)))
    assert evolution.x_title == "optimizer steps" and evolution.x.tolist() == run.steps.tolist()
    assert evolution.labels[3] == "step 1,500"
    assert evolve(run).x_title == "tokens seen (billions)" and evolve(run).labels[3] == "step 1,500, 6.3B tokens"
    assert [human_count(n) for n in (950.0, 1.5e6, 8.4e9, 2e13)] == ["950", "1.5M", "8.4B", "20T"]


def test_nothing_of_a_file_ends_the_script(run):
    nasty = "</script><script>alert(1)</script>"
    page = render(evolve(replace(run, about={**run.about, "model_id": nasty, "probe_set_name": nasty})))
    assert nasty not in page and page.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 3


def test_nothing_of_a_file_is_obeyed_or_unseen_in_the_page(run):
    nasty = "\x1b]0;a\x07\u202eb\u200bc\x9bd\u2028e"
    page = render(evolve(replace(run, about={**run.about, "model_id": nasty, "probe_set_name": nasty})))
    outside_plotly = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not set(nasty) - set("]0;abcde") & set(outside_plotly)
    title = re.search("<title>(.*?)</title>", page)
    assert title and r"\x1b]0;a\x07\u202eb\u200bc\x9bd\u2028e" in title[1]


def test_a_hundred_checkpoints_of_a_thousand_heads_stay_small():
    run = make_trajectory(100, layers=32, heads=32, needles=2, lengths=(1024,), depths=(0.5,))
    bare = len(render(evolve(make_trajectory(2))))
    assert len(render(evolve(run))) - bare < 2.5e6  # 100 x 1024 x 3 numbers of four bytes are 1.6 MB in base64


def test_it_is_written_whole_or_not_at_all(run, file, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("older")
    (tmp_path / "bad.csv").write_text("RULER\n1\n")
    with pytest.raises(DownstreamError, match="column named step or tokens"):
        write_report(file, page, downstream=tmp_path / "bad.csv")
    with pytest.raises(StoreError, match="does not exist"):
        write_report(tmp_path / "none.h5", page)
    assert page.read_text() == "older"
    with pytest.raises(StoreError, match="folder"):
        write_report(run, tmp_path / "none" / "report.html")
    write_report(file, page)
    assert page.read_text(encoding="utf-8") == render(evolve(file))
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


NOTHING = {"scores": "never observable", "exact_match": "matches unknown", "nll_novel": "no token of the needle's own"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [*NOTHING, "all but the first", "every score is zero", "one probe"])
def test_what_is_missing_leaves_a_page_and_pictures(missing):
    run = make_trajectory(3)
    if missing == "nll_novel":
        run = replace(run, nll={**run.nll, missing: np.full_like(run.nll[missing], np.nan)})
    elif missing in NOTHING:
        run = replace(run, **{missing: np.full_like(getattr(run, missing), np.nan)})
    elif missing == "all but the first":
        run.scores[1:] = np.nan
    elif missing == "every score is zero":
        run = replace(run, scores=np.zeros_like(run.scores))
    else:
        run = make_trajectory(3, needles=1, lengths=(512,), depths=(0.5,))
    page = render(evolve(run))
    assert "retrieval head" in page and ">nan" not in page.lower()
    for draw, size in evolution_figures._pictures(evolve(run)).values():
        ax = draw(evolve(run), Figure(figsize=size).add_subplot())
        assert ax.has_data() or ax.texts[0].get_text().endswith("."), (
            "a picture, or a sentence that says why there is none"
        )


def test_checkpoints_with_names_of_their_own_are_the_first_to_the_last(tmp_path, file):
    path = tmp_path / "folders.h5"
    for step in (100, 200, 300):
        make_scores(model_id=f"/home/me/run/checkpoint-{step}").save(path, checkpoint=step)
    assert run_name(evolve(path)) == "checkpoint-100 to checkpoint-300"
    assert run_name(evolve(file)) == "org/model"


def with_chance(run, mean=0.2, sd=0.1):
    told = {"chance": np.full(run.scores.shape[1], mean), "chance_sd": np.full(run.scores.shape[1], sd)}
    return replace(run, probes={**run.probes, **told})


def test_chance_stands_beside_every_count(run):
    found = evolve(with_chance(run))
    (level,) = set(found.levels.ravel().tolist())
    assert 0.25 < level < 0.45
    words = f"chance (level {level:.2f} with 12 needles)"
    shown = {section.id: section for section in sections(found)}
    assert shown["map"].heading == f"3 of 48 heads score above {words} at step 3,500"
    assert "random needle positions scores 0.20" in shown["map"].words
    assert "By the paper's plain count, above 0.1: 3." in shown["map"].words
    assert words in shown["leading"].words and words in shown["map"].figures[0].unit
    assert shown["growth"].heading == "2 retrieval heads at the first checkpoint, 3 at the last"
    assert any("By the paper's plain count, above 0.1: 3" in tile.detail for tile in tiles(found))
    assert all(words in label for label in found.slider_labels)
    data = data_of(render(found))
    np.testing.assert_array_equal(unpacked(data["levels"], (1, 8, 6)), np.float32(level))
    dashed = [shape for shape in data["figures"]["curves"]["layout"]["shapes"] if shape["line"]["dash"] == "dash"]
    assert [shape["y0"] for shape in dashed] == pytest.approx([level])
    assert "chance unknown" not in render(found)


def test_levels_are_packed_by_checkpoint_where_they_differ(run):
    scores = run.scores.copy()
    scores[:4, 6:, 2] = np.nan  # layer 2 sees few probes at first
    found = evolve(with_chance(replace(run, scores=scores)))
    levels = unpacked(data_of(render(found))["levels"], (8, 8, 6))
    np.testing.assert_array_equal(levels, found.levels.transpose(0, 2, 1))
    assert (levels[0, :, 2] > levels[-1, :, 2]).all()
    assert " to " in found.above
