"""An ablation as tables, as pictures and in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

import headscope as hs
from headscope.interp.analysis import dose_response, head_effects
from headscope.interp.report import dose_table, effect_table, evolve
from headscope.interp.report.page.sections import sections
from made_ablations import make_ablation, write_golden


def test_effects_controls_and_p_values() -> None:
    ablation = make_ablation(needles=16)
    one, two = dose_response(ablation)
    assert (one.k, two.k) == (1, 2) and two.heads == "L1H0 L0H1"
    mean = np.mean([1 + i / 8 for i in range(16)])
    assert one.effect.estimate == pytest.approx(mean, rel=1e-6) and one.effect.low < mean < one.effect.high
    np.testing.assert_allclose(one.controls["layer_matched"], [0.1 * mean, 0.11 * mean, 0.12 * mean], rtol=1e-5)
    assert one.p == {"layer_matched": 1 / 4, "mass_matched": 1 / 4}
    assert one.ratio["layer_matched"] == pytest.approx(1 / 0.12, rel=1e-5)
    assert two.control_mean["mass_matched"].estimate == pytest.approx(0.66 * mean, rel=1e-5)
    lost = dose_response(ablation, "exact_match")[1]
    assert lost.effect.estimate == -1 and -1 == lost.effect.low < lost.effect.high < 0  # all needles alike: no NaN
    falls = dose_response(ablation, "logprob")[0]
    assert falls.effect.estimate < 0 and falls.p["layer_matched"] == 1 / 4
    assert falls.ratio["layer_matched"] == pytest.approx(1 / 0.12, rel=1e-5)
    effects = head_effects(ablation)
    assert effects.heads == ("L1H0", "L0H1")
    np.testing.assert_allclose(effects.score, [0.95, 0.85])
    np.testing.assert_allclose(effects.effect.estimate, [0.2 * mean, 0.22 * mean], rtol=1e-5)
    with pytest.raises(hs.errors.ArgumentError, match="'twin_logprob' was not measured in this ablation; it has nll, "):
        dose_response(ablation, "twin_logprob")
    with pytest.raises(hs.errors.ArgumentError, match="measure must be one of nll, "):
        dose_response(ablation, "loss")


def test_the_frame_has_a_row_for_every_set() -> None:
    ablation = make_ablation(needles=16)
    frame = ablation.to_dataframe()
    assert frame["heads"].tolist() == [str(one) for one in ablation.sets] and frame["heads"][2] == "L1H0 L0H1"
    assert frame["change_in_nll_novel"][0] == 0 and "twin_logprob" not in frame  # not measured
    np.testing.assert_allclose(frame["nll"], ablation.measured["nll"].mean(axis=1), rtol=1e-6)
    assert frame["n_heads"].tolist() == [len(one.heads) for one in ablation.sets]


def test_of_few_needles_there_is_no_interval() -> None:
    assert np.isnan(dose_response(make_ablation(needles=4))[0].effect.low)


def test_the_tables() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(dose_table(make_ablation(needles=16)))
    console.print(effect_table(make_ablation(needles=16)))
    told = console.export_text()
    assert "top 2" in told and "NLL needle only" in told and "0.250" in told and "L0H1" in told


def test_the_pictures_are_the_numbers_and_come_out_the_same(tmp_path: Path) -> None:
    ablation = make_ablation(needles=16)
    ax = Figure().add_subplot()
    hs.plot.dose_response(ablation, ax)
    lines = {line.get_label(): line for line in ax.get_lines()}
    before = float(ablation.measured["nll_novel"][0].mean())
    effects = [dose.effect.estimate + before for dose in dose_response(ablation)]
    np.testing.assert_allclose(lines["the leading ones"].get_ydata(), effects)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2"]
    paths = hs.plot.save_ablation_figures(ablation, tmp_path / "a")
    again = hs.plot.save_ablation_figures(ablation, tmp_path / "b")
    assert [path.name for path in paths] == [
        f"{n}.{f}" for n in ("dose_response", "head_effects") for f in ("png", "svg")
    ]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    bare = replace(ablation, sets=ablation.sets[:1], measured={n: v[:1] for n, v in ablation.measured.items()})
    for draw, words in ((hs.plot.dose_response, "No leading heads"), (hs.plot.head_effects, "No head was changed")):
        ax = Figure().add_subplot()
        draw(bare, ax)
        assert any(words in text.get_text() for text in ax.texts)


def test_the_report_has_a_section_where_a_checkpoint_has_one(tmp_path: Path) -> None:
    write_golden(tmp_path / "run.h5")
    evolution = evolve(tmp_path / "run.h5")
    (section,) = [section for section in sections(evolution) if section.id == "ablation"]
    assert section.heading.startswith("Changing the 2 leading heads at") and "NLL needle only" in section.heading
    assert [figure.id for figure in section.figures] == ["ablation-doses", "ablation-heads"]
    assert section.tables[0].rows[0][:2] == ["top 1", "NLL needle only"]
    assert section.tables[1].rows[0][0] == "L1H0"
