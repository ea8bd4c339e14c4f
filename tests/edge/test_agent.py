"""An agent with real slots: they work, crash, hang and are replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Done,
    FromAgent,
    Open,
    Ready,
    Recall,
    Returned,
    Shut,
    Work,
)
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.placement import Layout
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.agent_cases import is_alive, wait_until
from tests.engines import ToyRecipe, toy_energy
from tests.toys import toy_expansion

EXPANSION = toy_expansion(6)
SPACE = TaskSpace(EXPANSION)
_PATIENCE_S = 60.0


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent of two slots that is ended after the test."""
    server = ForkServer.start(dict(os.environ), ["qcmb_mpi.execution.slot", "tests.engines"])
    made = Agent(
        AgentInfo(0, "here", 2, 10**9), server, slot_cpus=lambda n_slots, _: [()] * n_slots
    )
    yield made
    made.close()


def opening(recipe: ToyRecipe, *, n_slots: int = 2, timeout_s: float = 30.0) -> Open:
    """Return the message that opens space 0."""
    return Open(0, recipe, Layout(n_slots, 1, 0, "as the test says"), timeout_s)


def hear(agent: Agent, is_enough: Callable[[list[FromAgent]], bool]) -> list[FromAgent]:
    """Poll until what was heard is enough."""
    heard: list[FromAgent] = []
    give_up_s = time.monotonic() + _PATIENCE_S
    while not is_enough(heard):
        assert time.monotonic() < give_up_s, heard
        heard += agent.poll(0.1)
    return heard


def run(agent: Agent, recipe: ToyRecipe, ids: list[int], **how: float) -> dict[int, Outcome]:
    """Open space 0, run `ids`, return their outcomes."""
    agent.handle(opening(recipe, **how))  # type: ignore[arg-type]
    agent.handle(Work(0, np.array(ids)))
    heard = hear(
        agent, lambda news: sum(len(m.outcomes) for m in news if isinstance(m, Done)) >= len(ids)
    )
    return {o.task: o for m in heard if isinstance(m, Done) for o in m.outcomes}


def expected(task: int) -> float:
    """Return the closed-form energy of a task."""
    clusters = SPACE.clusters(np.array([task]))
    return toy_energy(clusters.real[0], clusters.basis[0], 0)


def test_every_task_is_run_once_and_right(agent: Agent) -> None:
    outcomes = run(agent, ToyRecipe(EXPANSION), list(range(SPACE.n_tasks)))
    assert {task: o.energy_hartree for task, o in outcomes.items()} == {
        task: expected(task) for task in range(SPACE.n_tasks)
    }


def test_both_slots_work(agent: Agent) -> None:
    outcomes = run(agent, ToyRecipe(EXPANSION, seconds=0.05), list(range(12)))
    assert {o.slot for o in outcomes.values()} == {0, 1}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("segfault", ErrorClass.CRASHED, "SIGSEGV"),
        ("kill", ErrorClass.CRASHED, "out of memory?"),
        ("convergence", ErrorClass.CONVERGENCE, "planned fault"),
        ("transient", ErrorClass.TRANSIENT, "planned fault"),
    ],
)
def test_a_fault_is_an_outcome_and_the_rest_is_computed(
    agent: Agent, fault: str, kind: ErrorClass, words: str
) -> None:
    outcomes = run(agent, ToyRecipe(EXPANSION, faults={3: fault}), list(range(SPACE.n_tasks)))
    failure = outcomes[3].failure
    assert failure is not None
    assert failure.error_class is kind
    assert words in failure.message
    assert all(o.failure is None for task, o in outcomes.items() if task != 3)
    assert len(outcomes) == SPACE.n_tasks


def test_what_a_program_wrote_before_it_died_is_told(agent: Agent) -> None:
    failure = run(agent, ToyRecipe(EXPANSION, faults={0: "segfault"}), [0])[0].failure
    assert failure is not None
    assert "about to crash" in failure.output_tail


def test_a_hang_is_killed_with_its_children(agent: Agent) -> None:
    recipe = ToyRecipe(EXPANSION, faults={2: "child"})
    outcomes = run(agent, recipe, list(range(8)), timeout_s=1.0)
    failure = outcomes[2].failure
    assert failure is not None
    assert failure.error_class is ErrorClass.HUNG
    assert "says hello" in failure.output_tail
    sleeping = [p for p in psutil.Process().children(recursive=True) if p.name() == "sleep"]
    wait_until(lambda: not any(is_alive(process) for process in sleeping))


def test_a_killed_idle_slot_is_replaced(agent: Agent) -> None:
    run(agent, ToyRecipe(EXPANSION), [0])
    victim = next(
        p
        for p in psutil.Process().children(recursive=True)
        if os.getpgid(p.pid) == p.pid and p.ppid() != os.getpid()
    )
    victim.send_signal(signal.SIGKILL)
    agent.handle(Work(0, np.arange(SPACE.n_tasks)))
    heard = hear(
        agent,
        lambda news: sum(len(m.outcomes) for m in news if isinstance(m, Done)) >= SPACE.n_tasks,
    )
    assert heard


def test_recall_gives_back_what_was_not_started(agent: Agent) -> None:
    agent.handle(opening(ToyRecipe(EXPANSION, seconds=0.2)))
    hear(agent, lambda news: any(isinstance(m, Ready) for m in news))
    agent.handle(Work(0, np.arange(20)))
    agent.handle(Recall(0))
    heard = hear(agent, lambda news: any(isinstance(m, Returned) for m in news))
    returned = next(m for m in heard if isinstance(m, Returned))
    n_running = 20 - len(returned.ids)
    assert 0 < n_running <= 4
    done = hear(
        agent,
        lambda news: (
            sum(len(m.outcomes) for m in [*heard, *news] if isinstance(m, Done)) >= n_running
        ),
    )
    ran = {o.task for m in [*heard, *done] if isinstance(m, Done) for o in m.outcomes}
    assert ran | set(returned.ids.tolist()) == set(range(20))


def test_an_engine_that_refuses_says_why(agent: Agent) -> None:
    agent.handle(opening(ToyRecipe(EXPANSION, faults={-1: "refuse"})))
    heard = hear(agent, lambda news: any(isinstance(m, Ready) for m in news))
    error = next(m.error for m in heard if isinstance(m, Ready))
    assert isinstance(error, TopologyError)
    assert "missing on this node" in str(error)


def test_slots_that_die_at_once_are_not_forked_for_ever(agent: Agent) -> None:
    agent.handle(opening(ToyRecipe(EXPANSION, faults={-1: "stillborn"})))
    heard = hear(agent, lambda news: any(isinstance(m, Ready) for m in news))
    error = next(m.error for m in heard if isinstance(m, Ready))
    assert "die before their first task" in str(error)
    assert "exit code 3" in str(error)


def test_a_pool_serves_another_space_after_the_first(agent: Agent) -> None:
    run(agent, ToyRecipe(EXPANSION), [0, 1])
    agent.handle(Shut(0))
    other = toy_expansion(4, bsse=("cp",))
    assert len(run(agent, ToyRecipe(other), [0, 1, 2])) == 3


def test_slots_end_with_their_owner(tmp_path: Path) -> None:
    """Kill -9 of the process that owns a fork server takes its slots and programs along."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, sys, time\n"
        "from qcmb_mpi.execution.forkserver import ForkServer\n"
        "server = ForkServer.start(dict(os.environ))\n"
        "slots = [server.fork() for _ in range(2)]\n"
        "while not all(slot.pid for slot in slots): server.listen(1.0)\n"
        "print(*[slot.pid for slot in slots], flush=True)\n"
        "time.sleep(600)\n"
    )
    import subprocess
    import sys

    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not any(psutil.pid_exists(p) and is_alive(psutil.Process(p)) for p in pids))
