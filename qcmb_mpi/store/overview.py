"""What people are told about a store: when and where tasks ran, and how many there are.

Rules of this file
------------------
1. Nothing here enters a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.store.codec import Floats, Ints
from qcmb_mpi.store.tables import DONE, FAILED

Row = tuple[Any, ...]
Query = Callable[[str, tuple[object, ...]], list[Row]]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When and where the tasks of a space ran; arrays of equal length, by task id.

    Parameters
    ----------
    tasks : int64[m]
        Task ids of all that have a row, done or failed.
    start_s : float64[m]
        Start of the last attempt, seconds since the epoch; NaN if unknown.
    seconds, cpu_s : float64[m]
        Wall and processor time of that attempt.
    peak_bytes : int64[m]
        Peak memory, 0 if unknown.
    rank, slot, n_threads : int64[m]
        Where it ran and how wide.
    host, program, version : str[m]
        Host and provenance.
    is_done : bool[m]
        Done, else failed.
    attempts : int64[m]
        Attempts so far, over all runs.
    """

    tasks: Ints
    start_s: Floats
    seconds: Floats
    cpu_s: Floats
    peak_bytes: Ints
    rank: Ints
    slot: Ints
    n_threads: Ints
    host: NDArray[np.str_]
    program: NDArray[np.str_]
    version: NDArray[np.str_]
    is_done: NDArray[np.bool_]
    attempts: Ints


@dataclass(frozen=True, slots=True)
class BlockCount:
    """How much of one block a store has, without the task space.

    Parameters
    ----------
    program, method, driver : str
        What runs.
    basis : str or None
        Basis set, where the model has one.
    n_real, n_basis : int
        Real and basis fragments.
    n_done, n_failed : int
        Tasks.
    seconds : float
        Wall time of the last attempt at each, summed.
    """

    program: str
    method: str
    basis: str | None
    driver: str
    n_real: int
    n_basis: int
    n_done: int
    n_failed: int
    seconds: float


def count_blocks(query: Query) -> list[BlockCount]:
    """Count the rows of each block; see :meth:`Store.counts`."""
    sql = (
        "SELECT s.program, s.method, s.basis, s.driver, b.n_real, b.n_basis, "
        f"sum(c.status = {DONE}), sum(c.status = {FAILED}), total(c.seconds) "
        "FROM component c JOIN block b ON b.id = c.block JOIN specification s "
        "ON s.id = b.specification GROUP BY c.block ORDER BY s.id, b.n_basis, b.n_real"
    )
    return [BlockCount(*row) for row in query(sql, ())]
