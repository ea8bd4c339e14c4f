"""The slots of an agent as it sees them, and where they come from.

Rules of this file
------------------
1. What a slot is given and when is decided in the agent.
2. A fork server that dies is replaced here; its slots die with it, and the agent replaces those.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from typing import Any

from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.forkserver import ForkServer, SlotProcess
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.task_queue import TaskQueue
from qcmb_mpi.execution.wire import Open, TaskIds
from qcmb_mpi.scheduling.policy import ErrorClass

_LOG = logging.getLogger(__name__)
_MAX_REVIVALS = 3
_MAX_FAILURES = 3
# What is at hand of a slot should last for less, and so should what it holds back.
_STUCK_S = 0.5
# The fault of the calculation, not of the slot.
_BLAMELESS = frozenset({ErrorClass.INPUT, ErrorClass.CONVERGENCE})


class Slot:
    """One slot as its agent sees it.

    Parameters
    ----------
    process : SlotProcess
    server : ForkServer
        Where it came from.
    resources : SlotResources
    """

    def __init__(self, process: SlotProcess, server: ForkServer, resources: SlotResources) -> None:
        self.process = process
        self.server = server
        self.resources = resources
        self.spaces: dict[int, SlotResources] = {}
        self.n_threads = resources.n_threads
        self.outstanding = TaskQueue()
        self.progressed_s = 0.0
        self.ended_s = math.inf
        self.has_answered = False
        self.n_unanswered = 0
        self._n_finished = 0
        self._n_failed = 0
        self._good_elsewhere = 0
        self._has_given_back = False

    def open(self, message: Open, now: float, **lent: Any) -> None:
        """Have it get ready for a space, with its own resources but for what is lent to it."""
        resources = replace(self.spaces.setdefault(message.space, self.resources), **lent)
        self.n_threads = resources.n_threads
        if not self.outstanding:
            self.progressed_s = now
        self.n_unanswered += 1
        self._send("space", message.space, message.recipe, resources)

    def answered(self) -> None:
        """Note that it has said whether it can work on a space."""
        self.has_answered = True
        self.n_unanswered -= 1

    @property
    def has_ended(self) -> bool:
        """Whether nothing is heard of it any more."""
        return self.ended_s < math.inf

    @property
    def is_ready(self) -> bool:
        """Whether it can be given work."""
        return self.has_answered and not self.has_ended and self.process.pid > 0

    def forget(self, space: int) -> None:
        """Have it drop a space."""
        self.spaces.pop(space, None)
        self._send("forget", space)

    def start(self, space: int, ids: TaskIds, now: float) -> TaskIds:
        """Give it tasks; return those that it cannot be given yet, if it has very many."""
        if not self.outstanding:
            self.progressed_s = now
        n_given = len(ids)
        # A slot that has just died is noticed by the end of file on its pipe.
        with contextlib.suppress(OSError):
            n_given = self.process.start(space, ids.tolist())  # a list is unpickled fastest
        self.outstanding.add(space, ids[:n_given])
        return ids[n_given:]

    def stuck_in_s(self, now: float) -> float:
        """Return when its current task will have kept the next ones waiting for too long."""
        is_waited_for = len(self.outstanding) > 1 and not (self._has_given_back or self.has_ended)
        return self.progressed_s + _STUCK_S - now if is_waited_for else math.inf

    def is_silent(self, now: float) -> bool:
        """Whether it has been at what should be short for so long that it is to get no more."""
        return bool(self.outstanding) and now - self.progressed_s > _STUCK_S

    def give_back(self) -> list[tuple[int, TaskIds]]:
        """Take back, space by space, what it has not started and will not start."""
        self._has_given_back = True
        return self.outstanding.take_last(self.process.take_back())

    def finish(self, outcomes: Outcomes, now: float, n_good: int) -> None:
        """Note that its first tasks have ended; `n_good` have succeeded in all slots so far."""
        self.progressed_s = now
        self._has_given_back = False
        self._n_finished += len(outcomes)
        self.outstanding.drop(len(outcomes))
        if outcomes.n_good:
            self._n_failed = 0
        for outcome in outcomes.failures:  # the last of a message, if any
            if outcome.failure is not None and outcome.failure.error_class not in _BLAMELESS:
                if not self._n_failed:
                    self._good_elsewhere = n_good
                self._n_failed += 1

    def is_suspect(self, n_good: int) -> bool:
        """Whether it only fails while others succeed; `n_good` have succeeded in all so far."""
        return self._n_failed >= _MAX_FAILURES and n_good > self._good_elsewhere

    def take_current(self) -> tuple[int, int]:
        """Take out the task it was at, when all is known of those before."""
        place = self.process.n_started - self._n_finished - 1
        return self.outstanding.pop(min(max(place, 0), len(self.outstanding) - 1))

    def cut_short(self, failure: Failure, now: float, peak_bytes: int) -> Outcome:
        """Take out the task it was at when it ended, as an attempt that failed."""
        space, task = self.take_current()
        seconds = now - self.progressed_s
        return Outcome(
            space=space,
            task=task,
            start_s=time.time() - seconds,
            seconds=seconds,
            peak_bytes=peak_bytes,
            failure=replace(failure, output_tail=self.process.output_tail()),
            host=self.resources.host,
            rank=self.resources.rank,
            slot=self.resources.slot,
            n_threads=self.n_threads,
        )

    def untold(self) -> Outcomes:
        """Return what it finished and did not tell before its death.

        Only what it was to do next: what it has left may be damaged.
        """
        left = zip(self.process.untold(self._n_finished), self.outstanding, strict=False)
        sound = takewhile(lambda pair: (pair[0].space, pair[0].task) == pair[1], left)
        return Outcomes.of([outcome for outcome, _ in sound])

    def _send(self, *message: object) -> None:
        # A slot that has just died is noticed by the end of file on its pipe.
        with contextlib.suppress(OSError):
            self.process.pipe.send(message)


class SlotSource:
    """Where slots come from: a fork server, and another one when that is killed.

    Parameters
    ----------
    server : ForkServer
    new_server : callable, optional
        Starts another server of this rank's own; without it, a dead one is not replaced.
    """

    def __init__(
        self, server: ForkServer, new_server: Callable[[], ForkServer] | None = None
    ) -> None:
        self._server = server
        self._new_server = new_server
        self._n_revivals = 0

    def prefork(self, n_slots: int) -> None:
        """Start slots of which it is not known what they are for."""
        self._server.prefork(n_slots)

    def drop_spares(self) -> None:
        """End those that were not wanted."""
        self._server.drop_spares()

    def fork(self, resources: SlotResources) -> Slot:
        """Start a slot.

        Raises
        ------
        TransportError
            There is no way to start one.
        """
        while True:
            try:
                return Slot(self._server.fork(), self._server, resources)
            except TransportError:
                if not self._server.has_gone or self._new_server is None:
                    raise
                if self._n_revivals >= _MAX_REVIVALS:
                    raise
            self._n_revivals += 1
            _LOG.warning("the fork server was killed: starting another one")
            self._server.close()
            try:
                self._server = self._new_server()
            except OSError as error:
                raise TransportError(f"no fork server can be started: {error}") from error

    def trust(self) -> None:
        """Note that work gets done: servers that were killed before do not count any more."""
        self._n_revivals = 0

    def close(self) -> None:
        """Give up the server."""
        self._server.close()
