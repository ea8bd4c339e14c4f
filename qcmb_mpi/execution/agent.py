"""An agent: keeps the slots of one rank busy and replaces those that die.

Rules of this file
------------------
1. An agent decides nothing about order or retries; it runs what it holds and reports.
2. Whatever happens to a slot becomes an :class:`Outcome`: nothing a program does ends an agent.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait

import numpy as np

from qcmb_mpi.errors import QcmbError, TopologyError
from qcmb_mpi.execution.backlog import Backlog
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.forkserver import ForkServer, SlotProcess
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Done,
    FromAgent,
    Open,
    Ready,
    Recall,
    Returned,
    Shut,
    TaskIds,
    ToAgent,
    Work,
)
from qcmb_mpi.scheduling.policy import ErrorClass

_MAX_STILLBORN = 3
_FAREWELL_S = 2.0


class _Slot:
    """One slot as its agent sees it."""

    def __init__(self, process: SlotProcess, resources: SlotResources) -> None:
        self.process = process
        self.resources = resources
        self.spaces: set[int] = set()
        self.outstanding: deque[tuple[int, int]] = deque()
        self.n_finished = 0
        self.progressed_s = 0.0
        self.has_answered = False

    def send(self, *message: object) -> None:
        # A slot that has just died is noticed by the end of file on its pipe.
        with contextlib.suppress(OSError):
            self.process.connection.send_bytes(pickle.dumps(message, protocol=5))

    def open(self, message: Open) -> None:
        self.spaces.add(message.space)
        self.send("space", message.space, message.recipe, self.resources)

    def start(self, space: int, ids: TaskIds, now: float) -> None:
        if not self.outstanding:
            self.progressed_s = now
        self.outstanding.extend((space, task) for task in ids.tolist())
        self.send("work", space, ids)

    def finish(self, outcome: Outcome, now: float) -> None:
        self.progressed_s = now
        self.n_finished += 1
        self.outstanding.popleft()

    def take_current(self) -> tuple[int, int]:
        """Take out the task it was at; those before it ended, but untold."""
        index = self.process.n_started - self.n_finished - 1
        index = min(max(index, 0), len(self.outstanding) - 1)
        current = self.outstanding[index]
        del self.outstanding[index]
        return current


class Agent:
    """The slots of one rank.

    Parameters
    ----------
    info : AgentInfo
        What the rank has.
    server : ForkServer
        Where slots come from; the agent closes it.
    slot_cpus : callable
        ``slot_cpus(n_slots, n_threads)`` gives each slot its processors, ``()`` for unpinned.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        info: AgentInfo,
        server: ForkServer,
        *,
        slot_cpus: Callable[[int, int], list[tuple[int, ...]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = info
        self._server = server
        self._slot_cpus = slot_cpus
        self._clock = clock
        self._slots: list[_Slot] = []
        self._open: dict[int, Open] = {}
        self._ready: set[int] = set()
        self._backlog = Backlog()
        self._news: list[FromAgent] = []
        self._n_stillborn = 0

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""
        match message:
            case Open():
                self._open_space(message)
            case Work(space, ids):
                self._backlog.add(space, ids)
            case Recall(space):
                self._news.append(Returned(space, self._backlog.recall(space)))
            case Shut(space):
                self._shut(space)
        self._feed()

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Keep the slots busy; return what there is to tell, waiting up to `timeout_s`."""
        if self._news:
            timeout_s = 0.0
        slots = {slot.process.connection: slot for slot in self._slots}
        for connection in wait(list(slots), timeout_s):
            self._hear(slots[connection])  # type: ignore[index]
        self._end_overdue()
        self._feed()
        news, self._news = self._news, []
        return together(news)

    def close(self, *, wait: bool = True) -> None:
        """End the slots, those at work with their programs, and the fork server.

        Parameters
        ----------
        wait : bool
            Let idle slots leave by themselves.
        """
        for slot in self._slots:
            if not wait or slot.outstanding or not slot.has_answered:
                slot.process.kill()
            slot.process.close()  # an idle slot leaves at the end of its pipe
        give_up_s = self._clock() + _FAREWELL_S
        for slot in self._slots:
            left_s = max(0.0, give_up_s - self._clock())
            if self._server.exit_status(slot.process.pid, left_s) is None:
                slot.process.kill()
        self._slots = []
        self._server.close()

    def _open_space(self, message: Open) -> None:
        layout = message.layout
        self._open[message.space] = message
        cpus = self._slot_cpus(layout.n_slots, layout.n_threads)
        while len(self._slots) < layout.n_slots:
            index = len(self._slots)
            self._slots.append(self._new_slot(self._resources(message, index, cpus[index])))
        for index, slot in enumerate(self._slots[: layout.n_slots]):
            slot.resources = self._resources(message, index, cpus[index])
            slot.open(message)
        if not self._slots:
            self._news.append(Ready(message.space))

    def _resources(self, message: Open, index: int, cpus: tuple[int, ...]) -> SlotResources:
        return SlotResources(
            rank=self.info.rank,
            slot=index,
            host=self.info.host,
            cpus=cpus,
            n_threads=message.layout.n_threads,
            memory_bytes=message.layout.memory_per_slot_bytes,
            scratch=message.scratch,
        )

    def _new_slot(self, resources: SlotResources) -> _Slot:
        return _Slot(self._server.fork(), resources)

    def _shut(self, space: int) -> None:
        self._open.pop(space, None)
        self._ready.discard(space)
        self._backlog.recall(space)
        for slot in list(self._slots):
            if any(of == space for of, _ in slot.outstanding):
                self._abandon(slot, space)
            else:
                slot.spaces.discard(space)
                slot.send("forget", space)

    def _abandon(self, slot: _Slot, space: int) -> None:
        """End a slot at work on what nobody wants any more."""
        slot.outstanding = deque(task for task in slot.outstanding if task[0] != space)
        self._return_unstarted(slot)
        slot.outstanding.clear()
        slot.process.kill()
        self._replace(slot, ErrorClass.CRASHED, "abandoned", "its task space was shut")

    def _feed(self) -> None:
        for depth in (1, 2):
            for slot in self._slots:
                if slot.has_answered and len(slot.outstanding) < depth:
                    self._give(slot)

    def _give(self, slot: _Slot) -> None:
        """Give a slot its next batch; while it is busy, only if its tasks are short."""
        if slot.outstanding and not self._backlog.is_short(slot.outstanding[0][0]):
            return
        if self._backlog.next_space not in slot.spaces:
            return
        batch = self._backlog.take(len(self._slots))
        if batch is not None:
            slot.start(*batch, self._clock())

    def _hear(self, slot: _Slot) -> None:
        try:
            kind, *rest = pickle.loads(slot.process.connection.recv_bytes())
        except (EOFError, OSError):
            self._bury(slot)
            return
        if kind == "ready":
            self._hear_ready(slot, *rest)
        else:
            self._hear_done(slot, rest[0])

    def _hear_ready(self, slot: _Slot, space: int, error: QcmbError | None) -> None:
        slot.has_answered = True
        if space not in self._open:
            return
        if error is None:
            self._n_stillborn = 0
            if space not in self._ready:
                self._ready.add(space)
                self._news.append(Ready(space))
            return
        slot.spaces.discard(space)  # it gets no work of it
        if not any(space in other.spaces for other in self._slots):
            self._news.append(Ready(space, error))

    def _hear_done(self, slot: _Slot, outcomes: list[Outcome]) -> None:
        now = self._clock()
        for outcome in outcomes:
            slot.finish(outcome, now)
            self._backlog.observe(outcome.space, outcome.seconds)
        self._news.append(Done(tuple(outcomes)))

    def _end_overdue(self) -> None:
        now = self._clock()
        for slot in list(self._slots):
            if slot.outstanding:
                limit_s = self._open[slot.outstanding[0][0]].timeout_s
                if now - slot.progressed_s > limit_s:
                    slot.process.kill()
                    self._replace(
                        slot,
                        ErrorClass.TIMEOUT,
                        "timeout",
                        f"killed after {limit_s:g} s (--timeout)",
                    )

    def _bury(self, slot: _Slot) -> None:
        """Report what a dead slot was doing and put another one in its place."""
        cause = _cause(self._server.exit_status(slot.process.pid))
        self._replace(slot, ErrorClass.CRASHED, "crashed", f"the process {cause}")

    def _replace(self, slot: _Slot, error_class: ErrorClass, kind: str, message: str) -> None:
        if slot.outstanding:
            failure = Failure(error_class, kind, message, slot.process.output_tail())
            self._news.append(Done((self._lost_outcome(slot, failure),)))
            self._return_unstarted(slot)
        self._slots.remove(slot)
        if not slot.has_answered and self._is_hopeless(slot, message):
            return
        slot.process.close()
        heir = self._new_slot(slot.resources)
        self._slots.append(heir)
        for space in filter(slot.spaces.__contains__, self._open):
            heir.open(self._open[space])

    def _is_hopeless(self, slot: _Slot, message: str) -> bool:
        """Whether slots keep dying before they can work: then say so instead of trying on."""
        self._n_stillborn += 1
        if self._n_stillborn < _MAX_STILLBORN:
            return False
        text = f"slots on {self.info.host} die before their first task: {message}"
        tail = " ".join(slot.process.output_tail().split())
        error = TopologyError(f"{text}; last output: {tail}" if tail else text)
        self._news.extend(Ready(space, error) for space in self._open)
        return True

    def _lost_outcome(self, slot: _Slot, failure: Failure) -> Outcome:
        space, task = slot.take_current()
        seconds = self._clock() - slot.progressed_s
        return Outcome(
            space=space,
            task=task,
            start_s=time.time() - seconds,
            seconds=seconds,
            failure=failure,
            host=self.info.host,
            rank=self.info.rank,
            slot=slot.resources.slot,
            n_threads=slot.resources.n_threads,
        )

    def _return_unstarted(self, slot: _Slot) -> None:
        for space in {space for space, _ in slot.outstanding}:
            ids = [task for of, task in slot.outstanding if of == space]
            self._backlog.put_back(space, np.array(ids, dtype=np.int64))


def together(news: list[FromAgent]) -> list[FromAgent]:
    """Put all outcomes into one message, after the others."""
    done = [message for message in news if isinstance(message, Done)]
    if len(done) < 2:
        return news
    others = [message for message in news if not isinstance(message, Done)]
    return [*others, Done(tuple(outcome for each in done for outcome in each.outcomes))]


def _cause(status: int | None) -> str:
    if status is None:
        return "ended for an unknown reason"
    if status >= 0:
        return f"ended with exit code {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
