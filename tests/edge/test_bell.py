"""A bell ends a rank's wait for its slots; without one all goes on, only later."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from qcmb_mpi.execution import agent as agents
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.mpi.bell import Bell
from qcmb_mpi.execution.executors.mpi.mail import Nap
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbour, Neighbours
from tests.edge.agent_cases import ended, hear, new_agent, open_space, work
from tests.engines import ToyRecipe
from tests.toys import toy_expansion

LONG_S = 60.0


@pytest.fixture
def bells() -> Iterator[tuple[Bell, Bell]]:
    """Give two bells."""
    pair = Bell(), Bell()
    yield pair
    for each in pair:
        each.close()


@pytest.fixture
def listener(bells: tuple[Bell, Bell]) -> Iterator[Agent]:
    """Give an agent that hears the first bell."""
    yield from ended(new_agent(bell=bells[0]))


def is_ringing(bell: Bell) -> bool:
    """Whether a bell can be heard now."""
    return bool(select.select([bell], [], [], 0.0)[0])


def test_a_bell_is_heard_until_it_is_hushed_however_often_it_was_rung(
    bells: tuple[Bell, Bell],
) -> None:
    ours, others = bells
    assert not is_ringing(ours)
    for _ in range(10_000):
        others.ring(ours.address)
    assert is_ringing(ours)
    ours.hush()
    assert not is_ringing(ours)


def test_to_ring_what_is_not_there_does_nothing(bells: tuple[Bell, Bell]) -> None:
    ours, others = bells
    address = others.address
    others.close()
    for each in (address, b"", b"\0nobody has this one"):
        ours.ring(each)
    others.ring(ours.address)
    others.hush()
    assert others.fileno() == -1
    assert not is_ringing(ours)


def test_ranks_of_the_node_are_rung_and_no_others(bells: tuple[Bell, Bell]) -> None:
    ours, others = bells
    rows = [Neighbour(0, frozenset(), others.address, pid=1), Neighbour(1, frozenset(), b"")]
    neighbours = Neighbours(rows, ours)
    for rank in (1, 2):
        neighbours.ring(rank)
    assert not is_ringing(others)
    neighbours.ring(0)
    assert is_ringing(others)
    assert neighbours.have_bells([0])
    assert not neighbours.have_bells([0, 1])
    neighbours.close()
    neighbours.ring(0)
    assert not neighbours.have_bells([0])


def test_whom_a_bell_calls_need_not_look_until_it_rang_in_vain() -> None:
    nap = Nap()
    called = {"is_busy": False, "is_calm": False, "is_called": True}
    nap.follow(**called)
    longest_s = nap.interval_s
    nap.follow(**called, is_vain=True)
    found = [nap.interval_s]
    for _ in range(3):
        nap.follow(**called)
        found.append(nap.interval_s)
    assert found == [found[0] * 2**n for n in range(4)]
    assert found[-1] < longest_s
    nap.follow(**called | {"is_busy": True})
    assert nap.interval_s == longest_s
    nap.follow(**called, is_vain=True)
    for _ in range(10):  # what it rang for was there before
        nap.follow(**called)
    assert nap.interval_s == longest_s


def test_without_a_bell_the_intervals_begin_anew_when_something_happens() -> None:
    nap = Nap()
    shortest_s = nap.interval_s
    quiet = {"is_busy": False, "is_calm": False, "is_called": False}
    for _ in range(20):
        nap.follow(**quiet)
    longest_s = nap.interval_s
    nap.follow(**quiet)
    assert nap.interval_s == longest_s > shortest_s
    nap.follow(**quiet | {"is_calm": True})
    assert nap.interval_s > longest_s
    nap.follow(**quiet | {"is_busy": True})
    assert nap.interval_s == shortest_s


def test_an_agent_without_slots_waits_no_longer_when_its_bell_rings(
    listener: Agent, bells: tuple[Bell, Bell]
) -> None:
    bells[1].ring(bells[0].address)
    began_s = time.monotonic()
    assert listener.poll(LONG_S) == []
    assert time.monotonic() - began_s < LONG_S
    assert not is_ringing(bells[0])


def test_a_calm_agent_does_not_hear_its_bell(
    listener: Agent, bells: tuple[Bell, Bell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_CALM_SHARE", 1e6)
    listener._timing.hold_s = 1e6
    open_space(listener, ToyRecipe(toy_expansion(26), seconds=0.001))
    work(listener, range(2000))
    hear(listener, lambda _: listener.is_calm)
    bells[1].ring(bells[0].address)
    listener.poll(0.0)
    assert is_ringing(bells[0])
