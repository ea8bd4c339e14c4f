"""Which agents are to blame for failures, so that a bad place costs no task its chances.

Rules of this file
------------------
1. Only errors that may be the place's fault speak against an agent; one result clears it.
2. The last agent in service is never set aside; when it is lost, the others are called back.
"""

from __future__ import annotations

from collections.abc import Collection

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.messages import SetAside
from qcmb_mpi.scheduling.policy import ErrorClass, is_place_suspected
from qcmb_mpi.scheduling.pool import Pool

_N_FAILURES = 3
_N_TASKS = 2
_CHANCE = 0.01


class Trust:
    """Keeps account of failures in a row.

    Parameters
    ----------
    pool : Pool
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def note_failure(self, agent: Agent, space: int, task: int, error: ErrorClass) -> None:
        """Note a failed attempt."""
        if is_place_suspected(error):
            agent.note_failure(space, task)

    def is_suspect(self, agent: Agent) -> bool:
        """Tell whether an agent rather than its tasks may be at fault.

        It is if two tasks failed there in a row, or one and nothing ever went well there while
        it did elsewhere.
        """
        return self._is_suspect(agent, self._is_any_fine())

    def has_better(self, avoid: Collection[int], task_bytes: int) -> bool:
        """Tell whether an agent that is beyond suspicion, outside ``avoid``, could hold a task."""
        is_any_fine = self._is_any_fine()
        return any(
            agent.number not in avoid
            and agent.can_ever_hold(task_bytes)
            and not self._is_suspect(agent, is_any_fine)
            for agent in self._pool.agents.values()
        )

    def is_hopeless(self, agent: Agent) -> bool:
        """Tell whether an agent in service should not be."""
        return (
            not agent.is_aside
            and len(agent.failures) >= _N_FAILURES
            and len(set(agent.failures)) >= _N_TASKS
            and self._is_any_fine()
            and self._is_no_chance(agent)
        )

    def set_aside(self, agent: Agent) -> SetAside:
        """Take an agent out of service, and what failed there off its tasks' accounts."""
        tasks = dict.fromkeys(agent.failures)
        for space, task in tasks:
            book = self._pool.books.get(space)
            trials = None if book is None else book.trials.get(task)
            if trials is not None:
                trials.charged.pop(agent.number, None)
        self._pool.set_aside(agent)
        n = len(agent.failures)
        reason = f"{n} attempts at {len(tasks)} tasks failed there in a row, others succeed"
        return SetAside(agent.number, reason)

    def call_back(self) -> list[Agent]:
        """Take the agents that were set aside into service again if nobody else is left."""
        if self._pool.in_service:
            return []
        for agent in self._pool.agents.values():
            agent.failures.clear()
            self._pool.recall(agent)
        return list(self._pool.agents.values())

    @staticmethod
    def _is_suspect(agent: Agent, is_any_fine: bool) -> bool:
        if agent.is_aside or len(set(agent.failures)) >= _N_TASKS:
            return True
        return bool(agent.failures) and not agent.n_good and is_any_fine

    def _is_any_fine(self) -> bool:
        """Tell whether the last that an agent in service told was a result."""
        return any(
            agent.n_good and not agent.failures and not agent.is_aside
            for agent in self._pool.agents.values()
        )

    def _is_no_chance(self, agent: Agent) -> bool:
        """Tell whether so many failures in a row are hardly bad luck, by what fails elsewhere.

        Where a tenth of all attempts fails, three in a row happen to every good agent in the end.
        """
        others = [each for each in self._pool.in_service if each is not agent]
        n_bad = sum(each.n_bad for each in others)
        n = n_bad + sum(each.n_good for each in others)
        return float(n * (n_bad / n) ** len(agent.failures)) < _CHANCE
