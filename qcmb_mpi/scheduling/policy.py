"""What to do about a failed task: a function of its error class and its attempts.

Rules of this file
------------------
1. No state: the scheduler counts attempts, this file only judges them.
2. What would fail again in the same way is not tried again; what may be the place's fault is
   tried at another place.
"""

from __future__ import annotations

import enum


class ErrorClass(enum.Enum):
    """Why an attempt failed, as far as policy has to know."""

    INPUT = "input"
    RESOURCE = "resource"
    CONVERGENCE = "convergence"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"
    HUNG = "hung"
    CRASHED = "crashed"
    GARBAGE = "garbage"
    MISSING_PROGRAM = "missing_program"
    UNKNOWN = "unknown"


class Decision(enum.Enum):
    """What becomes of a task after a failed attempt."""

    RETRY_ELSEWHERE = "retry elsewhere"
    RETRY_FREE = "retry elsewhere, and do not count the attempt"
    RETRY_ALONE = "retry alone"
    QUARANTINE = "quarantine"


_QCENGINE_NAMES = {
    "input_error": ErrorClass.INPUT,
    "resource_error": ErrorClass.RESOURCE,
    "convergence_error": ErrorClass.CONVERGENCE,
    "random_error": ErrorClass.TRANSIENT,
    "unknown_error": ErrorClass.UNKNOWN,
}

# Deterministic in the task itself (INPUT, CONVERGENCE) or busy all the time (TIMEOUT).
_NEVER_RETRIED = frozenset({ErrorClass.INPUT, ErrorClass.CONVERGENCE, ErrorClass.TIMEOUT})
_RETRIED_ONCE = frozenset({ErrorClass.HUNG, ErrorClass.GARBAGE, ErrorClass.UNKNOWN})


def error_class_of(error_type: str) -> ErrorClass:
    """Classify an error by its name.

    Parameters
    ----------
    error_type : str
        QCEngine's ``ComputeError.error_type`` or the value of an :class:`ErrorClass`.

    Returns
    -------
    ErrorClass
        ``UNKNOWN`` for a name that nobody here gave.
    """
    name = error_type.strip().lower()
    if name in _QCENGINE_NAMES:
        return _QCENGINE_NAMES[name]
    try:
        return ErrorClass(name)
    except ValueError:
        return ErrorClass.UNKNOWN


def is_place_suspected(error: ErrorClass) -> bool:
    """Tell whether an error may be the fault of where the task ran rather than of the task."""
    return error not in _NEVER_RETRIED and error is not ErrorClass.RESOURCE


def max_attempts(error: ErrorClass, n_retries: int) -> int:
    """Return how often a task that keeps failing like this is tried in all (at least once).

    For a missing program: where no other agent is left.
    """
    if error in _NEVER_RETRIED or error is ErrorClass.MISSING_PROGRAM:
        return 1
    if error in _RETRIED_ONCE:
        return 1 + min(1, n_retries)
    return 1 + n_retries


def decide(
    error: ErrorClass,
    n_attempts: int,
    n_alike: int,
    n_retries: int,
    *,
    has_elsewhere: bool = False,
    is_place_bad: bool = False,
) -> Decision:
    """Judge a failed attempt.

    Parameters
    ----------
    error : ErrorClass
        Of the attempt that just failed.
    n_attempts : int
        Attempts that count so far, and this one.
    n_alike : int
        Those of them that ended with this error.
    n_retries : int
        Further attempts the user allows for errors that can pass.
    has_elsewhere : bool
        Whether an agent is left that is not known to miss the program: a missing program counts
        only at the last place.
    is_place_bad : bool
        Whether everything fails where it failed: only what is the task's own fault counts there.

    Returns
    -------
    Decision
        ``RETRY_ELSEWHERE`` is a preference: with one place alone, it is tried there again.
    """
    is_free = error is ErrorClass.MISSING_PROGRAM and has_elsewhere
    if is_free or (is_place_bad and is_place_suspected(error)):
        return Decision.RETRY_FREE
    if n_attempts > n_retries or n_alike >= max_attempts(error, n_retries):
        return Decision.QUARANTINE
    return Decision.RETRY_ALONE if error is ErrorClass.RESOURCE else Decision.RETRY_ELSEWHERE
