"""Nothing is lost and nothing is left behind, whatever is killed: slots, fork server, owner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.wire import FromAgent, Lost, Ready
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.agent_cases import (
    EXPANSION,
    SPACE,
    ended,
    failure_of,
    hear,
    hear_outcomes,
    is_alive,
    new_agent,
    new_server,
    open_space,
    outcomes,
    slots_of,
    wait_until,
    work,
    working_in,
)
from tests.engines import N_STRAYS, ToyRecipe


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent that can start another fork server."""
    yield from ended(new_agent(new_server=new_server))


def fork_server() -> psutil.Process:
    """Return the fork server of this process's slots."""
    return slots_of(os.getpid())[0].parents()[0]


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [("stray hang", ErrorClass.HUNG), ("stray segfault", ErrorClass.CRASHED)],
)
def test_what_a_task_started_ends_with_its_slot(
    agent: Agent, tmp_path: Path, fault: str, error_class: ErrorClass
) -> None:
    """Also what has left the slot's process group, and its tree."""
    open_space(agent, ToyRecipe(EXPANSION, faults={0: fault}, once=str(tmp_path)), timeout_s=2.0)
    work(agent, [0, 1])
    done = hear_outcomes(agent, 2)
    assert failure_of(done[0]).error_class is error_class
    assert done[1].failure is None
    wait_until(lambda: not working_in(tmp_path))


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process whose slot has left strays and hangs."""
    script = (
        "import sys\n"
        "from tests.edge.agent_cases import *\n"
        "from tests.engines import ToyRecipe\n"
        "agent = new_agent()\n"
        "recipe = ToyRecipe(EXPANSION, faults={0: 'stray hang'}, once=sys.argv[1])\n"
        "open_space(agent, recipe, n_slots=1, timeout_s=1e9)\n"
        "work(agent, [0])\n"
        "while True: agent.poll(1.0)\n"
    )
    root = Path(__file__).resolve().parents[2]
    started = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(root)}
    )
    wait_until(lambda: len(working_in(tmp_path)) >= N_STRAYS)
    yield started
    started.kill()
    started.wait()


@pytest.mark.parametrize("victims", ["owner", "owner and server", "server"])
def test_nothing_is_left_of_an_owner_or_server_that_is_killed(
    owner: subprocess.Popen[bytes], tmp_path: Path, victims: str
) -> None:
    [slot] = slots_of(owner.pid)
    server = slot.parents()[0]
    warden = server.parents()[0]
    if "server" in victims:
        server.suspend()  # so that it cannot act before it is killed
    if "owner" in victims:
        owner.kill()
    if "server" in victims:
        server.kill()
    wait_until(lambda: not any(working_in(tmp_path)))
    wait_until(lambda: not any(is_alive(each) for each in (slot, server, warden)))


def test_a_server_whose_warden_is_killed_goes_on(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION))
    work(agent, [0])
    hear_outcomes(agent, 1)
    fork_server().parents()[0].kill()
    before = [slot.process for slot in agent._pool.slots]
    for process in before:
        process.kill()
    hear(agent, lambda _: not any(slot.process in before for slot in agent._pool.slots))
    work(agent, range(SPACE.n_tasks))
    done = hear_outcomes(agent, SPACE.n_tasks)
    assert [done[task].failure for task in range(SPACE.n_tasks)] == [None] * SPACE.n_tasks


def test_a_stopped_slot_is_hung_and_a_busy_one_is_slow(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={0: "stop", 1: "burn"}), timeout_s=2.0)
    work(agent, range(8))
    done = hear_outcomes(agent, 8)
    assert failure_of(done[0]).error_class is ErrorClass.HUNG
    assert "s of CPU in 2 s" in failure_of(done[0]).message
    assert failure_of(done[1]).error_class is ErrorClass.TIMEOUT
    assert all(done[task].failure is None for task in range(2, 8))


def test_work_goes_on_with_another_fork_server(agent: Agent) -> None:
    faults = {0: "hang", 2: "hang"}  # each slot gets two
    open_space(agent, ToyRecipe(EXPANSION, faults=faults))
    work(agent, range(8))
    hear(agent, lambda _: has_started(agent))
    fork_server().kill()
    done = hear_outcomes(agent, 8)
    for task in faults:
        assert failure_of(done[task]).error_class is ErrorClass.CRASHED
        assert "fork server was killed" in failure_of(done[task]).message
    assert all(done[task].failure is None for task in set(range(8)) - set(faults))


def lose_server(agent: Agent) -> list[FromAgent]:
    """Kill the fork server while both slots are at work; return what is heard to the end."""
    open_space(agent, ToyRecipe(EXPANSION, faults={0: "hang", 1: "hang"}))
    work(agent, [0, 1])
    hear(agent, lambda _: has_started(agent))
    fork_server().kill()
    return hear(agent, lambda news: any(isinstance(m, Lost) for m in news))


def test_fork_servers_that_are_killed_again_and_again_end_the_agent() -> None:
    started = []

    def doomed() -> ForkServer:
        server = new_server()
        slot = server.fork()
        wait_until(lambda: server.listen(0.1) and slot.pid > 0)
        psutil.Process(slot.pid).parent().kill()  # type: ignore[union-attr]
        started.append(server)
        return server

    with contextlib.closing(new_agent(new_server=doomed)) as agent:
        heard = lose_server(agent)
    assert len(started) == 3
    assert {each.task for each in outcomes(heard)} == {0, 1}
    assert isinstance(heard[-1], Lost)
    assert "slots on here cannot be started" in heard[-1].reason


def has_started(agent: Agent) -> bool:
    """Tell whether both slots are at a task."""
    return len(agent._pool.slots) == 2 and all(slot.process.n_started for slot in agent._pool.slots)


def test_without_another_server_to_start_the_agent_is_lost() -> None:
    with contextlib.closing(new_agent()) as agent:
        heard = lose_server(agent)
    assert {each.task for each in outcomes(heard)} == {0, 1}
    assert agent.poll(0.0) == []


def test_slots_that_cannot_be_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("no slot can be started: out of processes")

    monkeypatch.setattr("qcmb_mpi.execution.slots.SlotSource.fork", refuse)
    with contextlib.closing(new_agent()) as agent:
        open_space(agent, ToyRecipe(EXPANSION))
        [ready] = hear(agent, bool)
    assert isinstance(ready, Ready)
    assert "out of processes" in str(ready.error)


def test_slots_outlast_what_asks_a_whole_job_to_stop(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, seconds=0.3))
    work(agent, range(4))
    hear(agent, lambda _: has_started(agent))
    for process in (fork_server(), fork_server().parents()[0], *slots_of(os.getpid())):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
    done = hear_outcomes(agent, 4)
    assert [done[task].failure for task in range(4)] == [None] * 4
