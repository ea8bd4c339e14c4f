"""Outcomes wait for each other in an agent while nobody needs to know them at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qcmb_mpi.execution import agent as agents
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.wire import Done, FromAgent
from qcmb_mpi.expansion.plan import TaskSpace
from tests.edge.agent_cases import ended, hear, new_agent, open_space, outcomes, work
from tests.engines import ToyRecipe
from tests.toys import toy_expansion

MANY = toy_expansion(14)
N_TASKS = TaskSpace(MANY).n_tasks


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """Give an agent that holds outcomes back as long as nothing else has it tell them."""
    monkeypatch.setattr(agents, "_HOLD_S", 1e6)
    yield from ended(new_agent())


def sizes(news: list[FromAgent]) -> list[int]:
    """Return how many outcomes came in each message."""
    return [len(message.outcomes) for message in news if isinstance(message, Done)]


def test_successes_of_short_tasks_share_messages_and_all_come_when_slots_run_dry(
    agent: Agent,
) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.001))
    work(agent, range(N_TASKS))
    heard = hear(agent, lambda news: sum(sizes(news)) == N_TASKS)
    assert sorted(each.task for each in outcomes(heard)) == list(range(N_TASKS))
    assert max(sizes(heard)) > 50


def test_a_failure_does_not_wait(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.001, faults={60: "convergence"}))
    work(agent, range(N_TASKS))
    heard = hear(agent, lambda news: any(each.failure for each in outcomes(news)))
    assert sum(sizes(heard)) < N_TASKS


def test_long_tasks_do_not_wait(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=agents._AHEAD_S + 0.05))
    work(agent, range(6))
    hear(agent, lambda news: sum(sizes(news)) > 0)
    assert agent._backlog.next_space is not None
