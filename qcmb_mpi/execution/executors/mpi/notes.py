"""What ranks say to each other besides the messages of :mod:`qcmb_mpi.execution.wire`.

Rules of this file
------------------
1. Frozen data, picklable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life, when there was nothing else to say."""


@dataclass(frozen=True, slots=True)
class End:
    """Master -> worker: how the shared work ended.

    Parameters
    ----------
    value : object
        What it returned.
    error : BaseException or None
        What it raised.
    is_whole : bool
        Whether every rank is still there.
    """

    value: object
    error: BaseException | None
    is_whole: bool


@dataclass(frozen=True, slots=True)
class LastWord:
    """Worker -> master, after a loss: this process has nothing more to do."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Master -> worker: you were taken for lost; your work is others' now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Master -> worker: kill this silent rank of your node, mpiexec would wait for it."""

    rank: int
