"""In which order ready tasks go out: cursors over classes, and a heap for what came back.

Rules of this file
------------------
1. Nothing per task: fresh tasks are a cursor in their class's ids, returned ones a few groups.
2. What came back goes first: lost with an agent, then failed, then returned unstarted.
3. The queue only proposes; a task leaves it when the ledger's state says it is no longer ready.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.messages import READY, Ids, as_ids

ORDERS = ("lpt", "level")
_WIDEST = 1 << 20


class Priority(enum.IntEnum):
    """Why tasks are in the heap; lowest first."""

    LOST = 0
    RETRY = 1
    RETURNED = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What an asking agent can take.

    Parameters
    ----------
    seconds : float
        Longest task (its ``bound_s``) that would end before the deadline.
    memory_bytes : float
        Largest task that fits beside what the agent holds.
    is_avoiding : callable
        Tells of a group's ``avoid`` and class index whether to leave it to another agent.
    is_sure : bool
        Whether ``cost_s`` itself has to be within ``seconds``, not only ``bound_s``.
    """

    seconds: float = np.inf
    memory_bytes: float = np.inf
    is_avoiding: Callable[[frozenset[int], int], bool] = field(default=lambda *_: False)
    is_sure: bool = False


@dataclass(order=True, slots=True)
class _Group:
    """Tasks of one class that came back together."""

    priority: Priority
    negative_cost_s: float
    serial: int
    class_index: int = field(compare=False)
    ids: Ids = field(compare=False)
    avoid: frozenset[int] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """A class that the asking agent could take tasks of, as the queue would have it."""

    class_index: int
    group: _Group | None


class WorkQueue:
    """The ready tasks of one space in order.

    Parameters
    ----------
    ledger : Ledger
    order : {"lpt", "level"}
        Longest predicted task first; ``level`` has the lowest stage first, and LPT inside it.
    """

    def __init__(self, ledger: Ledger, *, order: str = "lpt") -> None:
        if order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
        self._ledger = ledger
        self._is_by_level = order == "level"
        n = len(ledger.classes)
        self._cursors = np.zeros(n, dtype=np.int64)
        self._is_open = np.zeros(n, dtype=bool)
        self._groups: list[_Group] = []
        self._n_pushed = 0
        self._first = 0
        self.sort()

    def sort(self) -> None:
        """Order the classes anew, after their costs or stages have changed."""
        cost_s = self._ledger.cost_s
        if self._is_by_level:
            self._order = np.lexsort((-cost_s, self._ledger.stages))
        else:
            self._order = np.argsort(-cost_s, kind="stable")
        self._skip_exhausted(from_start=True)

    def release(self, class_index: int) -> None:
        """Let fresh tasks of a class out, unless they are wide; sort afterwards."""
        each = self._ledger.classes[class_index]
        self._is_open[class_index] = bool(each.n_tasks and not each.n_threads)

    def take_of(self, class_index: int) -> Ids:
        """Take the next ready task of a class, whoever may have it; none if there is no more."""
        for group in self._groups:
            group.ids = self._still_ready(group.ids)
        groups = [x for x in self._groups if x.class_index == class_index and len(x.ids)]
        return self.take(Offer(class_index, min(groups, default=None)), 1)

    def push(self, ids: Ids, priority: Priority, *, avoid: frozenset[int] = frozenset()) -> None:
        """Put tasks back that are ready again, to go to others than ``avoid`` if there are any."""
        for class_index, places in self._ledger.groups(ids):
            self._n_pushed += 1
            cost_s = float(self._ledger.cost_s[class_index])
            item = _Group(priority, -cost_s, self._n_pushed, class_index, ids[places], avoid)
            heapq.heappush(self._groups, item)

    def best(self, limits: Limits) -> Offer | None:
        """Return the first class in order that fits, or None.

        What ends in time only if its prediction is wrong comes after all that ends in time.
        """
        if limits.seconds < np.inf and not limits.is_sure:
            sure = self.best(replace(limits, is_sure=True))
            if sure is not None:
                return sure
        return self._best_group(limits) or self._best_fresh(limits)

    def take(self, offer: Offer, n: int) -> Ids:
        """Take up to ``n`` ready tasks of an offer out of the queue.

        Returns
        -------
        int64 ndarray
            Fewer than ``n``, or none, only when that group or class has no more.
        """
        if offer.group is not None:
            ids, offer.group.ids = offer.group.ids[:n], offer.group.ids[n:]
            return ids
        taken: list[Ids] = []
        n_left = window = n
        while n_left and self._is_open[offer.class_index]:
            ids = self._advance(offer.class_index, n_left, window)
            taken.append(ids)
            n_left -= len(ids)
            # Where much was done before (a resumed run), look further each time.
            window = min(4 * window, _WIDEST)
        if len(taken) == 1:
            return taken[0]
        return np.concatenate(taken) if taken else as_ids(())

    # --------------------------------------------------------------- internals

    def _fits(self, index: int, limits: Limits) -> bool:
        return bool(
            self._seconds(limits)[index] <= limits.seconds
            and self._ledger.memory_bytes[index] <= limits.memory_bytes
        )

    def _seconds(self, limits: Limits) -> NDArray[np.float64]:
        return self._ledger.cost_s if limits.is_sure else self._ledger.bound_s

    def _best_group(self, limits: Limits) -> Offer | None:
        passed: list[_Group] = []
        found = None
        while self._groups and found is None:
            group = self._groups[0]
            group.ids = self._still_ready(group.ids)
            if not len(group.ids):
                heapq.heappop(self._groups)
            elif self._is_for(group, limits):
                found = Offer(group.class_index, group)
            else:
                passed.append(heapq.heappop(self._groups))
        for group in passed:
            heapq.heappush(self._groups, group)
        return found

    def _is_for(self, group: _Group, limits: Limits) -> bool:
        index = group.class_index
        return self._fits(index, limits) and not limits.is_avoiding(group.avoid, index)

    def _best_fresh(self, limits: Limits) -> Offer | None:
        if self._first == len(self._order):
            return None
        first = int(self._order[self._first])
        if self._fits(first, limits):
            return Offer(first, None)
        rest: NDArray[np.intp] = self._order[self._first :]
        fitting = self._is_open[rest]
        fitting &= self._seconds(limits)[rest] <= limits.seconds
        fitting &= self._ledger.memory_bytes[rest] <= limits.memory_bytes
        at = int(fitting.argmax())
        return Offer(int(rest[at]), None) if fitting[at] else None

    def _advance(self, index: int, n: int, window: int) -> Ids:
        """Move a cursor over up to ``window`` ids; return up to ``n`` of them that are ready."""
        ids = self._ledger.classes[index].ids
        start = int(self._cursors[index])
        stop = min(len(ids), start + window)
        part = ids[start:stop]
        if isinstance(part, range):
            part = np.arange(part.start, part.stop, part.step, dtype=np.int64)
        is_ready = self._ledger.states[part] == READY
        if len(part) > n or not is_ready.all():
            places = np.flatnonzero(is_ready)[:n]
            stop = start + int(places[-1]) + 1 if len(places) == n else stop
            part = part[places]
        self._cursors[index] = stop
        if stop == len(ids):
            self._is_open[index] = False
            self._skip_exhausted()
        return as_ids(part)

    def _skip_exhausted(self, *, from_start: bool = False) -> None:
        start = 0 if from_start else self._first
        is_open = self._is_open[self._order[start:]]
        at = int(is_open.argmax()) if len(is_open) else 0
        self._first = start + at if len(is_open) and is_open[at] else len(self._order)

    def _still_ready(self, ids: Ids) -> Ids:
        is_ready = self._ledger.states[ids] == READY
        return ids if is_ready.all() else ids[is_ready]
