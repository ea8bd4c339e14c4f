"""Disks that are full, read-only or gone: a clear end, and nothing lost that was committed."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.inputs.documents import strip_volatile
from tests.launch.jobs import command, environment, read, run, started, unmeasured, wait_until
from tests.launch.test_run import FLAKY, helium, write

SMALL_KIB = 96  # an empty store has 52
SMALL_DISK_KIB = 150  # a journal, the input and the lock want room too
N_TASKS = 2 * (10 + 45 + 120)
WORDS = ("--workers", "2", *FLAKY)
AWKWARD = "it's $HOME; a folder"


def many(folder: Path, **keywords: Any) -> Path:
    """Write an input whose store needs more than a small disk has."""
    return write(folder, helium(10, driver="gradient", **keywords))


def n_done(store: Path) -> int:
    """Count results as any other program would; 0 if there is no store yet."""
    if not store.exists():
        return 0
    db = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(db.execute("SELECT count(*) FROM component WHERE status = 0").fetchone()[0])
    finally:
        db.close()


def bytes_of(result: Path) -> bytes:
    """Return what of a result does not depend on when and where it was computed."""
    return strip_volatile(result.read_bytes())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Compute the same in peace, once."""
    folder = tmp_path_factory.mktemp("reference")
    job = run(command("run", many(folder, sleep=0.015), "--no-store", *WORDS), cwd=folder)
    assert job.returncode == 0, job.stderr
    return bytes_of(folder / "in.result.json")


def errors_in(stderr: str) -> list[str]:
    """Pick the lines that tell of errors."""
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if "ERROR" in line or ": error:" in line]


# ---- full ----------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, reference: bytes
) -> None:
    source, store = many(tmp_path, sleep=0.015), tmp_path / "in.store.sqlite"
    words = command("run", source, *WORDS)
    shell = ["bash", "-c", f'ulimit -f {SMALL_KIB} && exec "$@"', "-", *words]
    job = run(shell, cwd=tmp_path, env=unmeasured(environment()))
    assert job.returncode == 75, job.stderr
    (line,) = errors_in(job.stderr)
    assert f"{store}: the file system refused (quota, largest file size" in line
    assert "make room, or move the store" in line
    assert "results are not in it" in line
    n_before = n_done(store)
    assert 0 < n_before < N_TASKS
    assert read(tmp_path / "in.run.json")["status"] == "incomplete"
    again = run(words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert read(tmp_path / "in.run.json")["n_reused"] == n_before
    assert bytes_of(tmp_path / "in.result.json") == reference


ON_A_FULL_DISK = f"""
mount -t tmpfs -o size={SMALL_DISK_KIB}k none disk
cp in.json disk
cd disk
"$@" 2>../first.log
echo $? >../first.code
cp in.store.sqlite ../first.sqlite
ls -A >../first.files
mount -o remount,size=8m "$PWD"
"$@" 2>../second.log
echo $? >../second.code
cp in.result.json in.run.json ..
"""


def alone() -> list[str]:
    """Find how a mount of one's own may be made here: as root, or as root of a user namespace."""
    ways = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
    for way in ways:
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    raise AssertionError("neither root nor a user namespace: cannot mount a small disk")


def test_a_full_disk_ends_the_run_and_with_room_the_same_command_goes_on(
    tmp_path: Path, reference: bytes
) -> None:
    (tmp_path / "disk").mkdir()
    many(tmp_path, sleep=0.015)
    words = command("run", "in.json", *WORDS)
    job = run([*alone(), "bash", "-c", ON_A_FULL_DISK, "-", *words], cwd=tmp_path)
    texts = {name: (tmp_path / name).read_text() for name in ("first.log", "second.log")}
    assert (tmp_path / "first.code").read_text() == "75\n", (texts, job.stderr)
    assert any("the disk is full; make room" in line for line in errors_in(texts["first.log"]))
    assert ".lock" not in (tmp_path / "first.files").read_text()
    n_before = n_done(tmp_path / "first.sqlite")
    assert 0 < n_before < N_TASKS
    assert (tmp_path / "second.code").read_text() == "0\n", texts
    assert read(tmp_path / "in.run.json")["n_reused"] == n_before
    assert bytes_of(tmp_path / "in.result.json") == reference


# ---- read-only -----------------------------------------------------------------------------


def bound() -> None:
    """Heed the permissions of files, even as root (drop what lets root ignore them)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if os.geteuid() == 0 and libc.prctl(24, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def make_file_read_only(folder: Path) -> None:
    (folder / "in.store.sqlite").chmod(0o444)


def make_directory_read_only(folder: Path) -> None:
    folder.chmod(0o555)


@pytest.mark.parametrize(
    ("forbid", "expected"),
    [
        (make_file_read_only, "in.store.sqlite: cannot be written: the file, its directory"),
        (make_directory_read_only, "cannot write in"),
    ],
)
def test_what_may_not_be_written_is_refused_before_anything_runs(
    tmp_path: Path, forbid: Callable[[Path], None], expected: str
) -> None:
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    source = many(folder)
    words = command("run", source, *WORDS, "-o", out / "in.result.json")
    words += ["--store", str(folder / "in.store.sqlite")]
    first = run(command("run", write(folder, helium(3)), *FLAKY), cwd=folder)
    assert first.returncode == 0, first.stderr
    many(folder)
    before = (folder / "in.store.sqlite").read_bytes()
    forbid(folder)
    drop = "import sys, os; from tests.launch import test_disk; test_disk.bound(); "
    drop += "os.execv(sys.argv[1], sys.argv[1:])"
    job = run([sys.executable, "-c", drop, *words], cwd=tmp_path)
    folder.chmod(0o755)
    assert job.returncode == 2, job.stderr
    (line,) = errors_in(job.stderr)
    assert expected in line
    assert (folder / "in.store.sqlite").read_bytes() == before
    assert list(out.iterdir()) == []
    assert not (folder / "in.store.sqlite.lock").exists()


# ---- gone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_store_that_is_deleted_ends_the_run(tmp_path: Path, what: str) -> None:
    source = write(tmp_path, helium(8, driver="gradient", sleep=0.1))  # for nine seconds
    folder = tmp_path / "data"
    folder.mkdir()
    store = folder / "s.sqlite"
    words = command("run", source, *WORDS, "--store", store)
    with started(words, cwd=tmp_path, env=environment()) as job:
        wait_until(lambda: n_done(store) >= 3)
        if what == "file":
            store.unlink()
        else:
            shutil.rmtree(folder)
        code = job.wait(120)
        assert job.stderr is not None
        (line,) = errors_in(job.stderr.read())
    assert code == 75
    assert str(store) in line
    assert "removed" in line
    assert "nothing more is written" in line
    assert "results are not in it" in line
    summary = read(tmp_path / "in.run.json")
    assert summary["status"] == "incomplete"
    assert "removed" in summary["stopped"]
    folder.mkdir(exist_ok=True)
    for leftover in folder.iterdir():
        assert leftover.name != store.name
    again = run(command("run", source, *WORDS, "--store", store), cwd=tmp_path)
    assert again.returncode == 0, again.stderr


# ---- repaired ------------------------------------------------------------------------------


def make_damaged(store: Path) -> None:
    execute(store, "UPDATE component SET energy = energy + 1e-9 WHERE rank = 1")


def make_cut(store: Path) -> None:
    os.truncate(store, store.stat().st_size - 5000)


def make_versionless(store: Path) -> None:
    execute(store, "PRAGMA user_version = 0")


def make_newer(store: Path) -> None:
    execute(store, "PRAGMA user_version = 99")


def make_foreign(store: Path) -> None:
    store.unlink()
    execute(store, "CREATE TABLE precious (data)")


def make_missing(store: Path) -> None:
    store.unlink()


def make_directory(store: Path) -> None:
    store.unlink()
    store.mkdir()


def execute(store: Path, sql: str) -> None:
    db = sqlite3.connect(store)
    db.execute(sql)
    db.commit()
    db.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run something to its end, once, in a place with an awkward name."""
    folder = tmp_path_factory.mktemp("made") / AWKWARD
    folder.mkdir()
    job = run(command("run", write(folder, helium(driver="gradient")), *FLAKY), cwd=folder)
    assert job.returncode == 0, job.stderr
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """Return a folder of a run that is over, to do with it what one likes."""
    return Path(shutil.copytree(made, tmp_path / AWKWARD))


@pytest.mark.parametrize("damage", [make_damaged, make_cut, make_versionless])
def test_a_damaged_store_is_refused_with_the_command_that_repairs_it(
    finished: Path, damage: Callable[[Path], None]
) -> None:
    store = finished / "in.store.sqlite"
    before = bytes_of(finished / "in.result.json")
    damage(store)
    words = command("run", "in.json", *FLAKY)
    refused = run(words, cwd=finished)
    assert refused.returncode == 2, refused.stderr
    (line,) = errors_in(refused.stderr)
    advice = line.split("`")[1]
    assert advice.startswith("python -m qcmb_mpi repair ")
    shell = advice.replace("python", sys.executable, 1)
    repaired = run(["bash", "-c", shell], cwd=finished)
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout.startswith(f"{store}: ")
    n_kept = int(repaired.stdout.removeprefix(f"{store}: ").split()[0])
    assert (finished / "in.store.sqlite.damaged-1").exists()
    again = run(words, cwd=finished)
    assert again.returncode == 0, again.stderr
    assert (
        read(finished / "in.run.json")["n_reused"]
        == n_kept
        == n_done(store) - (read(finished / "in.run.json")["n_computed"])
    )
    assert bytes_of(finished / "in.result.json") == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (make_newer, "has store format version 99"),
        (make_foreign, "another program's SQLite database"),
        (make_missing, "no such file"),
        (make_directory, "is a directory"),
    ],
)
def test_what_cannot_be_repaired_is_refused_and_left_as_it_is(
    finished: Path, change: Callable[[Path], None], expected: str
) -> None:
    store = finished / "in.store.sqlite"
    change(store)
    before = store.read_bytes() if store.is_file() else None
    job = run(command("repair", store), cwd=finished)
    assert (job.returncode, job.stdout) == (2, "")
    (line,) = job.stderr.splitlines()
    assert expected in line
    assert before is None or store.read_bytes() == before
    assert not (finished / "in.store.sqlite.damaged-1").exists()


def test_the_store_of_a_run_under_way_is_not_repaired(tmp_path: Path) -> None:
    source, store = many(tmp_path, sleep=0.1), tmp_path / "in.store.sqlite"
    with started(command("run", source, *WORDS), cwd=tmp_path, env=environment()) as job:
        wait_until(lambda: n_done(store) >= 1)
        refused = run(command("repair", store), cwd=tmp_path)
        assert job.poll() is None
    assert refused.returncode == 2
    assert f"{store}: is being written by process {job.pid} on " in refused.stderr
