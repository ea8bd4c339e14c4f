"""Engines for tests: closed-form truth without a QC program, and failures to order.

``ToyEngine`` is a 1+2+3-body potential, so that ``max_nbody=3`` is exact against the
supersystem. ``FlakyEngine`` fails, hangs, dies or lies as its plan says.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.expansion.levels import Expansion
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.policy import ErrorClass


def toy_energy(real: tuple[int, ...], basis: tuple[int, ...], chemistry: int) -> float:
    """Return the energy of a cluster: 1-, 2- and 3-body terms and a ghost term."""
    energy = sum(-1.0 / (f + chemistry + 1) for f in real)
    energy += sum(0.01 / (a + 2 * b) for a, b in itertools.combinations(real, 2))
    energy += sum(0.001 / (a * b + c) for a, b, c in itertools.combinations(real, 3))
    return energy - 1e-4 * (len(basis) - len(real)) * len(real)


@dataclass(frozen=True)
class ToyRecipe:
    """Recipe of a :class:`ToyEngine`.

    Parameters
    ----------
    expansion : Expansion
    seconds : float
        How long a task sleeps.
    faults : mapping of int to str
        For these tasks, at every attempt, a fault: see :class:`FlakyEngine`.
    once : str
        Directory of marks: a fault happens only if its mark is not there yet.
    journal : str
        File that gets a line for each task that ended well.
    """

    expansion: Expansion
    seconds: float = 0.0
    faults: Mapping[int, str] = field(default_factory=dict)
    once: str = ""
    journal: str = ""

    def build(self, resources: SlotResources) -> FlakyEngine:
        """Return the engine."""
        if self.faults.get(-1) == "refuse":
            raise TopologyError("the toy program is missing on this node")
        if self.faults.get(-1) == "stillborn":
            os._exit(3)
        return FlakyEngine(self, resources)


class FlakyEngine:
    """A toy engine with faults: raise, hang, segfault, kill, nan, noise."""

    def __init__(self, recipe: ToyRecipe, resources: SlotResources) -> None:
        self._recipe = recipe
        self._space = TaskSpace(recipe.expansion)
        self._resources = resources

    def rehearse(self) -> None:
        """Do what fault -2 says: die, raise, or leave word in the journal."""
        fault = self._recipe.faults.get(-2)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "raise":
            raise SystemExit(3)
        if fault == "note":
            with open(self._recipe.journal, "a") as journal:
                journal.write("rehearsed\n")

    def compute(self, task: int) -> Outcome:
        """Return the closed-form energy, unless a fault is planned."""
        began = time.time()
        fault = self._recipe.faults.get(task)
        if fault and self._is_due(task):
            outcome = self._fail(task, fault, began)
            if outcome is not None:
                return outcome
        if self._recipe.seconds:
            time.sleep(self._recipe.seconds)
        if self._recipe.journal:
            with open(self._recipe.journal, "a") as journal:
                journal.write(f"{task}\n")
        clusters = self._space.clusters(np.array([task]))
        energy = toy_energy(clusters.real[0], clusters.basis[0], int(clusters.model_chemistry[0]))
        return replace(self._outcome(task, began), energy_hartree=energy)

    def _outcome(self, task: int, began: float) -> Outcome:
        return Outcome(
            space=0,
            task=task,
            start_s=began,
            seconds=time.time() - began,
            host=self._resources.host,
            rank=self._resources.rank,
            slot=self._resources.slot,
            n_threads=self._resources.n_threads,
            program="toy",
            version="1",
        )

    def _is_due(self, task: int) -> bool:
        if not self._recipe.once:
            return True
        try:
            os.close(os.open(f"{self._recipe.once}/{task}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def _fail(self, task: int, fault: str, began: float) -> Outcome | None:
        if fault == "burn":
            while True:
                pass
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "eat":
            hoard = bytearray(b"x") * (400 * 2**20)
            time.sleep(3600 + len(hoard))
        if fault == "memory":
            raise MemoryError("planned")
        if fault == "child":
            os.system("echo the program says hello >&2; sleep 3600")
        if fault.startswith("stray"):
            leave_strays(self._recipe.once)
            fault = fault.removeprefix("stray ")
        if fault == "hang":
            time.sleep(3600)
        if fault == "segfault":
            print("about to crash", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        error = ErrorClass.TRANSIENT if fault == "transient" else ErrorClass.CONVERGENCE
        failure = Failure(error, f"{fault}_error", f"planned fault {fault}", "tail of the output")
        return replace(self._outcome(task, began), failure=failure)


N_STRAYS = 4


def leave_strays(directory: str) -> None:
    """Start `N_STRAYS` processes that leave our group, and ours; they work in `directory`."""
    subprocess.Popen(["setsid", "sh", "-c", "sleep 600 & sleep 600"], cwd=directory)
    if os.fork():
        return
    os.setsid()
    os.chdir(directory)
    if os.fork():
        os._exit(0)
    time.sleep(600)
    os._exit(0)
