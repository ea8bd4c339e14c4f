"""What a slot puts around an engine: failures of the place rather than of the calculation.

Rules of this file
------------------
1. Engines as the slot sees them: a task goes in, an outcome comes out, nothing is raised.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from numpy.typing import ArrayLike

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.engine import Engine, SlotResources
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.machine import cgroups
from qcmb_mpi.scheduling.policy import ErrorClass

# Python's, and numpy's, which has had two homes.
_MEMORY_ERROR = re.compile(r"([\w.]+\.)?_?(Array)?MemoryError\b")
_OUT_OF_MEMORY = "out_of_memory"
_KILLED = "out of memory: the system killed a process while the task ran:"
# A count reads a file: it is not taken for each of many short tasks.
_COUNT_INTERVAL_S = 1.0


class Refusal:
    """Stands in for an engine that cannot work in this slot.

    Parameters
    ----------
    resources : SlotResources
    error : QcmbError
        Why.
    """

    def __init__(self, resources: SlotResources, error: QcmbError) -> None:
        self.resources = resources
        self._error = error

    def prepare(self, ids: ArrayLike) -> None:
        """Do nothing."""

    def compute(self, task: int) -> Outcome:
        """Say why there is no result."""
        failure = Failure(ErrorClass.MISSING_PROGRAM, "refused", str(self._error))
        return failed(self.resources, task, failure)


class Contained:
    """An engine whose scratch is looked after and whose lack of memory is told apart.

    Parameters
    ----------
    engine : Engine
    resources : SlotResources
    oom_kills : callable, optional
        How many processes the kernel has killed for lack of memory so far.
    """

    def __init__(
        self,
        engine: Engine,
        resources: SlotResources,
        *,
        oom_kills: Callable[[], int] | None = None,
    ) -> None:
        self._engine = engine
        self.resources = resources
        self._oom_kills = oom_kills or cgroups.oom_counter()
        self._n_oom_kills = 0
        self._counted_s = -math.inf

    def rehearse(self) -> None:
        """Let the engine do what only the first task of a process has to, if it can."""
        rehearse = getattr(self._engine, "rehearse", None)
        if rehearse is not None:
            with contextlib.suppress(Exception, SystemExit):  # what is wrong, that task tells
                rehearse()

    def prepare(self, ids: ArrayLike) -> None:
        """Let the engine look up the tasks that come next, if it can."""
        prepare = getattr(self._engine, "prepare", None)
        if prepare is not None:
            prepare(ids)

    def compute(self, task: int) -> Outcome:
        """Run `task`, unless its scratch has gone."""
        began_s = time.perf_counter()
        scratch = self.resources.scratch
        if scratch is not None and (fault := restored(scratch)):
            failure = Failure(ErrorClass.MISSING_PROGRAM, "scratch_missing", fault)
            return failed(self.resources, task, failure, began_s)
        if began_s - self._counted_s > _COUNT_INTERVAL_S:
            self._counted_s, self._n_oom_kills = began_s, self._oom_kills()
        try:
            return self._told_apart(self._engine.compute(task))
        except MemoryError as error:
            message = f"MemoryError: {error}".rstrip(": ")
            failure = Failure(
                ErrorClass.RESOURCE, _OUT_OF_MEMORY, message, traceback.format_exc()[-2000:]
            )
            return failed(self.resources, task, failure, began_s)

    def _told_apart(self, outcome: Outcome) -> Outcome:
        """Call a failure for lack of memory by its name: programs report it like any other."""
        failure = outcome.failure
        if failure is None or failure.error_class is not ErrorClass.UNKNOWN:
            return outcome
        if not _MEMORY_ERROR.match(failure.message):
            n_before, self._n_oom_kills = self._n_oom_kills, self._oom_kills()
            if self._n_oom_kills <= n_before:
                return outcome
            # It takes the largest process, so the program rather than this one.
            message = f"{_KILLED} {failure.message}".rstrip()
            failure = replace(failure, message=message)
        failure = replace(failure, error_class=ErrorClass.RESOURCE, error_type=_OUT_OF_MEMORY)
        return replace(outcome, failure=failure)


def restored(scratch: str) -> str:
    """Make sure that a scratch directory is there; say what is wrong if it cannot be used."""
    if os.access(f"{scratch}/.", os.W_OK | os.X_OK):  # one call: this is done for each task
        return ""
    if not os.path.isdir(scratch):
        with contextlib.suppress(OSError):
            os.mkdir(scratch)  # not its parents: a disk that is not mounted is to be noticed
    if not os.path.isdir(scratch):
        return f"the scratch directory {scratch} has gone and cannot be made again"
    if not os.access(scratch, os.W_OK | os.X_OK):
        return f"the scratch directory {scratch} cannot be written to any more"
    return ""


def failed(
    resources: SlotResources, task: int, failure: Failure, began_s: float | None = None
) -> Outcome:
    """Return the outcome of an attempt that failed in this slot, begun on the performance clock."""
    seconds = 0.0 if began_s is None else time.perf_counter() - began_s
    return Outcome(
        space=0,
        task=task,
        start_s=time.time() - seconds,
        seconds=seconds,
        failure=failure,
        host=resources.host,
        rank=resources.rank,
        slot=resources.slot,
        n_threads=resources.n_threads,
    )
