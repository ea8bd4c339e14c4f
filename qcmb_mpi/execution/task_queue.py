"""Task ids in order, space by space: as arrays, for there may be a thousand for each slot.

Rules of this file
------------------
1. A task is a place in an array: nothing here goes through them one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from qcmb_mpi.execution.wire import TaskIds


class TaskQueue:
    """A queue of (space, task), kept as one array for each stretch of a space."""

    def __init__(self) -> None:
        self._stretches: deque[tuple[int, TaskIds]] = deque()
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for space, ids in self._stretches:
            yield from ((space, task) for task in ids.tolist())

    @property
    def next_space(self) -> int | None:
        """Whose tasks come next; None if there are none."""
        return self._stretches[0][0] if self._stretches else None

    @property
    def n_next(self) -> int:
        """How many of that space come before another one's."""
        here = takewhile(lambda stretch: stretch[0] == self.next_space, self._stretches)
        return sum(len(ids) for _, ids in here)

    @property
    def spaces(self) -> tuple[int, ...]:
        """Whose tasks there are."""
        return tuple(dict.fromkeys(space for space, _ in self._stretches))

    def add(self, space: int, ids: TaskIds) -> None:
        """Put `ids` at the end."""
        if len(ids):
            self._stretches.append((space, ids))
            self._n += len(ids)

    def put_back(self, space: int, ids: TaskIds) -> None:
        """Put `ids` first."""
        if len(ids):
            self._stretches.appendleft((space, ids))
            self._n += len(ids)

    def recall(self, space: int) -> TaskIds:
        """Take out everything of `space`."""
        taken = [ids for of, ids in self._stretches if of == space]
        self._stretches = deque((of, ids) for of, ids in self._stretches if of != space)
        self._n -= sum(map(len, taken))
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)

    def take(self, n: int) -> tuple[int, TaskIds]:
        """Take out the next `n`, at least one, or as many as come before another space."""
        space, ids = self._stretches.popleft()
        while len(ids) < n and self.next_space == space:
            ids = np.concatenate((ids, self._stretches.popleft()[1]))
        if n < len(ids):
            self._stretches.appendleft((space, ids[n:]))
        self._n -= min(n, len(ids))
        return space, ids[:n]

    def take_last(self, n: int) -> list[tuple[int, TaskIds]]:
        """Take out the last `n`, as they came, or all there are."""
        taken: list[tuple[int, TaskIds]] = []
        while n > 0 and self._stretches:
            space, ids = self._stretches.pop()
            if n < len(ids):
                self._stretches.append((space, ids[:-n]))
            taken.insert(0, (space, ids[-n:]))
            self._n -= len(taken[0][1])
            n -= len(ids)
        return taken

    def drop(self, n: int) -> None:
        """Take out the next `n`, of whatever space; fewer if there are not as many."""
        while n > 0 and self._n:
            n -= len(self.take(n)[1])

    def pop(self, place: int) -> tuple[int, int]:
        """Take out the one at a place, counted from 0 for the next."""
        for index, (space, ids) in enumerate(self._stretches):
            if place < len(ids):
                self._n -= 1
                self._stretches[index] = (space, np.delete(ids, place))
                if len(ids) == 1:
                    del self._stretches[index]
                return space, int(ids[place])
            place -= len(ids)
        raise IndexError(place)

    def clear(self) -> None:
        """Forget all."""
        self._stretches.clear()
        self._n = 0
