"""What tests of agents with real slots share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.wire import AgentInfo, Done, FromAgent, Open, Work
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.placement import Layout
from tests.toys import toy_expansion

EXPANSION = toy_expansion(6)
SPACE = TaskSpace(EXPANSION)
INFO = AgentInfo(0, "here", 2, 10**9, 4 * 10**9)
PATIENCE_S = 60.0


def new_server() -> ForkServer:
    """Start a fork server that has what slots of tests need."""
    return ForkServer.start(dict(os.environ), ["qcmb_mpi.execution.slot", "tests.engines"])


def new_agent(info: AgentInfo = INFO, **how: Any) -> Agent:
    """Return an agent, with unpinned slots unless it is said how."""
    how.setdefault("slot_cpus", lambda n_slots, _: [()] * n_slots)
    return Agent(info, new_server(), **how)


def ended(agent: Agent) -> Iterator[Agent]:
    """Give an agent to a test and end it after."""
    yield agent
    agent.close()


def open_space(
    agent: Agent,
    recipe: Any,
    *,
    n_slots: int = 2,
    timeout_s: float = 30.0,
    scratch: Path | None = None,
    space: int = 0,
    memory_per_agent_bytes: int = 0,
    report_s: float = 0.0,
) -> None:
    """Open a space."""
    layout = Layout(n_slots, 1, 10**8, "as the test says", memory_per_agent_bytes)
    folder = None if scratch is None else str(scratch)
    agent.handle(Open(space, recipe, layout, timeout_s, folder, report_s))


def work(
    agent: Agent,
    ids: Iterable[int],
    *,
    is_alone: bool = False,
    n_threads: int = 0,
    space: int = 0,
    n_heard: int = 0,
) -> None:
    """Give tasks of a space."""
    agent.handle(Work(space, np.array(list(ids), dtype=np.int64), is_alone, n_threads, n_heard))


def hear(agent: Agent, is_enough: Callable[[list[FromAgent]], bool]) -> list[FromAgent]:
    """Poll until what was heard is enough."""
    heard: list[FromAgent] = []
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_enough(heard):
        assert time.monotonic() < give_up_s, heard
        heard += agent.poll(0.1)
    return heard


def outcomes(news: list[FromAgent]) -> list[Outcome]:
    """Return all outcomes in what was heard."""
    return [each for message in news if isinstance(message, Done) for each in message.outcomes]


def hear_outcomes(agent: Agent, n_tasks: int) -> dict[int, Outcome]:
    """Return as many outcomes, by task."""
    heard = hear(agent, lambda news: len(outcomes(news)) >= n_tasks)
    return {outcome.task: outcome for outcome in outcomes(heard)}


def failure_of(outcome: Outcome) -> Failure:
    """Return the failure that an outcome has."""
    assert outcome.failure is not None
    return outcome.failure


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a state; fail if it does not come."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process is there; a zombie is not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def working_in(directory: Path) -> list[psutil.Process]:
    """Return the processes whose working directory this is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(directory) and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def offspring(is_so: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Return the descendants of this process of which something holds, but none that has gone."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if is_so(process):
                found.append(process)
    return found


def slots_of(owner: int) -> list[psutil.Process]:
    """Return the slots of a process: children of a server, child of a warden, child of it."""
    found = []
    for process in psutil.Process(owner).children(recursive=True):
        try:
            parents = process.parents()
            if len(parents) > 2 and parents[2].pid == owner and is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found
