"""What the ranks of a job say of their hosts, and what time it is there, brought to rank 0.

Rules of this file
------------------
1. For the doctor: MPI may be what is broken, so every trouble is told and nothing hangs for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcmb_mpi.execution.executors.mpi.executor import start_mpi
from qcmb_mpi.machine import launcher

if TYPE_CHECKING:
    from mpi4py import MPI

_N_QUESTIONS = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a rank has said.

    Parameters
    ----------
    rank : int
    said : object
    ahead_s : float
        Seconds that its clock shows more than rank 0's.
    doubt_s : float
        How wrong that may be.
    """

    rank: int
    said: Any
    ahead_s: float
    doubt_s: float


def survey(said: object, environ: Mapping[str, str]) -> list[Report]:
    """Gather what every rank has to say; all ranks call it.

    Parameters
    ----------
    said : object
        Anything that pickles; None for a rank that has nothing to say.
    environ : Mapping of str to str
        This process's.

    Returns
    -------
    list of Report
        On rank 0, of the ranks that said something; on others empty.

    Raises
    ------
    TopologyError
        MPI does not start, or has another number of ranks than were started.
    """
    start_mpi()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    launcher.check_world(environ, comm.size, library=MPI.Get_library_version())
    everything = comm.gather(said)
    if everything is None:
        if said is not None:
            _answer(comm)
        return []
    speakers = [rank for rank, words in enumerate(everything) if words is not None]
    return [Report(rank, everything[rank], *_ahead_s(comm, rank)) for rank in speakers]


def _ahead_s(comm: MPI.Comm, rank: int) -> tuple[float, float]:
    """Ask a rank for the time; the shortest journey tells best."""
    if rank == 0:
        return 0.0, 0.0
    answers = []
    for _ in range(_N_QUESTIONS):
        asked_s = time.time()
        comm.send(None, rank)
        theirs_s = comm.recv(source=rank)
        doubt_s = (time.time() - asked_s) / 2
        answers.append((doubt_s, theirs_s - asked_s - doubt_s))
    doubt_s, ahead_s = min(answers)
    return ahead_s, doubt_s


def _answer(comm: MPI.Comm) -> None:
    for _ in range(_N_QUESTIONS):
        comm.recv(source=0)
        comm.send(time.time(), 0)
