"""What the tasks of ``engines.py`` are: the same for every engine, with no chemistry in them.

An argument is as large as what a quantum chemistry task is told, a result as what it answers:
1,050 and 933 bytes pickled. Ours sends a task's number instead of an argument, as in every run of
it, and an energy with a gradient of 936 bytes back.

Rules of this file
------------------
1. Standard library only: every engine's workers import this file.
2. A spinning task uses up processor time of its thread, so that a core that is shared stays
   visible; so long, the making of its result included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

ARGUMENT_BYTES = 1050
RESULT_BYTES = 933
N_GRADIENT_ATOMS = 39  # 936 bytes of float64

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_FEW = range(100)  # about two microseconds
_SYMBOLS = ["O", "H", "H"] * 3
_GEOMETRY = [0.1 + 1.7 * math.sin(3.0 * i) for i in range(27)]
_GRADIENT = [0.01 * math.cos(5.0 * i) for i in range(27)]


class Work(NamedTuple):
    """What every task of a batch does.

    Parameters
    ----------
    kind : str
        ``nothing``, ``spin`` (processor time) or ``sleep`` (wall time).
    seconds : float
        Of each task; the median if they are uneven.
    sigma : float
        Of the logarithm of the seconds (log-normal); 0 if all are equal.
    """

    kind: str = "nothing"
    seconds: float = 0.0
    sigma: float = 0.0

    def seconds_of(self, task: int) -> float:
        """Return how long a task is to take: the same for every engine, in no order."""
        if not self.sigma:
            return self.seconds
        share = (0.5 + _GOLDEN * task) % 1.0
        return self.seconds * math.exp(self.sigma * NormalDist().inv_cdf(max(share, 1e-9)))

    def begun_s(self) -> float:
        """Return the processor time at which a task that spins begins."""
        return time.thread_time() if self.kind == "spin" else 0.0

    def carry_out(self, task: int, begun_s: float) -> None:
        """Do what a task does; its result, made before, is a part of it."""
        if self.kind == "spin":
            end_s = begun_s + self.seconds_of(task)
            while time.thread_time() < end_s:
                sum(_FEW)
        elif self.kind == "sleep":
            time.sleep(self.seconds_of(task))


def bound_s(work: Work, n_tasks: int, n_workers: int) -> float:
    """Return what no engine can be faster than: the longest task, or an equal share of all."""
    seconds = [work.seconds_of(task) for task in range(n_tasks)]
    return max(max(seconds), sum(seconds) / n_workers)


def argument(work: Work, task: int) -> dict[str, Any]:
    """Return what an engine without a plan of its own must be given for a task."""
    return {
        "task": task,
        "work": tuple(work),
        "symbols": _SYMBOLS,
        "geometry": [number + task for number in _GEOMETRY],
        "text": "." * 680,
    }


def compute(given: dict[str, Any]) -> dict[str, Any]:
    """Carry out a task and return a result of its size."""
    task, work = given["task"], Work(*given["work"])
    begun_s = work.begun_s()
    result = {
        "task": task,
        "energy": -76.0 - task,
        "gradient": [number - task for number in _GRADIENT],
        "text": "." * 616,
    }
    work.carry_out(task, begun_s)
    return result


def compute_all(many: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out some tasks, one after the other."""
    return [compute(given) for given in many]
