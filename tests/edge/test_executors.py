"""One contract for all executors of one node, and what each can do besides."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import (
    Executor,
    ExecutorConfig,
    FuturesExecutor,
    InputError,
    MultiprocessingExecutor,
    SequentialExecutor,
    TaskStatus,
    ThreadExecutor,
)
from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution.wire import AgentInfo, Open, Transport, Work
from tests.edge.agent_cases import slots_of
from tests.edge.task_cases import IMPORTS, energies, energy, task
from tests.edge.transports import RecordingTransport

ROOT = Path(__file__).resolve().parents[2]


def config(**fields: Any) -> ExecutorConfig:
    return ExecutorConfig(**{"n_workers": 2, "imports": IMPORTS, **fields})


def processes(method: str) -> concurrent.futures.Executor:
    context = multiprocessing.get_context(method)
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=context)


POOLS: dict[str, Callable[[], concurrent.futures.Executor]] = {
    "futures threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
    "futures forkserver": lambda: processes("forkserver"),
    "futures spawn": lambda: processes("spawn"),
}
OWN: dict[str, type[Executor]] = {
    "serial": SequentialExecutor,
    "thread": ThreadExecutor,
    "multiprocessing": MultiprocessingExecutor,
}


@pytest.fixture(params=[*OWN, *POOLS])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Give each executor in turn, not started."""
    if request.param in OWN:
        with_own_pool = OWN[request.param](config())
        yield with_own_pool
        with_own_pool.shutdown()
        return
    with POOLS[request.param]() as pool:
        over_pool = FuturesExecutor(pool, config())
        yield over_pool
        over_pool.shutdown()
        assert pool.submit(abs, -1).result() == 1  # the caller's pool is left alone


def test_contract(executor: Executor) -> None:
    """One pool for it all, as it is used: starting one is what takes time."""
    executor.initialize()
    executor.initialize()
    transport = executor.transport
    with executor as entered:
        assert entered is executor
        assert executor.transport is transport
        assert executor.is_master
        assert executor.n_ranks == 1
        assert executor.execute([]) == []
        _results_come_in_order(executor)
        _failures_are_results(executor)
        _the_pool_is_as_good_as_before(executor)
    executor.shutdown()
    executor.shutdown(wait=False)


def _results_come_in_order(executor: Executor) -> None:
    told: list[tuple[int, int]] = []
    sizes = [3, 1, 2, 5, 1, 4, 2]
    results = executor.execute([task(n) for n in sizes], lambda *counts: told.append(counts))
    assert energies(results) == [energy(n) for n in sizes]
    assert [each.task_id for each in results] == [f"He{n}" for n in sizes]
    assert {each.status for each in results} == {TaskStatus.COMPLETED}
    assert {each.attempts for each in results} == {1}
    assert all(each.execution_time > 0 for each in results)
    assert told == [(n, len(sizes)) for n in range(1, len(sizes) + 1)]


def _failures_are_results(executor: Executor) -> None:
    told: list[tuple[int, int]] = []
    kinds = {1: "input", 2: "raise", 3: "random", 4: "nan"}
    tasks = [task(n, faults={str(n): kind}) for n, kind in kinds.items()]
    results = executor.execute([*tasks, task(5)], lambda *counts: told.append(counts))
    assert [each.status for each in results] == [TaskStatus.FAILED] * 4 + [TaskStatus.COMPLETED]
    assert [each.attempts for each in results] == [1, 2, 3, 2, 1]
    assert [each.success for each in results] == [False] * 4 + [True]
    assert "flaky does not like this input" in results[0].error_message
    assert results[1].error_message == "ValueError: flaky raised as ordered"
    assert results[2].error_type == "random_error"
    assert results[3].error_message == "the energy is nan"
    assert energies(results) == [None] * 4 + [energy(5)]
    assert told[-1] == (5, 5)


def _the_pool_is_as_good_as_before(executor: Executor) -> None:
    def interrupt(n_ended: int, n_all: int) -> None:
        raise RuntimeError(f"the caller has enough after {n_ended} of {n_all}")

    with pytest.raises(RuntimeError, match="enough after 1 of 3"):
        executor.execute([task(1), task(2), task(3)], interrupt)
    assert energies(executor.execute([task(2)])) == [energy(2)]
    assert energies(executor.execute([task(n) for n in range(1, 9)])) == [
        energy(n) for n in range(1, 9)
    ]


class Recorded(Executor):
    """A node of 8 cores that says it can widen, and a record of what it was sent."""

    name = "recorded"

    def _start(self) -> Transport:
        self.recorded = RecordingTransport()
        self.recorded.infos[0] = AgentInfo(0, "here", 8, 0, can_widen=True)
        return self.recorded


@pytest.mark.parametrize(("program", "is_threaded"), [("flaky", True), ("xtb", False)])
def test_explicit_tasks_have_the_threads_of_a_slot(program: str, is_threaded: bool) -> None:
    """They are never wide, and have one thread if no program in the list knows of more."""
    few = [replace(task(2), estimated_cost=1000.0, program=program) for _ in range(2)]
    short = replace(task(1), estimated_cost=1.0, program=program)
    tail = [replace(short, estimated_cost=600.0), *[short] * 1200]
    for tasks in (few, tail):
        executor = Recorded(ExecutorConfig(imports=IMPORTS, max_retries=0))
        with executor:
            executor.execute(tasks)
            sent = executor.recorded.sent
        [layout] = [message.layout for _, message in sent if isinstance(message, Open)]
        assert (layout.n_threads > 1) is is_threaded
        assert {message.n_threads for _, message in sent if isinstance(message, Work)} == {0}


def test_processes_survive_what_programs_do() -> None:
    tasks = [
        task(1, faults={"1": "crash"}),
        task(2, faults={"2": "hang"}),
        task(3),
        task(4, faults={"4": "random"}),
    ]
    with MultiprocessingExecutor(config(timeout_per_task=1.0, max_retries=1)) as executor:
        results = executor.execute(tasks)
        again = executor.execute([task(5)])
    assert [each.status for each in results] == [
        TaskStatus.FAILED,
        TaskStatus.TIMEOUT,
        TaskStatus.COMPLETED,
        TaskStatus.FAILED,
    ]
    assert [each.attempts for each in results] == [2, 2, 1, 2]
    assert "SIGSEGV" in results[0].error_message
    assert "--timeout" in results[1].error_message
    assert energies(again) == [energy(5)]


def test_a_later_attempt_that_succeeds_is_counted(tmp_path: Path) -> None:
    """The first attempt kills its process, the second finds the mark that it left."""
    mark = str(tmp_path / "mark")
    with MultiprocessingExecutor(config(n_workers=1)) as executor:
        [result] = executor.execute([task(1, faults={"1": "crash"}, once=mark)])
    assert result.status is TaskStatus.COMPLETED
    assert result.attempts == 2


def test_processes_survive_the_end_of_their_fork_server() -> None:
    with MultiprocessingExecutor(config()) as executor:
        executor.execute([task(1)])
        slots_of(os.getpid())[0].parents()[0].kill()
        results = executor.execute([task(n) for n in range(1, 6)])
    assert energies(results) == [energy(n) for n in range(1, 6)]


@pytest.mark.parametrize("kind", OWN.values(), ids=OWN)
def test_a_module_that_cannot_be_imported_is_one_error(kind: type[Executor]) -> None:
    words = r"--import: cannot import 'no\.such\.module'"
    executor = kind(config(imports=("no.such.module",)))
    with executor, pytest.raises(InputError, match=words):
        executor.execute([task(1)])


def test_a_broken_pool_is_one_error() -> None:
    with processes("forkserver") as pool, pytest.raises(TransportError, match="pool"):
        FuturesExecutor(pool, config()).execute([task(1, faults={"1": "crash"}), task(2)])


def test_a_pool_that_was_shut_down_is_one_error() -> None:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    with FuturesExecutor(pool, config()) as executor, pytest.raises(TransportError, match="pool"):
        executor.execute([task(1)])


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """Slots are forked from a clean server: the caller's script is not run again in them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import qcmb_mpi\n"
        "from tests.edge.task_cases import IMPORTS, energies, task\n"
        "print('started')\n"
        "config = qcmb_mpi.ExecutorConfig(n_workers=2, imports=IMPORTS)\n"
        "executor = qcmb_mpi.MultiprocessingExecutor(config)\n"
        "print(energies(executor.execute([task(1), task(2)])))\n"
        "executor.shutdown()\n"
    )
    job = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert job.stderr == ""
    assert job.stdout == f"started\n{[energy(1), energy(2)]}\n"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n_workers", (0, -1, 1.5, "two", True, math.nan)),
        ("n_threads", (0, -3, 0.5, "auto")),
        ("memory_bytes", (0, -1, "8GB")),
        ("timeout_per_task", (0, -1.0, math.nan, "1h", None)),
        ("max_retries", (-1, 0.5, "none", None)),
        ("checkpoint_interval", (-1.0, math.nan, "often")),
        ("log_level", ("LOUD", 10)),
        ("imports", ("tests.flaky", (1,), None)),
    ],
)
def test_nonsense_is_refused(field: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(InputError, match=f"^{field}: "):
            ExecutorConfig(**{field: value})  # type: ignore[arg-type]


def test_the_level_of_the_logger_is_set_if_it_is_given() -> None:
    logger = logging.getLogger("qcmb_mpi")
    before = logger.level
    try:
        for level, expected in ((None, before), ("info", logging.INFO)):
            with SequentialExecutor(ExecutorConfig(log_level=level)):
                assert logger.level == expected
    finally:
        logger.setLevel(before)


def test_sense_is_accepted() -> None:
    made = ExecutorConfig(
        n_workers=3, timeout_per_task=0.5, max_retries=0, log_level="info", imports=["tests.flaky"]
    )
    assert made.imports == ("tests.flaky",)
    assert made.n_threads is None
    assert ExecutorConfig(checkpoint_interval=0.0).checkpoint_interval == 0.0
