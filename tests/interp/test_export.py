"""Each format, read back with what its users read it with."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headscope.interp import packages
from headscope.interp.packages import MissingPackageError
from headscope.interp.results import HeadScores
from headscope.interp.store.exporting import (
    FORMATS,
    csv,
    duo_attention_tsv,
    export,
    parquet,
    qrhead_string,
    render,
    retrieval_head_json,
)
from headscope.interp.store.results_file import StoreError
from made_scores import make_scores

NAN = float("nan")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.h5"
    for step in (0, 1000):
        make_scores(step).save(path, checkpoint=step, tokens_seen=step * 2.0)
    return path


def maps(values: list[list[float]], n_kv_heads: int = 1) -> HeadScores:
    array = np.array([values], np.float32)
    shape = {"n_probes": 1, "n_layers": array.shape[1], "n_heads": array.shape[2], "n_kv_heads": n_kv_heads}
    return make_scores(**shape, per_probe={"retrieval": array})


def test_retrieval_head_json_lists_the_scores_of_each_head() -> None:
    scores = make_scores()
    found = json.loads(retrieval_head_json(scores), parse_constant=pytest.fail)
    assert list(found)[:5] == ["0-0", "0-1", "0-2", "0-3", "1-0"] and len(found) == 12
    assert found["0-1"] == [] and len(found["1-1"]) == 5  # unobservable everywhere, and in one probe
    # Retrieval_Head's readers average the lists: that must be our mean, and every number our float32 exactly.
    assert np.mean(found["1-1"]) == pytest.approx(scores.retrieval[1, 1])
    np.testing.assert_array_equal(np.float32(found["2-3"]), scores.per_probe["retrieval"][:, 2, 3])
    counts = json.loads(retrieval_head_json(scores, estimator="wu_count"))
    np.testing.assert_array_equal(np.float32(counts["2-3"]), scores.per_probe["wu_count"][:, 2, 3])


def test_duo_attention_takes_the_best_query_head_of_a_group() -> None:
    scores = maps([[0.1, 0.7, NAN, 0.2], [NAN, NAN, 0.3, 0.25]], n_kv_heads=2)
    found = np.loadtxt(io.StringIO(duo_attention_tsv(scores)), dtype=float, delimiter="\t")
    np.testing.assert_array_equal(np.float32(found), np.array([[0.7, 0.2], [NAN, 0.3]], np.float32))


def test_qrhead_lists_retrieval_heads_best_first() -> None:
    scores = maps([[0.1, 0.7, NAN], [0.9, 0.05, 0.7]])
    assert qrhead_string(scores) == "1-0,0-1,1-2"
    assert qrhead_string(scores, top=1) == "1-0"
    assert qrhead_string(scores, top=4) == "1-0,0-1,1-2,0-0"
    with pytest.raises(ValueError, match="no head has a retrieval above 0.1; choose a number, such as top=16"):
        qrhead_string(maps([[0.1, 0.05]]))


def test_csv_is_the_frame() -> None:
    scores = make_scores()
    found = pd.read_csv(io.StringIO(csv(scores)))
    pd.testing.assert_frame_equal(found, scores.to_dataframe(), check_dtype=False, rtol=1e-6)


@pytest.mark.parametrize("read", [lambda p: pd.read_csv(io.StringIO(csv(p))), lambda p: pd.read_parquet(parquet_of(p))])
def test_tables_of_a_file_hold_every_checkpoint(run: Path, read: object) -> None:
    assert callable(read)
    found = read(run)
    assert list(found.columns[:5]) == ["checkpoint", "tokens_seen", "layer", "head", "kv_head"]
    assert found.groupby("checkpoint").size().to_dict() == {0: 12, 1000: 12}
    later = found[found.checkpoint == 1000]
    assert set(later.tokens_seen) == {2000.0}
    np.testing.assert_allclose(later.retrieval, make_scores(1000).retrieval.ravel(), rtol=1e-6)


def parquet_of(path: Path) -> io.BytesIO:
    pytest.importorskip("pyarrow")
    return io.BytesIO(parquet(path))


def test_one_checkpoint_of_a_file_can_be_chosen(run: Path) -> None:
    for step in (0, 1000):
        assert retrieval_head_json(run, checkpoint=step) == retrieval_head_json(make_scores(step))
        assert set(pd.read_csv(io.StringIO(csv(run, checkpoint=step))).checkpoint) == {step}
    assert duo_attention_tsv(run) == duo_attention_tsv(make_scores(1000))  # the last one unless told
    with pytest.raises(StoreError, match="has no checkpoint 500; it has 0, 1000"):
        csv(run, checkpoint=500)
    with pytest.raises(ValueError, match="checkpoint=0 chooses within a file"):
        csv(make_scores(), checkpoint=0)


@pytest.mark.parametrize("name", FORMATS)
def test_export_writes_what_the_function_returns(run: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    target = run.parent / f"out.{name}"
    target.write_text("old")
    export(run, name, target)
    content = render(run, name)
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert not list(run.parent.glob(".out*"))


def test_a_failed_export_leaves_the_old_file(run: Path) -> None:
    target = run.parent / "out.csv"
    target.write_text("old")
    with pytest.raises(StoreError):
        export(run, "csv", target, checkpoint=500)
    assert target.read_text() == "old"
    with pytest.raises(StoreError, match="missing does not exist; create it"):
        export(run, "csv", run.parent / "missing" / "out.csv")


@pytest.mark.parametrize(
    ("given", "meant"), [("duo", "duo_attention_tsv"), ("json", "retrieval_head_json"), ("parqet", "parquet")]
)
def test_an_unknown_format_is_named_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown format '{given}'. Did you mean '{meant}'.*Available: retrieval_head"
    ):
        render(make_scores(), given)


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'wu_cont'. Did you mean 'wu_count'"):
        retrieval_head_json(make_scores(), estimator="wu_cont")


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"Parquet export needs .*pip install 'headscope\[parquet\]'"):
        parquet(make_scores())
