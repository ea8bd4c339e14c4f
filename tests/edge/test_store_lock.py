"""One writer and any number of readers, in real processes, killed ones too."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.store import Store
from qcmb_mpi.store import connection as store_connection
from qcmb_mpi.store import lock as store_lock
from qcmb_mpi.store import owner as store_owner
from tests.edge.store_cases import (
    committed,
    energy_of,
    fill,
    make_outcome,
    make_space,
)
from tests.launch.jobs import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


# ------------------------------------------------------------------------------- one writer


def test_a_second_writer_is_refused_by_name(path: Path, store: Store) -> None:
    pattern = rf"written by process {os.getpid()} on {socket.gethostname()} since \d{{4}}-"
    with pytest.raises(StoreError, match=pattern):
        Store.open(path)
    os.symlink(path, path.with_name("alias"))
    with pytest.raises(StoreError, match=pattern):
        Store.open(path.with_name("alias"))
    store.set_meta({"still": "mine"})


def change_lock(path: Path, **changes: object) -> Path:
    lock = store_lock.lock_path(path)
    owner = dataclasses.asdict(store_owner.this_process())
    lock.write_text(json.dumps(owner | changes))
    return lock


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_of_a_dead_process_is_taken_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pid = dead_pid()
    change_lock(path, pid=pid)
    with caplog.at_level(logging.WARNING), Store.open(path):
        assert f"took over from process {pid}" in caplog.text
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_a_process_number_in_use_again_is_not_the_owner(path: Path) -> None:
    change_lock(path, process_start="1")
    with Store.open(path) as store:
        store.set_meta({"a": 1})


def test_a_zombie_is_dead(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
    started = store_owner.process_start(process.pid)
    change_lock(path, pid=process.pid, process_start=started)
    Store.open(path).close()
    process.wait()


def test_a_process_that_cannot_be_looked_at_is_alive(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    change_lock(path, pid=dead_pid())
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(StoreError, match="is being written by"):
        Store.open(path)


def test_a_lock_released_while_looked_at_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = change_lock(path)
    look = store_lock.look

    def release_first(place: Path) -> store_lock.Sight | None:
        monkeypatch.setattr(store_lock, "look", look)
        lock.unlink()
        return look(place)

    monkeypatch.setattr(store_lock, "look", release_first)
    Store.open(path).close()


def test_of_two_that_see_a_stale_lock_one_never_removes_the_others_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_lock(path, pid=dead_pid())
    rename = os.rename

    def other_was_faster(source: Path, target: Path) -> None:
        change_lock(path)
        rename(source, target)

    monkeypatch.setattr(store_lock.os, "rename", other_was_faster)
    with pytest.raises(StoreError, match=f"is being written by process {os.getpid()}"):
        Store.open(path)
    assert store_lock.read_owner(store_lock.lock_path(path)) is not None
    assert len(list(path.parent.iterdir())) == 1


def test_opening_gives_up_when_locks_come_and_go(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_lock(path)
    monkeypatch.setattr(store_lock, "_remove_stale", lambda store, lock, lease_s: None)
    with pytest.raises(StoreError, match="other processes are opening it"):
        Store.open(path)


def test_a_writer_whose_lock_is_gone_writes_no_more(path: Path) -> None:
    space = make_space()
    store = Store.open(path)
    store.attach(0, space)
    lock = change_lock(path, host="thief", pid=5)
    with pytest.raises(StoreError, match=r"taken by another writer, process 5 on thief"):
        store.append([make_outcome(space, 0)])
    store.close()
    assert lock.exists()
    lock.unlink()
    assert committed(path, space) == []


def test_a_vanished_directory_is_noticed(tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    space = make_space()
    store = Store.open(place / "s.sqlite")
    store.attach(0, space)
    os.rename(place, tmp_path / "gone")
    with pytest.raises(StoreError, match=r"lock was removed; .* .1 results are not in it"):
        store.append([make_outcome(space, 0)])
    store.close()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_vanished_store_is_noticed(path: Path, is_replaced: bool) -> None:
    space = make_space()
    store = Store.open(path, commit_interval_s=0.0)
    store.attach(0, space)
    store.append([make_outcome(space, 0)])
    path.rename(path.with_name("gone"))
    if is_replaced:
        path.write_bytes(path.with_name("gone").read_bytes())
    with pytest.raises(StoreError, match="was removed or replaced while this run had it open"):
        store.append([make_outcome(space, 1)])
    store.close()
    assert committed(path.with_name("gone"), space) == [0]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        ["gone", *([path.name] if is_replaced else [])]
    )


# ------------------------------------------------------------------------------- leases

ELSEWHERE = [{"host": "elsewhere"}, {"namespace": "pid:[1]"}]


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_a_lock_from_elsewhere_that_shows_no_life_is_taken_over(
    path: Path, changes: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    change_lock(path, pid=12, **changes)
    with caplog.at_level(logging.WARNING), Store.open(path, lease_s=0.2) as store:
        store.set_meta({"a": 1})
    host = changes.get("host", socket.gethostname())
    told = [record.getMessage() for record in caplog.records]
    assert f"locked by process 12 on {host} since 20" in told[0]
    assert "no sign of life for 0 s" in told[0]
    assert len(told) > 2
    assert f"took over from process 12 on {host} since" in told[-1]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_a_lock_from_elsewhere_that_is_touched_is_respected_at_once(
    path: Path, changes: dict[str, str]
) -> None:
    lock = change_lock(path, pid=12, **changes)
    os.utime(lock, (1.0, 1.0))  # whatever the clocks of other hosts say
    is_over = threading.Event()

    def live() -> None:
        moment_s = 2.0
        while not is_over.wait(0.02):
            os.utime(lock, (moment_s, moment_s))
            moment_s += 1.0

    owner = threading.Thread(target=live)
    owner.start()
    began_s = time.monotonic()
    try:
        with pytest.raises(StoreError, match=r"is being written by process 12 on .* is alive"):
            Store.open(path, lease_s=600.0 / 15)  # looks about once a second
    finally:
        is_over.set()
        owner.join()
    assert time.monotonic() - began_s < 600.0 / 15
    assert json.loads(lock.read_text())["pid"] == 12


def test_a_lock_from_elsewhere_that_is_released_while_watched_is_free(path: Path) -> None:
    lock = change_lock(path, host="elsewhere")
    release = threading.Timer(0.1, lock.unlink)
    release.start()
    Store.open(path, lease_s=30.0).close()
    release.join()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"host": "a"}', '"text"', "[" * 100_000, "\x00\x01"]
    + [json.dumps(dataclasses.asdict(store_owner.this_process()) | wrong) for wrong in (
        {"pid": "12"}, {"pid": -1}, {"pid": 2**40}, {"pid": True}, {"host": 3}, {"since": None},
        {"n_restarts": "many"}, {"more": 1},
    )],
    ids=lambda text: text[-20:],
)  # fmt: skip
def test_a_lock_that_names_no_owner_is_a_lease_too(path: Path, text: str) -> None:
    lock = store_lock.lock_path(path)
    lock.write_text(text)
    began_s = time.monotonic()
    Store.open(path, lease_s=0.1).close()
    assert time.monotonic() - began_s >= 0.1
    assert not lock.exists()


def test_a_writer_shows_that_it_lives_until_it_closes(path: Path) -> None:
    lock = store_lock.lock_path(path)
    with Store.open(path, lease_s=0.04):
        for _ in range(3):
            os.utime(lock, (1.0, 1.0))
            wait_until(lambda: lock.stat().st_mtime > 1e9)
    assert not lock.exists()


def test_a_writer_touches_no_lock_of_another(path: Path) -> None:
    store = Store.open(path, lease_s=0.02)
    lock = change_lock(path, host="thief")
    os.utime(lock, (1.0, 1.0))
    time.sleep(0.1)
    assert lock.stat().st_mtime == 1.0
    store._connection.close()
    assert lock.exists()


HOLDER = """
    import os, sys
    from qcmb_mpi.store import owner, Store
    owner._namespace = lambda: "pid:[7]"  # as if in a container of its own
    store = Store.open(sys.argv[1], lease_s=0.2)
    print("open", flush=True)
    for line in sys.stdin:
        try:
            store.set_meta({"word": line.strip()})
            store.flush()
            print("written", flush=True)
        except Exception as error:
            print(error, flush=True)
"""


def test_a_stopped_writer_loses_its_lease_and_finds_out_when_it_wakes(path: Path) -> None:
    with start(HOLDER, path) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"by process {holder.pid} on .* is alive"):
            Store.open(path, lease_s=5.0)
        holder.send_signal(signal.SIGSTOP)
        with Store.open(path, lease_s=0.5) as store:
            holder.send_signal(signal.SIGCONT)
            print("theirs", file=holder.stdin, flush=True)
            assert "taken by another writer, process" in holder.stdout.readline()
            store.set_meta({"word": "ours"})
            store.flush()
        holder.stdin.close()
        holder.wait()
    with Store.open(path, is_read_only=True) as reader:
        assert reader.meta("word") == "ours"


# ------------------------------------------------------------------------------- batch jobs

SLURM = {"SLURM_JOB_ID": "42", "SLURM_CLUSTER_NAME": "blue"}
GRID = {"JOB_ID": "42", "SGE_TASK_ID": "undefined"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("", 0)),
        (SLURM, ("Slurm job 42 of blue", 0)),
        (SLURM | {"SLURM_RESTART_COUNT": "3"}, ("Slurm job 42 of blue", 3)),
        ({"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "x"}, ("Slurm job 42", 0)),
        ({"PBS_JOBID": "7.server"}, ("PBS job 7.server", 0)),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "2"}, ("LSF job 7[2]", 0)),
        (GRID | {"RESTARTED": "1"}, ("Grid Engine job 42.undefined", 1)),
        ({"JOB_ID": "42"}, ("", 0)),
        ({"FLUX_JOB_ID": "f23"}, ("Flux job f23", 0)),
    ],
)
def test_a_lock_knows_its_batch_job(environ: dict[str, str], expected: tuple[str, int]) -> None:
    assert store_owner.batch_job(environ) == expected


@pytest.mark.parametrize("before", ["0", "1"])
def test_a_requeued_job_takes_over_at_once_from_its_earlier_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, before: str
) -> None:
    for name, value in (SLURM | {"SLURM_RESTART_COUNT": before}).items():
        monkeypatch.setenv(name, value)
    change_lock(path, host="elsewhere", pid=12)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with Store.open(path, lease_s=1e9):
        assert "took over from process 12 on elsewhere (Slurm job 42 of blue)" in caplog.text


@pytest.mark.parametrize(
    "now",
    [
        {"SLURM_RESTART_COUNT": "1"},
        {"SLURM_RESTART_COUNT": "0"},
        {"SLURM_RESTART_COUNT": "2", "SLURM_JOB_ID": "43"},
        {"SLURM_RESTART_COUNT": "2", "SLURM_CLUSTER_NAME": "red"},
    ],
)
def test_no_other_job_does(
    path: Path, monkeypatch: pytest.MonkeyPatch, now: dict[str, str]
) -> None:
    for name, value in (SLURM | {"SLURM_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(name, value)
    lock = change_lock(path, host="elsewhere")
    for name, value in now.items():
        monkeypatch.setenv(name, value)
    threading.Timer(0.15, os.utime, (lock, (1.0, 1.0))).start()
    with pytest.raises(StoreError, match=r"on elsewhere .Slurm job 42 of blue. since"):
        Store.open(path, lease_s=10.0)


# ------------------------------------------------------------------------------- without locks


@pytest.fixture
def no_posix_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(store_lock.fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_posix_locks")
def test_without_posix_locks_all_is_the_same(path: Path) -> None:
    space = make_space()
    with Store.open(path, commit_interval_s=0.0) as store:
        assert not store._connection._has_locks
        store.attach(0, space)
        store.append([make_outcome(space, 0)])
        assert committed(path, space) == [0]
        with pytest.raises(StoreError, match="is being written by"):
            Store.open(path)
    fill(path, space, [1])
    assert committed(path, space) == [0, 1]


@pytest.mark.usefixtures("no_posix_locks")
def test_without_posix_locks_nothing_is_believed_that_was_read_during_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, make_space(), [0])
    journal = path.with_name(path.name + "-journal")
    with Store.open(path, is_read_only=True) as reader:
        stamps = iter([b"1", b"2", b"2", b"2"])
        monkeypatch.setattr(store_connection, "_stamp", lambda place: next(stamps))
        assert reader.counts()[0].n_done == 1
        assert next(stamps, None) is None
    monkeypatch.undo()
    with Store.open(path, is_read_only=True) as reader:
        monkeypatch.setattr(store_connection, "_READ_PATIENCE_S", 0.05)
        reader._connection._has_locks = False
        journal.write_bytes(b"commit under way")
        with pytest.raises(StoreError):
            reader.counts()
        journal.unlink()
        assert reader.counts()[0].n_done == 1
        monkeypatch.setattr(store_connection, "_stamp", lambda place: None)
        with pytest.raises(StoreError, match="is being written all the time"):
            reader.counts()


def test_a_lock_held_by_another_process_shows_that_there_are_locks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); "
    script += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        with file.open("rb") as opened:
            assert store_lock.has_posix_locks(opened.fileno(), fcntl.LOCK_SH)
        holder.stdin.close()


# ------------------------------------------------------------------------------- real processes

WRITER = """
    import sys
    from tests.edge.store_cases import make_outcome, make_space
    from qcmb_mpi.store import Store
    space = make_space(3, driver="gradient", sizes=(1,) * 30)
    store = Store.open(sys.argv[1], commit_interval_s=0.0)
    store.attach(0, space)
    for start in range(0, 4000, 7):
        store.append([make_outcome(space, task) for task in range(start, start + 7)])
        print(start + 7, flush=True)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    return start(WRITER, path)


def start(script: str, path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_loses_nothing_that_was_committed(path: Path, seed: int) -> None:
    space = make_space(3, driver="gradient", sizes=(1,) * 30)
    with start_writer(path) as writer:
        assert writer.stdout is not None
        for _ in range(20 + 15 * seed):
            n_promised = int(writer.stdout.readline())
        time.sleep(0.001 * seed)
        writer.send_signal(signal.SIGKILL)
        n_promised = max([n_promised, *map(int, writer.stdout.read().split())])
    with Store.open(path) as store:
        store.attach(0, space)
        done = store.done(0)
        assert done.tolist() == list(range(len(done)))
        assert len(done) in (n_promised, n_promised + 7)
        rows = dict(zip(store.rows(0).tasks.tolist(), store.rows(0).start_s.tolist(), strict=True))
        assert rows == {task: 1.7e9 + task for task in range(len(done))}
        store.append([make_outcome(space, task) for task in range(len(done), space.n_tasks)])
        for block in space.blocks:
            energies = [energy_of(space, task) for task in block.ids[:50]]
            assert store.values(0).energies(block)[:50].tolist() == energies


def test_readers_see_whole_commits_while_a_writer_writes(path: Path) -> None:
    space = make_space(3, driver="gradient", sizes=(1,) * 30)
    with start_writer(path) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with Store.open(path, is_read_only=True) as reader:
            reader.attach(0, space)
            counts = []
            for _ in range(60):
                n_before = len(reader.done(0))
                counts.append(sum(count.n_done for count in reader.counts()))
                assert n_before <= counts[-1]
            arrays = reader.values(0).arrays(space.blocks[0], "gradient")
            assert sum(len(ranks) for ranks, _ in arrays) == 30
        writer.stdout.read()
    assert writer.returncode == 0
    assert counts == sorted(counts)
    assert all(count % 7 == 0 for count in counts)


def test_a_reader_undoes_what_a_killed_writer_left_half_written(path: Path) -> None:
    space = make_space()
    fill(path, space, [0])
    script = """
        import os, sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA cache_size=1")
        db.execute("PRAGMA cache_spill=1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE component SET energy = 7.0")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(str(i), "x" * 3000) for i in range(50)])
        os._exit(9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    journal = path.with_name(path.name + "-journal")
    assert journal.stat().st_size > 0
    assert committed(path, space) == [0]
    assert not journal.exists()
