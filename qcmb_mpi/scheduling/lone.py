"""Tasks that need all memory of a host: one is kept free for each, and nothing runs beside it.

Rules of this file
------------------
1. A host is the agents that share its memory. Reserved, it gets no other work; when its agents hold
   nothing the task is assigned; when that attempt is over, however it ended, the host is free.
2. While other tasks are ready at most one host is reserved; otherwise one for each lone task.
3. What is asked of a host's memory is not looked at: it is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import NOBODY, Ledger
from qcmb_mpi.scheduling.messages import ASSIGNED, Assign, Retract, as_ids
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.pool import Pool
from qcmb_mpi.scheduling.supply import Supply


@dataclass(slots=True)
class _Stay:
    """A host kept free for a task, or given to it."""

    space: int
    task: int
    is_running: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.space, self.task


class LoneTasks:
    """Reserves hosts and assigns the tasks of ``pool.lone``.

    Parameters
    ----------
    pool : Pool
    supply : Supply
    """

    def __init__(self, pool: Pool, supply: Supply) -> None:
        self._pool = pool
        self._supply = supply
        self._stays: dict[str, _Stay] = {}

    @property
    def is_active(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._pool.lone or self._stays)

    def pursue(self, now: float) -> tuple[list[Assign | Retract], list[int]]:
        """Free hosts, reserve others, empty and use those that are reserved.

        Returns
        -------
        list of Assign or Retract
        list of int
            Agents that may have ordinary work again.
        """
        left_s = self._pool.left_s(now)
        for place in [each for each in self._stays if self._is_over(each, left_s)]:
            del self._stays[place]
        self._reserve(left_s)
        freed = self._mark()
        said: list[Assign | Retract] = []
        for place, stay in self._stays.items():
            if not stay.is_running:
                said += self._empty(place) or self._start(place, stay)
        return said, freed

    # ------------------------------------------------------------- reservation

    def _is_over(self, place: str, left_s: float) -> bool:
        stay = self._stays[place]
        book = self._pool.books.get(stay.space)
        if book is None or stay.key not in self._pool.lone:
            return True
        if stay.is_running:
            return bool(book.holders[stay.task] == NOBODY)
        return not self._usable(place) or not self._is_in_time(book, stay.task, left_s)

    def _reserve(self, left_s: float) -> None:
        """Reserve hosts for as many tasks as may have one now, in their order."""
        reserved = {stay.key for stay in self._stays.values()}
        for space, task in self._pool.lone:
            if len(self._stays) == len(self._pool.places) or self._must_share():
                return
            if (space, task) in reserved:
                continue
            if self._is_in_time(self._pool.books[space], task, left_s):
                place = self._choose(space, task)
                if place is not None:
                    self._stays[place] = _Stay(space, task)

    def _must_share(self) -> bool:
        """Tell whether a host is reserved already while other tasks wait for one."""
        if not self._stays:
            return False
        n_running = sum(stay.is_running for stay in self._stays.values())
        n_ready = sum(book.n_ready for book in self._pool.books.values())
        return n_ready > len(self._pool.lone) - n_running

    def _choose(self, space: int, task: int) -> str | None:
        """Return the best host that is not taken: where it may work, with the most memory."""
        failed_on = _failed_on(self._pool.books[space], task)
        ranks = {
            place: min(_rank(failed_on.get(agent.number)) for agent in agents)
            for place in self._pool.places
            if (agents := self._usable(place))
        }
        best = min(ranks.values(), default=0)
        # Were any place good enough, a task could fail for ever where its program is missing.
        free = [place for place in ranks if ranks[place] == best and place not in self._stays]
        last = self._pool.lone[space, task]
        return min(
            free,
            key=lambda place: (-self._memory(place), place == last, self._n_held(place)),
            default=None,
        )

    def _mark(self) -> list[int]:
        """Bring the agents' marks up to date; return who is not reserved any more."""
        freed: list[int] = []
        for place, agents in self._pool.places.items():
            is_reserved = place in self._stays
            for agent in agents.values():
                if agent.is_reserved != is_reserved:
                    agent.is_reserved = is_reserved
                    self._supply.note(agent)
                    freed += [] if is_reserved else [agent.number]
        return freed

    # ------------------------------------------------------------------- use

    def _empty(self, place: str) -> list[Assign | Retract]:
        """Ask for what has not been started on a host."""
        return [
            self._supply.ask(agent, space)
            for agent in self._pool.places[place].values()
            if agent.n_unstarted and not agent.is_dry
            for space in agent.spaces
            if space not in agent.asked
        ]

    def _start(self, place: str, stay: _Stay) -> list[Assign | Retract]:
        """Assign a task if its host is empty."""
        if self._n_held(place):
            return []
        book = self._pool.books[stay.space]
        failed_on = _failed_on(book, stay.task)
        agent = min(
            self._usable(place),
            key=lambda each: (_rank(failed_on.get(each.number)), -(each.memory_bytes or 1 << 62)),
        )
        ids = as_ids([stay.task])
        book.move(ids, ASSIGNED)
        book.holders[ids] = agent.number
        agent.add(stay.space, int(book.class_of(ids)[0]), ids)
        stay.is_running = True
        return [Assign(agent.number, stay.space, ids, is_alone=True)]

    def _usable(self, place: str) -> list[Agent]:
        agents = self._pool.places.get(place, {}).values()
        return [agent for agent in agents if not agent.is_aside]

    def _n_held(self, place: str) -> int:
        return sum(agent.n_held for agent in self._pool.places[place].values())

    def _memory(self, place: str) -> float:
        """Return the bytes of a host as far as its agents know a limit."""
        limits = [agent.memory_bytes for agent in self._pool.places[place].values()]
        return sum(limits) if all(limits) else float("inf")

    def _is_in_time(self, book: Ledger, task: int, left_s: float) -> bool:
        return bool(book.bound_s[book.class_of(as_ids([task]))[0]] <= left_s)


def _failed_on(book: Ledger, task: int) -> dict[int, ErrorClass]:
    trials = book.trials.get(task)
    return {} if trials is None else trials.failed_on


def _rank(error: ErrorClass | None) -> int:
    """Return how little is to be hoped for where a task failed so; 0 if it lacked only memory."""
    if error is None or error is ErrorClass.RESOURCE:
        return 0
    return 2 if error is ErrorClass.MISSING_PROGRAM else 1
