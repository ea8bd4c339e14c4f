"""How a task changes hands, and what becomes of it when an attempt ends badly.

Rules of this file
------------------
1. Ledger, queue and the agents' own accounts change together here, or not at all.
2. Whoever lost something here is returned, so that the scheduler looks at it again.
"""

from __future__ import annotations

import numpy as np

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import NOBODY, Ledger, Parts, Trials
from qcmb_mpi.scheduling.messages import DONE, QUARANTINED, READY, Ids, Quarantine, as_ids
from qcmb_mpi.scheduling.order import Priority
from qcmb_mpi.scheduling.policy import Decision, ErrorClass, decide, is_place_suspected
from qcmb_mpi.scheduling.pool import Pool
from qcmb_mpi.scheduling.trust import Trust


class Custody:
    """Moves tasks between agents, queue and the end.

    Parameters
    ----------
    pool : Pool
    trust : Trust
    """

    def __init__(self, pool: Pool, trust: Trust) -> None:
        self._pool = pool
        self._trust = trust

    def release(self, book: Ledger, stage: int) -> None:
        """Make the waiting tasks of a stage ready; once only."""
        queue = self._pool.queues[book.space]
        for index in np.flatnonzero(book.stages == stage).tolist():
            queue.release(index)
            book.release(index)
            if book.n_threads[index] and book.n_unsettled_of[index]:
                self._pool.wide[book.space, index] = None
        queue.sort()

    def settle(self, book: Ledger, ids: Ids, parts: Parts) -> list[int]:
        """Note that tasks are done, whoever holds them; return the holders.

        ``parts`` are the book's groups of them.
        """
        holders = self._free(book, ids, parts)
        book.move(ids, DONE, parts)
        if book.trials or self._pool.lone:
            for task in ids.tolist():
                book.trials.pop(task, None)
                self._pool.lone.pop((book.space, task), None)
        self._forget_settled(book, parts)
        return holders

    def give_back(self, book: Ledger, ids: Ids) -> None:
        """Make tasks ready again that an agent returned unstarted."""
        if len(ids):
            self._make_ready(book, ids, Priority.RETURNED)

    def judge(self, book: Ledger, task: int, agent: Agent, error: ErrorClass) -> list[Quarantine]:
        """Retry a task whose attempt failed at an agent, or give it up."""
        trials = book.trials.setdefault(task, Trials())
        trials.failed_on[agent.number] = error
        self._trust.note_failure(agent, book.space, task, error)
        task_bytes = self._bytes_of(book, task)
        has_elsewhere = self._pool.has_other(trials.missing_on, task_bytes)
        decision = decide(
            error,
            trials.n_attempts + 1,
            trials.n_alike(error) + 1,
            self._pool.options.n_retries,
            has_elsewhere=has_elsewhere,
            is_place_bad=agent.is_aside,
        )
        if decision is not Decision.RETRY_FREE:
            trials.charged.setdefault(agent.number, []).append(error)
        if decision is Decision.QUARANTINE and not (
            is_place_suspected(error)
            and self._trust.is_suspect(agent)
            and self._trust.has_better(trials.failed_on, task_bytes)
        ):
            return [self._give_up(book, task, error)]
        key = book.space, task
        if decision is Decision.RETRY_ALONE or key in self._pool.lone:
            self._pool.lone.pop(key, None)  # to be the last in turn
            self._pool.lone[key] = agent.place
        self._make_ready(book, as_ids([task]), Priority.RETRY)
        return []

    def lose(self, agent: Agent) -> list[Quarantine]:
        """Take everything from an agent that is gone; give up what was there at too many deaths.

        Running were the oldest it held: one for each slot, and one more for each whose end had not
        been reported yet. The last chance of a task is one alone: without company only the guilty
        can be blamed.
        """
        books, lone = self._pool.books, self._pool.lone
        max_deaths = self._pool.options.max_deaths
        given_up: list[Quarantine] = []
        for space, task in agent.sent(slice(2 * agent.n_slots), books):
            trials = books[space].trials.setdefault(task, Trials())
            trials.n_deaths += 1
            if trials.n_deaths >= max_deaths and (space, task) in lone:
                given_up.append(self._give_up(books[space], task, ErrorClass.CRASHED))
            elif trials.n_deaths >= max_deaths - 1:
                lone[space, task] = agent.place
        for space in agent.spaces:
            self._make_ready(books[space], agent.held(books[space]), Priority.LOST)
        return given_up

    def give_up_oversized(self) -> list[Quarantine]:
        """Give up what none of the first agents that a space meets could hold.

        What is admitted then is never refused without a try: what it needs is only predicted.
        """
        if not self._pool.agents:
            return []
        given_up = [
            self._give_up(book, task, ErrorClass.RESOURCE)
            for book, index in self._pool.oversized()
            if not book.is_admitted
            for task in book.pending(index).tolist()
        ]
        for book in self._pool.books.values():
            book.is_admitted = True
        return given_up

    # --------------------------------------------------------------- internals

    def _make_ready(self, book: Ledger, ids: Ids, priority: Priority) -> None:
        self._free(book, ids)
        book.move(ids, READY)
        if self._pool.wide:
            ids = ids[book.n_threads[book.class_of(ids)] == 0]
        if book.trials or self._pool.lone:
            ids = self._set_apart(book, ids, priority)
        self._pool.queues[book.space].push(ids, priority)

    def _set_apart(self, book: Ledger, ids: Ids, priority: Priority) -> Ids:
        """Queue tasks that must not go just anywhere; return the others but lone ones."""
        plain: list[int] = []
        for task in ids.tolist():
            if (book.space, task) in self._pool.lone:
                continue
            if avoid := self._avoided(book, task):
                self._pool.queues[book.space].push(as_ids([task]), priority, avoid=avoid)
            else:
                plain.append(task)
        return as_ids(plain)

    def _avoided(self, book: Ledger, task: int) -> frozenset[int]:
        """Return the agents that are to leave a task to others, if there are any others."""
        trials = book.trials.get(task)
        if trials is None:
            return frozenset()
        missing = trials.missing_on
        if missing and not self._pool.has_other(trials.failed_on, self._bytes_of(book, task)):
            return missing
        return frozenset(trials.failed_on)

    def _bytes_of(self, book: Ledger, task: int) -> int:
        """Return what memory an agent must have for a task; one that runs alone gets all."""
        task_bytes = book.bytes_of(task)
        is_lone = (book.space, task) in self._pool.lone or task_bytes > self._pool.most_bytes
        return 0 if is_lone else task_bytes

    def _give_up(self, book: Ledger, task: int, error: ErrorClass) -> Quarantine:
        ids = as_ids([task])
        self._free(book, ids)
        book.move(ids, QUARANTINED)
        self._pool.lone.pop((book.space, task), None)
        self._forget_settled(book, book.groups(ids))
        trials = book.trials.get(task, Trials())
        return Quarantine(book.space, task, error, trials.n_attempts + trials.n_deaths)

    def _forget_settled(self, book: Ledger, parts: Parts) -> None:
        """Look no longer after wide classes whose last tasks these were."""
        for index, _ in parts if self._pool.wide else ():
            if not book.n_unsettled_of[index]:
                self._pool.wide.pop((book.space, index), None)

    def _free(self, book: Ledger, ids: Ids, parts: Parts | None = None) -> list[int]:
        """Take tasks from whoever holds them; return those agents."""
        holders = book.holders[ids]
        numbers = list(dict.fromkeys(holders.tolist()))
        is_one = len(numbers) == 1
        numbers = [number for number in numbers if number != NOBODY]
        for number in numbers:
            agent = self._pool.agents[number]
            mine = ids if is_one else ids[holders == number]
            for index, places in parts if is_one and parts is not None else book.groups(mine):
                n = len(mine) if isinstance(places, slice) else len(places)
                agent.drop(book.space, index, n)
            for task in mine.tolist() if agent.shunned else ():
                agent.shunned.pop((book.space, task), None)
        if numbers:
            book.holders[ids] = NOBODY
        for number in numbers:
            self._pool.agents[number].tidy(book)
        return numbers
