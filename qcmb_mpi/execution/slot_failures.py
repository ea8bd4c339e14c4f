"""Why a slot ended: the failure of the task that it was at, as policy and people need it.

Rules of this file
------------------
1. Pure functions of what was seen; every message says what to do if there is something to do.
"""

from __future__ import annotations

import signal

from qcmb_mpi.execution.guard import Overuse
from qcmb_mpi.execution.outcome import Failure
from qcmb_mpi.machine.limits import format_memory
from qcmb_mpi.scheduling.policy import ErrorClass

# Of the limit, and in all: to start a program is not yet to compute.
_BUSY_SHARE = 0.01
_BUSY_S = 0.25
OUT_OF_MEMORY = "out_of_memory"
UNANSWERED = "no slot can be started: the fork server does not answer; does an import hang?"
SERVER_DIED = Failure(ErrorClass.CRASHED, "crashed", "the fork server was killed, the slot with it")


def overdue(limit_s: float, cpu_s: float) -> Failure:
    """Judge an attempt that was killed at its time limit: hung, or merely slow.

    Parameters
    ----------
    limit_s : float
        The limit, wall seconds.
    cpu_s : float
        Processor seconds that the slot and its programs spent on it.
    """
    if cpu_s < max(_BUSY_S, _BUSY_SHARE * limit_s):
        message = f"hung: {cpu_s:.2f} s of CPU in {limit_s:g} s (--timeout), killed"
        return Failure(ErrorClass.HUNG, "hung", message)
    message = f"killed after {limit_s:g} s (--timeout), {cpu_s:.4g} s of CPU"
    return Failure(ErrorClass.TIMEOUT, "timeout", message)


def unready(limit_s: float, cpu_s: float) -> Failure:
    """Judge a slot that was killed because it had not got ready for a space.

    Parameters
    ----------
    limit_s : float
        How long it was waited for, wall seconds.
    cpu_s : float
        Processor seconds that the slot has spent.
    """
    what = f"not ready after {limit_s:g} s, {cpu_s:.2f} s of CPU, killed; does an import hang?"
    return Failure(ErrorClass.HUNG, "not_ready", what)


def overused(overuse: Overuse, *, is_alone: bool) -> Failure:
    """Judge an attempt that was killed because memory ran short."""
    used, limit = format_memory(overuse.used_bytes), format_memory(overuse.limit_bytes)
    if is_alone:
        message = (
            f"used {used} although alone on its node, limit {limit} (--memory): it needs a node "
            "with more memory, or a smaller basis"
        )
    else:
        total = format_memory(overuse.total_bytes)
        message = (
            f"used {used}, all tasks here together {total}, limit {limit} (--memory): fewer at "
            "once (--workers) or more memory would help"
        )
    return Failure(ErrorClass.RESOURCE, OUT_OF_MEMORY, f"out of memory: {message}")


def died(status: int | None, *, seen_bytes: int, is_oom: bool) -> Failure:
    """Judge the death of a slot that nobody here has killed.

    Parameters
    ----------
    status : int, optional
        Exit code, -N for signal N.
    seen_bytes : int
        Resident memory when it was last looked at; 0 if unknown.
    is_oom : bool
        Whether the kernel says, or memory suggests, that it was killed for lack of memory.
    """
    if status == -signal.SIGKILL and is_oom:
        used = f"; it used {format_memory(seen_bytes)} shortly before" if seen_bytes else ""
        message = f"out of memory: the process was killed by the system{used}"
        return Failure(ErrorClass.RESOURCE, OUT_OF_MEMORY, message)
    return Failure(ErrorClass.CRASHED, "crashed", f"the process {_cause(status)}")


def _cause(status: int | None) -> str:
    if status is None:
        return "ended for an unknown reason"
    if status >= 0:
        return f"ended with exit code {status}"
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by {_name(-status)}{hint}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
