"""Outcomes wait for each other in an agent while nobody needs to know them at once."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.execution import agent as agents
from qcmb_mpi.execution import backlog as backlogs
from qcmb_mpi.execution import slot as slots
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.forkserver import SlotProcess
from qcmb_mpi.execution.slots import Slot
from qcmb_mpi.execution.wire import Closed, Done, FromAgent, Ready, Recall, Returned, Shut
from qcmb_mpi.expansion.plan import TaskSpace
from tests.edge.agent_cases import (
    PATIENCE_S,
    ended,
    hear,
    new_agent,
    open_space,
    outcomes,
    wait_until,
    work,
)
from tests.engines import ToyRecipe
from tests.toys import toy_expansion

MANY = toy_expansion(14)
N_TASKS = TaskSpace(MANY).n_tasks


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent that holds outcomes back as long as nothing else has it tell them."""
    agent = new_agent()
    agent._timing.hold_s = 1e6
    yield from ended(agent)


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


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_what_a_slot_holds_back_survives_it(agent: Agent, tmp_path: Path, fault: str) -> None:
    journal = tmp_path / "journal"
    faults = dict.fromkeys((40, 60, 80), fault)
    recipe = ToyRecipe(MANY, seconds=0.002, faults=faults, journal=str(journal))
    open_space(agent, recipe, n_slots=1, timeout_s=1.0)
    work(agent, range(N_TASKS))
    heard = hear(agent, lambda news: sum(sizes(news)) == N_TASKS)
    ended_well = [each.task for each in outcomes(heard) if each.failure is None]
    assert sorted(ended_well) == [task for task in range(N_TASKS) if task not in faults]
    assert sorted(map(int, journal.read_text().split())) == sorted(ended_well)


def test_a_task_that_ends_as_its_slot_is_ended_for_it_is_a_success(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = SlotProcess.kill

    def late_kill(self: SlotProcess) -> None:
        [slot] = agent._pool.slots
        n_started, has_more = self.n_started, len(slot.outstanding) > 1
        assert select.select([self.pipe], [], [], PATIENCE_S)[0]
        wait_until(lambda: self.n_started > n_started or not has_more)
        kill(self)

    open_space(agent, ToyRecipe(MANY, seconds=0.6), n_slots=1, timeout_s=0.2)
    hear(agent, lambda _: agent._pool.slots[0].is_ready)
    with monkeypatch.context() as patch:
        patch.setattr(SlotProcess, "kill", late_kill)
        work(agent, range(3))
        heard = hear(agent, lambda news: sum(sizes(news)) == 3)
    assert sorted(each.task for each in outcomes(heard)) == [0, 1, 2]
    assert [each.failure for each in outcomes(heard)] == [None] * 3


def test_what_is_finished_is_told_when_a_space_is_shut(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, faults={7: "hang"}), n_slots=1)
    hear(agent, lambda news: Ready(0) in news)
    agent._backlog.observe(0, 0.0001)
    work(agent, range(30))
    [slot] = agent._pool.slots
    wait_until(lambda: slot.process.n_started == 8)  # while nobody listens to it
    agent.handle(Shut(0))
    news = agent.poll(0.0)
    assert [each.task for each in outcomes(news)] == list(range(7))
    assert news[-1] == Closed(0)


def test_long_tasks_do_not_wait(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=agents._AHEAD_S + 0.05))
    work(agent, range(6))
    hear(agent, lambda news: sum(sizes(news)) > 0)
    assert agent._backlog.next_space is not None


def test_slots_are_given_many_short_tasks_at_once(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, starts = [], []
    feed, start = Agent._feed, Slot.start

    def noting_feed(self: Agent) -> None:
        starts.clear()
        feed(self)
        given.append(list(starts))

    def noting_start(self: Slot, space: int, ids: Any, now: float) -> Any:
        ahead_s = agent._ahead_s(self)
        starts.append((self, ahead_s))
        return start(self, space, ids, now)

    monkeypatch.setattr(Agent, "_feed", noting_feed)
    monkeypatch.setattr(Slot, "start", noting_start)
    open_space(agent, ToyRecipe(MANY, seconds=0.001))
    work(agent, range(N_TASKS))
    hear(agent, lambda news: sum(sizes(news)) == N_TASKS)
    for each in given:
        assert len(each) == len({id(slot) for slot, _ in each})
    most_s = agents._AHEAD_S - backlogs._LEAST_S
    assert all(ahead_s <= most_s for each in given for _, ahead_s in each)


def test_the_last_tasks_go_to_slots_that_have_no_more_than_the_one_they_are_at(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, start = {}, Slot.start

    def noting_start(self: Slot, space: int, ids: Any, now: float) -> Any:
        before[len(agent._backlog)] = len(self.outstanding)
        return start(self, space, ids, now)

    monkeypatch.setattr(Slot, "start", noting_start)
    open_space(agent, ToyRecipe(MANY, seconds=0.03))
    work(agent, range(20))
    hear(agent, lambda news: sum(sizes(news)) == 20)
    assert before[0] <= 1
    assert before[1] <= 1


def test_one_of_many_agents_collects_what_long_tasks_give_while_there_is_work(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.12), report_s=1e6)
    work(agent, range(12))
    heard = hear(agent, lambda news: sum(sizes(news)) > 0)
    assert agent._backlog.next_space is None
    assert sizes(heard)[0] >= 9


def test_a_failure_does_not_wait_however_many_agents_there_are(agent: Agent) -> None:
    recipe = ToyRecipe(MANY, seconds=0.12, faults={2: "convergence"})
    open_space(agent, recipe, report_s=1e6)
    work(agent, range(12))
    hear(agent, lambda news: any(each.failure for each in outcomes(news)))
    assert agent._backlog.next_space is not None


def test_an_idle_slot_is_told_of_once_until_that_very_report_is_answered(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.12), report_s=1e6)
    work(agent, [0])
    [first] = [each for each in hear(agent, lambda news: sum(sizes(news)) > 0) if sizes([each])]
    assert isinstance(first, Done)
    work(agent, [1], n_heard=first.number - 1)
    assert sizes(hear(agent, lambda _: bool(agent._held))) == []
    work(agent, [2], n_heard=first.number)
    [second] = [each for each in agent.poll(30.0) if isinstance(each, Done)]
    assert second.number == first.number + 1


@pytest.fixture
def calm_agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """Give an agent that listens to no slot for long after each had a stock."""
    monkeypatch.setattr(agents, "_CALM_SHARE", 1e6)
    agent = new_agent()
    agent._timing.hold_s = 1e6
    yield from ended(agent)


def make_calm(agent: Agent, recipe: ToyRecipe) -> None:
    """Open a space and work on it until the agent is calm."""
    open_space(agent, recipe)
    work(agent, range(N_TASKS))
    hear(agent, lambda _: agent.is_calm)


def test_a_calm_agent_notices_the_end_of_a_slot(calm_agent: Agent) -> None:
    make_calm(calm_agent, ToyRecipe(MANY, seconds=0.001))
    os.kill(calm_agent._pool.slots[0].process.pid, signal.SIGKILL)
    hear(calm_agent, lambda news: any(each.failure for each in outcomes(news)))


def test_a_calm_agent_obeys_at_once(calm_agent: Agent) -> None:
    make_calm(calm_agent, ToyRecipe(MANY, seconds=0.001))
    calm_agent.handle(Recall(0))
    assert not calm_agent.is_calm
    assert any(isinstance(message, Returned) for message in calm_agent.poll(30.0))


def test_a_stock_gets_less_while_nothing_is_heard(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.001))
    work(agent, range(N_TASKS))
    hear(agent, lambda _: all(len(slot.outstanding) > 9 for slot in agent._pool.slots))
    now = agent._clock()
    found = []
    for later_s in (0.0, 0.04):
        monkeypatch.setattr(agent, "_clock", lambda later_s=later_s: now + later_s)
        found.append([agent._stock_s(slot) for slot in agent._pool.slots])
    assert found[1] == pytest.approx([stock_s - 0.04 for stock_s in found[0]])


def test_an_agent_whose_slots_have_one_task_each_is_not_calm(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.12))
    work(agent, range(8))
    hear(agent, lambda news: sum(sizes(news)) >= 4)
    assert not agent.is_calm


def test_an_agent_that_knows_no_length_is_not_calm_and_gives_each_slot_two(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, faults=dict.fromkeys(range(N_TASKS), "hang")))
    hear(agent, lambda _: all(slot.is_ready for slot in agent._pool.slots))
    work(agent, range(N_TASKS))
    agent.poll(0.0)
    assert [len(slot.outstanding) for slot in agent._pool.slots] == [2, 2]
    assert not agent.is_calm


def test_what_waits_behind_a_task_of_unknown_length_is_taken_back(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, faults={0: "hang"}))
    hear(agent, lambda _: all(slot.is_ready for slot in agent._pool.slots))
    work(agent, range(8))
    heard = hear(agent, lambda news: sum(sizes(news)) == 7)
    assert sorted(each.task for each in outcomes(heard)) == list(range(1, 8))


def test_tasks_that_fail_at_once_are_no_reason_to_think_others_short(agent: Agent) -> None:
    open_space(agent, ToyRecipe(MANY, seconds=0.12, faults={0: "convergence", 1: "convergence"}))
    work(agent, range(N_TASKS))
    hear(agent, lambda news: len(outcomes(news)) == 2)
    assert not agent._backlog.is_short(0)


def test_a_slot_is_not_taken_for_late_because_it_was_not_heard(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_space(agent, ToyRecipe(MANY, faults={0: "hang"}), timeout_s=30.0)
    work(agent, [0])
    hear(agent, lambda _: any(slot.outstanding for slot in agent._pool.slots))
    [slot] = [slot for slot in agent._pool.slots if slot.outstanding]
    held_s = slots._HOLD_S + agents._CALM_SHARE * agents._AHEAD_S
    monkeypatch.setattr(agent, "_clock", lambda: 1000.0)
    slot.progressed_s = 1000.0 - 30.0 - held_s
    assert not agent._is_overdue(slot)
    slot.progressed_s = 1000.0 - 30.0 - agents._LATE_S - 0.1
    assert agent._is_overdue(slot)
