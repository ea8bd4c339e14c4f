"""What surrounds the calculation of a task: time, memory, and remedies for what does not converge.

Rules of this file
------------------
1. Nothing here knows by which way a calculation is made.
2. Nothing is raised for a calculation that failed: a failure is a value.
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qcmb_mpi.execution.acceptance import failure
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.machine.peaks import PeakMemory
from qcmb_mpi.programs.remedies import remedies
from qcmb_mpi.scheduling.policy import ErrorClass

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicSpecification

    from qcmb_mpi.execution.engine import SlotResources

Fields = dict[str, Any]
"""Fields of an :class:`Outcome`: numbers, or a failure."""
Attempt = Callable[["AtomicSpecification"], Fields]

# A peak takes up to 0.1 ms to measure: of shorter tasks than this, one in a while is.
_PEAK_INTERVAL_S = 0.02
# Another place, or another time, may do what this one could not: no reason to change the method.
_OF_THE_PLACE = (ErrorClass.RESOURCE, ErrorClass.TRANSIENT, ErrorClass.MISSING_PROGRAM)


def used_s() -> float:
    """Return what this process has used, to the microsecond, and the programs that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class Attempts:
    """Attempts at tasks in one slot.

    Parameters
    ----------
    resources : SlotResources
    is_remedied : bool
        Whether what does not converge is tried again with other keywords.
    """

    def __init__(self, resources: SlotResources, *, is_remedied: bool) -> None:
        self._resources = resources
        self._is_remedied = is_remedied
        self._measured_s = -math.inf

    def outcome(
        self,
        task: int,
        program: str,
        begin: Callable[[], tuple[AtomicSpecification, Attempt]],
        used_s: Callable[[], float] = used_s,
    ) -> Outcome:
        """Return the outcome of one task.

        Parameters
        ----------
        task : int
        program : str
            QCEngine's name.
        begin : callable
            Gives what is asked for, and what attempts it; if it raises, the input is at fault.
        used_s : callable
            Processor seconds so far; it may leave out programs where none is run.
        """
        resources = self._resources
        start_s, clock, cpu_s = time.time(), time.perf_counter(), used_s()
        peak_bytes = 0
        # In a slot tasks never overlap; a guest has to look at each to know whether they do.
        if resources.is_guest or clock - self._measured_s > _PEAK_INTERVAL_S:
            self._measured_s = clock
            with PeakMemory(is_guest=resources.is_guest) as peak:
                fields = self._fields(program, begin)
            peak_bytes = peak.n_bytes
        else:
            fields = self._fields(program, begin)
        return Outcome(
            space=0,
            task=task,
            start_s=start_s,
            seconds=time.perf_counter() - clock,
            cpu_s=used_s() - cpu_s,
            peak_bytes=peak_bytes,
            host=resources.host,
            rank=resources.rank,
            slot=resources.slot,
            n_threads=resources.n_threads,
            **fields,
        )

    def _fields(
        self, program: str, begin: Callable[[], tuple[AtomicSpecification, Attempt]]
    ) -> Fields:
        try:
            return self._carry_out(program, *begin())
        except Exception as error:
            kind = "unknown_error" if isinstance(error, MemoryError) else "input_error"
            return {"failure": failure(program, kind, traceback.format_exc())}

    def _carry_out(
        self, program: str, specification: AtomicSpecification, attempt: Attempt
    ) -> Fields:
        """Compute; where that does not converge, and the user allows it, by its remedies."""
        fields = attempt(specification)
        first: Failure | None = fields.get("failure")
        if (
            not self._is_remedied
            or first is None
            or first.error_class is not ErrorClass.CONVERGENCE
        ):
            return fields
        tried = []
        for remedy in remedies(program, specification, first.message):
            fields = attempt(remedy.applied(specification))
            again: Failure | None = fields.get("failure")
            if again is None:
                return {**fields, "remedy": str(remedy)}
            if again.error_class in _OF_THE_PLACE:
                return fields
            tried.append(str(remedy))
        in_vain = f"; remedies that did not help: {'; '.join(tried)}" if tried else ""
        return {"failure": replace(first, message=first.message + in_vain)}


def raised(program: str, error: BaseException) -> Fields:
    """Return what becomes of an attempt that raised; to be called where the error is handled."""
    kind = "crashed" if isinstance(error, SystemExit) else "unknown_error"
    return {"failure": failure(program, kind, traceback.format_exc())}
