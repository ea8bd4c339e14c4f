"""A task that a slot was sent is started by it or taken back, whatever happens between."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.tickets import Tickets, Turnstile
from qcmb_mpi.execution.wire import FromAgent, Ready, Recall, Returned
from tests.edge.agent_cases import ended, hear, new_agent, open_space, outcomes, work
from tests.engines import ToyRecipe
from tests.toys import toy_expansion

MANY = toy_expansion(6)


class Story(RuleBasedStateMachine):
    """An agent that gives and takes back at any time, and a slot that goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets = Tickets()
        self.turnstile = Turnstile(self.tickets.slot_fd)
        self.given: list[int] = []
        self.sent: list[tuple[list[int], int]] = []
        self.started: list[int] = []
        self.taken: list[int] = []

    @rule(n_tasks=st.integers(1, 5))
    def give(self, n_tasks: int) -> None:
        first = len(self.started) + len(self.taken) + len(self.given)
        number, n_issued = self.tickets.issue(n_tasks)
        assert n_issued == n_tasks
        ids = list(range(first, first + n_tasks))
        self.given += ids
        self.sent.append((ids, number))

    @rule()
    def take_back(self) -> None:
        n_tasks = self.tickets.take_back()
        self.taken += self.given[len(self.given) - n_tasks :]
        del self.given[len(self.given) - n_tasks :]

    @rule(n_tasks=st.integers(1, 5))
    def work(self, n_tasks: int) -> None:
        for _ in range(n_tasks):
            if not self.sent:
                return
            ids, number = self.sent[0]
            if self.turnstile.admits(number):
                task = ids.pop(0)
                self.given.remove(task)  # one that was taken back is not there
                self.started.append(task)
            else:
                ids.clear()
            if not ids:
                del self.sent[0]

    def teardown(self) -> None:
        while self.sent:
            self.work(5)
        assert not self.given
        assert sorted(self.started + self.taken) == list(range(len(self.started + self.taken)))
        self.tickets.close()


TestStory = Story.TestCase


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent."""
    yield from ended(new_agent())


def stuck(agent: Agent, n_slots: int) -> None:
    """Give all tasks to slots, one of which will hang with many at hand."""
    open_space(agent, ToyRecipe(MANY, faults={7: "hang"}), n_slots=n_slots)
    agent._backlog.observe(0, 0.0001)
    work(agent, range(30))


def test_what_waits_behind_a_task_that_hangs_is_done_by_another_slot(agent: Agent) -> None:
    stuck(agent, n_slots=2)
    behind = set(range(8, 30))
    heard = hear(agent, lambda news: behind <= {each.task for each in outcomes(news)})
    assert 7 not in {each.task for each in outcomes(heard)}


def given_back(news: list[FromAgent]) -> list[list[int]]:
    """Return what was given back, answer by answer."""
    return [each.ids.tolist() for each in news if isinstance(each, Returned)]


def test_what_was_asked_for_while_a_slot_had_it_is_given_back_when_that_is_stuck(
    agent: Agent,
) -> None:
    stuck(agent, n_slots=1)
    hear(agent, lambda _: not agent._backlog)
    agent.handle(Recall(0))

    heard = hear(agent, lambda news: len(given_back(news)) == 2)
    assert given_back(heard) == [[], list(range(8, 30))]
    work(agent, [30])  # is not given to a slot that is stuck
    agent.handle(Recall(0))
    assert given_back(agent.poll(0.0)) == [[30]]


@pytest.mark.parametrize("end", ["stuck", "killed"])
def test_what_a_slot_had_is_given_back_though_other_tasks_were_before(
    agent: Agent, end: str
) -> None:
    stuck(agent, n_slots=1)
    hear(agent, lambda _: not agent._backlog and agent._pool.slots[0].process.n_started == 8)
    agent._backlog.add(0, np.array([30, 31]))
    agent.handle(Recall(0))
    if end == "killed":
        agent._pool.slots[0].process.kill()
    heard = hear(agent, lambda news: len(given_back(news)) == 2)
    assert given_back(heard) == [[30, 31], list(range(8, 30))]


def test_an_agent_waits_for_no_slot_whose_pipe_of_tickets_is_small_and_full(agent: Agent) -> None:
    open_space(agent, ToyRecipe(toy_expansion(33), faults={0: "hang"}), n_slots=1)
    hear(agent, lambda news: Ready(0) in news)
    slot = agent._pool.slots[0]
    n_bytes = fcntl.fcntl(slot.process._tickets.slot_fd, fcntl.F_SETPIPE_SZ, 4096)
    agent._backlog._mean_s[0] = 1e-6  # so that all are to be given at once
    work(agent, range(6000))
    n_given = len(slot.outstanding)
    assert 0 < n_given <= n_bytes + 1
    assert n_given + len(agent._backlog) == 6000
    agent.handle(Recall(0))
    heard = hear(agent, lambda news: len(given_back(news)) == 2)
    assert sorted(task for ids in given_back(heard) for task in ids) == list(range(1, 6000))


def test_a_slot_with_a_small_pipe_of_tickets_gets_all_its_tasks_in_the_end(agent: Agent) -> None:
    open_space(agent, ToyRecipe(toy_expansion(33)), n_slots=1)
    hear(agent, lambda news: Ready(0) in news)
    fcntl.fcntl(agent._pool.slots[0].process._tickets.slot_fd, fcntl.F_SETPIPE_SZ, 4096)
    agent._backlog._mean_s[0] = 1e-6
    work(agent, range(6000))
    assert len(agent._backlog)
    heard = hear(agent, lambda news: len(outcomes(news)) >= 6000)
    assert [each.task for each in outcomes(heard)] == list(range(6000))
