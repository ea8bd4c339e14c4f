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
import signal
import socket
import sys
import time
from typing import NoReturn

from qcmb_mpi.execution.executors.mpi.mail import is_tolerant
from qcmb_mpi.execution.executors.mpi.vigil import launcher_of

EXIT_INCOMPLETE = 75
_PATIENCE_S = 10.0
_ABORT_S = 20.0


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


def _with_all(code: int, *, has_silent: bool, patience_s: float) -> NoReturn:
    """Leave after a loss, as one of all ranks that are left.

    Parameters
    ----------
    code : int
        The exit code; also mpiexec's, but with `has_silent` under ULFM, where that is 1.
    has_silent : bool
        Whether rank 0 knows of a lost rank that may still be there.
    patience_s : float
        How long the others wait for rank 0 to end the job; only without ULFM.
    """
    if is_tolerant():
        if has_silent:
            end_launcher()
            time.sleep(_ABORT_S)  # it kills us
        at_once(code)
    from mpi4py import MPI

    give_up_s = time.monotonic() + (patience_s if MPI.COMM_WORLD.rank else 0.0)
    while time.monotonic() < give_up_s:
        time.sleep(0.1)
    _abort(code)


def end_launcher() -> None:
    """Ask the daemon that started this rank to end the job."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(launcher_of(os.environ.get("PMIX_NAMESPACE", "")), signal.SIGTERM)


def with_a_bug(code: int) -> NoReturn:
    """Leave in a way that the other ranks notice."""
    if not is_tolerant():
        _abort(code)
    at_once(code)


def _abort(code: int) -> NoReturn:
    """End the job with `code`; MPI_Abort itself hangs once in a while, then the code is 1."""
    from mpi4py import MPI

    _flush()
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (until the end of the process)
    faulthandler.dump_traceback_later(_ABORT_S, exit=True, file=nowhere)
    MPI.COMM_WORLD.Abort(code)
    at_once(code)


class Departure:
    """How this process is to leave, heeded at the interpreter's exit."""

    def __init__(self) -> None:
        self._is_prepared = False
        self._is_bare = False
        self._has_silent = False

    def prepare(self) -> None:
        """Be heeded at exit; as early as possible, so that later exit handlers run before."""
        if not self._is_prepared:
            atexit.register(self._at_exit)
        self._is_prepared = True

    def decide(self, *, has_silent: bool = False) -> None:
        """Leave without MPI_Finalize."""
        self._is_bare = True
        self._has_silent = self._has_silent or has_silent

    def now(self, code: int) -> None:
        """Leave now, unless MPI_Finalize is sure to come back."""
        if self._is_bare or is_tolerant():
            _with_all(code, has_silent=self._has_silent, patience_s=_PATIENCE_S)

    def _at_exit(self) -> None:
        if self._is_bare:
            code = int(getattr(sys, "last_value", None) is not None)
            _with_all(code, has_silent=self._has_silent, patience_s=math.inf)


departure = Departure()
