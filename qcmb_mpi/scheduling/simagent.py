"""The agents of a simulated machine, and what goes wrong in them.

Rules of this file
------------------
1. When to report is decided by what decides it in real agents.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.reporting import Need, ReportTiming, is_short
from qcmb_mpi.scheduling.simulated import Faults

Item = tuple[int, float]


class Luck:
    """Draws what goes wrong with attempts.

    Parameters
    ----------
    faults : Faults
    rng : numpy.random.Generator
    """

    def __init__(self, faults: Faults, rng: np.random.Generator) -> None:
        self._faults = faults
        self._rng = rng
        self._n_good = self._draw()

    def failure(self, number: int, task: int, *, is_alone: bool) -> ErrorClass | None:
        """Tell what goes wrong with an attempt of an agent; None if nothing does."""
        faults = self._faults
        if not is_alone and task in faults.greedy_tasks:
            return ErrorClass.RESOURCE
        if number not in faults.bad_agents:
            self._n_good -= 1
            if self._n_good >= 0:
                return None
            self._n_good = self._draw()
        n = len(faults.errors)
        return faults.errors[int(self._rng.integers(n)) if n > 1 else 0]

    def _draw(self) -> float:
        """Draw how many attempts go well before one fails."""
        p = self._faults.failure_probability
        return float(self._rng.geometric(p)) - 1 if p else np.inf


@dataclass(slots=True)
class SimAgent:
    """An agent: slots, and a queue of (task, seconds) in the order of arrival.

    ``n_heard`` is the last of its reports that the master has heard. ``alone`` is a task that wants
    no company here, nor on the whole host if ``is_hosts``.
    """

    n_slots: int
    memory_bytes: int
    host: str
    n_free: int
    timing: ReportTiming
    queue: deque[Item] = field(default_factory=deque)
    done: list[int] = field(default_factory=list)
    failed: list[tuple[int, ErrorClass]] = field(default_factory=list)
    n_heard: int = 0
    queued_s: float = 0.0
    last_s: float = math.inf
    is_report_planned: bool = False
    is_alive: bool = True
    alone: int | None = None
    is_hosts: bool = False

    @property
    def need(self) -> Need:
        """Whether a slot has nothing to do, or may have soon: of long tasks nobody knows when."""
        if self.n_free:
            return Need.NOW
        if not is_short(self.last_s):
            return Need.NONE
        return Need.of(self.queued_s / self.n_slots + self.last_s)
