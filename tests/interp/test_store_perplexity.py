"""Perplexities in the results file: beside scores or alone, kept by everything that rewrites a file, and checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from headscope.errors import StoreError
from headscope.interp.store import (
    add_perplexity,
    append,
    check_takes_perplexity,
    checkpoints,
    find_beside,
    merge,
    misfit_of_texts,
    read_perplexity,
    set_aside,
    validate,
)
from headscope.interp.store.merging import refresh
from made_perplexities import assert_same_perplexity, make_perplexity
from made_scores import with_chance

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints 0 and 1000, the second with an ablation, answers and a perplexity."""
    path = Path(shutil.copy(GOLDEN / "store-1.3.h5", tmp_path / "run.h5"))
    add_perplexity(path, make_perplexity(1000), 1000)
    return path


def test_it_comes_back_beside_scores_and_only_where_there_is_one(run: Path) -> None:
    assert validate(run) == []
    with h5py.File(run) as file:
        assert file.attrs["schema_version"] == b"1.4"
    assert_same_perplexity(hs.Perplexity.load(run), make_perplexity(1000))
    assert find_beside(run, 0).perplexity is None and find_beside(run, 1000).ablation is not None
    with pytest.raises(StoreError, match=r"no perplexity of checkpoint 0; it has those of 1000"):
        read_perplexity(run, 0)
    make_perplexity(0).save(run)
    assert_same_perplexity(read_perplexity(run, 0), make_perplexity(0))
    with pytest.raises(StoreError, match=r"no checkpoint 7, .* it has 0, 1000: score it first"):
        add_perplexity(run, make_perplexity(7), 7)
    with pytest.raises(StoreError, match=r"holds no perplexity; `headscope perplexity MODEL"):
        read_perplexity(GOLDEN / "store-1.3.h5")
    found = hs.open(run, group="perplexity")
    assert found.nll.dims == ("checkpoint", "document", "bucket")
    assert found.tail_nll.sel(checkpoint=1000, context=64)[0].item() == make_perplexity(1000).tail_nll[0, 1]
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(run) as file:
        assert file["perplexity/corpus"][1] == "zh ✓"


def test_a_file_may_hold_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "loss.h5"
    for step in (0, 500, 1000):
        make_perplexity(step).save(path, checkpoint=step, tokens_seen=step * 4e6)
    make_perplexity(501).save(path, checkpoint=500)  # in its place
    assert validate(path) == [] and checkpoints(path) == [0, 500, 1000]
    assert_same_perplexity(read_perplexity(path, 500), make_perplexity(501))
    assert hs.open(path).tokens_seen.values.tolist() == [0, 2e9, 4e9]
    with pytest.raises(StoreError, match=r"holds checkpoint 1000; give a later one"):
        make_perplexity(7).save(path, checkpoint=7)
    for needs_scores in (
        lambda: hs.read_scores(path),
        lambda: append(path, with_chance(2000), 2000),
        lambda: merge(path, tmp_path / "other.h5"),
    ):
        with pytest.raises(StoreError, match="perplexities alone, and no head scores"):
            needs_scores()
    apart = set_aside(path, 1000)
    assert checkpoints(path) == [0, 500] and checkpoints(apart) == [0, 500, 1000]
    with h5py.File(path, "r+") as file:
        del file["perplexity/tokens"]
    assert validate(path) == ["the variable perplexity/tokens is missing"]


def test_it_survives_append_merge_refresh_and_set_aside(run: Path, tmp_path: Path) -> None:
    append(run, with_chance(2000, n_probes=4, n_layers=2), 2000, perplexity=make_perplexity(2000))
    append(tmp_path / "later.h5", with_chance(3000, n_probes=4, n_layers=2), 3000, perplexity=make_perplexity(3000))
    merge([run, tmp_path / "later.h5"], run)
    for step in (1000, 2000, 3000):
        assert_same_perplexity(read_perplexity(run, step), make_perplexity(step))
    assert validate(run) == []
    apart = set_aside(run, 2000)
    assert_same_perplexity(read_perplexity(run), make_perplexity(1000))
    assert_same_perplexity(read_perplexity(apart), make_perplexity(3000))

    shards, output = [tmp_path / f"step-{n}.h5" for n in range(3)], tmp_path / "refreshed.h5"
    for n, shard in enumerate(shards):
        append(shard, with_chance(n, n_probes=4, n_layers=2), n)
    refresh(shards[:2], output)
    add_perplexity(output, make_perplexity(0), 0)  # to the output: shards know nothing of it
    refresh(shards, output)
    add_perplexity(shards[1], make_perplexity(1), 1)
    refresh(shards, output)
    for step in (0, 1):
        assert_same_perplexity(read_perplexity(output, step), make_perplexity(step))
    assert find_beside(output, 2).perplexity is None and validate(output) == []


OTHERS = [
    ({"texts_hash": "0" * 32}, r"of other texts or windows \(en, zh ✓ at lengths 16, 64, stride 0\)"),
    ({"texts_hash": "0" * 32, "tokenizer_fp": "x"}, r"stride 0, by another tokenizer\)"),
    ({"keys_hash": ""}, r"have the key tokens 001122334455, this one none"),
]


@pytest.mark.parametrize(("changes", "words"), OTHERS, ids=["texts", "tokenizer", "keys"])
def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path, changes: dict[str, str], words: str) -> None:
    before, other = run.read_bytes(), make_perplexity(0, **changes)
    scores = with_chance(2000, n_probes=4, n_layers=2)
    for put in (lambda: add_perplexity(run, other, 0), lambda: append(run, scores, 2000, perplexity=other)):
        with pytest.raises(StoreError, match=words):
            put()
    if "texts_hash" in changes:
        with pytest.raises(StoreError, match=words):
            check_takes_perplexity(run, 0, other.texts_hash, other.tokenizer_fp)
    append(tmp_path / "other.h5", scores, 2000, perplexity=other)
    no_keys = misfit_of_texts(run, other.texts_hash, other.tokenizer_fp)
    assert re.search(words, no_keys) if "texts_hash" in changes else no_keys.endswith("this one none")
    assert misfit_of_texts(GOLDEN / "store-1.3.h5", other.texts_hash, other.tokenizer_fp) == ""
    with pytest.raises(StoreError, match="its perplexity"):
        merge([run, tmp_path / "other.h5"], run)
    assert run.read_bytes() == before
    add_perplexity(run, make_perplexity(1000, **changes), 1000)  # no other checkpoint has one
    assert_same_perplexity(read_perplexity(run), make_perplexity(1000, **changes))


def test_a_group_of_that_name_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    path = Path(shutil.copy(GOLDEN / "store-1.1.h5", tmp_path / "run.h5"))
    with h5py.File(path, "r+") as file:
        file.create_group("perplexity")["mine"] = np.arange(3)
        file["perplexity/mine"].make_scale("mine")
    assert validate(path) == [] and find_beside(path, 0).perplexity is None
    with pytest.raises(StoreError, match="a group 'perplexity' that is not headscope's"):
        add_perplexity(path, make_perplexity(0), 0)


SPOILED: list[tuple[str, Callable[[h5py.File], object], str]] = [
    ("negative", lambda f: f["perplexity/nll"].__setitem__((1, 0, 0), -1), "perplexity/nll has negative or infinite"),
    (
        "infinite",
        lambda f: f["perplexity/tail_nll"].__setitem__((1, 0, 0), np.inf),
        "tail_nll has negative or infinite",
    ),
    ("counts", lambda f: f["perplexity/key_tokens"].__setitem__(0, -1), "perplexity/key_tokens has negative values"),
    ("none", lambda f: f["perplexity/nll"].__setitem__((1, 2, 2), 1), "nll has values of documents without tokens"),
    ("bucket", lambda f: f["perplexity/bucket"].__setitem__(0, 40), "perplexity/bucket does not increase"),
    ("gone", lambda f: f.__delitem__("perplexity/corpus"), "the variable perplexity/corpus is missing"),
    ("json", lambda f: f["perplexity/json"].__setitem__(1, "{"), "perplexity: provenance/json is not JSON"),
]


@pytest.mark.parametrize(("spoil", "problem"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_the_validator_names_what_is_wrong(run: Path, spoil: Callable[[h5py.File], object], problem: str) -> None:
    with h5py.File(run, "r+") as file:
        spoil(file)
    assert any(problem in found for found in validate(run)), validate(run)


@pytest.mark.parametrize("case", ["negative", "none", "gone", "json"])
def test_what_is_none_is_not_shown(run: Path, case: str) -> None:
    with h5py.File(run, "r+") as file:
        next(spoil for name, spoil, _ in SPOILED if name == case)(file)
    with pytest.raises(StoreError):
        read_perplexity(run)
