"""The tasks that an agent runs one at a time, with nothing beside them.

Rules of this file
------------------
1. Such a task waits until every slot has finished, then runs in one of them, which is lent what the
   others have: all cores for a wide task, the memory of the node for one that must be alone.
   A wide task is told no more memory than the smallest agent has: its numbers depend on that.
2. What was lent is taken back before anything else starts.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from qcmb_mpi.execution.slotpool import SlotPool
from qcmb_mpi.execution.slots import Slot
from qcmb_mpi.execution.wire import AgentInfo, TaskIds, Work
from qcmb_mpi.scheduling.placement import Layout


class Solo:
    """What waits for the whole agent, and what has it.

    Parameters
    ----------
    info : AgentInfo
    pool : SlotPool
    """

    def __init__(self, info: AgentInfo, pool: SlotPool) -> None:
        self._info = info
        self._pool = pool
        self._waiting: deque[Work] = deque()
        self._work: Work | None = None
        self._slot: Slot | None = None

    @property
    def has_host(self) -> bool:
        """Whether a task runs that has the whole node."""
        return self._work is not None and self._work.is_alone

    @property
    def limit_bytes(self) -> int:
        """What may be used now, 0 for anything."""
        node_bytes = self._info.node_memory_bytes if self.has_host else 0
        return node_bytes or self._info.memory_bytes

    def add(self, work: Work) -> None:
        """Let a task wait for its turn."""
        self._waiting.append(work)

    def recall(self, space: int) -> TaskIds:
        """Take out what has not started of a space."""
        taken = [work.ids for work in self._waiting if work.space == space]
        self._waiting = deque(work for work in self._waiting if work.space != space)
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)

    def takes_over(self, now: float) -> bool:
        """Go on if it is time to; tell whether nothing else may be started."""
        if self._slot is not None and not self._slot.outstanding:
            self._take_back(self._slot, now)
        if self._slot is None and self._waiting:
            self._start(now)
            return True
        return self._slot is not None

    def _start(self, now: float) -> None:
        """Run the next task, once every slot has finished."""
        slots = self._pool.slots
        if any(slot.outstanding for slot in slots):
            return
        work = self._waiting[0]
        for slot in slots:
            if work.space in slot.spaces and slot.is_ready and not slot.n_unanswered:
                self._work, self._slot = self._waiting.popleft(), slot
                message = self._pool.spaces[work.space]
                slot.open(message, now, **self._lent(work, message.layout))
                slot.start(work.space, work.ids, now)
                return

    def _lent(self, work: Work, layout: Layout) -> dict[str, Any]:
        told_bytes = 0 if work.is_alone else layout.memory_per_agent_bytes
        lent: dict[str, Any] = {"memory_bytes": told_bytes or self.limit_bytes}
        if work.n_threads:
            lent |= {"n_threads": work.n_threads, "cpus": self._pool.cpus(work.n_threads)}
        return lent

    def _take_back(self, slot: Slot, now: float) -> None:
        space = -1 if self._work is None else self._work.space
        self._work = self._slot = None
        if slot in self._pool.slots and space in slot.spaces and space in self._pool.spaces:
            slot.open(self._pool.spaces[space], now)
