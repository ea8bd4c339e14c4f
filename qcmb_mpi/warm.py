"""The pool of those who have not said which: an open one, else this process's own.

Rules of this file
------------------
1. Under MPI every rank asks at the same places of its script, and so opens the same pool.
"""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import Executor as Pool

from qcmb_mpi.computer import executor_of
from qcmb_mpi.execution.executors.base import Executor, innermost

_own: tuple[int, Executor] | None = None
_making = threading.RLock()


def warm_executor(given: Executor | Pool | None = None) -> Executor:
    """Return an executor that stays warm from one geometry to the next.

    Parameters
    ----------
    given : Executor or concurrent.futures.Executor, optional
        Returned, if it is one.

    Returns
    -------
    Executor
        Else that of the innermost open ``with`` block, else one of this process's own: made at the
        first call, as :class:`~qcmb_mpi.ParallelManyBodyComputer` makes one without options, and
        shut down when the process exits or by :func:`cool`.

    Raises
    ------
    InputError
        What was given is no executor.
    """
    global _own
    if given is not None:
        return executor_of(given)
    if (opened := innermost()) is not None:
        return opened
    with _making:
        if _own is None or _own[0] != os.getpid():  # a forked child has no slots
            _own = os.getpid(), executor_of(None)
        return _own[1]


def cool() -> None:
    """Shut down this process's own executor; the next who wants one starts another."""
    global _own
    own, _own = _own, None
    if own is not None and own[0] == os.getpid():
        own[1].shutdown()


atexit.register(cool)
