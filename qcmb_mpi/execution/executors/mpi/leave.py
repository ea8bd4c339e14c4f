"""How a rank leaves when not every rank can: without MPI_Finalize, which would hang.

Measured with Open MPI 5.0: where ranks outlive one that dies (``--with-ft ulfm``), mpiexec's
exit code is that of the ranks that left by ``os._exit``, and MPI_Abort hangs; elsewhere leaving
without MPI_Finalize counts as a failure, and MPI_Abort ends all ranks, also stopped ones, with
the code it is given.

Rules of this file
------------------
1. What was printed is out before a rank leaves; files are the caller's.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from qcmb_mpi.execution.executors.mpi import startup_watch, undertaker

EXIT_INCOMPLETE = 75
_PATIENCE_S = 30.0
_ABORT_S = 20.0
_FT_VARIABLE = "OMPI_MCA_mpi_ft_enable"


def at_once(code: int) -> NoReturn:
    """Leave this process, whatever the other ranks do."""
    _flush()
    os._exit(code)


def rank_name() -> str:
    """Name this rank for people."""
    from mpi4py import MPI

    return f"rank {MPI.COMM_WORLD.rank} on {socket.gethostname()}"


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _launcher() -> int:
    return startup_watch.launcher_of(os.environ.get("PMIX_NAMESPACE", ""))


def end_launcher() -> None:
    """Ask the daemon that started this rank to end the job."""
    startup_watch.end(_launcher())


def _abort(code: int) -> NoReturn:
    """End the job with `code`; MPI_Abort itself hangs once in a while, then the code is 1."""
    from mpi4py import MPI

    _flush()
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (until the end of the process)
    faulthandler.dump_traceback_later(_ABORT_S, exit=True, file=nowhere)
    MPI.COMM_WORLD.Abort(code)
    at_once(code)


class Departure:
    """How the process of one executor is to leave, heeded at the interpreter's exit."""

    def __init__(self) -> None:
        # Whether ranks outlive one that dies: Open MPI under ``mpiexec --with-ft ulfm``.
        self.is_tolerant = os.environ.get(_FT_VARIABLE, "").lower() in ("1", "true", "yes")
        self._is_prepared = False
        self._is_bare = False
        self._has_silent = False
        self._take_leave: Callable[[float], None] = time.sleep

    def prepare(self) -> None:
        """Be heeded at exit; as early as possible, so that later exit handlers run before."""
        if not self._is_prepared:
            atexit.register(self._at_exit)
        self._is_prepared = True

    def decide(self, take_leave: Callable[[float], None], *, has_silent: bool = False) -> None:
        """Leave without MPI_Finalize.

        Parameters
        ----------
        take_leave : callable
            Called with the seconds it may take: on rank 0 it waits for the other ranks to be done,
            on those for rank 0 to end the job.
        has_silent : bool
            Whether rank 0 knows of a lost rank that may still be there.
        """
        self._is_bare = True
        self._take_leave = take_leave
        self._has_silent = self._has_silent or has_silent

    def now(self, code: int) -> None:
        """Leave now, unless MPI_Finalize is sure to come back."""
        if self._is_bare or self.is_tolerant:
            self._with_all(code, patience_s=_PATIENCE_S)

    def with_a_bug(self, code: int) -> NoReturn:
        """Leave in a way that the other ranks notice."""
        if not self.is_tolerant:
            _abort(code)
        at_once(code)

    def _at_exit(self) -> None:
        if self._is_bare:
            code = int(getattr(sys, "last_value", None) is not None)
            self._with_all(code, patience_s=math.inf)

    def _with_all(self, code: int, *, patience_s: float) -> NoReturn:
        """Leave after a loss, as one of all ranks that are left.

        `code` is mpiexec's, too, but with a silent rank under ULFM, where that is 1.
        """
        if self.is_tolerant and not self._has_silent:
            self._take_leave(0.0)
            at_once(code)
        from mpi4py import MPI

        _flush()
        self._take_leave(patience_s if MPI.COMM_WORLD.rank else _PATIENCE_S)
        if self._has_silent:
            undertaker.send_for(_launcher())
        if self.is_tolerant:
            end_launcher()
            time.sleep(_ABORT_S)  # it kills us
            at_once(code)
        _abort(code)
