"""The slots of one agent: started for a space, replaced when they end, given up when that fails.

Rules of this file
------------------
1. A slot that cannot be replaced is done without; the agent is given up with the last one only.
2. An agent that cannot go on says so: ``Ready`` with an error for a space that it could not work on
   yet, ``Lost`` after.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Callable
from typing import Protocol

from qcmb_mpi.errors import QcmbError, TopologyError, TransportError
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.slots import Slot, SlotSource
from qcmb_mpi.execution.wire import AgentInfo, FromAgent, Lost, Open, Ready, TaskIds
from qcmb_mpi.machine.processes import allow_open_files

_MAX_STILLBORN = 3
_N_FILES = 5  # of each slot that are open here
_FAREWELL_S = 2.0
_PAUSE_S = 2.0
# Between two looks whether it is known how a slot ended.
_INTERVAL_S = 0.1


class AnyBell(Protocol):
    """What can end a wait."""

    def fileno(self) -> int:
        """Return what to wait on; -1 if there is nothing."""

    def hush(self) -> None:
        """Forget that it was rung."""


class SlotPool:
    """The slots of one agent and the spaces that are open in them.

    Parameters
    ----------
    info : AgentInfo
    source : SlotSource
    slot_cpus : callable
        ``slot_cpus(n_slots, n_threads)`` gives each slot its processors, ``()`` for unpinned.
    clock : callable
        Monotonic seconds.
    bell : AnyBell, optional
        See :meth:`listen`.
    """

    def __init__(
        self,
        info: AgentInfo,
        source: SlotSource,
        slot_cpus: Callable[[int, int], list[tuple[int, ...]]],
        clock: Callable[[], float] = time.monotonic,
        bell: AnyBell | None = None,
    ) -> None:
        self.slots: list[Slot] = []
        self.spaces: dict[int, Open] = {}
        self.news: list[FromAgent] = []
        self._info = info
        self._source = source
        self._slot_cpus = slot_cpus
        self._clock = clock
        self._looked_s = clock()
        self._bell = bell
        self.has_rung = False
        self._ready: set[int] = set()
        self._n_stillborn = 0

    def open(self, message: Open) -> None:
        """Have as many slots as the message says get ready for a space."""
        self.spaces[message.space] = message
        self._n_stillborn = 0
        layout = message.layout
        cpus = self._slot_cpus(layout.n_slots, layout.n_threads)
        resources = [self._resources(message, index, each) for index, each in enumerate(cpus)]
        allow_open_files(_N_FILES * layout.n_slots)
        try:
            while len(self.slots) < layout.n_slots:
                self.slots.append(self._source.fork(resources[len(self.slots)]))
        except TransportError as error:
            if not self.slots:
                self._give_up(str(error))
                return
        self._source.drop_spares()
        for slot, its in zip(self.slots, resources, strict=False):
            slot.resources = its
            slot.open(message, self._clock())
        if not self.slots:
            self.news.append(Ready(message.space))

    def listen(self, timeout_s: float, *, is_calm: bool = False) -> list[Slot]:
        """Return the slots that have told something, waiting up to `timeout_s` for one.

        What does not fit into a pipe at once is sent from here, and fork servers are heard. The
        bell ends the wait; ``has_rung`` says that it was that.

        Parameters
        ----------
        timeout_s : float
        is_calm : bool
            Hear of nothing from the slots but their end, and no bell.
        """
        wanted = 0 if is_calm else select.POLLIN
        now = self._clock()
        poller = select.poll()
        slots: dict[int, Slot] = {}
        servers = {slot.server.fileno(): slot.server for slot in self.slots}
        servers.pop(-1, None)
        for server in servers:
            poller.register(server, select.POLLIN)
        for slot in self.slots:
            timeout_s = min(timeout_s, max(0.0, slot.stuck_in_s(now)))
            if slot.has_ended:
                timeout_s = min(timeout_s, _INTERVAL_S)
            else:
                pipe = slot.process.pipe
                slots[pipe.fileno()] = slot
                poller.register(pipe, wanted | (select.POLLOUT if pipe.has_unsent else 0))
        bell = -1 if self._bell is None or is_calm else self._bell.fileno()
        if bell >= 0:
            poller.register(bell, select.POLLIN)
        self.has_rung = False
        told = []
        for fd, event in poller.poll(math.ceil(1000 * timeout_s)):
            if self._bell is not None and fd == bell:
                self.has_rung = True
                self._bell.hush()
                continue
            if fd in servers:
                servers[fd].listen()
                continue
            if event & select.POLLOUT:
                with contextlib.suppress(OSError):  # its end is told by the end of the pipe
                    slots[fd].process.pipe.push()
            if event & ~select.POLLOUT:
                told.append(slots[fd])
        return told

    def allow_pause(self, timeout_s: float) -> None:
        """Count no time in which this process did not run: its slots did not either.

        Parameters
        ----------
        timeout_s : float
            How long it may have waited since the last call.
        """
        now = self._clock()
        pause_s = now - self._looked_s - timeout_s
        self._looked_s = now
        if pause_s > _PAUSE_S:
            for slot in self.slots:
                slot.progressed_s = min(now, slot.progressed_s + pause_s)

    def give_back_stuck(self) -> list[tuple[int, TaskIds]]:
        """Take back what waits behind tasks that take far too long; the last first."""
        now = self._clock()
        stuck = [slot for slot in self.slots if slot.stuck_in_s(now) <= 0.0]
        return [each for slot in stuck for each in reversed(slot.give_back())]

    def shut(self, space: int) -> None:
        """Have all slots forget a space."""
        self.spaces.pop(space, None)
        self._ready.discard(space)
        for slot in self.slots:
            slot.forget(space)

    def heard_ready(self, slot: Slot, space: int, error: QcmbError | None) -> None:
        """Note what a slot answers to being opened for a space."""
        slot.answered()
        if space not in self.spaces:
            return
        if error is None:
            self._n_stillborn = 0
            if space not in self._ready:
                self._ready.add(space)
                self.news.append(Ready(space))
            return
        slot.spaces.pop(space, None)  # it gets no work of it
        if any(space in other.spaces for other in self.slots):
            return
        if space in self._ready:
            self._give_up(str(error))
        else:
            self.news.append(Ready(space, error))

    def cpus(self, n_threads: int) -> tuple[int, ...]:
        """Return the processors of one slot instead of all, ``()`` for unpinned."""
        return self._slot_cpus(1, n_threads)[0]

    def heard_done(self) -> None:
        """Note that work gets done."""
        self._source.trust()

    def replace(self, slot: Slot, cause: str, *, is_its_fault: bool = True) -> None:
        """Put a fresh slot in the place of one that has ended, if it was not given up meanwhile.

        Parameters
        ----------
        slot : Slot
        cause : str
            Why it ended, for people.
        is_its_fault : bool
            Whether the next one may well end in the same way.
        """
        if slot not in self.slots:
            return
        self.slots.remove(slot)
        if not slot.has_answered and is_its_fault and self._is_hopeless(slot, cause):
            return
        slot.process.close()
        try:
            heir = self._source.fork(slot.resources)
        except TransportError as error:
            if not self.slots:
                self._give_up(str(error))
            return
        heir.spaces = slot.spaces
        self.slots.append(heir)
        for space in filter(self.spaces.__contains__, list(heir.spaces)):
            heir.open(self.spaces[space], self._clock())

    def do_without(self, slot: Slot, cause: str) -> None:
        """Give up a slot in whose place there will be none."""
        if slot not in self.slots:
            return
        self.slots.remove(slot)
        slot.process.kill()
        slot.process.close()
        if not self.slots:
            self._give_up(cause)

    def close(self, *, is_patient: bool) -> None:
        """End the slots, those at work with their programs, and what they come from."""
        for slot in self.slots:
            if not is_patient or slot.outstanding or not slot.has_answered:
                slot.process.kill()
            slot.process.close()  # an idle slot leaves at the end of its pipe
        give_up_s = self._clock() + _FAREWELL_S
        for slot in self.slots:
            left_s = max(0.0, give_up_s - self._clock())
            if slot.process.pid and slot.server.exit_status(slot.process.pid, left_s) is None:
                slot.process.kill()
        self.slots = []
        self._source.close()

    def _resources(self, message: Open, index: int, cpus: tuple[int, ...]) -> SlotResources:
        return SlotResources(
            rank=self._info.rank,
            slot=index,
            host=self._info.host,
            cpus=cpus,
            n_threads=message.layout.n_threads,
            memory_bytes=message.layout.memory_per_slot_bytes,
            scratch=message.scratch,
        )

    def _is_hopeless(self, slot: Slot, cause: str) -> bool:
        """Whether slots keep dying before they can work: then do without this one."""
        self._n_stillborn += 1
        if self._n_stillborn < _MAX_STILLBORN:
            return False
        tail = " ".join(slot.process.output_tail().split())
        slot.process.close()
        if not any(other.has_answered for other in self.slots):
            text = f"they die before their first task: {cause}"
            self._give_up(f"{text}; last output: {tail}" if tail else text)
        return True

    def _give_up(self, reason: str) -> None:
        text = f"slots on {self._info.host} cannot be started (any more): {reason}"
        for slot in self.slots:
            slot.process.kill()
            slot.outstanding.clear()
            slot.n_unanswered = 0
        self.slots = []
        unready = [space for space in self.spaces if space not in self._ready]
        self.news.extend(Ready(space, TopologyError(text)) for space in unready)
        if self._ready:
            self.news.append(Lost(text))
        self._ready.clear()
        self.spaces.clear()
