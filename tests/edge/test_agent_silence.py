"""An agent goes on, whoever is silent: slots and fork servers that stop, import, or say half."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from qcmb_mpi.execution import agent as agents
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.slots import Slot
from qcmb_mpi.execution.wire import FromAgent, Ready
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.agent_cases import (
    EXPANSION,
    INFO,
    PATIENCE_S,
    ended,
    failure_of,
    hear,
    hear_outcomes,
    is_alive,
    new_agent,
    new_server,
    open_space,
    slots_of,
    wait_until,
    work,
)
from tests.engines import ToyRecipe


class Clock:
    """A monotonic clock that a test can put forward."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s


@pytest.fixture
def clock() -> Clock:
    """Give the clock of the agent."""
    return Clock()


@pytest.fixture
def agent(clock: Clock) -> Iterator[Agent]:
    """Give an agent of two slots."""
    yield from ended(new_agent(new_server=new_server, clock=clock))


def let_pass(agent: Agent, clock: Clock, seconds: float) -> list[FromAgent]:
    """Let time pass in which the agent looks after its slots."""
    heard: list[FromAgent] = []
    for _ in range(int(seconds)):
        clock.skipped_s += 1.0
        heard += agent.poll(0.0)
    return heard


def both_ready(agent: Agent) -> list[Slot]:
    """Return two slots that can be given work, once there are such."""
    hear(agent, lambda _: [each.is_ready for each in agent._pool.slots] == [True, True])
    return agent._pool.slots


@dataclass(frozen=True)
class Bulky:
    """A recipe and results that are several times as large as a pipe."""

    ballast: bytes = field(default=bytes(2**24), repr=False)

    def build(self, resources: SlotResources) -> Bulky:
        return self

    def compute(self, task: int) -> Outcome:
        return Outcome(0, task, time.time(), 0.1, record=self.ballast)


@dataclass(frozen=True)
class Mute:
    """In task 0 the process closes its pipe and lives on."""

    def build(self, resources: SlotResources) -> Mute:
        return self

    def compute(self, task: int) -> Outcome:
        if task == 0:
            os.closerange(3, 64)
            time.sleep(3600)
        return Outcome(0, task, time.time(), 0.1)


@dataclass(frozen=True)
class NeverReady:
    """An engine that takes an hour to build."""

    def build(self, resources: SlotResources) -> NeverReady:
        time.sleep(3600)
        return self

    def compute(self, task: int) -> Outcome:
        return Outcome(0, task, time.time(), 0.0)


def test_a_slot_that_closed_its_pipe_but_lives_is_killed(agent: Agent) -> None:
    """It would go on computing beside the one in its place."""
    open_space(agent, Mute())
    both_ready(agent)
    before = slots_of(os.getpid())
    work(agent, range(6))
    done = hear_outcomes(agent, 6)
    assert failure_of(done[0]).error_class is ErrorClass.CRASHED
    assert all(done[task].failure is None for task in range(1, 6))
    wait_until(lambda: sum(is_alive(process) for process in before) == 1)


def test_what_is_larger_than_a_pipe_arrives(agent: Agent) -> None:
    open_space(agent, Bulky())
    work(agent, range(8))
    done = hear_outcomes(agent, 8)
    assert [done[task].record == bytes(2**24) for task in range(8)] == [True] * 8


def test_a_slot_that_stops_listening_blocks_nobody(agent: Agent, clock: Clock) -> None:
    open_space(agent, ToyRecipe(EXPANSION))
    stopped, other = both_ready(agent)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    open_space(agent, Bulky())
    assert stopped.process.pipe.has_unsent
    hear(agent, lambda _: not other.n_unanswered)
    let_pass(agent, clock, agents._OPENING_S + 5.0)
    assert stopped not in agent._pool.slots
    both_ready(agent)
    work(agent, range(6))
    assert [each.failure for each in hear_outcomes(agent, 6).values()] == [None] * 6


def test_a_slot_that_stops_in_the_middle_of_a_word_is_ended_in_time(agent: Agent) -> None:
    open_space(agent, Bulky(), n_slots=1, timeout_s=2.0)
    hear(agent, lambda _: agent._pool.slots[0].is_ready)
    [slot] = agent._pool.slots
    work(agent, [0])
    assert select.select([slot.process.pipe], [], [], PATIENCE_S)[0]
    os.kill(slot.process.pid, signal.SIGSTOP)
    assert failure_of(hear_outcomes(agent, 1)[0]).error_class is ErrorClass.HUNG


def test_time_in_which_everything_was_stopped_is_nobodys_fault(agent: Agent, clock: Clock) -> None:
    open_space(agent, ToyRecipe(EXPANSION, seconds=0.5))
    both_ready(agent)
    work(agent, [0, 1])
    for _ in range(3):
        clock.skipped_s += 1000.0
        agent.poll(0.0)
    assert [each.failure for each in hear_outcomes(agent, 2).values()] == [None] * 2


def test_time_in_which_others_ran_counts(agent: Agent, clock: Clock) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={0: "hang"}))
    both_ready(agent)
    work(agent, [0])
    heard = let_pass(agent, clock, 32.0)
    assert len(heard) == 1


def test_a_slot_that_does_not_get_ready_says_so(agent: Agent, clock: Clock) -> None:
    open_space(agent, NeverReady(), n_slots=1)
    hear(agent, lambda _: agent._pool.slots[0].process.pid > 0)
    [ready] = let_pass(agent, clock, agents._OPENING_S + 2.0)
    assert isinstance(ready, Ready)
    assert f"not ready after {agents._OPENING_S:g} s" in str(ready.error)
    assert "--timeout" not in str(ready.error)


@contextlib.contextmanager
def stopped_server(server: ForkServer) -> Iterator[psutil.Process]:
    """Stop the process that forks slots for a while."""
    assert server._process is not None
    warden = psutil.Process(server._process.pid)
    wait_until(lambda: bool(warden.children()))
    [process] = warden.children()
    process.suspend()
    try:
        yield process
    finally:
        process.resume()


def test_a_fork_server_that_stops_blocks_nobody(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, seconds=0.05))
    victim, other = both_ready(agent)
    with stopped_server(victim.server):
        victim.process.kill()
        hear(agent, lambda _: victim not in agent._pool.slots)
        work(agent, range(10))
        done = hear_outcomes(agent, 10)
        assert [each.failure for each in done.values()] == [None] * 10
        assert other in agent._pool.slots
        assert [each.process.pid for each in agent._pool.slots if each is not other] == [0]
    both_ready(agent)


def test_a_fork_server_that_never_answers_is_told(clock: Clock) -> None:
    server = new_server()
    with stopped_server(server):
        agent = Agent(INFO, server, slot_cpus=lambda n_slots, _: [()] * n_slots, clock=clock)
        open_space(agent, ToyRecipe(EXPANSION))
        [ready] = let_pass(agent, clock, agents._OPENING_S + 2.0)
        assert isinstance(ready, Ready)
        assert "the fork server does not answer" in str(ready.error)
    agent.close()


def test_slots_that_the_system_refuses_are_done_without() -> None:
    server = new_server()
    first = server.fork()
    wait_until(lambda: server.listen(0.1) and first.pid > 0)
    parent = psutil.Process(first.pid).parent()
    assert parent is not None
    n_open = len(os.listdir(f"/proc/{parent.pid}/fd"))
    psutil.Process(parent.pid).rlimit(psutil.RLIMIT_NOFILE, (n_open, 1024))
    for agent in ended(Agent(INFO, server, slot_cpus=lambda n_slots, _: [()] * n_slots)):
        open_space(agent, ToyRecipe(EXPANSION))
        [ready] = hear(agent, bool)
        assert isinstance(ready, Ready)
        assert "the system refused another process" in str(ready.error)
