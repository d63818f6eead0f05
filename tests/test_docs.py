"""README and pages hold together: links lead somewhere, and the Python of the README runs, at a shorter length."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from headscope.interp.evidence import ProbeEvidence
from headscope.probes import Probe
from tiny_bpe import tiny_bpe
from tiny_models import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")})


def links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert set(ROOT.glob("docs/**/*.md")) <= linked
    assert len(README.splitlines()) <= 120


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_bpe(README, size=600)
    build("llama", vocab_size=len(tokenizer), num_hidden_layers=2).save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = code.replace("lengths=[1024, 2048, 4096]", "lengths=[512]")
    assert shorter != code

    def my_function(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        return evidence.mass["source"].mean(axis=-1)

    names: dict[str, Any] = {"my_function": my_function}
    exec(shorter, names)
    plt.close("all")
    assert names["scores"].retrieval.shape == (2, 8)
    assert names["scores"].n_probes == 11 * 2
    stored = names["hs"].open("run.h5")
    np.testing.assert_array_equal(stored.retrieval.sel(checkpoint=2000), names["scores"].retrieval)
