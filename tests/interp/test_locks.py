"""File systems without locks, names that fill what a file system takes, and results that their file does not take."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import SoftFileLock

from command_line import run as headscope
from headscope.interp.store import locks
from headscope.interp.store import results_file as store
from headscope.interp.store.locks import beside, locked
from headscope.interp.store.merging import merge
from headscope.interp.store.rescue import rescue
from headscope.interp.store.results_file import StoreError, append, check_writable, checkpoints, read_scores
from made_scores import assert_same, make_scores

NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int fd, int op) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""

# Everything that touches a results file, under every errno; `setenv` reaches the C library, which os.environ does too.
WRITE_AND_READ = """
import os, sys
from pathlib import Path
import headscope as hs
from headscope.interp.store import locks
from headscope.interp.store import results_file as store
from made_scores import assert_same, make_scores
folder = Path(sys.argv[1])
for errno in sys.argv[2:]:
    os.environ["FLOCK_ERRNO"] = errno
    locks.has_flock.cache_clear()
    step = 1000 + int(errno)
    for file in (folder / "there.h5", folder / f"new-{errno}.h5"):
        store.check_writable(file)
        store.append(file, make_scores(step), step)
        assert_same(store.read_scores(file, step), make_scores(step))
    assert step in hs.open(file).checkpoint.values
    with hs.open(file, group="probes") as detail:
        assert detail.retrieval.shape[1:] == (6, 3, 4)
    assert store.validate(file) == []
    print("done", errno)
"""


@pytest.fixture
def there(tmp_path: Path) -> Path:
    path = tmp_path / "there.h5"
    make_scores(0).save(path)
    return path


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """flock of this process says ENOLCK, as on NFS without its lock daemon."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    locks.has_flock.cache_clear()
    yield
    locks.has_flock.cache_clear()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs gcc and LD_PRELOAD")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "no_locks.c").write_text(NO_LOCKS)
    library = folder / "no_locks.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "no_locks.c"], check=True)
    return library


def preloaded(shim: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )


def test_files_are_written_and_read_where_flock_fails(shim: Path, there: Path) -> None:
    """NFS: 37; DVS: 524; Lustre: 38; others 95; and whatever else a file system may say."""
    numbers = ["5", "13", "37", "38", "95", "524"]
    done = preloaded(shim, WRITE_AND_READ, there.parent, *numbers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"done {number}" for number in numbers]
    assert done.stderr.count("has no locks") == 1, "said once"
    assert checkpoints(there) == [0, *(1000 + int(number) for number in numbers)]
    assert not list(there.parent.glob(".*.softlock"))


def test_the_variable_that_insists_on_hdf5_locks_is_named(shim: Path, there: Path) -> None:
    code = "import sys; from headscope.interp.store import validate; print(validate(sys.argv[1]))"
    done = preloaded(shim, code, there, FLOCK_ERRNO="37", HDF5_USE_FILE_LOCKING="TRUE")
    assert "No locks available" in done.stdout and "set HDF5_USE_FILE_LOCKING=FALSE" in done.stdout


def test_another_writer_of_hdf5_is_still_noticed(there: Path) -> None:
    code = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, there], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    try:
        with pytest.raises(StoreError, match="another program has .* open for writing"):
            read_scores(there)
    finally:
        writer.communicate()


def test_a_lock_file_that_flock_left_locks_nothing(there: Path, no_flock: None, caplog) -> None:
    beside(there, ".{}.lock").touch()
    append(there, make_scores(5), 5)
    append(there, make_scores(6), 6)
    assert checkpoints(there) == [0, 5, 6]
    assert caplog.text.count("has no locks (flock: No locks available)") == 1


def test_a_dead_process_of_this_machine_holds_no_soft_lock(there: Path, no_flock: None) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    beside(there, ".{}.softlock").write_text(f"{dead.pid}\n{socket.gethostname()}\n")
    append(there, make_scores(5), 5)
    assert checkpoints(there) == [0, 5]


@pytest.mark.parametrize("record", ["4711\nsome-other-node\n", ""], ids=["another machine's", "cut short"])
def test_a_soft_lock_of_somewhere_else_is_named_and_kept(there: Path, no_flock: None, monkeypatch, record: str) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.2)
    lock = beside(there, ".{}.softlock")
    lock.write_text(record)
    for attempt in (lambda: append(there, make_scores(5), 5), lambda: check_writable(there)):
        with pytest.raises(StoreError, match=r"its lock file \S+\.softlock was made.*delete that file") as refused:
            attempt()
        assert str(lock) in str(refused.value)
        assert ("process 4711 on some-other-node" in str(refused.value)) == bool(record)
    assert lock.read_text() == record
    lock.unlink()
    append(there, make_scores(5), 5)


def test_a_live_writer_is_waited_for(there: Path, no_flock: None, monkeypatch) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.2)
    with SoftFileLock(beside(there, ".{}.softlock")), pytest.raises(StoreError, match="another process has held"):
        append(there, make_scores(5), 5)
    with locked(beside(there, ".{}.lock"), timeout=0):
        assert beside(there, ".{}.softlock").exists()
    assert not beside(there, ".{}.softlock").exists()


def test_a_sweep_is_claimed_where_there_are_no_locks(tmp_path: Path, no_flock: None) -> None:
    from headscope.interp.sweep.shards import Shards, SweepError

    shards = Shards(tmp_path / "run.h5")
    again = Shards(tmp_path / "run.h5").claim(None)
    with shards.claim(None), pytest.raises(SweepError, match=r"another sweep is writing.*\.sweep\.softlock"), again:
        pass
    with shards.claim(None):
        pass


# Names


NAMES = ["a" * 252 + ".h5", "ü" * 126 + ".h5", "回" * 84 + ".h5", "b" * 190 + ".h5", "c" * 240 + ".h5"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(os.fsencode(name))} bytes of {name[0]}")
def test_every_legal_name_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    for step in (1, 2):
        make_scores(step).save(path, checkpoint=step)
    store.write_file(path.with_suffix(".md"), b"a text")
    merge([path], path.with_name(name[1:-3] + "z.h5"))
    assert checkpoints(path) == [1, 2]
    unsaved = rescue(make_scores(3), path, 3, None, OSError(5, "Input/output error"))
    assert unsaved.rescued is not None and unsaved.rescued.parent == tmp_path


def test_long_names_that_differ_at_the_end_have_files_of_their_own(tmp_path: Path) -> None:
    first, second = (beside(tmp_path / ("x" * 250 + end), ".{}.lock") for end in ("1", "2"))
    assert first != second and len(os.fsencode(first.name)) < 128


def test_names_that_no_file_system_takes_are_refused_before_the_work(tmp_path: Path) -> None:
    for name in ("x" * 256, "é" * 128):
        with pytest.raises(StoreError, match="File name too long; choose another name"):
            check_writable(tmp_path / name)


# What a file does not take


def test_scores_are_saved_beside_and_the_advice_works(there: Path) -> None:
    unsaved = rescue(make_scores(7), there, 7, 2e9, StoreError(f"cannot write {there}: No space left on device"))
    assert unsaved.rescued is not None and unsaved.rescued.parent == there.parent
    command = f"headscope merge {there} {unsaved.rescued} -o {there}"
    assert str(unsaved) == (
        f"could not write {there} (No space left on device); the scores are in {unsaved.rescued}: {command}"
    )
    assert headscope(*command.split()[1:]).exit_code == 0
    assert checkpoints(there) == [0, 7]
    assert_same(read_scores(there, 7), make_scores(7))


def test_a_file_that_never_came_to_be_is_made_by_the_advice(tmp_path: Path) -> None:
    path = tmp_path / "my run.h5"
    unsaved = rescue(make_scores(7), path, 7, None, KeyboardInterrupt())
    assert str(unsaved).startswith(f"could not write {path} (interrupted)")
    assert str(unsaved).endswith(f": headscope merge '{unsaved.rescued}' -o '{path}'")


@pytest.mark.parametrize(
    "other", [make_scores(7), make_scores(3, probe_set_hash="f" * 64)], ids=["the same checkpoint", "other probes"]
)
def test_scores_that_do_not_go_with_the_file_stay_apart(tmp_path: Path, other) -> None:
    path = tmp_path / "run.h5"
    other.save(path, checkpoint=7 if other.probe_set_hash.startswith("0") else 3)
    try:
        append(path, make_scores(7), 7)
    except StoreError as error:
        unsaved = rescue(make_scores(7), path, 7, None, error)
    assert "a file of their own" in str(unsaved) and "merge" not in str(unsaved)
    assert_same(read_scores(unsaved.rescued), make_scores(7))


def test_other_folders_are_tried_in_turn(tmp_path: Path, monkeypatch) -> None:
    current, temporary = tmp_path / "current", tmp_path / "temporary"
    current.mkdir(), temporary.mkdir()
    monkeypatch.chdir(current)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    gone = tmp_path / "gone" / "run.h5"
    found = rescue(make_scores(7), gone, 7, None, OSError(116, "Stale file handle"))
    assert found.rescued is not None and found.rescued.parent == current and "Stale file handle" in str(found)
    again = rescue(make_scores(8), gone, 8, None, OSError(116, "Stale file handle"), into=found.rescued)
    assert again.rescued == found.rescued and checkpoints(found.rescued) == [7, 8]
    shutil.rmtree(current)
    assert rescue(make_scores(7), gone, 7, None, OSError(28, "full")).rescued.parent == temporary
    shutil.rmtree(temporary)
    nowhere = rescue(make_scores(7), gone, 7, None, OSError(28, "full"))
    assert nowhere.rescued is None and "the scores are lost" in str(nowhere)
