"""Wide tasks: one slot with all cores of its agent, and its own ones again after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from qcmb_mpi import schema
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.engine import Engine, QCEngineRecipe, SlotResources
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.layout import place
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.wire import AgentInfo, LocalTransport, Recall, Returned
from qcmb_mpi.expansion.levels import Expansion
from qcmb_mpi.scheduling.messages import TaskClass
from tests.edge.agent_cases import (
    EXPANSION,
    INFO,
    SPACE,
    ended,
    failure_of,
    hear,
    hear_outcomes,
    new_agent,
    open_space,
    work,
)
from tests.edge.test_dispatch import Notes
from tests.engines import ToyRecipe

WIDE = 100


@dataclass(frozen=True)
class TellsThreads:
    """A recipe whose outcomes tell the threads, memory and environment that a task has."""

    seconds: float = 0.05
    resources: SlotResources | None = None
    fatal: int = -1

    def build(self, resources: SlotResources) -> TellsThreads:
        return replace(self, resources=resources)

    def compute(self, task: int) -> Outcome:
        assert self.resources is not None
        start_s = time.time()
        if task == self.fatal:
            raise SystemExit("planned")
        time.sleep(self.seconds)
        return Outcome(
            0,
            task,
            start_s,
            time.time() - start_s,
            peak_bytes=self.resources.memory_bytes,
            program=os.environ["OMP_NUM_THREADS"],
            version=",".join(map(str, self.resources.cpus)),
            n_threads=self.resources.n_threads,
        )


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent of two slots whose processors are made up."""
    slots = {(2, 1): [(0,), (1,)], (1, 2): [(0, 1)]}
    yield from ended(new_agent(slot_cpus=lambda *size: slots[size]))


def test_a_wide_task_has_all_cores_and_no_company(agent: Agent) -> None:
    open_space(agent, TellsThreads())
    work(agent, range(6))
    work(agent, [WIDE], n_threads=2)
    work(agent, range(6, 12))
    done = hear_outcomes(agent, 13)
    wide = done.pop(WIDE)
    assert (wide.n_threads, wide.program, wide.peak_bytes) == (2, "2", INFO.memory_bytes)
    assert wide.version == "0,1"
    assert {(each.n_threads, each.program, each.peak_bytes) for each in done.values()} == {
        (1, "1", 10**8)
    }
    assert {each.version for each in done.values()} <= {"0", "1"}
    assert not [
        each
        for each in done.values()
        if each.start_s < wide.start_s + wide.seconds and wide.start_s < each.start_s + each.seconds
    ]


def test_alone_a_wide_task_has_all_memory_of_the_node_too(agent: Agent) -> None:
    open_space(agent, TellsThreads())
    work(agent, [WIDE], is_alone=True, n_threads=2)
    wide = hear_outcomes(agent, 1)[WIDE]
    assert (wide.n_threads, wide.peak_bytes) == (2, INFO.node_memory_bytes)


def test_a_wide_task_is_told_what_the_smallest_agent_has(agent: Agent) -> None:
    open_space(agent, TellsThreads(), memory_per_agent_bytes=5 * 10**8)
    work(agent, [WIDE], n_threads=2)
    assert hear_outcomes(agent, 1)[WIDE].peak_bytes == 5 * 10**8
    work(agent, [WIDE], n_threads=2, is_alone=True)
    assert hear_outcomes(agent, 1)[WIDE].peak_bytes == INFO.node_memory_bytes


@dataclass(frozen=True)
class CountsBuilds:
    """A recipe that leaves a line in a file for every engine that is built."""

    path: Path

    def build(self, resources: SlotResources) -> TellsThreads:
        with self.path.open("a") as file:
            file.write(f"{resources.n_threads}\n")
        return TellsThreads().build(resources)


def test_what_other_spaces_have_is_left_alone(agent: Agent, tmp_path: Path) -> None:
    for space in (0, 1):
        open_space(agent, CountsBuilds(tmp_path / str(space)), space=space)
    work(agent, [WIDE], n_threads=2)
    assert hear_outcomes(agent, 1)[WIDE].n_threads == 2
    for space in (0, 1):
        work(agent, range(8), space=space)
        done = hear_outcomes(agent, 8)
        assert {(each.n_threads, each.program) for each in done.values()} == {(1, "1")}
        assert {each.version for each in done.values()} <= {"0", "1"}
    built = [sorted((tmp_path / str(space)).read_text().split()) for space in (0, 1)]
    assert built == [["1", "1", "1", "2"], ["1", "1"]]


def test_one_after_the_other_and_one_that_has_not_started_is_given_back(agent: Agent) -> None:
    open_space(agent, TellsThreads(seconds=0.5))
    work(agent, [WIDE], n_threads=2)
    work(agent, [WIDE + 1], n_threads=2)
    agent.handle(Recall(0))
    heard = hear(agent, lambda news: any(isinstance(m, Returned) for m in news))
    taken = [m.ids.tolist() for m in heard if isinstance(m, Returned)]
    assert taken in ([[WIDE + 1]], [[WIDE, WIDE + 1]])
    work(agent, taken[0], n_threads=2)
    n_left = 2 if len(taken[0]) == 1 else 1
    assert {each.n_threads for each in hear_outcomes(agent, n_left).values()} == {2}


def test_the_end_of_its_slot_is_told_with_its_threads(agent: Agent) -> None:
    open_space(agent, TellsThreads(fatal=WIDE))
    work(agent, [WIDE], n_threads=2)
    outcome = hear_outcomes(agent, 1)[WIDE]
    assert "planned" in failure_of(outcome).output_tail
    assert outcome.n_threads == 2
    work(agent, range(4))
    assert {each.n_threads for each in hear_outcomes(agent, 4).values()} == {1}


@pytest.mark.parametrize("n_done", [0, SPACE.n_tasks - 3])
def test_a_resumed_run_gives_every_task_the_threads_it_would_have_had(n_done: int) -> None:
    n_tasks, n_giants = SPACE.n_tasks, 2
    first = TaskClass(0, range(n_tasks - n_giants), 1.0, parallel_fraction=0.98)
    giants = TaskClass(0, range(n_tasks - n_giants, n_tasks), 40.0, parallel_fraction=0.98)
    done = np.arange(n_done)
    job = Job(0, ToyRecipe(EXPANSION), (first, giants), done)
    info = AgentInfo(0, "here", 4, 10**9, can_widen=True)
    for agent in ended(new_agent(info)):
        notes = Notes()
        master = Dispatcher(LocalTransport(agent), 1, notes)
        master.open(job, lambda infos: place(infos, job.classes, ExecutorConfig()))
        assert master.run()
        master.scheduler.check_invariants()
        threads = {each.task: each.n_threads for each in notes.kept}
        assert threads == {task: 4 if task in giants.ids else 1 for task in range(n_done, n_tasks)}


@dataclass(frozen=True)
class CountsWorkers:
    """A recipe whose outcomes tell, as their version, how long each thread worked on a task."""

    expansion: Expansion

    def build(self, resources: SlotResources) -> WorkerCount:
        return WorkerCount(QCEngineRecipe(self.expansion).build(resources))


class WorkerCount:
    """An engine and who worked for it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def compute(self, task: int) -> Outcome:
        before = cpu_s_of_threads()
        outcome = self._engine.compute(task)
        used = [s - before.get(thread, 0.0) for thread, s in cpu_s_of_threads().items()]
        return replace(outcome, version=" ".join(f"{s:.2f}" for s in used))


def cpu_s_of_threads() -> Mapping[int, float]:
    return {each.id: each.user_time for each in psutil.Process().threads()}


def test_threads_of_a_real_program_change_and_leave_no_trace() -> None:
    loaded = schema.read_input(Path(__file__).parents[2] / "examples" / "water-hexamer.yaml")
    trimer = 40  # the last of 41
    share = host_share()
    for agent in ended(new_agent(share.info, slot_cpus=share.slot_cpus)):
        open_space(agent, CountsWorkers(loaded.expansion), n_slots=1, timeout_s=300.0)
        told = []
        for n_threads in (0, 2, 0):
            work(agent, [trimer], n_threads=n_threads)
            told.append(hear_outcomes(agent, 1)[trimer])
        assert [each.failure for each in told] == [None] * 3
        assert [each.n_threads for each in told] == [1, 2, 1]
        used_s = [[float(s) for s in each.version.split()] for each in told]
        for alone in (used_s[0], used_s[2]):
            assert sum(s > 0.03 for s in alone) == 1  # a BLAS thread may have spun for a moment
        assert sum(s > 0.0 for s in used_s[1]) >= 2
        narrow, wide, again = (each.energy_hartree for each in told)
        assert narrow == again
        assert wide == pytest.approx(narrow, abs=1e-9)
