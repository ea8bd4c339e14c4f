"""Slots before their first task: forked ahead, rehearsed, and what becomes of those not wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.wire import Ready
from tests.edge.agent_cases import (
    EXPANSION,
    ended,
    hear,
    hear_outcomes,
    new_agent,
    new_server,
    open_space,
    wait_until,
    work,
)
from tests.engines import ToyRecipe


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent without spares."""
    yield from ended(new_agent())


def forked(agent: Agent) -> list[psutil.Process]:
    """Return the slots there are, wanted or not: children of the child of what was started."""
    warden = psutil.Process(agent._pool._source._server._process.pid)  # type: ignore[union-attr]
    return [slot for server in warden.children() for slot in server.children()]


@pytest.mark.parametrize("n_slots", [1, 2, 3, 5])
def test_an_agent_ends_with_as_many_slots_as_are_wanted(n_slots: int) -> None:
    agent = new_agent(n_spares=3)
    try:
        wait_until(lambda: len(forked(agent)) == 3)
        before = {slot.pid for slot in forked(agent)}
        open_space(agent, ToyRecipe(EXPANSION), n_slots=n_slots)
        hear(agent, lambda _: len(forked(agent)) == n_slots)
        after = {slot.pid for slot in forked(agent)}
        assert after <= before if n_slots <= 3 else before <= after
        work(agent, range(8))
        assert len(hear_outcomes(agent, 8)) == 8
    finally:
        agent.close()


def test_nothing_is_left_of_an_agent_that_was_never_wanted() -> None:
    agent = new_agent(n_spares=2)
    wait_until(lambda: len(forked(agent)) == 2)
    slots = forked(agent)
    agent.close()
    wait_until(lambda: not any(slot.is_running() for slot in slots))


def test_spares_that_died_while_nobody_wanted_them_are_no_reason_to_give_up() -> None:
    agent = new_agent(n_spares=2)
    try:
        wait_until(lambda: len(forked(agent)) == 2)
        for slot in (dead := forked(agent)):
            slot.kill()
        wait_until(lambda: not any(slot.is_running() for slot in dead))
        open_space(agent, ToyRecipe(EXPANSION))
        assert Ready(0) in hear(agent, lambda news: bool(news))
    finally:
        agent.close()


def test_a_server_that_died_before_any_slot_was_wanted_is_replaced() -> None:
    agent = new_agent(n_spares=2, new_server=new_server)
    try:
        wait_until(lambda: len(forked(agent)) == 2)
        forked(agent)[0].parent().kill()  # type: ignore[union-attr]
        open_space(agent, ToyRecipe(EXPANSION))
        assert Ready(0) in hear(agent, lambda news: bool(news))
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("n_cores", "n_workers", "n_threads", "expected"),
    [
        (8, None, None, 8),
        (8, None, 2, 4),
        (8, 3, None, 3),
        (8, 3, 4, 3),
        (8, 100, None, 8),
        (8, None, 16, 0),
        (0, None, None, 0),
        (0, 4, None, 0),
    ],
)
def test_the_slots_that_an_agent_will_likely_have(
    n_cores: int, n_workers: int | None, n_threads: int | None, expected: int
) -> None:
    config = ExecutorConfig(n_workers=n_workers, n_threads=n_threads)
    assert config.likely_slots(n_cores) == expected


def test_a_slot_rehearses_before_it_says_that_it_is_ready(agent: Agent, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    open_space(agent, ToyRecipe(EXPANSION, faults={-2: "note"}, journal=str(journal)), n_slots=1)
    hear(agent, lambda news: Ready(0) in news)
    assert journal.read_text() == "rehearsed\n"


def test_a_rehearsal_that_raises_does_no_harm(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={-2: "raise"}))
    work(agent, range(4))
    assert all(each.failure is None for each in hear_outcomes(agent, 4).values())


def test_slots_that_die_in_their_rehearsal_are_not_started_for_ever(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={-2: "kill"}))
    news = hear(agent, lambda news: bool(news))
    [ready] = [message for message in news if isinstance(message, Ready)]
    assert "die before their first task" in str(ready.error)
