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
import signal
import struct
import time
from dataclasses import replace
from typing import Any

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.contained import Contained, Refusal
from qcmb_mpi.execution.engine import Engine, EngineRecipe, SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.pipe import Pipe
from qcmb_mpi.machine.affinity import pin
from qcmb_mpi.machine.processes import reap_strays
from qcmb_mpi.machine.threads import thread_environment

_FLUSH_S = 0.005


def serve(pipe: Pipe, mark_fd: int) -> None:
    """Serve the owner at the other end of `pipe` until it closes.

    Parameters
    ----------
    pipe : Pipe
        One that waits.
    mark_fd : int
        A file in which started tasks are counted.
    """
    _outlast_termination()
    desk = _Desk(pipe, Mark(mark_fd))
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            for message in pipe.receive():
                desk.obey(*message)


class _Desk:
    """The engines of a slot and the message that is being obeyed."""

    def __init__(self, pipe: Pipe, mark: Mark) -> None:
        self._pipe = pipe
        self._mark = mark
        self._engines: dict[int, Contained | Refusal] = {}
        self._settled: SlotResources | None = None

    def obey(self, kind: str, space: int, *rest: Any) -> None:
        if kind == "space":
            recipe, resources = rest
            self._settle(resources)
            self._engines[space], error = _build(recipe, resources)
            self._pipe.send(("ready", space, error))
        elif kind == "work":
            engine = self._engines[space]
            self._settle(engine.resources)
            _work(self._pipe, self._mark, engine, space, rest[0])
        else:
            self._engines.pop(space, None)

    def _settle(self, resources: SlotResources) -> None:
        if resources is not self._settled:  # another space was opened since
            self._settled = resources
            settle(resources)


def _outlast_termination() -> None:
    """Leave it to the master what becomes of tasks when the whole job is sent SIGTERM.

    By a handler, not by ignoring it: programs, and workers that a program forks, are to end.
    """
    signal.signal(signal.SIGTERM, lambda _signum, _frame: None)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _build(
    recipe: EngineRecipe, resources: SlotResources
) -> tuple[Contained | Refusal, QcmbError | None]:
    try:
        return Contained(recipe.build(resources), resources), None
    except QcmbError as error:
        return Refusal(resources, error), error


def settle(resources: SlotResources) -> None:
    """Take up the processors and threads that are this process's, before any numeric work."""
    if resources.cpus:
        pin(resources.cpus)
    os.environ.update(thread_environment(resources.n_threads))
    from threadpoolctl import threadpool_limits

    threadpool_limits(resources.n_threads)


class Mark:
    """Where the agent can read what it must know if this process ends: two 8-byte integers.

    The number of tasks started, and the processor time in ms that was spent before the last one.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._n_started = 0

    def count(self) -> None:
        """Enter that a task starts."""
        self._n_started += 1
        before_ms = int(1000 * sum(os.times()[:4]))
        os.pwrite(self._fd, struct.pack("<qq", self._n_started, before_ms), 0)


def _work(pipe: Pipe, mark: Mark, engine: Engine, space: int, ids: Any) -> None:
    finished: list[Outcome] = []
    flushed_s = time.monotonic()
    os.ftruncate(1, 0)
    for task in ids.tolist():
        mark.count()
        finished.append(replace(engine.compute(task), space=space))
        if time.monotonic() - flushed_s > _FLUSH_S:
            pipe.send(("done", finished))
            finished = []
            flushed_s = time.monotonic()
    if finished:
        pipe.send(("done", finished))
    reap_strays()
