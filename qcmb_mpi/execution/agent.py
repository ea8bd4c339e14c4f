"""An agent: keeps the slots of one rank busy and replaces those that die.

Rules of this file
------------------
1. An agent decides nothing about order or retries; it runs what it holds and reports.
2. Whatever happens to a slot becomes an :class:`Outcome`: nothing a program does ends an agent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait

import numpy as np

from qcmb_mpi.execution import verdict
from qcmb_mpi.execution.backlog import Backlog
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.guard import MemoryGuard
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.slotpool import SlotPool
from qcmb_mpi.execution.slots import Slot, SlotSource
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Done,
    FromAgent,
    Lost,
    Open,
    Recall,
    Returned,
    Shut,
    ToAgent,
    Work,
)
from qcmb_mpi.machine.cgroups import oom_kills

_OPENING_S = 600.0


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
    new_server : callable, optional
        Starts another fork server if that one is killed; without it the agent is lost then.
    guard : MemoryGuard, optional
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        info: AgentInfo,
        server: ForkServer,
        *,
        slot_cpus: Callable[[int, int], list[tuple[int, ...]]],
        new_server: Callable[[], ForkServer] | None = None,
        guard: MemoryGuard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = info
        self._pool = SlotPool(info, SlotSource(server, new_server), slot_cpus, clock)
        self._guard = guard or MemoryGuard(clock)
        self._clock = clock
        self._backlog = Backlog()
        self._lone = Backlog()
        self._alone: Slot | None = None
        self._n_good = 0
        self._n_oom_kills = oom_kills()

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""
        match message:
            case Open():
                self._pool.open(message)
            case Work(space, ids, is_alone):
                (self._lone if is_alone else self._backlog).add(space, ids)
            case Recall(space):
                unstarted = (self._backlog.recall(space), self._lone.recall(space))
                self._pool.news.append(Returned(space, np.concatenate(unstarted)))
            case Shut(space):
                self._shut(space)
        self._feed()

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Keep the slots busy; return what there is to tell, waiting up to `timeout_s`."""
        if self._pool.news:
            timeout_s = 0.0
        slots = {slot.process.connection: slot for slot in self._pool.slots}
        for connection in wait(list(slots), timeout_s):
            self._hear(slots[connection])  # type: ignore[index]
        self._end_overdue()
        self._guard_memory()
        self._renew_suspects()
        self._feed()
        news, self._pool.news = self._pool.news, []
        return together(news)

    def close(self, *, wait: bool = True) -> None:
        """End the slots, those at work with their programs, and the fork server.

        Parameters
        ----------
        wait : bool
            Let idle slots leave by themselves.
        """
        self._pool.close(is_patient=wait)

    def _shut(self, space: int) -> None:
        self._backlog.recall(space)
        self._lone.recall(space)
        self._pool.shut(space)
        for slot in list(self._pool.slots):
            if any(of == space for of, _ in slot.outstanding):
                # It is at work on what nobody wants any more.
                slot.outstanding = deque(task for task in slot.outstanding if task[0] != space)
                slot.process.kill()
                self._replace(slot, "its task space was shut")

    def _feed(self) -> None:
        if self._alone is not None and not self._alone.outstanding:
            self._end_alone(self._alone)
        if self._alone is None and len(self._lone):
            self._start_alone()
        elif self._alone is None:
            for depth in (1, 2):
                for slot in self._pool.slots:
                    if slot.has_answered and len(slot.outstanding) < depth:
                        self._give(slot)

    def _give(self, slot: Slot) -> None:
        """Give a slot its next batch; while it is busy, only if its tasks are short."""
        if slot.outstanding and not self._backlog.is_short(slot.outstanding[0][0]):
            return
        if self._backlog.next_space not in slot.spaces or slot.is_suspect(self._n_good):
            return
        batch = self._backlog.take(len(self._pool.slots))
        if batch is not None:
            slot.start(*batch, self._clock())

    def _start_alone(self) -> None:
        """Run one task with all memory of the node, once every slot has finished."""
        space = self._lone.next_space
        if any(slot.outstanding for slot in self._pool.slots):
            return
        for slot in self._pool.slots:
            if space in slot.spaces and not slot.n_unanswered:
                batch = self._lone.take(len(self._pool.slots))
                if batch is not None:
                    now = self._clock()
                    slot.open(self._pool.spaces[batch[0]], now, memory_bytes=self._all_bytes)
                    slot.start(*batch, now)
                    self._alone = slot
                return

    def _end_alone(self, slot: Slot) -> None:
        """Give the slot its own share of memory again."""
        self._alone = None
        if slot in self._pool.slots:
            for space in filter(self._pool.spaces.__contains__, list(slot.spaces)):
                slot.open(self._pool.spaces[space], self._clock())

    @property
    def _all_bytes(self) -> int:
        return self.info.node_memory_bytes or self.info.memory_bytes

    @property
    def _limit_bytes(self) -> int:
        return self.info.memory_bytes if self._alone is None else self._all_bytes

    def _hear(self, slot: Slot) -> None:
        try:
            kind, *rest = slot.receive()
        except (EOFError, OSError):
            self._bury(slot)
            return
        if kind == "ready":
            self._pool.heard_ready(slot, *rest)
        else:
            self._hear_done(slot, rest[0])

    def _hear_done(self, slot: Slot, outcomes: list[Outcome]) -> None:
        now = self._clock()
        for outcome in outcomes:
            self._n_good += outcome.failure is None
            slot.finish(outcome, now, self._n_good)
            self._backlog.observe(outcome.space, outcome.seconds)
        self._pool.heard_done()
        self._pool.news.append(Done(tuple(outcomes)))

    def _end_overdue(self) -> None:
        now = self._clock()
        for slot in list(self._pool.slots):
            limit_s = math.inf
            if slot.outstanding:
                limit_s = self._pool.spaces[slot.outstanding[0][0]].timeout_s
            elif slot.n_unanswered:
                limit_s = _OPENING_S
            if now - slot.progressed_s > limit_s:
                self._end(slot, verdict.overdue(limit_s, slot.process.cpu_s()))

    def _guard_memory(self) -> None:
        busy = {slot.process.pid: slot for slot in self._pool.slots if slot.outstanding}
        idle = [slot.process.pid for slot in self._pool.slots if not slot.outstanding]
        overuse = self._guard.check(busy, idle, self._limit_bytes)
        if overuse is not None:
            is_alone = self._alone is not None
            self._end(busy[overuse.pid], verdict.overused(overuse, is_alone=is_alone))

    def _renew_suspects(self) -> None:
        """Start those slots afresh in which everything fails while other slots succeed."""
        for slot in list(self._pool.slots):
            if slot.is_suspect(self._n_good) and not slot.outstanding:
                slot.process.kill()
                self._replace(slot, "everything failed in it")

    def _end(self, slot: Slot, failure: Failure) -> None:
        slot.process.kill()
        self._report(slot, failure)
        self._replace(slot, failure.message)

    def _bury(self, slot: Slot) -> None:
        """Report what a dead slot was doing and put another one in its place."""
        status = slot.server.exit_status(slot.process.pid)
        has_server_died = status is None and slot.server.has_gone
        if has_server_died:
            slot.process.kill()  # its programs, should anything be left of them
            failure = verdict.SERVER_DIED
        else:
            failure = self._judge(slot, status)
        self._report(slot, failure)
        self._replace(slot, failure.message, is_its_fault=not has_server_died)

    def _judge(self, slot: Slot, status: int | None) -> Failure:
        seen_bytes = self._guard.last_seen_bytes(slot.process.pid)
        n_before, self._n_oom_kills = self._n_oom_kills, oom_kills()
        is_oom = self._n_oom_kills > n_before or 2 * seen_bytes > self._limit_bytes > 0
        return verdict.died(status, seen_bytes=seen_bytes, is_oom=is_oom)

    def _report(self, slot: Slot, failure: Failure) -> None:
        """Tell how the task ended that a slot was at."""
        if not slot.outstanding:
            return
        space, task = slot.take_current()
        seconds = self._clock() - slot.progressed_s
        outcome = Outcome(
            space=space,
            task=task,
            start_s=time.time() - seconds,
            seconds=seconds,
            peak_bytes=self._guard.last_seen_bytes(slot.process.pid),
            failure=replace(failure, output_tail=slot.process.output_tail()),
            host=self.info.host,
            rank=self.info.rank,
            slot=slot.resources.slot,
            n_threads=slot.resources.n_threads,
        )
        self._pool.news.append(Done((outcome,)))

    def _replace(self, slot: Slot, cause: str, *, is_its_fault: bool = True) -> None:
        for space in {space for space, _ in slot.outstanding}:
            ids = [task for of, task in slot.outstanding if of == space]
            held = self._lone if slot is self._alone else self._backlog
            held.put_back(space, np.array(ids, dtype=np.int64))
        slot.outstanding.clear()
        self._pool.replace(slot, cause, is_its_fault=is_its_fault)


def together(news: list[FromAgent]) -> list[FromAgent]:
    """Put all outcomes into one message, after the others but before what ends an agent."""
    done = [message for message in news if isinstance(message, Done)]
    last = [message for message in news if isinstance(message, Lost)]
    others = [message for message in news if not isinstance(message, Done | Lost)]
    outcomes = tuple(outcome for each in done for outcome in each.outcomes)
    return [*others, *([Done(outcomes)] if done else []), *last]
