"""An agent: keeps the slots of one rank busy and replaces those that die.

Rules of this file
------------------
1. An agent decides nothing about order or retries; it runs what it holds and reports, when
   ``scheduling/reporting.py`` says so.
2. Whatever happens to a slot becomes an :class:`Outcome`: nothing a program does ends an agent.
3. While every slot has a stock of short tasks nobody listens to them for a part of the time that it
   lasts: what wakes this process takes a core from a task.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from qcmb_mpi.execution import slot_failures
from qcmb_mpi.execution.backlog import Backlog, least_worth_s
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.guard import MemoryGuard
from qcmb_mpi.execution.outcome import Failure
from qcmb_mpi.execution.outcomes import Outcomes, unpacked
from qcmb_mpi.execution.slotpool import AnyBell, SlotPool
from qcmb_mpi.execution.slots import Slot, SlotSource
from qcmb_mpi.execution.solo import Solo
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Closed,
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
from qcmb_mpi.scheduling.reporting import Need, ReportTiming

_OPENING_S = 240.0  # less than the master waits for an agent
_BURIAL_S = 1.0
# What a slot has at hand of short tasks: outcomes may wait in the slot, then here, meanwhile.
_AHEAD_S = 0.15
_STOCK_S = 0.08
_LATE_S = 0.2  # what has ended may be heard of so late, so that nobody is killed before
_CALM_SHARE = 1 / 3
# Of tasks of unknown length: one more than is begun, to work on while the end of the first is told.
_N_BLIND = 2


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
    bell : AnyBell, optional
        Ends the wait for the slots when there may be a message for us.
    clock : callable
        Monotonic seconds.
    n_spares : int
        Slots to be started before it is known how many are wanted.
    """

    def __init__(
        self,
        info: AgentInfo,
        server: ForkServer,
        *,
        slot_cpus: Callable[[int, int], list[tuple[int, ...]]],
        new_server: Callable[[], ForkServer] | None = None,
        guard: MemoryGuard | None = None,
        bell: AnyBell | None = None,
        clock: Callable[[], float] = time.monotonic,
        n_spares: int = 0,
    ) -> None:
        self.info = info
        source = SlotSource(server, new_server)
        source.prefork(n_spares)
        self._pool = SlotPool(info, source, slot_cpus, clock, bell)
        self._guard = guard or MemoryGuard(clock)
        self._clock = clock
        self._backlog = Backlog()
        self._solo = Solo(info, self._pool)
        self._n_good = 0
        self._timing = ReportTiming()
        self._held: list[Outcomes] = []
        self._calm_until_s = -math.inf
        self._recalled: set[int] = set()

    @property
    def is_calm(self) -> bool:
        """Whether all slots have enough to do for a while, so that nothing is urgent."""
        return self._clock() < self._calm_until_s

    @property
    def has_rung(self) -> bool:
        """Whether the last wait was ended by the bell."""
        return self._pool.has_rung

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""
        self._calm_until_s = -math.inf
        if isinstance(message, Work):
            self._timing.note_work(self._clock(), message.n_heard)
        match message:
            case Open():
                self._timing.open(message.report_s)
                self._pool.open(message)
            case Work() if message.is_alone or message.n_threads:
                self._solo.add(message)
            case Work(space, ids):
                self._backlog.add(space, ids)
                self._recalled.discard(space)
            case Recall(space):
                self._return(space)
            case Shut(space):
                self._shut(space)
        self._feed()

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Keep the slots busy; return what there is to tell, waiting up to `timeout_s`."""
        give_up_s = self._clock() + timeout_s
        while True:
            left_s = min(give_up_s, self._due_s) - self._clock()
            self._turn(0.0 if self._pool.news else max(0.0, left_s))
            now = self._clock()
            if self._pool.news or now >= self._due_s:
                return self._news()
            if now >= give_up_s or self._pool.has_rung:
                return []

    def _turn(self, timeout_s: float) -> None:
        """Hear what slots and their ends have to say, waiting up to `timeout_s` for something."""
        calm_s = self._calm_until_s - self._clock()
        if calm_s > 0.0:
            timeout_s = min(timeout_s, calm_s)
            told = self._pool.listen(timeout_s, is_calm=True)
            is_calm = self._clock() < self._calm_until_s
            if not (told or is_calm):
                told = self._pool.listen(0.0)
        else:
            is_calm = False
            told = self._pool.listen(timeout_s)
        self._pool.allow_pause(timeout_s)
        for slot in told:
            self._hear(slot)
        self._end_overdue()
        self._bury_ended()
        self._guard_memory()
        self._renew_suspects()
        self._relieve_stuck()
        self._feed()
        if not is_calm:
            stock_s = min(map(self._stock_s, self._pool.slots), default=0.0)
            if stock_s >= _STOCK_S:
                self._calm_until_s = self._clock() + min(self._timing.hold_s, _CALM_SHARE * stock_s)

    def _stock_s(self, slot: Slot) -> float:
        """Return how long a slot should be busy after the task that it is at; 0 if not known."""
        n, ahead_s = len(slot.outstanding), self._ahead_s(slot)
        if n < 2 or slot.has_ended or ahead_s == math.inf:
            return 0.0
        silent_s = self._clock() - slot.progressed_s  # it has gone on meanwhile
        return ahead_s * (n - 1) / n - silent_s

    @property
    def _due_s(self) -> float:
        """When the outcomes that are held are to be told."""
        if not self._held:
            return math.inf
        return self._timing.due_s(self._need(), not_before_s=self._calm_until_s)

    def _need(self) -> Need:
        """Return whether a slot has nothing to do, or may have soon, nor has the agent."""
        least_s = min(map(self._ahead_s, self._pool.slots), default=math.inf)
        return Need.of(least_s + self._backlog.next_s / max(1, len(self._pool.slots)))

    def _ahead_s(self, slot: Slot) -> float:
        """Return how long a slot should be busy, counting what may have ended but is not told."""
        space = slot.outstanding.next_space
        return 0.0 if space is None else len(slot.outstanding) * self._backlog.mean_s(space)

    def _news(self) -> list[FromAgent]:
        """Return all that is to be told: outcomes after the rest, but before what ends an agent."""
        last = [message for message in self._pool.news if isinstance(message, Closed | Lost)]
        news = [message for message in self._pool.news if message not in last]
        if self._held:
            number = self._timing.note_report(self._clock(), self._need())
            news.append(Done(Outcomes.joined(self._held), number))
        self._pool.news, self._held = [], []
        return [*news, *last]

    def _keep(self, outcomes: Outcomes) -> None:
        """Have outcomes told when it is time."""
        are_short = all(map(self._backlog.is_short, outcomes.spaces))
        has_failed = bool(outcomes.failures)
        self._timing.note_results(self._clock(), are_short=are_short, has_failed=has_failed)
        self._held.append(outcomes)

    def close(self, *, wait: bool = True) -> None:
        """End the slots, those at work with their programs, and the fork server.

        Parameters
        ----------
        wait : bool
            Let idle slots leave by themselves.
        """
        self._pool.close(is_patient=wait)

    def _return(self, space: int) -> None:
        unstarted = np.concatenate((self._backlog.recall(space), self._solo.recall(space)))
        self._recalled.add(space)  # what comes back from a slot later is not to be started either
        self._pool.news.append(Returned(space, unstarted))

    def _relieve_stuck(self) -> None:
        """Take back what waits in a slot behind a task that takes far longer than it should."""
        for space, ids in self._pool.give_back_stuck():
            self._backlog.put_back(space, ids)
        for space in self._recalled.intersection(self._backlog.spaces):
            self._return(space)

    def _shut(self, space: int) -> None:
        self._backlog.recall(space)
        self._solo.recall(space)
        self._recalled.discard(space)
        self._pool.shut(space)
        for slot in list(self._pool.slots):
            if space in slot.outstanding.spaces:  # nobody wants the rest, but what has ended
                slot.process.kill()
                self._hear(slot)
                self._hear_untold(slot)
                slot.outstanding.recall(space)
                self._replace(slot, "its task space was shut")
        self._pool.news.append(Closed(space))

    def _feed(self) -> None:
        """Give each slot that may have more one batch: what is sent to it costs by the message."""
        if self._solo.takes_over(self._clock()):
            return
        rest = list(self._pool.slots)
        aim_s = self._backlog.aim_s(_AHEAD_S, [self._ahead_s(slot) for slot in rest])
        least_s = least_worth_s(aim_s)
        while able := [slot for slot in rest if self._may_have_more(slot, aim_s - least_s)]:
            slot = min(able, key=lambda each: (self._ahead_s(each), each.progressed_s))
            n_opening = sum(not each.is_ready for each in rest)
            n_sharing = len(able) + n_opening
            self._give(slot, max(least_s, aim_s - self._ahead_s(slot)), n_sharing, least_s)
            rest.remove(slot)

    def _may_have_more(self, slot: Slot, most_s: float) -> bool:
        """Whether a slot may be given tasks now: one at work only if it has few, and short ones."""
        if not slot.is_ready or self._backlog.next_space not in slot.spaces:
            return False
        if slot.is_suspect(self._n_good):
            return False
        space = slot.outstanding.next_space
        if space is None:
            return True
        is_low = len(slot.outstanding) == 1 or self._ahead_s(slot) <= most_s
        is_stuck = slot.is_silent(self._clock())
        return is_low and not is_stuck and self._backlog.is_short(space)

    def _give(self, slot: Slot, seconds: float, n_sharing: int, least_s: float) -> None:
        """Give a slot its next batch, of which others are to get as much; nothing little yet."""
        least_s = 0.0 if Need.of(self._ahead_s(slot)) else least_s
        batch = self._backlog.batch(n_sharing, seconds, least_s, _N_BLIND)
        if batch is not None:
            self._backlog.put_back(batch[0], slot.start(*batch, self._clock()))

    def _hear(self, slot: Slot) -> None:
        try:
            messages = slot.process.pipe.receive()
        except EOFError:
            slot.ended_s = self._clock()
            return
        for kind, *rest in messages:
            if slot not in self._pool.slots:
                return
            if kind == "ready":
                self._pool.heard_ready(slot, *rest)
            else:
                self._hear_done(slot, unpacked(rest[0]))

    def _hear_done(self, slot: Slot, outcomes: Outcomes) -> None:
        self._n_good += outcomes.n_good
        slot.finish(outcomes, self._clock(), self._n_good)
        self._backlog.learn(outcomes)
        self._pool.heard_done()
        self._keep(outcomes)

    def _end_overdue(self) -> None:
        for slot in list(self._pool.slots):
            if self._is_overdue(slot):
                self._hear(slot)  # it may have told something meanwhile
            if self._is_overdue(slot) and slot in self._pool.slots:
                self._end_late(slot)

    def _is_overdue(self, slot: Slot) -> bool:
        silent_s = self._clock() - slot.progressed_s
        return not slot.has_ended and silent_s > self._limit_s(slot) + _LATE_S

    def _limit_s(self, slot: Slot) -> float:
        space = slot.outstanding.next_space
        if space is not None:
            return self._pool.spaces[space].timeout_s
        return _OPENING_S if slot.n_unanswered else math.inf

    def _end_late(self, slot: Slot) -> None:
        limit_s, cpu_s = self._limit_s(slot), slot.process.cpu_s()
        if slot.outstanding:
            self._end(slot, slot_failures.overdue(limit_s, cpu_s))
        elif slot.has_answered:
            self._end(slot, slot_failures.unready(limit_s, cpu_s))
        elif slot.process.pid:  # another one would take as long, longer than the master waits
            self._pool.do_without(slot, slot_failures.unready(limit_s, cpu_s).message)
        else:
            self._pool.do_without(slot, slot_failures.UNANSWERED)

    def _guard_memory(self) -> None:
        busy = {slot.process.pid: slot for slot in self._pool.slots if slot.outstanding}
        idle = [slot.process.pid for slot in self._pool.slots if not slot.outstanding]
        overuse = self._guard.check(busy, idle, self._solo.limit_bytes)
        if overuse is not None:
            is_alone = self._solo.has_host
            self._end(busy[overuse.pid], slot_failures.overused(overuse, is_alone=is_alone))

    def _renew_suspects(self) -> None:
        """Start those slots afresh in which everything fails while other slots succeed."""
        for slot in list(self._pool.slots):
            if slot.is_suspect(self._n_good) and not slot.outstanding:
                slot.process.kill()
                self._replace(slot, "everything failed in it")

    def _end(self, slot: Slot, failure: Failure) -> None:
        n_started = slot.process.n_started
        slot.process.kill()
        self._hear(slot)  # what it told between the last look and its death
        self._hear_untold(slot)
        if slot.process.n_started == n_started:  # else that task ended, and it was at the next
            self._report(slot, failure)
        self._replace(slot, failure.message)

    def _bury_ended(self) -> None:
        for slot in list(self._pool.slots):
            if slot.has_ended:
                self._bury(slot)

    def _bury(self, slot: Slot) -> None:
        """Report what a dead slot was doing and put another one in its place."""
        status = slot.server.exit_status(slot.process.pid)
        has_server_died = status is None and slot.server.has_gone
        is_known = status is not None or has_server_died or slot.process.fault
        if not is_known and self._clock() - slot.ended_s < _BURIAL_S:
            return  # the fork server will tell
        if status is None:
            slot.process.kill()  # it may have closed its pipe only, or have left its programs
        if has_server_died:
            failure = slot_failures.SERVER_DIED
        elif slot.process.fault:
            self._pool.do_without(slot, slot.process.fault)
            return
        else:
            failure = self._judge(slot, status)
        self._hear_untold(slot)
        self._report(slot, failure)
        self._replace(slot, failure.message, is_its_fault=not has_server_died)

    def _judge(self, slot: Slot, status: int | None) -> Failure:
        seen_bytes = self._guard.last_seen_bytes(slot.process.pid)
        is_oom = self._guard.has_oom_killed() or 2 * seen_bytes > self._solo.limit_bytes > 0
        return slot_failures.died(status, seen_bytes=seen_bytes, is_oom=is_oom)

    def _hear_untold(self, slot: Slot) -> None:
        if untold := slot.untold():
            self._hear_done(slot, untold)

    def _report(self, slot: Slot, failure: Failure) -> None:
        """Tell how the task ended that a dead slot was at."""
        if slot.outstanding:
            seen_bytes = self._guard.last_seen_bytes(slot.process.pid)
            self._keep(Outcomes(others=[slot.cut_short(failure, self._clock(), seen_bytes)]))

    def _replace(self, slot: Slot, cause: str, *, is_its_fault: bool = True) -> None:
        for space in slot.outstanding.spaces:
            self._backlog.put_back(space, slot.outstanding.recall(space))
        self._pool.replace(slot, cause, is_its_fault=is_its_fault)
