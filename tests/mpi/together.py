"""Assertions that all ranks make together, so that no rank waits for one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from mpi4py import MPI


def parallel_assert(comm: MPI.Comm, is_so: object, told: object = "") -> None:
    """Assert on every rank what has to hold on every rank; `told` is what a rank can say."""
    verdicts = comm.allgather((bool(is_so), repr(told)))
    wrong = {rank: told for rank, (verdict, told) in enumerate(verdicts) if not verdict}
    assert not wrong


def same_everywhere(comm: MPI.Comm, value: Any) -> None:
    """Assert that every rank has the same value."""
    values = comm.allgather(repr(value))
    assert len(set(values)) == 1, values


def error_of(work: Callable[[], object]) -> Exception | None:
    """Return the error that `work` raises, None if it raises none."""
    try:
        work()
    except Exception as error:
        return error
    return None


def processes(comm: MPI.Comm) -> set[int]:
    """Return the processes that all ranks have started: fork servers and slots."""
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    return set().union(*comm.allgather(own))
