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


def serve(connection: Connection) -> None:
    """Serve the owner at the other end of `connection` until it closes."""
    engines: dict[int, Engine] = {}
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            kind, space, *rest = pickle.loads(connection.recv_bytes())
            if kind == "space":
                _send(connection, ("ready", space, _build(engines, space, *rest)))
            elif kind == "work":
                _work(connection, engines[space], space, rest[0])
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


def _work(connection: Connection, engine: Engine, space: int, ids: Any) -> None:
    finished: list[Outcome] = []
    flushed_s = time.monotonic()
    os.ftruncate(1, 0)
    for task in ids.tolist():
        finished.append(replace(engine.compute(task), space=space))
        if time.monotonic() - flushed_s > _FLUSH_S:
            _send(connection, ("done", finished))
            finished = []
            flushed_s = time.monotonic()
    if finished:
        _send(connection, ("done", finished))


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    connection.send_bytes(pickle.dumps(message, protocol=5))
