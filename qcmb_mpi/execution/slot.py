"""The child process that runs calculations, one at a time.

Messages to a slot are tuples ``(kind, ...)``:

``("space", space, recipe, resources)``
    Build the engine of a task space; answered by ``("ready", space, error)``, error None or
    the exception that says why it cannot work here.
``("work", space, ids)``
    Run these tasks; answered by one or more ``("done", [Outcome, ...])``.
``("forget", space)``
    Drop an engine.

Rules of this file
------------------
1. End of file on the pipe ends the slot.
2. Finished outcomes are held back for a few milliseconds at most, to share a message.
3. A task is counted in the mark before it starts: after a crash its agent knows which one it was.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.engine import Engine, EngineRecipe, SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.machine.affinity import pin
from qcmb_mpi.machine.threads import thread_environment

_FLUSH_S = 0.005


def serve(connection: Connection, mark_fd: int) -> None:
    """Serve the owner at the other end of `connection` until it closes.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
    mark_fd : int
        A file in which started tasks are counted.
    """
    engines: dict[int, Engine] = {}
    mark = _Mark(mark_fd)
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            kind, space, *rest = pickle.loads(connection.recv_bytes())
            if kind == "space":
                _send(connection, ("ready", space, _build(engines, space, *rest)))
            elif kind == "work":
                _work(connection, mark, engines[space], space, rest[0])
            else:
                engines.pop(space, None)


def _build(
    engines: dict[int, Engine], space: int, recipe: EngineRecipe, resources: SlotResources
) -> QcmbError | None:
    _settle(resources)
    try:
        engines[space] = recipe.build(resources)
    except QcmbError as error:
        return error
    return None


def _settle(resources: SlotResources) -> None:
    """Take up the processors and threads that are ours, before any numeric work."""
    if resources.cpus:
        pin(resources.cpus)
    os.environ.update(thread_environment(resources.n_threads))
    from threadpoolctl import threadpool_limits

    threadpool_limits(resources.n_threads)


class _Mark:
    """The number of tasks started, where the agent can read it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._n_started = 0

    def count(self) -> None:
        self._n_started += 1
        os.pwrite(self._fd, self._n_started.to_bytes(8, "little"), 0)


def _work(connection: Connection, mark: _Mark, engine: Engine, space: int, ids: Any) -> None:
    finished: list[Outcome] = []
    flushed_s = time.monotonic()
    os.ftruncate(1, 0)
    for task in ids.tolist():
        mark.count()
        finished.append(replace(engine.compute(task), space=space))
        if time.monotonic() - flushed_s > _FLUSH_S:
            _send(connection, ("done", finished))
            finished = []
            flushed_s = time.monotonic()
    if finished:
        _send(connection, ("done", finished))


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    connection.send_bytes(pickle.dumps(message, protocol=5))
