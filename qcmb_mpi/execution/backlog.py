"""The tasks an agent holds and has not started, in the order in which they came.

Rules of this file
------------------
1. No clock, no process: what an agent does with its tasks is decided in the agent.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from qcmb_mpi.execution.wire import TaskIds

_BATCH_S = 0.02
_SHORT_S = 0.1
_NEW_WEIGHT = 0.2


class Backlog:
    """A queue of task ids by space, and how long a task takes."""

    def __init__(self) -> None:
        self._segments: deque[tuple[int, TaskIds]] = deque()
        self._mean_s: dict[int, float] = {}

    def __len__(self) -> int:
        return sum(len(ids) for _, ids in self._segments)

    @property
    def next_space(self) -> int | None:
        """Whose tasks come next; None if there are none."""
        return self._segments[0][0] if self._segments else None

    def add(self, space: int, ids: TaskIds) -> None:
        """Put `ids` at the end."""
        if len(ids):
            self._segments.append((space, ids))

    def put_back(self, space: int, ids: TaskIds) -> None:
        """Put `ids` first."""
        if len(ids):
            self._segments.appendleft((space, ids))

    def recall(self, space: int) -> TaskIds:
        """Take out everything of `space`."""
        taken = [ids for of, ids in self._segments if of == space]
        self._segments = deque((of, ids) for of, ids in self._segments if of != space)
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)

    def observe(self, space: int, seconds: float) -> None:
        """Learn how long a task of `space` takes."""
        mean = self._mean_s.get(space)
        self._mean_s[space] = seconds if mean is None else mean + _NEW_WEIGHT * (seconds - mean)

    def mean_s(self, space: int) -> float:
        """Return how long a task of `space` takes; infinite as long as that is not known."""
        return self._mean_s.get(space, np.inf)

    def is_short(self, space: int) -> bool:
        """Whether a task is so short that a slot should have the next ones at hand."""
        return self.mean_s(space) < _SHORT_S

    def take(self, n_sharing: int) -> tuple[int, TaskIds] | None:
        """Take what one slot should get: one task, or a few milliseconds' worth of short ones.

        Parameters
        ----------
        n_sharing : int
            Slots that share the backlog; none gets more than its part.
        """
        if not self._segments:
            return None
        space, ids = self._segments[0]
        mean = self._mean_s.get(space, _BATCH_S)
        fair = -(-len(ids) // n_sharing)
        n = max(1, min(int(_BATCH_S / max(mean, 1e-6)), fair))
        if n >= len(ids):
            self._segments.popleft()
        else:
            self._segments[0] = (space, ids[n:])
        return space, ids[:n]
