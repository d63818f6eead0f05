"""The HDF5 file: what it holds, who can read it, what it refuses, and what a killed writer leaves behind."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from filelock import FileLock

import headscope as hs
import made_ablations
import made_golden
from full_disk import room_for
from headscope.interp import packages
from headscope.interp.ablation import Ablation
from headscope.interp.packages import MissingPackageError
from headscope.interp.results import HeadScores
from headscope.interp.store import find_beside, schema
from headscope.interp.store import results_file as store
from headscope.interp.store.beside import KINDS
from headscope.interp.store.results_file import StoreError, append, checkpoints, read_scores, read_steps, validate
from headscope.interp.tasks import Answers
from made_ablations import assert_same_ablation, make_ablation
from made_answers import assert_same_answers, make_answers, write_golden
from made_perplexities import assert_same_perplexity, make_perplexity
from made_scores import assert_same, make_scores, with_chance
from made_sft_probes import assert_same_sft_probe, make_sft_probe

GOLDEN = Path(__file__).parents[1] / "golden"
COPY_PROFILES = "\n## Copy profiles"  # another kind of file, with a listing of its own
STEPS = (0, 1000, 2500)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "run.h5"
    for step in STEPS:
        make_scores(step).save(path, checkpoint=step, tokens_seen=None if step == 0 else step * 4.2e6)
    return path


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A file with three checkpoints, to do with as one likes."""
    return Path(shutil.copy(written, tmp_path / "run.h5"))


def test_what_was_saved_comes_back_exactly(run: Path) -> None:
    for step in STEPS:
        assert_same(read_scores(run, step), make_scores(step))
    assert_same(read_scores(run), make_scores(STEPS[-1]))
    assert checkpoints(run) == list(STEPS)
    assert list(read_steps(run).values()) == [None, 4.2e9, 1.05e10]


def test_extra_columns_and_estimators_come_back_too(tmp_path: Path) -> None:
    made = make_scores()
    extra = {"grafted": np.arange(6) % 2, "gap": np.linspace(0, 1, 6), "language": np.array(["en", "中文"] * 3)}
    scores = make_scores(estimators=("retrieval", "entropy"), probes={**made.probes, **extra})
    scores.save(tmp_path / "run.h5")
    assert_same(read_scores(tmp_path / "run.h5"), scores)
    assert validate(tmp_path / "run.h5") == []


def test_many_probes_span_several_chunks(tmp_path: Path) -> None:
    scores = make_scores(n_probes=150)
    scores.save(tmp_path / "run.h5")
    assert_same(read_scores(tmp_path / "run.h5"), scores)


def test_open_gives_a_dataset_by_checkpoint_layer_and_head(run: Path) -> None:
    ds = hs.open(run)
    assert dict(ds.sizes) == {"checkpoint": 3, "layer": 3, "head": 4}
    assert ds.retrieval.dims == ds.wu_count_stderr.dims == ("checkpoint", "layer", "head")
    assert ds.retrieval.dtype == np.float32 and ds.checkpoint.dtype == np.int32
    assert set(ds.data_vars) == {
        "retrieval", "retrieval_stderr", "wu_count", "wu_count_stderr", "n_retrieval_heads",
    }  # fmt: skip
    assert list(ds.kv_head.values) == [0, 0, 1, 1]
    for i, step in enumerate(STEPS):
        scores, here = make_scores(step), ds.sel(checkpoint=step)
        np.testing.assert_array_equal(here.retrieval, scores.retrieval)
        np.testing.assert_array_equal(here.wu_count_stderr, scores.stderr("wu_count"))
        assert int(here.n_retrieval_heads) == len(scores.retrieval_heads())
        np.testing.assert_array_equal(ds.tokens_seen[i], np.nan if step == 0 else step * 4.2e6)
    assert ds.encoding["unlimited_dims"] == {"checkpoint"}
    run.unlink()
    assert float(ds.retrieval.max()) <= 1  # in memory: the file may go


def test_open_gives_the_detail_of_every_probe(run: Path) -> None:
    with hs.open(run, group="probes") as detail:
        assert detail.retrieval.dims == ("checkpoint", "probe", "layer", "head")
        one = detail.sel(checkpoint=1000, probe="sentence-3")
        np.testing.assert_array_equal(one.retrieval, make_scores(1000).per_probe["retrieval"][3])
        assert int(one.length) == 4096 and one.variant.item() == "ünïcode ✓"
        assert detail.exact_match.dtype == np.int8
        by_length = detail.nll.groupby("length").mean()
        assert dict(by_length.sizes) == {"checkpoint": 3, "length": 6}
    with hs.open(run, group="provenance") as provenance:
        assert list(provenance.model_id.values) == [f"toy/model-{step}" for step in STEPS]
        assert list(provenance.sharing.values) == ["grafted"] * 3 and list(provenance.revision.values) == [""] * 3
        assert json.loads(provenance.json.values[1]) == make_scores(1000).provenance
    with pytest.raises(StoreError, match="no group 'probe'; it has probes, provenance"):
        hs.open(run, group="probe")


def test_open_without_its_packages_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"open\(\) needs the package xarray .*pip install 'xarray'"):
        hs.open(run)


# Readers other than ours.


@pytest.mark.parametrize("options", [{"engine": "h5netcdf"}, {}], ids=["h5netcdf", "guessed"])
def test_xarray_reads_it(run: Path, options: dict[str, str]) -> None:
    with xr.open_dataset(run, **options) as ds:
        np.testing.assert_array_equal(ds.retrieval[1], make_scores(1000).retrieval)
        assert ds.attrs["schema_version"] == "1.0" and ds.attrs["model_id"] == "toy/model-0"
    with xr.open_datatree(run, **options) as tree:
        assert dict(tree["probes"].sizes) == {"checkpoint": 3, "probe": 6, "layer": 3, "head": 4}
        assert tree["probes"].needle_id.values[4] == "needle-1"
        assert list(tree["probes"].checkpoint.values) == list(STEPS)


def test_netcdf4_reads_it_and_appends_a_checkpoint(run: Path) -> None:
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(run) as nc:
        np.testing.assert_array_equal(np.ma.filled(nc["retrieval"][2], np.nan), make_scores(2500).retrieval)
        assert nc.dimensions["checkpoint"].isunlimited() and nc["probes/variant"][1] == "ünïcode ✓"
        assert list(nc["probes/retrieval"].dimensions) == ["checkpoint", "probe", "layer", "head"]
    with netcdf4.Dataset(run, "a") as nc:
        nc["checkpoint"][3] = 3000
        nc["retrieval"][3] = 0.5
    ds = hs.open(run)
    assert list(ds.checkpoint.values) == [*STEPS, 3000] and float(ds.retrieval[3, 0, 1]) == 0.5
    assert np.isnan(ds.wu_count[3]).all()
    make_scores(4000).save(run, checkpoint=4000)
    assert_same(read_scores(run, 4000), make_scores(4000))
    assert list(hs.open(run).n_retrieval_heads.values[-2:]) == [-1, len(make_scores(4000).retrieval_heads())]


def test_what_others_add_is_kept_and_grows(run: Path) -> None:
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(run, "a") as nc:
        nc.createVariable("ruler", "f4", ("checkpoint",), fill_value=np.nan)[:] = [0.5, 0.625, 0.75]
        nc.note = "ours"
    make_scores(3000).save(run, checkpoint=3000)
    ds = hs.open(run)
    np.testing.assert_array_equal(ds.ruler, np.array([0.5, 0.625, 0.75, np.nan], np.float32))
    assert ds.attrs["note"] == "ours" and validate(run) == []


def command(*words: object) -> str:
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_ncdump_reads_it(run: Path) -> None:
    header = command("ncdump", "-h", run)
    assert "checkpoint = UNLIMITED ; // (3 currently)" in header
    assert "float retrieval(checkpoint, layer, head) ;" in header
    assert "byte exact_match(checkpoint, probe) ;" in header and "string json(checkpoint) ;" in header
    assert "checkpoint = 0, 1000, 2500 ;" in command("ncdump", "-v", "checkpoint", run)
    assert "ünïcode ✓" in command("ncdump", "-v", "/probes/variant", run)


def test_h5dump_reads_it(run: Path) -> None:
    assert "DATASPACE  SIMPLE { ( 3, 6, 3, 4 ) / ( H5S_UNLIMITED, 6, 3, 4 ) }" in command(
        "h5dump", "-d", "/probes/retrieval", run
    )


def test_r_reads_it(run: Path) -> None:
    if command("Rscript", "-e", 'cat(requireNamespace("ncdf4", quietly=TRUE))') != "TRUE":
        pytest.skip("R has no ncdf4")
    script = (
        f'options(warn=2); n <- ncdf4::nc_open("{run}"); r <- ncdf4::ncvar_get(n, "retrieval");'
        'v <- ncdf4::ncvar_get(n, "probes/variant"); cat(dim(r), r[3, 2, 2], n$dim$checkpoint$unlim, v[2])'
    )
    # R counts from 1 and lists the axes the other way round: head 2, layer 1, checkpoint 1000.
    *shape, value, unlimited, text = command("Rscript", "-e", script).split(" ", 5)
    assert shape == ["4", "3", "3"] and unlimited == "TRUE" and text == "ünïcode ✓"
    assert float(value) == pytest.approx(make_scores(1000).retrieval[1, 2], abs=1e-6)


# What it refuses, with the file left as it was.


def with_columns(**columns: np.ndarray) -> HeadScores:
    return make_scores(3000, probes={**make_scores().probes, **columns})


@pytest.mark.parametrize(
    ("scores", "step", "message"),
    [
        (make_scores(), 1000, r"checkpoint 1000 is already in .*\(it has 0, 1000, 2500\); give another checkpoint"),
        (make_scores(), 1500, "checkpoint 1500 comes before the last one in .*, 2500; write it to another file"),
        (make_scores(n_layers=2), 3000, "the model has 2 layers, 4 heads, 2 kv heads, not 3 layers"),
        (make_scores(n_kv_heads=4), 3000, "4 heads, 4 kv heads, not .*4 heads, 2 kv heads.*another file"),
        (make_scores(probe_set_hash="f" * 64), 3000, r"the probe set is 'toy' \(ffffffffffff\), not 'toy' \(0123"),
        (with_columns(depth=np.zeros(6)), 3000, "the probe column 'depth' has other values"),
        (with_columns(more=np.zeros(6)), 3000, "the probe columns are .*more"),
        (make_scores(n_probes=5), 3000, "the probe column 'id' has other values"),
    ],
)
def test_scores_that_do_not_fit_are_refused(run: Path, scores: HeadScores, step: int, message: str) -> None:
    before = run.read_bytes()
    with pytest.raises(StoreError, match=message) as caught:
        append(run, scores, step)
    assert "\n" not in str(caught.value)
    assert run.read_bytes() == before and not (run.parent / ".run.h5.tmp").exists()


@pytest.mark.parametrize("step", [-1, 2**31, True])
def test_a_checkpoint_is_an_optimizer_step(tmp_path: Path, step: int) -> None:
    with pytest.raises(ValueError, match="checkpoint must be an optimizer step from 0 to 2147483647"):
        append(tmp_path / "run.h5", make_scores(), step)


def test_steps_and_tokens_are_numbers(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint must be an integer.*got float 2.0"):
        append(tmp_path / "run.h5", make_scores(), 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens_seen must be a count of at least 0, or None, got -1"):
        append(tmp_path / "run.h5", make_scores(), 2, tokens_seen=-1)
    append(tmp_path / "run.h5", make_scores(), np.int64(2), tokens_seen=np.float32(8))  # type: ignore[arg-type]
    assert read_steps(tmp_path / "run.h5") == {2: 8.0}


def test_numbers_and_texts_the_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    made = make_scores()
    with pytest.raises(StoreError, match="probes/length holds 4294967296, which does not fit into int32"):
        make_scores(probes={**made.probes, "length": np.full(6, 2**32)}).save(tmp_path / "run.h5")
    with pytest.raises(StoreError, match="probes/probe holds a text with a NUL character"):
        make_scores(probes={**made.probes, "id": np.array(["a\0b"] * 6)}).save(tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists() and not (tmp_path / ".run.h5.tmp").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = "2.0"


BAD_FILES: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "does not exist; `headscope score"),
    (lambda path: path.unlink() or path.mkdir(), "is a folder"),
    (lambda path: path.write_bytes(b""), "is empty; delete it"),
    (lambda path: path.write_text("layer,head\n"), "is not an HDF5 file"),
    (truncate, "cannot open .*truncated file"),
    (foreign, "was not written by headscope"),
    (newer, r"was written with schema 2.0; this is headscope .* \(schema 1.x\): upgrade with `pip install -U"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES, ids=[match[:16] for _, match in BAD_FILES])
def test_bad_files_are_told_in_one_line(run: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(run)
    with pytest.raises(StoreError, match=message) as caught:
        read_scores(run)
    assert "\n" not in str(caught.value)
    assert len(validate(run)) == 1
    with pytest.raises(StoreError, match=message):
        hs.open(run)
    if spoil is not Path.unlink:
        content = run.read_bytes() if run.is_file() else None
        with pytest.raises(StoreError):
            make_scores(9000).save(run, checkpoint=9000)
        assert content is None or run.read_bytes() == content


def test_damage_inside_the_data_is_noticed(run: Path) -> None:
    with h5py.File(run) as file:
        place = file["probes/retrieval"].id.get_chunk_info_by_coord((1, 0, 0, 0)).byte_offset
    content = bytearray(run.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    run.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged or incomplete: .*`headscope validate"):
        read_scores(run, 1000)
    assert "is damaged or incomplete" in validate(run)[-1]
    assert_same(read_scores(run, 2500), make_scores(2500))


def test_a_file_of_a_newer_minor_version_is_read(run: Path) -> None:
    with h5py.File(run, "r+") as file:
        file.attrs["schema_version"] = "1.7"
        file["later"] = np.float32(1)
    assert_same(read_scores(run, 1000), make_scores(1000))
    make_scores(3000).save(run, checkpoint=3000)
    assert_same(read_scores(run), make_scores(3000))


def test_a_checkpoint_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(StoreError, match="has no checkpoint 2000; it has 0, 1000, 2500"):
        read_scores(run, 2000)


def test_places_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make_scores()
    with pytest.raises(StoreError, match="folder .*missing does not exist; create it"):
        scores.save(tmp_path / "missing" / "run.h5")
    with pytest.raises(StoreError, match="is a folder; give the name of a file in it"):
        scores.save(tmp_path)
    monkeypatch.setattr(store.os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(StoreError, match="folder .* is not writable; choose another place for run.h5"):
        scores.save(tmp_path / "run.h5")
    monkeypatch.setattr(store.os, "access", lambda place, mode: Path(place) == tmp_path)
    (tmp_path / "run.h5").touch()
    with pytest.raises(StoreError, match="is read-only"):
        scores.save(tmp_path / "run.h5")


def test_a_full_disk_leaves_the_file_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = run.read_bytes()
    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StoreError, match="cannot write .*: No space left on device; it is left as it was"):
        make_scores(3000).save(run, checkpoint=3000)
    assert run.read_bytes() == before and not (run.parent / ".run.h5.tmp").exists()


def test_a_link_is_followed_and_stays(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.h5"
    link.symlink_to(run)
    make_scores(3000).save(link, checkpoint=3000)
    assert link.is_symlink() and list(read_steps(run)) == [*STEPS, 3000]


def test_a_writer_waits_for_another_and_says_so_in_the_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    with (
        FileLock(run.with_name(".run.h5.lock")),
        pytest.raises(StoreError, match="another process has held .*run.h5 for 0 s; try again later"),
    ):
        make_scores(3000).save(run, checkpoint=3000)


# A killed writer, and readers beside a writer.

WRITER = """
import os, signal, sys
from made_scores import make_scores
from headscope.interp.store import append
path = sys.argv[1]
seen = 0

def die_at_last(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove") and os.path.dirname(path) in str(arguments[0]):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    first, fatal = map(int, line.split())
    if os.fork() == 0:
        sys.addaudithook(die_at_last)
        for step in range(first, first + 500):
            append(path, make_scores(step), step, tokens_seen=step)
            print("done", step, flush=True)
    os.wait()
    print("killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_a_prefix_of_what_it_appended(tmp_path: Path) -> None:
    """Kill -9 at the first file that a writer opens, renames or removes, at the second, ..., in a file that goes on;
    read beside the writer all the while.
    """
    path = tmp_path / "run.h5"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [sys.executable, "-c", WRITER, str(path)]
    finished, reads, leftovers, not_told = -1, 0, 0, 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        for fatal in range(1, 27):
            writer.stdin.write(f"{finished + 1} {fatal}\n")
            told = finished
            for line in iter(writer.stdout.readline, "killed\n"):
                told = int(line.removeprefix("done "))
                steps = list(read_steps(path))
                assert steps == list(range(len(steps))) and len(steps) > told
                assert_same(read_scores(path, steps[-1]), make_scores(steps[-1]))
                reads += 1
            leftovers += (tmp_path / ".run.h5.tmp").exists()
            if not path.exists():
                assert told == -1
                continue
            steps = list(read_steps(path))
            # All that was reported as done is there, and at most the one that was being renamed besides.
            assert steps in (list(range(told + 1)), list(range(told + 2)))
            finished = len(steps) - 1
            not_told += finished - told
            assert validate(path) == []
        writer.stdin.close()
    for step in (0, finished // 2, finished):
        assert_same(read_scores(path, step), make_scores(step))
    assert reads > 8 and leftovers and not_told  # the kills did hit writers before, in and after a renaming
    make_scores(finished + 1).save(path, checkpoint=finished + 1)
    assert not (tmp_path / ".run.h5.tmp").exists()


# The validator.


def edit(path: Path, name: str, index: object, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file[name][index] = value


def remake(path: Path, name: str, *, scales: bool = True, **options: object) -> None:
    """Write a variable anew with other options, as a careless tool would."""
    with h5py.File(path, "r+") as file:
        old = file[name]
        values, axes = old[...], [axis[0] for axis in old.dims]
        del file[name]
        new = file.create_dataset(name, data=values, **options)
        for axis, scale in enumerate(axes):
            if scales or axis:
                new.dims[axis].attach_scale(scale)


def without(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def without_attribute(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[name]


def shorten(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        file[name].resize(2, axis=0)


SPOILED: list[tuple[Callable[[Path], None], str]] = [
    (lambda p: without(p, "wu_count"), "the variable wu_count is missing"),
    (lambda p: without(p, "probes/needle_id"), "the variable probes/needle_id is missing"),
    (lambda p: without(p, "probes"), "the group 'probes' or the root attribute 'estimators' is missing"),
    (lambda p: without_attribute(p, "n_kv_heads"), "the root attribute 'n_kv_heads' is missing"),
    (lambda p: remake(p, "retrieval", scales=False), "retrieval has no dimension scale on axis 0: netCDF readers"),
    (lambda p: remake(p, "retrieval", scales=False), "retrieval has the dimensions (?, layer, head), not (checkpoint"),
    (lambda p: remake(p, "retrieval", dtype="f8"), "retrieval has the type f8, not f4"),
    (lambda p: remake(p, "probes/nll", dtype="f2"), "probes/nll has the type float16, which netCDF does not know"),
    (lambda p: remake(p, "probes/exact_match", dtype=bool), "probes/exact_match is an HDF5 enum (bool): netCDF"),
    (lambda p: remake(p, "retrieval", compression="lzf"), "retrieval is compressed with lzf, which other readers need"),
    (lambda p: shorten(p, "wu_count"), "wu_count has 2 entries along checkpoint, which has 3"),
    (lambda p: edit(p, "checkpoint", 1, 2500), "checkpoint is not strictly increasing: 0, 2500, 2500"),
    (lambda p: edit(p, "head", 3, 7), "head does not count from 0 to 3"),
    (lambda p: edit(p, "kv_head", 1, 1), "kv_head does not map 4 query heads onto 2 key-value heads"),
    (lambda p: edit(p, "probes/retrieval", (1, 2, 0, 0), 1.5), "checkpoint 1000: probes/retrieval has 1 value(s) out"),
    (lambda p: edit(p, "probes/wu_count", (1, 2, 0, 0), np.inf), "probes/wu_count has 1 value(s) outside 0 to inf"),
    (lambda p: edit(p, "retrieval", (2, 0, 0), 0.0), "checkpoint 2500: retrieval is not the mean of probes/retrieval"),
    (lambda p: edit(p, "retrieval", (2, 0, 1), 0.0), "checkpoint 2500: retrieval is not the mean of probes/retrieval"),
    (lambda p: edit(p, "retrieval_stderr", (0, 0, 0), -1), "checkpoint 0: retrieval_stderr has negative"),
    (lambda p: edit(p, "n_retrieval_heads", 0, 5), "checkpoint 0: n_retrieval_heads is 5, but 11 heads are above 0.1"),
    (lambda p: edit(p, "probes/nll", (0, 0), -0.5), "checkpoint 0: probes/nll has negative or infinite values"),
    (lambda p: edit(p, "probes/exact_match", (0, 0), 4), "checkpoint 0: probes/exact_match has values other than"),
    (lambda p: edit(p, "provenance/json", 1, "{'a': 1}"), "checkpoint 1000: provenance/json is not JSON"),
]


@pytest.mark.parametrize(("spoil", "problem"), SPOILED, ids=[text[:40] for _, text in SPOILED])
def test_the_validator_names_what_is_wrong(run: Path, spoil: Callable[[Path], None], problem: str) -> None:
    assert validate(run) == []
    spoil(run)
    found = validate(run)
    assert any(problem in line for line in found), found
    assert len(found) <= 3 and all("\n" not in line for line in found)


def test_a_file_of_the_wrong_number_of_probes_is_found(run: Path) -> None:
    with h5py.File(run, "r+") as file:
        old = file["probes/length"]
        scale = old.dims[0][0]
        del file["probes/length"]
        file.create_dataset("probes/length", data=np.arange(5, dtype="i4")).dims[0].attach_scale(scale)
    assert validate(run) == ["probes/length has 5 entries along probes/probe, which has 6"]


# Files of every released version are read for ever.


def golden_scores(step: int) -> HeadScores:
    """What tests/golden/store-1.0.h5 was written from, as the checkpoints 0 and 1000."""
    return make_scores(step, n_probes=4, n_layers=2)


def test_the_file_of_version_1_0_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store-1.0.h5"
    shutil.copy(GOLDEN / "store-1.0.h5", path)
    for step in (0, 1000):
        assert_same(read_scores(path, step), golden_scores(step))
    assert read_steps(path) == {0: 0.0, 1000: 4.2e9}
    assert validate(path) == []
    assert hs.open(path).retrieval.dims == ("checkpoint", "layer", "head")
    golden_scores(2000).save(path, checkpoint=2000)
    assert_same(read_scores(path, 2000), golden_scores(2000))


def test_todays_file_has_the_layout_of_version_1_0(tmp_path: Path) -> None:
    """A change of the layout needs a new version and a new golden file beside the old one. Without chance it is 1.0."""
    golden_scores(0).save(tmp_path / "today.h5", tokens_seen=0)
    golden_scores(1000).save(tmp_path / "today.h5", checkpoint=1000, tokens_seen=4.2e9)
    assert described(tmp_path / "today.h5") == described(GOLDEN / "store-1.0.h5")


def test_the_file_of_version_1_1_is_read_and_has_todays_layout(tmp_path: Path) -> None:
    path = tmp_path / "store-1.1.h5"
    shutil.copy(GOLDEN / "store-1.1.h5", path)
    scores = [with_chance(step, n_probes=4, n_layers=2) for step in (0, 1000)]
    for step, expected in zip((0, 1000), scores, strict=True):
        assert_same(read_scores(path, step), expected)
    assert validate(path) == []
    scores[0].save(tmp_path / "today.h5", tokens_seen=0)
    scores[1].save(tmp_path / "today.h5", checkpoint=1000, tokens_seen=4.2e9)
    assert described(tmp_path / "today.h5") == described(path)


def test_the_file_of_version_1_2_is_read_and_has_todays_layout(tmp_path: Path) -> None:
    path = tmp_path / "store-1.2.h5"
    shutil.copy(GOLDEN / "store-1.2.h5", path)
    assert validate(path) == []
    assert_same(read_scores(path), with_chance(1000, n_probes=4, n_layers=2))
    assert_same_answers(Answers.load(path), make_answers(1000))
    write_golden(tmp_path / "today.h5")
    assert described(tmp_path / "today.h5") == described(path)


def test_the_file_of_version_1_3_is_read_and_has_todays_layout(tmp_path: Path) -> None:
    path = tmp_path / "store-1.3.h5"
    shutil.copy(GOLDEN / "store-1.3.h5", path)
    assert validate(path) == []
    assert_same_answers(Answers.load(path), make_answers(1000))
    assert_same_ablation(Ablation.load(path), make_ablation(1000))
    made_ablations.write_golden(tmp_path / "today.h5")
    assert described(tmp_path / "today.h5") == described(path)


def test_the_file_of_version_1_4_is_read_and_has_todays_layout(tmp_path: Path) -> None:
    path = tmp_path / "store-1.4.h5"
    shutil.copy(GOLDEN / "store-1.4.h5", path)
    assert validate(path) == []
    found = read_scores(path)
    assert_same(found, golden := made_golden.golden_scores(1000))
    assert found.heads_above_null() == golden.heads_above_null() == [(1, 2), (1, 3)]
    assert np.isnan(read_scores(path, 0)["dealt_mean"]).all()
    first, last = find_beside(path, 0), find_beside(path, 1000)
    assert not first.there() and [*last.there()] == [*KINDS]
    assert_same_answers(last.answers, make_answers(1000))
    assert_same_ablation(last.ablation, make_ablation(1000))
    assert_same_sft_probe(last.sft_probe, make_sft_probe(1000))
    assert_same_perplexity(last.perplexity, make_perplexity(1000))
    with h5py.File(path) as file:
        assert file["n_heads_above_null"][:].tolist() == [-1, 2]
    made_golden.write_golden(tmp_path / "today.h5")
    assert described(tmp_path / "today.h5") == described(path)


def test_schema_md_lists_every_variable() -> None:
    page = (Path(__file__).parents[2] / "SCHEMA.md").read_text(encoding="utf-8").partition(COPY_PROFILES)[0]
    names = {"f4": "float", "f8": "double", "i1": "byte", "i4": "int", "i8": "int64", "string": "string"}
    with h5py.File(GOLDEN / "store-1.4.h5") as file:
        items = schema.datasets(file)
        for path, item in items.items():
            name, axes = path.rsplit("/", 1)[-1], ", ".join(map(str, schema.dims(item)))
            assert f"    {names[schema.disk_type(item)]} {name}({axes}) ;\n" in page
        assert page.count(") ;\n") == len(items)


def described(path: Path) -> list[str]:
    """Every variable and attribute of a file; not the references between them, nor what differs from run to run."""
    lines: list[str] = []

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        lines.extend(f"{name} {word} {getattr(item, word, '')}" for word in ("dtype", "shape", "maxshape", "chunks"))
        lines.extend(f"{name}@{key} {value}" for key, value in item.attrs.items() if not key.endswith("_LIST"))

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return [line for line in lines if not line.startswith(("@history", "@creation_library_version"))]


def test_no_warning_is_hidden_in_this_file() -> None:
    with pytest.raises(UserWarning):
        warnings.warn("as errors", UserWarning, stacklevel=1)


@pytest.mark.parametrize("share", np.arange(1, 20) / 20)
def test_a_full_disk_is_told_in_a_few_words_and_costs_nothing(run: Path, share: float) -> None:
    before = run.read_bytes()
    with room_for(int(share * len(before))), pytest.raises(StoreError) as raised:
        append(run, make_scores(9000), checkpoint=9000)
    assert str(raised.value) == f"cannot write {run}: File too large; it is left as it was"
    assert run.read_bytes() == before
    assert sorted(path.name for path in run.parent.iterdir()) == [".run.h5.lock", "run.h5"]


def test_a_full_disk_that_shows_on_closing_is_told_too(tmp_path: Path) -> None:
    """HDF5 writes most of a small new file when it is closed, and where it cannot it may crash the process."""
    path = tmp_path / "run.h5"
    for size in range(1_000, 60_000, 4_000):
        with room_for(size), pytest.raises(StoreError, match="File too large"):
            append(path, make_scores(), checkpoint=0)
    assert [file.name for file in tmp_path.iterdir()] == [".run.h5.lock"]


def test_what_a_killed_writer_left_is_not_taken_for_the_file(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.h5"
    shutil.copy(run, tmp_path / ".new.h5.tmp")
    append(path, make_scores(), checkpoint=7)
    assert checkpoints(path) == [7] and validate(path) == []


def test_a_file_that_another_program_writes_to_is_told_as_that(run: Path) -> None:
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", hold, str(run)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        assert validate(run) == [f"another program has {run} open for writing; close it there, then try again"]
        other.communicate()
    assert validate(run) == []


def test_what_a_branch_left_is_set_aside_whole(run: Path) -> None:
    with h5py.File(run, "r+") as file:  # a variable of somebody else's, which goes along
        mine = file.create_dataset("loss", (3,), "f4", maxshape=(None,), chunks=(8,), track_order=True)
        mine.dims[0].attach_scale(file["checkpoint"])
        mine[:] = [3.0, 2.0, 1.0]
    before = run.read_bytes()
    beside = store.set_aside(run, 1500)
    assert beside == run.with_name(f"{run.stem}.abandoned-1500.h5") and beside.read_bytes() == before
    assert validate(run) == [] and checkpoints(run) == [0, 1000]
    with h5py.File(run) as file:
        assert file["loss"][:].tolist() == [3.0, 2.0]
    append(run, make_scores(1500), 1500)
    assert checkpoints(run) == [0, 1000, 1500]
    assert_same(read_scores(beside, 2500), make_scores(2500))
    again = store.set_aside(run, 1500)
    assert again.name.endswith(".abandoned-1500-2.h5"), "one that is there is never overwritten"
    with pytest.raises(StoreError, match="holds no checkpoint from 1500 on; it has 0, 1000"):
        store.set_aside(run, 1500)
    assert store.set_aside(run, 0).exists() and not run.exists()
    append(run, make_scores(7), 7)
    assert checkpoints(run) == [7]
