"""One agent, several task spaces after each other: fewer slots, and spaces shut while at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.wire import Lost, Ready, Shut
from tests.edge import agent_cases
from tests.edge.agent_cases import EXPANSION, SPACE, ended, hear, new_agent, outcomes, work
from tests.engines import FlakyEngine, ToyRecipe


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent that is ended after the test."""
    yield from ended(new_agent())


def open_space(agent: Agent, space: int, recipe: Any, n_slots: int) -> None:
    """Open a space and wait until the agent is ready for it."""
    agent_cases.open_space(agent, recipe, space=space, n_slots=n_slots)
    hear(agent, lambda news: Ready(space) in news)


def work_all(agent: Agent, space: int) -> list[Outcome]:
    """Run every task of a space."""
    work(agent, range(SPACE.n_tasks), space=space)
    return outcomes(hear(agent, lambda news: len(outcomes(news)) >= SPACE.n_tasks))


@dataclass(frozen=True)
class RefusesFrom:
    """A recipe that a slot refuses from its number on; in the first, task 0 ends the process."""

    first: int
    mark: Path

    def build(self, resources: SlotResources) -> FlakyEngine:
        if resources.slot >= self.first or self.mark.exists():
            raise TopologyError("the disk with the program has gone")
        return ToyRecipe(EXPANSION, faults={0: "segfault"}, once=str(self.mark.parent)).build(
            resources
        )


def test_a_slot_that_refuses_leaves_the_work_to_the_others(agent: Agent, tmp_path: Path) -> None:
    recipe = RefusesFrom(1, tmp_path / "never")
    (tmp_path / "0").touch()  # so that no fault is due
    open_space(agent, 0, recipe, 2)
    done = work_all(agent, 0)
    assert {o.slot for o in done} == {0}
    assert [o.failure for o in done] == [None] * SPACE.n_tasks


def test_a_space_that_no_slot_can_work_on_any_more_is_told(agent: Agent, tmp_path: Path) -> None:
    """The only slot dies, and the one in its place cannot do what it could."""
    open_space(agent, 0, RefusesFrom(1, tmp_path / "0"), 1)
    work(agent, range(4))
    heard = hear(agent, lambda news: any(isinstance(m, Lost) for m in news))
    [reason] = [message.reason for message in heard if isinstance(message, Lost)]
    assert "the program has gone" in reason
    [ended] = outcomes(heard)
    assert (ended.task, ended.failure is not None) == (0, True)


@pytest.mark.parametrize(("n_before", "n_after"), [(3, 1), (1, 3), (2, 2)])
def test_a_space_may_have_another_number_of_slots_than_the_one_before(
    agent: Agent, n_before: int, n_after: int
) -> None:
    open_space(agent, 0, ToyRecipe(EXPANSION), n_before)
    work_all(agent, 0)
    agent.handle(Shut(0))
    open_space(agent, 1, ToyRecipe(EXPANSION, seconds=0.02), n_after)
    done = work_all(agent, 1)
    assert [o.failure for o in done] == [None] * SPACE.n_tasks
    assert {o.slot for o in done} == set(range(n_after))


def test_a_space_that_is_shut_while_slots_are_at_work_leaves_them_to_the_next(
    agent: Agent,
) -> None:
    open_space(agent, 0, ToyRecipe(EXPANSION, faults=dict.fromkeys(range(4), "hang")), 2)
    work(agent, range(4))
    agent.handle(Shut(0))
    open_space(agent, 1, ToyRecipe(EXPANSION), 2)
    done = work_all(agent, 1)
    assert {o.space for o in done} == {1}
    assert [o.failure for o in done] == [None] * SPACE.n_tasks
