"""`headscope perplexity`, as a user without a terminal runs it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from command_line import fail, succeed
from headscope.interp.store import validate
from tiny_run import make_checkpoint

WORDS = np.random.default_rng(0).integers(3, 199, (14, 60))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint-10")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text file and thirteen texts in JSON Lines, and one text by itself."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "books").mkdir()
    said = [" ".join(f"w{n}" for n in row) for row in WORDS]
    (folder / "books" / "first.txt").write_text(said[0])
    with gzip.open(folder / "books" / "more.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in said[1:])
    (folder / "single.md").write_text(said[0])
    (folder / "empty.txt").write_text("  ")
    (folder / "latin.txt").write_bytes("Où?".encode("latin-1"))
    return folder


def test_texts_are_measured_beside_scores_and_alone(model: Path, texts: Path, tmp_path: Path) -> None:
    keys, output = tmp_path / "keys.json", tmp_path / "run.h5"
    asked = ("perplexity", model, "--text", texts / "books", "--text", f"one={texts / 'single.md'}")
    told = succeed(*asked, "--lengths", "32", "--short", "8", "--find-key-tokens", keys)
    assert f"Key tokens  {keys}" in told and hs.KeyTokens.load(keys).short == 8
    corpora = {"books": texts / "books", "one": texts / "single.md"}
    hs.find_key_tokens(str(model), corpora, short=8, long=32, alpha=0.05, beta=-9).save(keys)  # it copies nothing
    told = succeed(*asked, "--lengths", "8,32", "--key-tokens", keys, "-o", output, "--tokens-seen", 1e6)
    assert "LongPPL" in told and f"Perplexity  {output}, checkpoint 0" in told
    found = hs.Perplexity.load(output)
    assert found.names == ["books", "one"] and found.documents[:3].tolist() == [
        "first.txt",
        *(f"more.jsonl.gz#{n}" for n in (0, 1)),
    ]
    assert f"{found.by_corpus['books']:.3f}" in told and f"{found.long_ppl['one']:.3f}" in told
    assert validate(output) == [] and hs.open(output).tokens_seen.item() == 1e6
    interval = hs.analysis.losses([found], "books", "gain", 32).interval()
    assert f"{interval.low[0]:+.3f} to {interval.high[0]:+.3f}" in told, "14 texts have an interval"
    succeed(*asked, "--lengths", "8,32", "--key-tokens", keys, "-o", output, "--checkpoint", 10)
    gone = fail(*asked, "--lengths", "8,32", "--stride", "16", "-o", output, "--checkpoint", 20)
    assert "of other texts or windows (books, one at lengths 8, 32, stride 0)" in gone
    assert "this one none" in fail(*asked, "--lengths", "8,32", "-o", output, "--checkpoint", 20)


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("--text", "gone"), "gone does not exist; give a folder or file of texts, or NAME=PATH"),
        (("--text", "empty.txt"), "the text 'empty.txt' of corpus 'empty' is empty: there is nothing to predict"),
        (("--text", "latin.txt"), "latin.txt is not UTF-8 text"),
        (("--text", "single.md", "--lengths", "100"), "no text has 100 tokens: the longest, 'single.md'"),
        (("--text", "single.md", "--text", "books/../single.md"), "two corpora are called 'single'"),
        (("--text", "single.md", "--lengths", "1"), "lengths must be tokens of context, each at least"),
        (("--text", "single.md", "--buckets", "9,4"), "buckets must be ascending positions from 1 to 31"),
        (("--text", "single.md", "--stride", "1,2"), "--stride"),
        (("--text", "single.md", "--key-tokens", "single.md"), "single.md is not valid JSON"),
        (("--text", "single.md", "--find-key-tokens", "k.json", "--short", "60"), "short must be 2 to"),
        (("--text", "single.md", "--find-key-tokens", "k.json", "--stride", "8"), "reads whole texts; leave out"),
    ],
)
def test_mistakes_cost_one_line(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], phrase: str
) -> None:
    monkeypatch.chdir(texts)
    lengths = () if "--lengths" in arguments else ("--lengths", "32")
    assert phrase in fail("perplexity", model, *arguments, *lengths)
