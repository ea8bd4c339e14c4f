"""Memory and places: lone tasks, the guard, the kernel, slots and scratch that went bad."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.guard import MemoryGuard
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.wire import AgentInfo, Recall, Returned, Shut
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.agent_cases import (
    EXPANSION,
    INFO,
    ended,
    failure_of,
    hear,
    hear_outcomes,
    new_agent,
    open_space,
    work,
)
from tests.engines import ToyRecipe


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent of two slots."""
    yield from ended(new_agent())


@dataclass(frozen=True)
class TellsMemory:
    """A recipe whose outcomes tell, as their peak, what memory the task was given."""

    seconds: float = 0.05
    memory_bytes: int = 0
    fatal: int = -1

    def build(self, resources: SlotResources) -> TellsMemory:
        return replace(self, memory_bytes=resources.memory_bytes)

    def compute(self, task: int) -> Outcome:
        start_s = time.time()
        if task == self.fatal:
            raise SystemError("planned")
        time.sleep(self.seconds)
        return Outcome(0, task, start_s, time.time() - start_s, peak_bytes=self.memory_bytes)


LONE = 100


def test_a_lone_task_has_all_memory_and_no_company(agent: Agent) -> None:
    open_space(agent, TellsMemory())
    work(agent, range(6))
    work(agent, [LONE], is_alone=True)
    work(agent, range(6, 12))
    done = hear_outcomes(agent, 13)
    lone = done.pop(LONE)
    assert lone.peak_bytes == INFO.node_memory_bytes
    assert {each.peak_bytes for each in done.values()} == {10**8}
    assert not [
        each
        for each in done.values()
        if each.start_s < lone.start_s + lone.seconds and lone.start_s < each.start_s + each.seconds
    ]
    assert {each.slot for each in done.values()} <= {0, 1}


def test_the_slot_of_a_lone_task_that_dies_is_replaced_by_an_ordinary_one(agent: Agent) -> None:
    open_space(agent, TellsMemory(fatal=LONE))
    work(agent, [LONE], is_alone=True)
    assert "planned" in failure_of(hear_outcomes(agent, 1)[LONE]).output_tail
    work(agent, range(8))
    done = hear_outcomes(agent, 8)
    assert [done[task].peak_bytes for task in range(8)] == [10**8] * 8


def test_a_lone_task_uses_the_agents_memory_where_the_nodes_is_unknown() -> None:
    for agent in ended(new_agent(AgentInfo(0, "here", 2, 10**9))):
        open_space(agent, TellsMemory())
        work(agent, [LONE], is_alone=True)
        assert hear_outcomes(agent, 1)[LONE].peak_bytes == 10**9


def test_a_lone_task_that_has_not_started_is_given_back(agent: Agent) -> None:
    open_space(agent, TellsMemory(seconds=0.5))
    work(agent, [0, 1])
    hear(agent, lambda _: len([s for s in agent._pool.slots if s.outstanding]) == 2)
    work(agent, [LONE], is_alone=True)
    agent.handle(Recall(0))
    heard = hear(agent, lambda news: any(isinstance(m, Returned) for m in news))
    [returned] = [m.ids.tolist() for m in heard if isinstance(m, Returned)]
    assert returned == [LONE]
    work(agent, [LONE], is_alone=True)
    agent.handle(Shut(0))
    open_space(agent, TellsMemory())
    work(agent, [2])
    assert hear_outcomes(agent, 1)[2].failure is None


def test_who_uses_too_much_memory_is_ended_and_the_others_are_not() -> None:
    for agent in ended(new_agent(replace(INFO, memory_bytes=300 * 2**20))):
        open_space(agent, ToyRecipe(EXPANSION, faults={0: "eat"}, seconds=0.2))
        work(agent, range(6))
        done = hear_outcomes(agent, 6)
        failure = failure_of(done[0])
        assert (failure.error_class, failure.error_type) == (ErrorClass.RESOURCE, "out_of_memory")
        assert "limit 300 MiB" in failure.message
        assert done[0].peak_bytes > 300 * 2**20
        assert [done[task].failure for task in range(1, 6)] == [None] * 5


def test_alone_the_limit_is_the_nodes() -> None:
    info = replace(INFO, memory_bytes=100 * 2**20, node_memory_bytes=300 * 2**20)
    for agent in ended(new_agent(info)):
        open_space(agent, ToyRecipe(EXPANSION, faults={0: "eat"}))
        work(agent, [0], is_alone=True)
        failure = failure_of(hear_outcomes(agent, 1)[0])
        assert failure.error_class is ErrorClass.RESOURCE
        assert "although alone" in failure.message
        assert "limit 300 MiB" in failure.message


def test_the_kernels_word_makes_a_kill_a_lack_of_memory() -> None:
    guard = MemoryGuard(oom_kills=itertools.count().__next__)
    for agent in ended(new_agent(guard=guard)):
        open_space(agent, ToyRecipe(EXPANSION, faults={0: "kill", 1: "segfault"}))
        work(agent, range(2))
        done = hear_outcomes(agent, 2)
        assert failure_of(done[0]).error_class is ErrorClass.RESOURCE
        assert failure_of(done[1]).error_class is ErrorClass.CRASHED


def test_lack_of_memory_inside_a_slot_is_told_apart(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={0: "memory"}))
    work(agent, range(2))
    done = hear_outcomes(agent, 2)
    assert failure_of(done[0]).error_class is ErrorClass.RESOURCE
    assert done[1].failure is None


@dataclass(frozen=True)
class GoesBad:
    """A recipe with which the first process of slot 1 fails everything."""

    mark: Path
    is_bad: bool = False

    def build(self, resources: SlotResources) -> GoesBad:
        if resources.slot != 1:
            return self
        is_bad = not self.mark.exists()
        self.mark.touch()
        return replace(self, is_bad=is_bad)

    def compute(self, task: int) -> Outcome:
        time.sleep(0.12)  # long enough to be given one at a time
        failure = Failure(ErrorClass.TRANSIENT, "planned", "planned") if self.is_bad else None
        return Outcome(0, task, time.time(), 0.12, failure=failure)


def test_a_slot_in_which_everything_fails_is_started_afresh(agent: Agent, tmp_path: Path) -> None:
    open_space(agent, GoesBad(tmp_path / "mark"))
    work(agent, range(30))
    done = hear_outcomes(agent, 30)
    n_failed = sum(each.failure is not None for each in done.values())
    assert 3 <= n_failed <= 4


def test_the_only_slot_is_kept_whatever_fails(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults=dict.fromkeys(range(6), "transient")), n_slots=1)
    work(agent, range(6))
    hear_outcomes(agent, 6)
    [slot] = agent._pool.slots
    assert slot.process.n_started == 6


def test_scratch_that_goes_is_made_again_or_told(agent: Agent, tmp_path: Path) -> None:
    scratch = tmp_path / "disk" / "scratch"
    scratch.mkdir(parents=True)
    open_space(agent, ToyRecipe(EXPANSION), scratch=scratch)
    work(agent, [0])
    hear_outcomes(agent, 1)
    scratch.rmdir()
    work(agent, [1])
    assert hear_outcomes(agent, 1)[1].failure is None
    scratch.rmdir()
    scratch.parent.rmdir()
    work(agent, [2])
    failure = failure_of(hear_outcomes(agent, 1)[2])
    assert (failure.error_class, failure.error_type) == (
        ErrorClass.MISSING_PROGRAM,
        "scratch_missing",
    )
