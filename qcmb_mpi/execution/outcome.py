"""What became of one task: a value that travels slot -> agent -> driver -> store.

Rules of this file
------------------
1. Plain data, picklable; no import outside the standard library and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.policy import ErrorClass


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt at one task.

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
