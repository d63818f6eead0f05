"""The report as a person sees it: a real Chromium draws it, moves its slider, and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chromium import Chromium
from headscope.interp.analysis.trajectory import Trajectory
from headscope.interp.report.page.html import write_report
from made_up_trajectory import make_trajectory

pytestmark = pytest.mark.long
NASTY = "<script>document.body.dataset.hacked = 1</script>"
IMAGE = "</script><img src=x onerror='document.body.dataset.hacked = 2'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def run() -> Trajectory:
    """Eight checkpoints; layer 5 never sees a needle."""
    trajectory = make_trajectory()
    trajectory.scores[:, :, 5] = np.nan
    return trajectory


@pytest.fixture(scope="module")
def page(run: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(run, path)
    return path


def drawn(browser: Chromium) -> dict[str, int]:
    """Figures of the page and how many marks each shows: cells of a map are one image."""
    marks = "p.querySelectorAll('.trace, .hm, .scatterlayer .point, .heatmaplayer image').length"
    return json.loads(
        browser.evaluate(
            f"JSON.stringify(Object.fromEntries([...document.querySelectorAll('.plot')].map(p => [p.id, {marks}])))"
        )
    )


def shown(browser: Chromium) -> np.ndarray:
    """The map of heads as plotly holds it, [layer, head]; NaN where nothing is drawn."""
    cells = json.loads(
        browser.evaluate(
            "JSON.stringify(Array.from(document.getElementById('heads').data[0].z, row => "
            "Array.from(row, cell => Number.isNaN(cell) ? null : cell)))"
        )
    )
    return np.array(cells, dtype=float).T


def no_complaint(browser: Chromium, page: Path) -> None:
    assert browser.console == []
    # Plotly paints maps into data: addresses of its own; everything else would be the network or the disk.
    assert [address for address in browser.requests if not address.startswith("data:")] == [page.as_uri()]


def test_the_slider_moves_the_map_and_the_grids(browser, run, page):
    browser.open(page)
    marks = drawn(browser)
    assert {"heads", "curves", "flow", "count", "initial", "agreement", "nll", "match"} <= set(marks)
    assert min(marks.values()) > 0, marks
    np.testing.assert_array_equal(shown(browser), run.maps[-1])
    before = browser.evaluate("document.querySelector('#heads image').getAttribute('href')")
    cells = browser.evaluate("document.getElementById('cells-nll_novel').data[0].z[0][0]")

    browser.evaluate("document.querySelector('#slider-map').focus()")
    browser.press("Home")
    assert browser.evaluate("document.body.dataset.checkpoint") == "0"
    np.testing.assert_array_equal(shown(browser), run.maps[0])
    assert browser.evaluate("document.querySelector('#heads image').getAttribute('href')") != before
    assert browser.evaluate("document.getElementById('cells-nll_novel').data[0].z[0][0]") > 2 * cells
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    np.testing.assert_array_equal(shown(browser), run.maps[2])
    other = "document.getElementById('slider-cells')"
    assert browser.evaluate(f"[{other}.value, {other}.getAttribute('aria-valuetext')].join()").startswith(
        "2,Step 1,000"
    )
    leading = browser.evaluate("document.querySelector('.leading').innerText")
    assert "L2H1" in leading and f"{run.maps[2][2, 1]:.2f}" in leading
    no_complaint(browser, page)


def test_a_head_tells_its_numbers_when_pointed_at(browser, page):
    browser.open(page)
    nothing_is_wider(browser, 1280)
    for layer, head, words in ((2, 1, "rank 1 of 40"), (5, 3, "not observable")):
        browser.evaluate("document.querySelector('#heads').scrollIntoView({behavior: 'instant', block: 'center'})")
        left, top, width, height = browser.box("#heads .nsewdrag")
        x, y = left + width * (layer + 0.5) / 6, top + height * (head + 0.5) / 8
        told = f"document.querySelector('#heads .hoverlayer')?.textContent.includes('L{layer}H{head}')"
        # A page that is still busy may miss a movement; a hand moves on, too.
        browser.wait(told, lambda x=x, y=y: browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y))
        assert words in browser.evaluate("document.querySelector('#heads .hoverlayer').textContent")
    no_complaint(browser, page)


def nothing_is_wider(browser: Chromium, width: int) -> None:
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    widest = (
        "Math.max(...Array.from(document.querySelectorAll('.plot svg.main-svg'), s => s.getBoundingClientRect().right))"
    )
    assert browser.evaluate(widest) <= width


def test_nothing_is_wider_than_a_small_window(browser, page):
    """A large one is above."""
    browser.open(page, 420)
    nothing_is_wider(browser, 420)


def test_what_comes_from_files_stays_text(browser, tmp_path):
    trajectory = make_trajectory(8)
    probes = {name: values.copy() for name, values in trajectory.probes.items()}
    probes["needle_id"] = np.array([f"{NASTY}{needle}" for needle in probes["needle_id"]])
    probes["id"] = np.array([f"{IMAGE}{i}" for i in range(len(probes["id"]))])
    about = {**trajectory.about, "model_id": f"org/{NASTY}", "probe_set_name": IMAGE, "probe_set_hash": IMAGE}
    csv = tmp_path / "scores.csv"
    benchmark = "<b onclick=x>%{y}</b><img src=x onerror='document.body.dataset.hacked = 3'>"
    lines = [f"{step},{0.1 * i**0.5:.3f}" for i, step in enumerate(trajectory.steps)]
    csv.write_text("\n".join([f"step,{benchmark}", *lines]), encoding="utf-8")
    page = tmp_path / "report.html"
    write_report(replace(trajectory, probes=probes, about=about), page, downstream=csv)
    browser.open(page)
    assert browser.evaluate("document.body.dataset.hacked") is None
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == f"org/{NASTY}"
    assert IMAGE in browser.evaluate("document.querySelector('.facts').textContent")
    assert benchmark in browser.evaluate("document.querySelector('#forest').textContent")
    no_complaint(browser, page)


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_few_checkpoints_are_enough(browser, tmp_path, checkpoints):
    page = tmp_path / "report.html"
    write_report(make_trajectory(checkpoints), page)
    browser.open(page)
    assert min(drawn(browser).values()) > 0
    assert browser.evaluate("document.querySelectorAll('.slider input').length") == (2 if checkpoints > 1 else 0)
    text = browser.evaluate("document.body.innerText")
    assert ("This file holds one checkpoint" in text) == (checkpoints == 1)
    no_complaint(browser, page)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No initial heads: three tiles, and the number of heads is alone in its section."""
    run = make_trajectory()
    run.scores[:, :, 5] = np.nan
    run.scores[0] = 0.0
    path = tmp_path_factory.mktemp("uneven") / "report.html"
    write_report(run, path)
    return path


def test_no_row_is_left_half_empty(browser, uneven):
    for width in (1400, 900, 390):
        browser.resize(width) if width == 900 else browser.open(uneven, width)  # small windows are a telephone's
        every_row_is_full(browser)


def every_row_is_full(browser: Chromium) -> None:
    box = "(b => [b.top, b.right])(e.getBoundingClientRect())"
    ends = f"Array.from(document.querySelectorAll('.tiles div'), e => {box})"
    rows: dict[float, float] = {}
    for top, right in browser.evaluate(ends):
        rows[top] = max(right, rows.get(top, 0.0))
    assert max(rows.values()) - min(rows.values()) < 2, "every row of tiles reaches the edge"
    wide = browser.box("#growth .figures")
    alone = browser.box("#growth figure")
    assert browser.evaluate("document.querySelectorAll('#growth figure').length") == 1
    assert alone[2] == pytest.approx(wide[2], abs=1)
