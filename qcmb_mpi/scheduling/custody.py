"""How a task changes hands, and what becomes of it when an attempt ends badly.

Rules of this file
------------------
1. Ledger, queue and the agents' own accounts change together here, or not at all.
2. Whoever lost something here is returned, so that the scheduler looks at it again.
"""

from __future__ import annotations

import numpy as np

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import NOBODY, Ledger, Trials
from qcmb_mpi.scheduling.messages import ASSIGNED, DONE, QUARANTINED, READY, Ids, Quarantine, as_ids
from qcmb_mpi.scheduling.order import Priority
from qcmb_mpi.scheduling.policy import Decision, ErrorClass, decide
from qcmb_mpi.scheduling.supply import Pool


class Custody:
    """Moves tasks between agents, queue and the end.

    Parameters
    ----------
    pool : Pool
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def release(self, book: Ledger, stage: int) -> None:
        """Make the waiting tasks of a stage ready; once only."""
        queue = self._pool.queues[book.space]
        for index in np.flatnonzero(book.stages == stage).tolist():
            queue.release(index)
            book.release(index)
        queue.sort()

    def settle(self, book: Ledger, ids: Ids) -> list[int]:
        """Note that tasks are done, whoever holds them; return the holders."""
        holders = self._free(book, ids)
        book.move(ids, DONE)
        if book.trials:
            for task in ids.tolist():
                book.trials.pop(task, None)
        return holders

    def give_back(self, book: Ledger, ids: Ids) -> None:
        """Make tasks ready again that an agent returned unstarted."""
        if len(ids):
            self._make_ready(book, ids, Priority.RETURNED)

    def judge(self, book: Ledger, task: int, agent: int, error: ErrorClass) -> list[Quarantine]:
        """Retry a task whose attempt failed at an agent, or give it up."""
        trials = book.trials.setdefault(task, Trials())
        trials.n_attempts += 1
        trials.failed_on.add(agent)
        decision = decide(error, trials.n_attempts, self._pool.options.n_retries)
        if decision is Decision.QUARANTINE:
            return [self._give_up(book, task, error)]
        is_elsewhere = decision is Decision.RETRY_ELSEWHERE
        avoid = frozenset(trials.failed_on) if is_elsewhere else frozenset[int]()
        self._make_ready(book, as_ids([task]), Priority.RETRY, avoid)
        return []

    def lose(self, agent: Agent) -> list[Quarantine]:
        """Take everything from an agent that is gone; give up what was there at too many deaths.

        Running were the oldest it held: one for each slot, and one more for each whose end had not
        been reported yet.
        """
        given_up: list[Quarantine] = []
        for space in agent.spaces:
            book = self._pool.books[space]
            ids = agent.held(book)
            for task in ids[: 2 * agent.n_slots].tolist():
                trials = book.trials.setdefault(task, Trials())
                trials.n_deaths += 1
                if trials.n_deaths >= self._pool.options.max_deaths:
                    given_up.append(self._give_up(book, task, ErrorClass.CRASHED))
            left = ids[book.states[ids] == ASSIGNED]
            self._make_ready(book, left, Priority.LOST)
        return given_up

    def give_up_oversized(self) -> list[Quarantine]:
        """Give up what no living agent could hold even alone; nothing while there is none."""
        limits = [agent.memory_bytes for agent in self._pool.agents.values()]
        if not limits or not all(limits):
            return []
        return [
            self._give_up(book, task, ErrorClass.RESOURCE)
            for book in self._pool.books.values()
            for index in np.flatnonzero(book.memory_bytes > max(limits)).tolist()
            for task in book.pending(index).tolist()
        ]

    # --------------------------------------------------------------- internals

    def _make_ready(
        self, book: Ledger, ids: Ids, priority: Priority, avoid: frozenset[int] = frozenset()
    ) -> None:
        self._free(book, ids)
        book.move(ids, READY)
        self._pool.queues[book.space].push(ids, priority, avoid=avoid)

    def _give_up(self, book: Ledger, task: int, error: ErrorClass) -> Quarantine:
        ids = as_ids([task])
        self._free(book, ids)
        book.move(ids, QUARANTINED)
        trials = book.trials.get(task, Trials())
        return Quarantine(book.space, task, error, trials.n_attempts + trials.n_deaths)

    def _free(self, book: Ledger, ids: Ids) -> list[int]:
        """Take tasks from whoever holds them; return those agents."""
        holders = book.holders[ids]
        numbers = [int(holders[0])] if len(ids) == 1 else list(dict.fromkeys(holders.tolist()))
        numbers = [number for number in numbers if number != NOBODY]
        for number in numbers:
            agent = self._pool.agents[number]
            mine = ids if len(numbers) == 1 and len(ids) == 1 else ids[holders == number]
            for index, places in book.groups(mine):
                agent.drop(book.space, index, len(mine[places]))
        book.holders[ids] = NOBODY
        for number in numbers:
            self._pool.agents[number].tidy(book)
        return numbers
