"""The child process that runs calculations, one at a time.

Messages to a slot are tuples ``(kind, ...)``:

``("space", space, recipe, resources)``
    Build the engine of a task space and have it rehearse; answered by ``("ready", space, error)``,
    error None or the exception that says why it cannot work here.
``("work", space, ids, number)``
    Run these tasks, a list, as long as there are tickets of that number; answered by one or more
    ``("done", parcel)``, its message.
``("forget", space)``
    Drop an engine.

Rules of this file
------------------
1. End of file on the pipe ends the slot.
2. Finished outcomes share a message: they are held back while there is plenty to do, a twentieth
   of a second at most; a failure, and the last ones before the slot has nothing to do, never.
   Those that wait are kept in the mark meanwhile: the next task may hang, or end the slot.
3. A task is counted in the mark before it starts: after a crash its agent knows which one it was.
4. What is done for each task costs microseconds: there may be a thousand of them in a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.contained import Contained, Refusal
from qcmb_mpi.execution.engine import EngineRecipe, SlotResources
from qcmb_mpi.execution.mark import Mark
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.outcomes import Parcel
from qcmb_mpi.execution.pipe import Pipe
from qcmb_mpi.execution.tickets import Turnstile
from qcmb_mpi.machine.affinity import pin
from qcmb_mpi.machine.processes import reap_strays
from qcmb_mpi.machine.threads import thread_environment
from qcmb_mpi.programs.threads import set_threads

_HOLD_S = 0.05
# When so little work is left, it is told once, when half of it is done: the agent may have more.
_LOW_S = 0.03


def serve(pipe: Pipe, mark_fd: int, tickets_fd: int) -> None:
    """Serve the owner at the other end of `pipe` until it closes.

    Parameters
    ----------
    pipe : Pipe
        One that waits.
    mark_fd : int
        A file in which started tasks are counted.
    tickets_fd : int
        Where there is a ticket for each task that may be started.
    """
    _outlast_termination()
    desk = _Desk(pipe, Mark(mark_fd), Turnstile(tickets_fd))
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            desk.serve()


class _Desk:
    """The engines of a slot and the messages that are still to be obeyed."""

    def __init__(self, pipe: Pipe, mark: Mark, turnstile: Turnstile) -> None:
        self._pipe = pipe
        self._mark = mark
        self._turnstile = turnstile
        self._messages: deque[tuple[Any, ...]] = deque()
        self._outbox = Outbox(lambda parcel: pipe.send(("done", parcel.message())), mark)
        self._engines: dict[int, Contained | Refusal] = {}
        self._settled: SlotResources | None = None

    def serve(self) -> None:
        """Wait for messages and obey them, and those that come meanwhile."""
        self._messages.extend(self._pipe.receive())
        while self._messages:
            self._obey(*self._messages.popleft())
        reap_strays()

    def _obey(self, kind: str, space: int, *rest: Any) -> None:
        if kind == "space":
            self._outbox.tell()
            recipe, resources = rest
            self._settle(resources)
            self._engines[space], error = _build(recipe, resources)
            self._pipe.send(("ready", space, error))
        elif kind == "work":
            engine = self._engines[space]
            self._settle(engine.resources)
            self._work(engine, space, *rest)
        else:
            self._engines.pop(space, None)

    def _work(self, engine: Contained | Refusal, space: int, ids: list[int], number: int) -> None:
        if os.fstat(1).st_size:
            os.ftruncate(1, 0)
        self._outbox.begin(space)
        engine.prepare(ids)
        n_left = len(ids) + self._n_queued()
        for task in ids:
            if not self._turnstile.admits(number):
                self._outbox.tell()
                return
            self._mark.count()
            outcome = engine.compute(task)
            n_left = self._outbox.put(outcome, n_left - 1, self._n_new)

    def _n_new(self) -> int:
        """Return how many tasks have come since anybody looked."""
        n_before = self._n_queued()
        self._messages.extend(self._pipe.receive(waits=False))
        return self._n_queued() - n_before

    def _n_queued(self) -> int:
        return sum(len(rest[0]) for kind, _space, *rest in self._messages if kind == "work")

    def _settle(self, resources: SlotResources) -> None:
        if resources is not self._settled:  # another space was opened since
            is_first, self._settled = self._settled is None, resources
            settle(resources, is_first=is_first)


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
        engine = Contained(recipe.build(resources), resources)
        engine.rehearse()
        return engine, None
    except QcmbError as error:
        return Refusal(resources, error), error


def settle(resources: SlotResources, *, is_first: bool = False) -> None:
    """Take up the processors and threads that are this process's, before any numeric work.

    Parameters
    ----------
    resources : SlotResources
    is_first : bool
        Whether this process was just forked: its fork server has looked for libraries already.
    """
    if resources.cpus:
        pin(resources.cpus)
    os.environ.update(thread_environment(resources.n_threads))
    set_threads(resources.n_threads, is_known=is_first)


class Outbox:
    """Outcomes that are not told yet, and when they are to be.

    Parameters
    ----------
    tell : callable
        Tells a parcel of some.
    mark : Mark
        Where they are kept until then.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        tell: Callable[[Parcel], None],
        mark: Mark,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._mark = mark
        self._clock = clock
        self._held = Parcel(0)
        self._space = 0
        self._held_s = self._ended_s = 0.0
        self._has_warned = False

    def begin(self, space: int) -> None:
        """Note that work on a space begins of which nothing was known before."""
        if space != self._space:
            self.tell()
            self._space, self._held = space, Parcel(space)
        self._ended_s = self._clock()

    def put(self, outcome: Outcome, n_left: int, n_new: Callable[[], int] = int) -> int:
        """Take an outcome; tell it, and all before it, if it is time to.

        Parameters
        ----------
        outcome : Outcome
            Of a task of the space begun, that ends now.
        n_left : int
            Tasks that this slot still has, as far as it knows.
        n_new : callable
            Looks whether it has more: none, by default.

        Returns
        -------
        int
            Tasks that it has.
        """
        now = self._clock()
        seconds, self._ended_s = now - self._ended_s, now
        if not self._held:
            self._held_s = now
        pieces = self._held.add(outcome)
        if is_low := not n_left or (not self._has_warned and self._is_low(n_left, seconds)):
            n_left += n_new()
            is_low = self._is_low(n_left, seconds)
            self._has_warned = is_low and n_left > 0
        is_late = now + seconds - self._held_s > _HOLD_S  # when the next one ends
        must = outcome.failure is not None or is_low or is_late
        if must or not self._mark.hold(pieces):
            self.tell()
        return n_left

    def _is_low(self, n_left: int, seconds: float) -> bool:
        return n_left <= len(self._held) and n_left * seconds < _LOW_S

    def tell(self) -> None:
        """Tell all there is."""
        if self._held:
            held, self._held = self._held, Parcel(self._space)
            self._tell(held)
            self._mark.told(len(held))
