"""``status``: of a run under way, ended, dead, and of things that are no run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from qcmb_mpi.errors import InputError, StoreError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.files import find_files, read_json, write_summary
from qcmb_mpi.report.status import format_status, status_of
from qcmb_mpi.store import Store
from tests.edge.report_cases import done, lost, make_result
from tests.launch.jobs import wait_until
from tests.toys import toy_expansion

NOBODY = 2**22 + 17  # above the largest process id


def make_store(folder: Path, *, n_done: int = 6, **meta: Any) -> Path:
    """Make a store of 14 tasks as a run under way leaves it."""
    path = folder / "water.store.sqlite"
    space = TaskSpace(toy_expansion(4))
    with Store.open(path) as store:
        store.attach(0, space)
        store.append([done(task) for task in range(n_done)] + [lost(13)])
        run = {
            "status": "running", "n_tasks": 14, "executor": "mpi", "n_ranks": 3, "pid": os.getpid(),
            "host": socket.gethostname(), "updated_s": 1000.0,
        }  # fmt: skip
        store.set_meta(run | meta)
    os.utime(path, (1100.0, 1100.0))
    return path


def make_summary_file(folder: Path, **changes: Any) -> Path:
    path = folder / "water.run.json"
    summary = {
        "status": "complete", "n_tasks": 14, "n_computed": 10, "n_reused": 4, "n_failed": 0,
        "wall_s": 5.0, "executor": "serial", "n_ranks": 1, "levels": [],
    }  # fmt: skip
    write_summary(summary | changes, path)
    return path


def test_a_run_under_way(tmp_path: Path) -> None:
    path = make_store(tmp_path, started_s=1000.0, n_reused=2, n_rows_before=2)
    status = status_of(path, now=1110.0)
    assert status["state"] == "running"
    assert (status["n_done"], status["n_tasks"], status["n_failed"]) == (6, 14, 1)
    assert (status["elapsed_s"], status["age_s"]) == (110.0, 10.0)
    assert status["rate_per_s"] == pytest.approx(4 / 110)
    assert status["remaining_s"] == pytest.approx(7 * 110 / 4)
    assert [(level["nbody"], level["n_done"]) for level in status["levels"]] == [
        (1, 4), (2, 2), (3, 0),
    ]  # fmt: skip
    lines = format_status(status).splitlines()
    assert lines[0] == f"water: running on {socket.gethostname()} (mpi, 3 ranks)"
    assert lines[1] == "  6 of 14 tasks done (42 %), 1 failed, 2 reused"
    assert "2.2 tasks/min, about 3 min 12 s left at this rate" in lines[2]
    assert lines[3] == "  last update 10 s ago"
    json.dumps(status)


def test_rows_of_other_runs_do_not_count(tmp_path: Path) -> None:
    path = make_store(tmp_path, n_reused=0, n_rows_before=5, started_s=1099.9)
    status = status_of(path, now=1100.0)
    assert status["n_done"] == 1
    assert "10.0 tasks/s" in format_status(status)


def test_without_notes_the_rows_are_what_is_done(tmp_path: Path) -> None:
    status = status_of(make_store(tmp_path, n_tasks=4), now=1100.0)
    assert (status["n_done"], status["rate_per_s"], status["elapsed_s"]) == (4, None, None)
    assert "since" not in format_status(status)


def test_a_run_that_died_is_not_running(tmp_path: Path) -> None:
    status = status_of(make_store(tmp_path, pid=NOBODY, started_s=1000.0), now=5000.0)
    assert status["state"] == "stopped"
    assert status["elapsed_s"] == 100.0
    assert "gone without a word" in format_status(status)
    assert "run the same command again" in format_status(status)


def test_a_process_that_nobody_waited_for_is_not_running(tmp_path: Path) -> None:
    """As when mpiexec is killed in a container whose first process collects nothing."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert status_of(make_store(tmp_path, pid=child.pid))["state"] == "stopped"
    child.wait()


def test_a_run_on_another_machine_is_believed_but_doubted(tmp_path: Path) -> None:
    path = make_store(tmp_path, host="elsewhere", pid=NOBODY)
    assert status_of(path, now=1101.0)["state"] == "running"
    assert "has died on elsewhere" in format_status(status_of(path, now=9000.0))


def test_the_summary_tells_of_the_end(tmp_path: Path) -> None:
    store = make_store(tmp_path, status="complete")
    summary = make_summary_file(tmp_path)
    for path in (store, summary, tmp_path / "water.result.json"):
        status = status_of(path)
        assert (status["state"], status["n_done"], status["elapsed_s"]) == ("complete", 14, 5.0)
    assert format_status(status).splitlines()[1] == "  14 of 14 tasks done (100 %), 4 reused"


def test_a_new_run_outdates_the_old_summary(tmp_path: Path) -> None:
    make_summary_file(tmp_path, status="failed")
    assert status_of(make_store(tmp_path))["state"] == "running"


def test_a_summary_that_is_newer_than_the_run_outdates_what_the_store_says(tmp_path: Path) -> None:
    """The disk was full: the store could not be told of the end."""
    store = make_store(tmp_path, started_s=1000.0)
    summary = make_summary_file(tmp_path, status="incomplete", n_computed=3)
    os.utime(summary, (1200.0, 1200.0))
    status = status_of(store, now=1210.0)
    assert (status["state"], status["n_done"], status["age_s"]) == ("incomplete", 7, 10.0)
    os.utime(summary, (900.0, 900.0))
    assert status_of(store, now=1210.0)["state"] == "running"


def test_a_store_alone_tells_how_its_run_ended(tmp_path: Path) -> None:
    path = make_store(tmp_path, status="incomplete")
    text = format_status(status_of(path))
    assert "stopped early after running on vm (mpi, 3 ranks); the same command goes on" in text


def test_a_result_alone_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "water.result.json"
    path.write_text(json.dumps(make_result()))
    status = status_of(path)
    assert (status["state"], status["name"], status["n_tasks"]) == ("complete", "water", None)
    assert format_status(status).startswith("water: complete\n  last update")
    path.write_text("{}")
    assert status_of(path)["state"] == "unknown"


@pytest.mark.parametrize("name", ["water.store.sqlite", "water.run.json", "water.result.json"])
def test_of_a_run_with_a_damaged_store_the_summary_is_told(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path, status="complete")
    os.truncate(store, store.stat().st_size - 5000)
    with pytest.raises(StoreError, match="the store is damaged"):
        status_of(store)
    make_summary_file(tmp_path)
    (tmp_path / "water.result.json").write_text(json.dumps(make_result()))
    status = status_of(tmp_path / name)
    assert (status["state"], status["n_done"]) == ("complete", 14)
    lines = format_status(status).splitlines()
    assert lines[:2] == ["water: complete (serial)", "  14 of 14 tasks done (100 %), 4 reused"]
    assert "the result does not need it any more, but its store cannot be read: " in lines[-1]
    assert "python -m qcmb_mpi repair " in lines[-1]
    make_summary_file(tmp_path, status="failed")
    assert format_status(status_of(store)).splitlines()[-1].startswith("  its store cannot be read")


def test_looking_does_not_touch_the_store(tmp_path: Path) -> None:
    path = make_store(tmp_path)
    before = path.read_bytes()
    status_of(path)
    assert path.read_bytes() == before
    assert path.stat().st_mtime == 1100.0


def test_a_store_can_be_looked_at_while_it_is_written(tmp_path: Path) -> None:
    path = make_store(tmp_path)
    with Store.open(path) as store:
        store.set_meta({"n_tasks": 20})
        store.flush()
        assert status_of(path)["n_tasks"] == 20


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        status_of(tmp_path / "a.result.json")
    (tmp_path / "other.store.sqlite").write_bytes(b"SQLite format 3\x00" + bytes(200))
    with pytest.raises(StoreError, match="not a store"):
        status_of(tmp_path / "other.store.sqlite")


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ("water.result.json", "water.result.json"),
        ("water.store.sqlite", "water.result.json"),
        ("water.run.json", "water.result.json"),
        ("water.json", "water.json"),
    ],
)
def test_files_are_found_from_any_of_them(tmp_path: Path, given: str, result: str) -> None:
    make_store(tmp_path)
    make_summary_file(tmp_path)
    for name in ("water.json", "water.result.json"):
        (tmp_path / name).write_text("{}")
    found = find_files(tmp_path / given)
    assert found.result == tmp_path / result
    assert found.store == tmp_path / "water.store.sqlite"
    assert found.summary == tmp_path / "water.run.json"


def test_an_input_is_not_taken_for_a_result(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "water.json").write_text(json.dumps({"molecule": {}}))
    assert find_files(store).result is None
    (tmp_path / "water.json").write_text(json.dumps(make_result()))
    assert find_files(store).result == tmp_path / "water.json"


def test_names_without_endings_are_found(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("{}")
    make_summary_file(tmp_path).rename(tmp_path / "out.run.json")
    assert find_files(tmp_path / "out").summary == tmp_path / "out.run.json"


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_files_that_are_not_json_objects_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
