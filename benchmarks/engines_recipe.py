"""The engine without a QC program that our slots build for ``engines.py``.

Rules of this file
------------------
1. Slots import this file: nothing but what an engine needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from engines_work import N_GRADIENT_ATOMS, Work

from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.outcome import Outcome


@dataclass(frozen=True, slots=True)
class IdleRecipe:
    """Recipe of an :class:`IdleEngine`.

    Parameters
    ----------
    work : Work
        What every task does.
    """

    work: Work

    def build(self, resources: SlotResources) -> IdleEngine:
        """Return the engine."""
        return IdleEngine(self.work, resources)


class IdleEngine:
    """Carries out tasks and returns an energy and a gradient that mean nothing.

    Parameters
    ----------
    work : Work
    resources : SlotResources
    """

    def __init__(self, work: Work, resources: SlotResources) -> None:
        self._work = work
        self._resources = resources
        self._gradient = 0.01 * np.cos(np.arange(3.0 * N_GRADIENT_ATOMS)).reshape(-1, 3)

    def compute(self, task: int) -> Outcome:
        """Run one task."""
        start_s, clock = time.time(), time.perf_counter()
        begun_s = self._work.begun_s()
        energy, gradient = -76.0 - task, self._gradient - task
        self._work.carry_out(task, begun_s)
        return Outcome(
            space=0,
            task=task,
            start_s=start_s,
            seconds=time.perf_counter() - clock,
            energy_hartree=energy,
            gradient=gradient,
            program="idle",
            version="1",
            host=self._resources.host,
            rank=self._resources.rank,
            slot=self._resources.slot,
            n_threads=self._resources.n_threads,
        )
