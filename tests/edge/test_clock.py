"""The wall clock may jump: it is shown to people and decides nothing."""

from __future__ import annotations

import ast
import io
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcmb_mpi
from qcmb_mpi import ExecutorConfig, MultiprocessingExecutor, SequentialExecutor, schema
from qcmb_mpi.driver import RunOptions, run_expansion
from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.progress import make_progress
from qcmb_mpi.report.status import format_status, status_of
from qcmb_mpi.store import Store
from tests.edge.report_cases import done
from tests.edge.task_cases import IMPORTS, many_body_input
from tests.toys import toy_expansion

# Where the wall clock is read, and why nothing is decided by it.
SHOWN_ONLY = {
    "driver.py": "started_s and updated_s of the store, for `status`",
    "execution/slots.py": "start_s of an outcome, for the timeline",
    "execution/attempts.py": "start_s of an outcome, for the timeline",
    "execution/contained.py": "start_s of an outcome, for the timeline",
    "execution/executors/inline.py": "start_s of an outcome, for the timeline",
    "execution/executors/mpi/survey.py": "the clocks of a job's hosts, compared by `doctor`",
    "machine/walltime.py": "asked once: batch systems tell the end of a job by the wall clock",
    "report/status.py": "the age of the last word",
    "report/summary.py": "the date of the run",
    "store/owner.py": "since when a lock is held, for messages",
}
READERS = {"time", "time_ns", "now", "utcnow", "today"}


def reads_wall_clock(path: Path) -> bool:
    """Tell whether a module calls ``time.time()``, ``datetime.now()`` or their like."""
    calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
    functions = (call.func for call in calls if isinstance(call.func, ast.Attribute))
    return any(
        f.attr in READERS and isinstance(f.value, ast.Name) and f.value.id in ("time", "datetime")
        for f in functions
    )


def test_the_wall_clock_is_read_only_where_it_is_shown() -> None:
    root = Path(qcmb_mpi.__file__).parent
    readers = {str(path.relative_to(root)) for path in root.rglob("*.py") if reads_wall_clock(path)}
    assert readers == SHOWN_ONLY.keys()


@pytest.fixture
def wild_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock jump by years, both ways, every time it is read."""
    rng, real = np.random.default_rng(5), time.time
    monkeypatch.setattr(time, "time", lambda: real() + float(rng.uniform(-1e8, 1e8)))


@pytest.mark.usefixtures("wild_clock")
@pytest.mark.parametrize("kind", [SequentialExecutor, MultiprocessingExecutor])
def test_a_run_does_not_care_what_the_time_is(tmp_path: Path, kind: type[Executor]) -> None:
    loaded = schema.load_input(many_body_input(faults={"3": "random"}, once=str(tmp_path / "mark")))
    shown = io.StringIO()
    options = RunOptions(store=tmp_path / "a.sqlite", deadline_s=1e6, wants_timeline=True)
    with kind(ExecutorConfig(n_workers=2, imports=IMPORTS, timeout_per_task=1e4)) as executor:
        end = run_expansion(loaded, executor, options, progress=make_progress(stream=shown))
        again = run_expansion(loaded, executor, options)
    assert (end.status, again.status) == ("complete", "complete")
    assert end.summary["n_retries"] == 1
    assert again.summary["n_reused"] == end.summary["n_computed"] == 28
    assert 0 < end.summary["busy_s"] <= 2 * end.summary["wall_s"]
    assert 0 <= end.summary["setup_s"] <= end.summary["wall_s"]
    assert end.result.return_result == again.result.return_result
    assert "28/28" in shown.getvalue()
    status = status_of(tmp_path / "a.sqlite")
    assert (status["state"], status["n_done"]) == ("complete", 28)
    assert format_status(status)


@pytest.mark.usefixtures("wild_clock")
def test_the_store_commits_by_its_own_clock(tmp_path: Path) -> None:
    now = itertools.count(0.0, 0.25)
    space = TaskSpace(toy_expansion(4))
    path = tmp_path / "a.sqlite"
    with Store.open(path, commit_interval_s=1.0, clock=lambda: next(now)) as store:
        store.attach(0, space)
        for task in range(14):
            store.append([done(task)])
            assert n_committed(path) >= task - 3  # a second is four looks at the clock


def n_committed(path: Path) -> int:
    with Store.open(path, is_read_only=True) as reader:
        return sum(count.n_done for count in reader.counts())


def test_progress_is_due_by_the_clock_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> float:
        raise AssertionError("progress has no clock of its own")

    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(time, "monotonic", forbidden)
    shown = make_progress(stream=io.StringIO())
    assert not shown.is_due(1e9)
