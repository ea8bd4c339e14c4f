"""Keeps the memory of an agent's slots below its limit, before the kernel has to.

Rules of this file
------------------
1. It measures and judges; to kill is the agent's.
2. The cheap sum counts shared pages in every process, so it only raises the alarm; nobody is
   killed but on the exact one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from qcmb_mpi.machine import cgroups, processes

_INTERVAL_S = 1.0
_EXACT_INTERVAL_S = 10.0
# What a warm slot needs before it has done anything: ending one that small frees nothing.
_IDLE_SLOT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Overuse:
    """A slot that has to go, because all of them use more than they may.

    Parameters
    ----------
    pid : int
        The slot at work that uses most.
    used_bytes : int
        What it uses with its programs.
    total_bytes : int
        What all slots use.
    limit_bytes : int
        What they may use.
    """

    pid: int
    used_bytes: int
    total_bytes: int
    limit_bytes: int


class MemoryGuard:
    """Looks at the resident memory of slots, about once a second.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    resident : callable
        Bytes of a process and its descendants, cheap, shared pages counted in each.
    exact : callable
        The same, shared pages counted once.
    oom_kills : callable, optional
        How many processes the kernel has killed for lack of memory so far.

    Attributes
    ----------
    n_looks : int
        How often it looked so far.
    spent_s : float
        Processor time that looking cost, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        resident: Callable[[int], int] = processes.resident_bytes,
        exact: Callable[[int], int] = processes.proportional_bytes,
        oom_kills: Callable[[], int] | None = None,
    ) -> None:
        self._clock = clock
        self._resident = resident
        self._exact = exact
        self._oom_kills = oom_kills or cgroups.oom_counter()
        self._n_oom_kills = (self._oom_kills(),) * 2
        self._seen: Mapping[int, int] = {}
        self._due_s = -float("inf")
        self._exact_due_s = -float("inf")
        self._trusted_bytes = 0
        self.n_looks = 0
        self.spent_s = 0.0

    def last_seen_bytes(self, pid: int) -> int:
        """Return what slot `pid` used when it was last looked at; 0 if it never was."""
        return self._seen.get(pid, 0)

    def has_oom_killed(self) -> bool:
        """Whether the kernel has killed a process for lack of memory in the last seconds."""
        return self._oom_kills() > self._n_oom_kills[0]

    def check(
        self, busy: Collection[int], idle: Collection[int], limit_bytes: int
    ) -> Overuse | None:
        """Say which slot has to go, if it is time to look and one has to.

        Parameters
        ----------
        busy, idle : collection of int
            Process ids of slots at work, and of the others: these are counted too.
        limit_bytes : int
            For all together; 0 for no limit.
        """
        now = self._clock()
        if now < self._due_s:
            return None
        self._due_s = now + _INTERVAL_S
        began_s = time.thread_time()
        try:
            return self._look(busy, idle, limit_bytes, now)
        finally:
            self.n_looks += 1
            self.spent_s += time.thread_time() - began_s

    def _look(
        self, busy: Collection[int], idle: Collection[int], limit_bytes: int, now: float
    ) -> Overuse | None:
        # The last count but one: a kill may be counted before the end of the slot is seen.
        self._n_oom_kills = (self._n_oom_kills[1], self._oom_kills())
        if not limit_bytes or not busy:
            return None
        pids = (*busy, *idle)
        self._seen = {pid: self._resident(pid) for pid in pids}
        upper_bytes = sum(self._seen.values())
        if upper_bytes <= limit_bytes:
            return None
        if upper_bytes <= self._trusted_bytes and now < self._exact_due_s:
            return None
        exact = {pid: self._exact(pid) for pid in pids}
        total_bytes = sum(exact.values())
        if total_bytes <= limit_bytes:
            # Look closely again when half of what is left may have been used up.
            self._trusted_bytes = upper_bytes + (limit_bytes - total_bytes) // 2
            self._exact_due_s = now + _EXACT_INTERVAL_S
            return None
        largest = max(busy, key=lambda pid: exact[pid])
        if exact[largest] < _IDLE_SLOT_BYTES:
            return None
        return Overuse(largest, exact[largest], total_bytes, limit_bytes)
