"""What became of one task: a value that travels slot -> agent -> driver -> store.

Rules of this file
------------------
1. Plain data, picklable; no import outside the standard library and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.policy import ErrorClass

_FLOAT = np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result.

    Parameters
    ----------
    error_class : ErrorClass
        What policy decides by.
    error_type : str
        The name the program layer gave it (QCEngine's ``error_type`` or our own).
    message : str
        One paragraph for people.
    output_tail : str
        The last lines the program wrote.
    """

    error_class: ErrorClass
    error_type: str
    message: str
    output_tail: str = ""


@dataclass(slots=True)  # a frozen one takes a slot three times as long to make
class Outcome:
    """One attempt at one task; nobody changes it.

    Parameters
    ----------
    space, task : int
        The task's name on the wire.
    start_s : float
        Start, seconds since the epoch.
    seconds, cpu_s : float
        Wall and processor time of the attempt.
    peak_bytes : int
        Highest resident memory of the slot meanwhile (0 if unknown).
    energy_hartree : float, optional
    gradient, hessian : ndarray, optional
        Natural size, ``(nat, 3)`` in E_h/a0 and ``(3 nat, 3 nat)`` in E_h/a0^2, nat counting
        real and ghost atoms.
    record : bytes, optional
        The whole ``AtomicResult`` (QCSchema v2) as JSON, where the protocol asks for it.
    failure : Failure, optional
        Set if and only if the attempt gave no result.
    program, version, host : str
        Provenance.
    rank, slot, n_threads : int
        Where it ran and how wide.
    remedy : str
        What was changed so that it converged, where the user allowed that; usually nothing.
    """

    space: int
    task: int
    start_s: float
    seconds: float
    cpu_s: float = 0.0
    peak_bytes: int = 0
    energy_hartree: float | None = None
    gradient: NDArray[np.float64] | None = None
    hessian: NDArray[np.float64] | None = None
    record: bytes | None = None
    failure: Failure | None = None
    program: str = ""
    version: str = ""
    host: str = ""
    rank: int = 0
    slot: int = 0
    n_threads: int = 1
    remedy: str = ""


_ARRAYS = ("gradient", "hessian")
_PLAIN = [each.name for each in fields(Outcome) if each.name not in ("space", *_ARRAYS)]
_plain = attrgetter(*_PLAIN)


def parts(space: int, outcome: Outcome) -> tuple[Any, ...]:
    """Return what :func:`whole` makes an outcome of `space` from.

    It is pickled in a tenth of the time that the object with its arrays takes.
    """
    return space, _bare(outcome.gradient), _bare(outcome.hessian), *_plain(outcome)


def whole(of: tuple[Any, ...]) -> Outcome:
    """Return the outcome that :func:`parts` took apart: the same, bit by bit."""
    space, gradient, hessian, *rest = of
    arrays = dict(zip(_ARRAYS, map(_array, (gradient, hessian)), strict=True))
    return Outcome(space=space, **arrays, **dict(zip(_PLAIN, rest, strict=True)))


def _bare(array: Any) -> Any:
    """Return shape and bytes of an array as programs give them; anything else as it is."""
    if type(array) is np.ndarray and array.dtype == _FLOAT:
        return array.shape, array.tobytes()
    return array


def _array(bare: Any) -> Any:
    if type(bare) is tuple:
        shape, data = bare
        return np.frombuffer(bytearray(data), dtype=_FLOAT).reshape(shape)
    return bare
