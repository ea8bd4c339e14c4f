"""The tasks an agent holds and has not started, in the order in which they came.

Rules of this file
------------------
1. No clock, no process: what an agent does with its tasks is decided in the agent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.task_queue import TaskQueue
from qcmb_mpi.execution.wire import TaskIds
from qcmb_mpi.scheduling.reporting import is_short

_BATCH_S = 0.02
_NEW_WEIGHT = 0.2
_GUIDED = 2.0
_LEAST_AHEAD_S = 0.01  # several times what it takes to ask for more, and to get it
_LEAST_S = 0.02  # what is worth a message while there is much left
# Later: a slot tells once that half of a batch is done, and is to get more then. It has half of the
# aim at hand, while the aim has become less.
_LEAST_SHARE = 0.25
_OWN_S = 3e-5  # what a slot spends on a task besides computing it


def least_worth_s(aim_s: float) -> float:
    """Return how long tasks take that are worth a message to a slot.

    Parameters
    ----------
    aim_s : float
        How long a slot should be busy with what it has at hand.
    """
    return min(_LEAST_S, _LEAST_SHARE * aim_s)


class Backlog(TaskQueue):
    """A queue of task ids by space, and how long a task takes."""

    def __init__(self) -> None:
        super().__init__()
        self._mean_s: dict[int, float] = {}

    def observe(self, space: int, seconds: float, n: int = 1) -> None:
        """Learn how long a task of `space` takes: so long, as a mean of `n`."""
        old = self._mean_s.get(space)
        weight = 1.0 if old is None else 1.0 - (1.0 - _NEW_WEIGHT) ** n
        self._mean_s[space] = (
            seconds + _OWN_S if old is None else (old + weight * (seconds + _OWN_S - old))
        )

    def learn(self, outcomes: Outcomes) -> None:
        """Learn from attempts that have succeeded: what fails may do so at once."""
        for batch in outcomes.batches:
            self.observe(batch.space, float(batch.rows["seconds"].mean()), len(batch))
        for each in outcomes.others:
            if each.failure is None:
                self.observe(each.space, each.seconds)

    def mean_s(self, space: int) -> float:
        """Return how long a task of `space` takes; infinite as long as that is not known."""
        return self._mean_s.get(space, np.inf)

    def is_short(self, space: int) -> bool:
        """Whether a task is so short that a slot should have the next ones at hand."""
        return is_short(self.mean_s(space))

    @property
    def next_s(self) -> float:
        """How long the tasks take that come before another space's."""
        space = self.next_space
        return 0.0 if space is None else self.n_next * self.mean_s(space)

    def aim_s(self, most_s: float, ahead_s: Sequence[float]) -> float:
        """Return how long a slot should be busy with what it has at hand.

        Less as what is left gets less: what a slot has goes to no other one, though that be faster.

        Parameters
        ----------
        most_s : float
        ahead_s : sequence of float
            How long each slot should be busy as it is.
        """
        share_s = (self.next_s + sum(ahead_s)) / max(1, len(ahead_s))
        return min(most_s, max(_LEAST_AHEAD_S, share_s / _GUIDED))

    def batch(
        self, n_sharing: int, seconds: float = _BATCH_S, least_s: float = 0.0, n_blind: int = 1
    ) -> tuple[int, TaskIds] | None:
        """Take what one slot should get: one task, or as many short ones as fill its time.

        Parameters
        ----------
        n_sharing : int
            Slots that share the backlog; none gets more than its part.
        seconds : float
            How long the slot should be busy with them.
        least_s : float
            Take nothing if the slot's part would not keep it busy so long.
        n_blind : int
            How many to take while it is not known how long a task takes.
        """
        space = self.next_space
        if space is None:
            return None
        mean_s = self._mean_s.get(space, seconds / n_blind)
        fair = -(-self.n_next // n_sharing)
        if fair * mean_s < least_s:
            return None
        return self.take(max(1, min(int(seconds / mean_s), fair)))
