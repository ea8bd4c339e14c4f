"""An agent with real slots: they work, crash, hang and are replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.wire import Ready, Recall, Returned, Shut
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
    offspring,
    open_space,
    outcomes,
    slots_of,
    wait_until,
    work,
)
from tests.engines import ToyRecipe, toy_energy
from tests.toys import toy_expansion


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Give an agent of two slots that is ended after the test."""
    yield from ended(new_agent())


def run(
    agent: Agent, recipe: ToyRecipe, ids: Sequence[int], *, timeout_s: float = 30.0
) -> dict[int, Outcome]:
    """Open space 0, run `ids`, return their outcomes."""
    open_space(agent, recipe, timeout_s=timeout_s)
    work(agent, ids)
    return hear_outcomes(agent, len(ids))


def expected(task: int) -> float:
    """Return the closed-form energy of a task."""
    clusters = SPACE.clusters(np.array([task]))
    return toy_energy(clusters.real[0], clusters.basis[0], 0)


def test_every_task_is_run_once_and_right(agent: Agent) -> None:
    found = run(agent, ToyRecipe(EXPANSION), range(SPACE.n_tasks))
    assert {task: o.energy_hartree for task, o in found.items()} == {
        task: expected(task) for task in range(SPACE.n_tasks)
    }


def test_both_slots_work(agent: Agent) -> None:
    found = run(agent, ToyRecipe(EXPANSION, seconds=0.05), range(12))
    assert {o.slot for o in found.values()} == {0, 1}


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
    found = run(agent, ToyRecipe(EXPANSION, faults={3: fault}), range(SPACE.n_tasks))
    failure = failure_of(found[3])
    assert failure.error_class is kind
    assert words in failure.message
    assert all(o.failure is None for task, o in found.items() if task != 3)
    assert len(found) == SPACE.n_tasks


def test_what_a_program_wrote_before_it_died_is_told(agent: Agent) -> None:
    found = run(agent, ToyRecipe(EXPANSION, faults={0: "segfault"}), [0])
    assert "about to crash" in failure_of(found[0]).output_tail


def test_a_hang_is_killed_with_its_children(agent: Agent) -> None:
    recipe = ToyRecipe(EXPANSION, faults={2: "child"})
    found = run(agent, recipe, range(8), timeout_s=1.0)
    failure = failure_of(found[2])
    assert failure.error_class is ErrorClass.HUNG
    assert "says hello" in failure.output_tail
    sleeping = offspring(lambda process: process.name() == "sleep")
    wait_until(lambda: not any(is_alive(process) for process in sleeping))


def test_a_killed_idle_slot_is_replaced(agent: Agent) -> None:
    run(agent, ToyRecipe(EXPANSION), [0])
    slots_of(os.getpid())[0].send_signal(signal.SIGKILL)
    work(agent, range(SPACE.n_tasks))
    assert len(hear_outcomes(agent, SPACE.n_tasks)) == SPACE.n_tasks


def test_recall_gives_back_what_was_not_started(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, seconds=0.2))
    hear(agent, lambda news: any(isinstance(m, Ready) for m in news))
    work(agent, range(20))
    agent.handle(Recall(0))
    heard = hear(agent, lambda news: any(isinstance(m, Returned) for m in news))
    returned = next(m for m in heard if isinstance(m, Returned))
    n_running = 20 - len(returned.ids)
    assert 0 < n_running <= 4
    done = hear(agent, lambda news: len(outcomes([*heard, *news])) >= n_running)
    ran = {outcome.task for outcome in outcomes([*heard, *done])}
    assert ran | set(returned.ids.tolist()) == set(range(20))


def test_an_engine_that_refuses_says_why(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={-1: "refuse"}))
    heard = hear(agent, lambda news: any(isinstance(m, Ready) for m in news))
    error = next(m.error for m in heard if isinstance(m, Ready))
    assert isinstance(error, TopologyError)
    assert "missing on this node" in str(error)


def test_slots_that_die_at_once_are_not_forked_for_ever(agent: Agent) -> None:
    open_space(agent, ToyRecipe(EXPANSION, faults={-1: "stillborn"}))
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
