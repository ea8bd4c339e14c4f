"""What each agent holds, and what more it has room for.

Rules of this file
------------------
1. An agent runs what it is sent in that order, ``n_slots`` at once; so of what it holds, any
   ``n_slots`` may be in memory together, and the rest is lookahead that costs none.
2. The ledger's holder array is the truth; batches here only say where in it to look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.messages import AgentJoined, Ids, as_ids

_N_REMEMBERED = 64


class Agent:
    """One agent's holdings, and how it has done so far.

    Parameters
    ----------
    event : AgentJoined
    """

    def __init__(self, event: AgentJoined) -> None:
        self.number = event.agent
        self.n_slots = event.n_slots
        self.memory_bytes = event.memory_bytes
        # Agents of one place share its memory; one that does not tell its host is on its own.
        self.place = event.host or f"agent {event.agent}"
        self.n_held = 0
        # Number of tasks by (space, class index), and of each space's batches in order of arrival
        # with the turn in which each id was sent.
        self.load: dict[tuple[int, int], int] = {}
        self._batches: dict[int, list[Ids]] = {}
        self._turns: dict[int, list[int]] = {}
        self._turn = 0
        self.asked: set[int] = set()
        # It answered the last Retract with nothing and has got nothing since.
        self.is_dry = False
        # Agents that are to leave a task it holds to others, by (space, task).
        self.shunned: dict[tuple[int, int], frozenset[int]] = {}
        # (space, task) of attempts that failed since its last result, as far as it may be to blame.
        self.failures: deque[tuple[int, int]] = deque(maxlen=_N_REMEMBERED)
        self.n_good = self.n_bad = 0
        self.is_aside = False
        self.is_reserved = False

    @property
    def is_open(self) -> bool:
        """Whether it is to get ordinary work."""
        return not (self.is_aside or self.is_reserved)

    @property
    def n_idle(self) -> int:
        """Slots that have nothing to do."""
        return max(0, self.n_slots - self.n_held)

    @property
    def n_unstarted(self) -> int:
        """Tasks that cannot all be running."""
        return max(0, self.n_held - self.n_slots)

    @property
    def spaces(self) -> tuple[int, ...]:
        """Spaces that it holds tasks of."""
        return tuple(dict.fromkeys(space for space, _ in self.load))

    def held_s(self, books: Mapping[int, Ledger]) -> float:
        """Return the predicted seconds of all it holds."""
        seconds = 0.0
        for (space, index), n in self.load.items():
            seconds += n * books[space].cost_of[index]
        return seconds

    def unstarted_s(self, books: Mapping[int, Ledger]) -> float:
        """Return the predicted seconds of what it cannot have started."""
        if not self.n_unstarted:
            return 0.0
        return self.held_s(books) * self.n_unstarted / self.n_held

    def add(self, space: int, class_index: int, ids: Ids) -> None:
        """Note tasks that were assigned to it."""
        key = space, class_index
        self.load[key] = self.load.get(key, 0) + len(ids)
        self.n_held += len(ids)
        self._turn += 1
        self._batches.setdefault(space, []).append(ids)
        self._turns.setdefault(space, []).extend([self._turn] * len(ids))
        self.is_dry = False

    def drop(self, space: int, class_index: int, n: int) -> None:
        """Note that ``n`` tasks are no longer its own."""
        key = space, class_index
        self.load[key] -= n
        self.n_held -= n
        if not self.load[key]:
            del self.load[key]
            if not self.n_held or space not in self.spaces:
                del self._batches[space], self._turns[space]

    def held(self, book: Ledger) -> Ids:
        """Return the ids of a space that it holds, in the order they were sent."""
        batches = self._batches.get(book.space)
        if not batches:
            return as_ids(())
        ids: Ids = np.concatenate(batches)
        mine = np.flatnonzero(book.holders[ids] == self.number)
        # A task that came back and was sent again is in two batches: the later one counts.
        last = len(mine) - 1 - np.unique(ids[mine][::-1], return_index=True)[1]
        mine = mine[np.sort(last)]
        self._batches[book.space] = [ids[mine]]
        self._turns[book.space] = np.array(self._turns[book.space])[mine].tolist()
        return self._batches[book.space][0]

    def sent(self, part: slice, books: Mapping[int, Ledger]) -> list[tuple[int, int]]:
        """Return the first or last few (space, task) of what it holds, in the order of sending."""
        sent: list[tuple[int, int, int, int]] = []
        for space in self.spaces:
            tasks = self.held(books[space])[part].tolist()
            turns = self._turns[space][part]
            sent += zip(turns, range(len(tasks)), [space] * len(tasks), tasks, strict=True)
        return [(space, task) for _, _, space, task in sorted(sent)[part]]

    def tidy(self, book: Ledger) -> None:
        """Forget batches that are mostly done, so that they never outgrow what is held."""
        if len(self._turns.get(book.space, ())) > 4 * self.n_held + 64:
            self.held(book)

    def note_results(self, n: int) -> None:
        """Note that ``n`` attempts went well."""
        self.n_good += n
        if self.failures:
            self.failures.clear()

    def note_failure(self, space: int, task: int) -> None:
        """Note an attempt whose failure it may be to blame for."""
        self.n_bad += 1
        self.failures.append((space, task))

    # ------------------------------------------------------------------ memory

    def can_ever_hold(self, task_bytes: int) -> bool:
        """Tell whether a task of a size fits when nothing else is held."""
        return not self.memory_bytes or task_bytes <= self.memory_bytes

    def room_bytes(self, books: Mapping[int, Ledger]) -> int:
        """Return the largest task that it, having a limit, could be given now; negative: none."""
        largest = self._largest(books)
        free = self.memory_bytes - sum(largest)
        return free + (largest[-1] if free >= 0 and len(largest) == self.n_slots else 0)

    def n_fitting(self, task_bytes: int, n: int, books: Mapping[int, Ledger]) -> int:
        """Return how many of up to ``n`` tasks of a size it, having a limit, could be given now."""
        largest = self._largest(books)
        top = max([task_bytes, *largest[:1]])
        if top * self.n_slots <= self.memory_bytes:
            return n
        free = self.memory_bytes - sum(largest)
        if free < 0:
            return 0
        for n_given in range(n):
            replaced = 0 if len(largest) < self.n_slots else largest[-1]
            if task_bytes <= replaced:
                return n
            if task_bytes - replaced > free:
                return n_given
            free -= task_bytes - replaced
            largest = sorted([*largest, task_bytes], reverse=True)[: self.n_slots]
        return n

    def held_bytes(self, books: Mapping[int, Ledger]) -> int:
        """Return what the largest tasks that can run together are predicted to need."""
        return sum(self._largest(books))

    def _largest(self, books: Mapping[int, Ledger]) -> list[int]:
        """Return the sizes of the ``n_slots`` largest tasks held, largest first."""
        sizes = sorted(
            ((int(books[space].memory_bytes[index]), n) for (space, index), n in self.load.items()),
            reverse=True,
        )
        largest: list[int] = []
        for size, n in sizes:
            largest += [size] * min(n, self.n_slots - len(largest))
        return largest
