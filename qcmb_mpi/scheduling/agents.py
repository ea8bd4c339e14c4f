"""What each agent holds, and what more it has room for.

Rules of this file
------------------
1. An agent runs what it is sent in that order, ``n_slots`` at once; so of what it holds, any
   ``n_slots`` may be in memory together, and the rest is lookahead that costs none.
2. The ledger's holder array is the truth; batches here only say where in it to look.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.messages import AgentJoined, Ids, as_ids


class Agent:
    """One agent's holdings.

    Parameters
    ----------
    event : AgentJoined
    """

    def __init__(self, event: AgentJoined) -> None:
        self.number = event.agent
        self.n_slots = event.n_slots
        self.memory_bytes = event.memory_bytes
        self.host = event.host
        self.n_held = 0
        # Number of tasks by (space, class index), and of each space's batches in order of arrival.
        self.load: dict[tuple[int, int], int] = {}
        self._batches: dict[int, list[Ids]] = {}
        self._n_in_batches: dict[int, int] = {}
        self.asked: set[int] = set()
        # It answered the last Retract with nothing and has got nothing since.
        self.is_dry = False

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
        load = self.load.items()
        return sum(n * float(books[space].cost_s[index]) for (space, index), n in load)

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
        self._batches.setdefault(space, []).append(ids)
        self._n_in_batches[space] = self._n_in_batches.get(space, 0) + len(ids)
        self.is_dry = False

    def drop(self, space: int, class_index: int, n: int) -> None:
        """Note that ``n`` tasks are no longer its own."""
        key = space, class_index
        self.load[key] -= n
        self.n_held -= n
        if not self.load[key]:
            del self.load[key]
            if not self.n_held or space not in self.spaces:
                del self._batches[space], self._n_in_batches[space]

    def held(self, book: Ledger) -> Ids:
        """Return the ids of a space that it holds, in the order they were sent."""
        batches = self._batches.get(book.space)
        if not batches:
            return as_ids(())
        ids: Ids = np.concatenate(batches)
        ids = ids[book.holders[ids] == self.number]
        # A task that came back and was sent again is in two batches: the later one counts.
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        ids = ids[np.sort(last)]
        self._batches[book.space] = [ids]
        self._n_in_batches[book.space] = len(ids)
        return ids

    def tidy(self, book: Ledger) -> None:
        """Forget batches that are mostly done, so that they never outgrow what is held."""
        if self._n_in_batches.get(book.space, 0) > 4 * self.n_held + 64:
            self.held(book)

    # ------------------------------------------------------------------ memory

    def memory_in_use(self, books: Mapping[int, Ledger]) -> int:
        """Return the predicted bytes of the ``n_slots`` largest tasks that it holds."""
        return sum(self._largest(books))

    def room_bytes(self, books: Mapping[int, Ledger]) -> int:
        """Return the largest task that it, having a limit, could be given now."""
        largest = self._largest(books)
        free = self.memory_bytes - sum(largest)
        return free + (largest[-1] if len(largest) == self.n_slots else 0)

    def n_fitting(self, task_bytes: int, n: int, books: Mapping[int, Ledger]) -> int:
        """Return how many of up to ``n`` tasks of a size it, having a limit, could be given now."""
        largest = self._largest(books)
        top = max([task_bytes, *largest[:1]])
        if top * self.n_slots <= self.memory_bytes:
            return n
        free = self.memory_bytes - sum(largest)
        for n_given in range(n):
            replaced = 0 if len(largest) < self.n_slots else largest[-1]
            if task_bytes <= replaced:
                return n
            if task_bytes - replaced > free:
                return n_given
            free -= task_bytes - replaced
            largest = sorted([*largest, task_bytes], reverse=True)[: self.n_slots]
        return n

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
