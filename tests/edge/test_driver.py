"""How a run ends when it cannot go on: with a summary, a reason, and a store to resume from."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import ExecutorConfig, MultiprocessingExecutor, SequentialExecutor, schema
from qcmb_mpi import driver as driver_module
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.errors import IllegalEvent, Interrupted, StoreError, TopologyError, TransportError
from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.execution.guard import Overuse
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.slot_failures import overused
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import AgentInfo, Ready
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import Prospect
from qcmb_mpi.plan_ranks import Ranks
from qcmb_mpi.report.files import write_summary
from qcmb_mpi.report.progress import SilentProgress
from qcmb_mpi.report.status import status_of
from qcmb_mpi.report.summary import RunSummary
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.scheduler import Scheduler
from qcmb_mpi.store import Store
from qcmb_mpi.watcher import Watcher
from tests.edge.report_cases import done, lost
from tests.edge.task_cases import IMPORTS, many_body_input

N_TASKS = 28
KINDS = pytest.mark.parametrize("kind", [SequentialExecutor, MultiprocessingExecutor])


def run(kind: type[Executor], folder: Path, *, stop: Stop | None = None, **changes: Any) -> RunEnd:
    loaded = schema.load_input(many_body_input(**changes))
    with kind(ExecutorConfig(n_workers=2, imports=IMPORTS, checkpoint_interval=0.0)) as executor:
        options = RunOptions(store=folder / "a.sqlite")
        return run_expansion(loaded, executor, options, stop=stop or Stop())


@KINDS
def test_a_store_that_can_take_no_more_ends_the_run_resumable(
    tmp_path: Path,
    kind: type[Executor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append = Store.append
    room = 9

    def full(self: Store, outcomes: Sequence[Outcome]) -> None:
        nonlocal room
        kept, room = outcomes[:room], room - len(outcomes[:room])
        append(self, kept)
        if len(kept) < len(outcomes):
            raise StoreError("a.sqlite: the disk is full; make room and run the same command again")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        end = run(kind, tmp_path)
    assert (end.status, end.result) == ("incomplete", None)
    assert "the disk is full" in end.summary["stopped"]
    assert caplog.text.count("the disk is full") == 1
    with pytest.raises(Interrupted, match="the disk is full"):
        end.raise_if_unfinished()
    again = run(kind, tmp_path)
    assert again.status == "complete"
    assert (again.summary["n_reused"], again.summary["n_computed"]) == (9, N_TASKS - 9)


def test_when_no_slot_lives_the_run_ends_and_says_so(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input(sleep=0.02))
    with SequentialExecutor(ExecutorConfig(imports=IMPORTS)) as executor:
        poll, n_polls = executor.transport.poll, 0

        def ailing(timeout_s: float) -> list[Any]:
            nonlocal n_polls
            n_polls += 1
            ends = [(0, Ready(0, TopologyError("no slot of it lives")))] if n_polls == 8 else []
            return [*poll(timeout_s), *ends]

        executor.transport.poll = ailing  # type: ignore[method-assign]
        end = run_expansion(loaded, executor, RunOptions(store=tmp_path / "a.sqlite"))
    assert end.status == "incomplete"
    assert end.summary["stopped"] == "all agents are lost: rank 0: no slot of it lives"
    assert [agent["trouble"] for agent in end.summary["agents"]] == ["no slot of it lives"]
    assert run(SequentialExecutor, tmp_path, sleep=0.02).summary["n_reused"] > 0


@KINDS
def test_asked_to_stop_it_says_by_what(tmp_path: Path, kind: type[Executor]) -> None:
    stop = Stop()
    stop.request("SIGTERM", 2.0)
    end = run(kind, tmp_path, stop=stop)
    assert (end.status, end.summary["n_computed"]) == ("incomplete", 0)
    assert "SIGTERM" in end.summary["stopped"]


def test_the_deadline_counts_from_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning takes longer than there is time: nothing is started."""
    open_store = Store.open

    def slowly(*arguments: Any, **options: Any) -> Store:
        time.sleep(0.3)
        return open_store(*arguments, **options)

    monkeypatch.setattr(Store, "open", slowly)
    loaded = schema.load_input(many_body_input())
    with SequentialExecutor(ExecutorConfig(imports=IMPORTS)) as executor:
        end = run_expansion(loaded, executor, RunOptions(deadline_s=0.3))
    assert (end.status, end.summary["n_computed"]) == ("incomplete", 0)
    assert "deadline" in end.summary["stopped"]


# ------------------------------------------------------------------------ signals outside the loop

SIGNALS = pytest.mark.parametrize("signum", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
Patch = pytest.MonkeyPatch


def listening(folder: Path, **changes: Any) -> RunEnd:
    """Run with the handlers that a run sets up for itself; check that they are gone afterwards."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
    loaded = schema.load_input(many_body_input(**changes))
    try:
        with SequentialExecutor(ExecutorConfig(imports=IMPORTS)) as executor:
            return run_expansion(loaded, executor, RunOptions(store=folder / "a.sqlite"))
    finally:
        assert {each: signal.getsignal(each) for each in before} == before


def struck(function: Any, signum: str, n_times: int = 1) -> Any:
    """Return a function that is sent a signal while it works."""

    def work(*arguments: Any, **options: Any) -> Any:
        for _ in range(n_times):
            signal.raise_signal(signal.Signals[signum])
        return function(*arguments, **options)

    return work


@SIGNALS
def test_a_signal_while_assembling_ends_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: Patch, signum: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver_module, "assemble", struck(driver_module.assemble, signum))
        end = listening(tmp_path)
    assert (end.status, end.result, end.exit_code) == ("incomplete", None, 75)
    assert end.summary["stopped"] == f"stopped while assembling: {signum}"
    assert status_of(tmp_path / "a.sqlite")["state"] == "incomplete"
    again = listening(tmp_path)
    assert (again.status, again.summary["n_reused"]) == ("complete", N_TASKS)


@pytest.mark.parametrize(("signum", "code"), [("SIGTERM", 75), ("SIGUSR1", 0)])
def test_a_signal_with_the_last_task_is_heeded_or_fulfilled(
    tmp_path: Path, monkeypatch: Patch, signum: str, code: int
) -> None:
    """After SIGTERM there is no time to assemble; after the others everything has ended in time."""
    run_dispatcher = driver_module.Dispatcher.run

    def run_and_strike(self: Any) -> bool:
        is_through = run_dispatcher(self)
        signal.raise_signal(signal.Signals[signum])
        return is_through

    monkeypatch.setattr(driver_module.Dispatcher, "run", run_and_strike)
    assert listening(tmp_path).exit_code == code


@SIGNALS
def test_a_signal_while_the_table_is_made_costs_the_table_only(
    tmp_path: Path, monkeypatch: Patch, signum: str
) -> None:
    table = schema.partial_table
    monkeypatch.setattr(schema, "partial_table", struck(table, signum))
    end = listening(tmp_path, faults={"2": "input"})
    assert (end.status, end.exit_code, end.table) == ("failed", 1, "")
    monkeypatch.setattr(schema, "partial_table", table)
    assert "missing" in listening(tmp_path, faults={"2": "input"}).table


def test_a_store_that_cannot_be_read_costs_the_table_only(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(*_: object) -> str:
        raise StoreError("a.sqlite: damaged")

    monkeypatch.setattr(schema, "partial_table", unreadable)
    end = listening(tmp_path, faults={"2": "input"})
    assert (end.status, end.exit_code, end.table) == ("failed", 1, "")
    assert "no n-body table: a.sqlite: damaged" in caplog.text
    assert status_of(tmp_path / "a.sqlite")["state"] == "failed"


@SIGNALS
def test_a_signal_while_the_store_is_opened_runs_nothing(
    tmp_path: Path, monkeypatch: Patch, signum: str
) -> None:
    """It may watch the lock of another run for 45 s."""
    monkeypatch.setattr(Store, "open", struck(Store.open, signum))
    with pytest.raises(Interrupted, match=f"stopped while opening the store: {signum}"):
        listening(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_times", [1, 2])
def test_a_signal_between_is_heeded_when_the_loop_begins(
    tmp_path: Path, monkeypatch: Patch, n_times: int
) -> None:
    monkeypatch.setattr(
        driver_module, "Prospect", struck(driver_module.Prospect, "SIGUSR2", n_times)
    )
    end = listening(tmp_path)
    assert (end.exit_code, end.summary["n_computed"]) == (75, 0)


# ----------------------------------------------------------- what every kind of error leaves behind


def illegal(*_: Any) -> Any:
    raise IllegalEvent("agent 7 never joined")


def buggy(*_: Any) -> Any:
    raise TypeError("a bug")


def full(*_: Any) -> Any:
    raise StoreError("a.sqlite: the disk is full")


def damaged(*_: Any) -> Any:
    raise StoreError("a.sqlite: row 3 is damaged")


def gone(*_: Any) -> Any:
    raise TransportError("the pipe is gone")


ENDS = {
    "illegal event": (Scheduler, "_on_tasks_done", illegal, 70),
    "bug in the loop": (Scheduler, "_take_over", buggy, 70),
    "bug in assembling": (driver_module, "assemble", buggy, 70),
    "disk full": (Store, "append", full, 75),
    "damage found at the end": (driver_module, "assemble", damaged, 2),
    "transport": (Scheduler, "_take_over", gone, 75),
}


@pytest.mark.parametrize("is_store_writable", [True, False])
@pytest.mark.parametrize("name", ENDS)
def test_an_error_ends_the_run_with_its_code_a_summary_and_a_status(
    tmp_path: Path, monkeypatch: Patch, name: str, is_store_writable: bool
) -> None:
    owner, attribute, fault, code = ENDS[name]
    set_meta = Store.set_meta

    def forgetful(self: Store, values: Any) -> None:
        if values.get("status") == "incomplete":
            full()
        set_meta(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, fault)
        if not is_store_writable:
            patch.setattr(Store, "set_meta", forgetful)
        end = listening(tmp_path)
    assert (end.status, end.exit_code) == ("incomplete", code)
    assert end.summary["stopped"]
    expected = Interrupted if code == 75 else type(end.error)
    with pytest.raises(expected):  # type: ignore[arg-type]
        end.raise_if_unfinished()
    if not is_store_writable:
        assert status_of(tmp_path / "a.sqlite")["state"] == "running"
        write_summary(end.summary, tmp_path / "a.run.json")
    assert status_of(tmp_path / "a.sqlite")["state"] == "incomplete"
    assert listening(tmp_path).status == "complete"


def test_an_error_before_the_first_task_is_raised(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Store, "n_done", damaged)
    with pytest.raises(StoreError):
        listening(tmp_path)


def test_the_layout_is_told_also_when_nothing_is_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qcmb_mpi")
    first = run(SequentialExecutor, tmp_path)
    assert f"layout: {first.summary['layout']}" in caplog.text
    assert run(SequentialExecutor, tmp_path).summary["layout"] == "no slots were started"


def test_the_first_task_that_is_ended_for_memory_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = TaskSpace(schema.load_input(many_body_input()).expansion)
    summary = RunSummary(space, "serial", start_s=0.0)
    watcher = Watcher(space, summary, SilentProgress(), None)
    failure = overused(Overuse(1, 2 * 2**30, 3 * 2**30, 2**30), is_alone=False)
    for task in (3, 4):
        watcher.outcomes(0, [done(task, energy_hartree=None, failure=failure)])
    watcher.outcomes(0, [done(5), lost(6)])
    assert caplog.text.count("WARNING") == 1
    assert "used 2 GiB, all tasks here together 3 GiB, limit 1 GiB" in caplog.text
    assert "run again alone" in caplog.text
    assert summary.finish("incomplete", 1.0)["n_memory_kills"] == 2


def test_fewer_ranks_are_advised_at_the_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="qcmb_mpi")
    asked: list[Ranks] = []

    def fewer(_prospect: object, ranks: Ranks, _model: object) -> str:
        asked.append(ranks)
        return "1 rank would be sooner"

    monkeypatch.setattr(driver_module, "fewer_ranks", fewer)
    space = TaskSpace(schema.load_input(many_body_input()).expansion)
    prospect = Prospect(space, ExecutorConfig(n_workers=2), done=np.empty(0, dtype=np.int64))
    for n_ranks in (1, 3):
        infos = [AgentInfo(rank, "node", 1, 0) for rank in range(n_ranks)]
        driver_module._tell(prospect, infos, prospect.on(infos, CostModel()), CostModel())
    assert asked == [Ranks(3, 1)]
    assert "1 rank would be sooner" in caplog.text
    assert caplog.text.count("2 slots x 1 thread share 1 core") == 2
