"""How a run ends when it cannot go on: with a summary, a reason, and a store to resume from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import ExecutorConfig, MultiprocessingExecutor, SequentialExecutor, schema
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.errors import Interrupted, StoreError, TopologyError
from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import Ready
from qcmb_mpi.store import Store
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
    taken: list[Outcome] = []

    def full(self: Store, outcomes: Sequence[Outcome]) -> None:
        taken.extend(outcomes)
        if len(taken) > 9:
            raise StoreError("a.sqlite: the disk is full; make room and run the same command again")
        append(self, outcomes)

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
    assert 0 < again.summary["n_reused"] <= 9
    assert again.summary["n_computed"] == N_TASKS - again.summary["n_reused"]


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
