"""Tasks that want no company: lone ones have a host for themselves, wide ones an agent.

Rules of this file
------------------
1. A host is the agents that share its memory. What is reserved gets no other work; when it holds
   nothing the task is assigned; when that attempt is over, however it ended, it is free again.
2. While other tasks are ready at most one host is reserved; otherwise one for each lone task. What
   no agent could hold joins these one by one, when a host is free: nothing is kept per task.
3. What is asked of a host's memory is not looked at: it is all there is.
4. Wide tasks go before others, the longest first, as many at once as there are agents; a wide task
   that must be alone has a host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import NOBODY, Ledger
from qcmb_mpi.scheduling.messages import ASSIGNED, READY, Assign, Retract, as_ids
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.pool import Pool
from qcmb_mpi.scheduling.supply import Supply

_Key = tuple[int, int]


@dataclass(slots=True)
class _Stay:
    """A host, or one agent of it, kept free for a task or given to it."""

    place: str
    agent: int | None = None
    is_running: bool = False


class LoneTasks:
    """Reserves hosts for lone tasks and for what no agent could hold, agents for wide tasks.

    Parameters
    ----------
    pool : Pool
    supply : Supply
    """

    def __init__(self, pool: Pool, supply: Supply) -> None:
        self._pool = pool
        self._supply = supply
        self._stays: dict[_Key, _Stay] = {}
        self._marked: set[int] = set()

    @property
    def is_active(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._pool.lone or self._pool.wide or self._stays) or self._pool.is_short

    @property
    def n_blocked(self) -> int:
        """Slots that stand back for a task that is running."""
        running = [stay for stay in self._stays.values() if stay.is_running]
        return sum(agent.n_idle for stay in running for agent in self._usable(stay))

    def pursue(self, now: float) -> tuple[list[Assign | Retract], list[int]]:
        """Free what is not needed any more, reserve, empty and use what is reserved.

        Returns
        -------
        list of Assign or Retract
        list of int
            Agents that may have ordinary work again.
        """
        left_s = self._pool.left_s(now)
        for key in [each for each in self._stays if self._is_over(each, left_s)]:
            del self._stays[key]
        self._reserve_hosts(left_s)
        self._reserve_agents(left_s)
        freed = self._mark()
        said: list[Assign | Retract] = []
        for key, stay in self._stays.items():
            if not stay.is_running:
                said += self._empty(stay) or self._start(key, stay)
        return said, freed

    # ------------------------------------------------------------- reservation

    def _is_over(self, key: _Key, left_s: float) -> bool:
        stay = self._stays[key]
        book = self._pool.books.get(key[0])
        if book is None:
            return True
        if stay.is_running:
            return bool(book.holders[key[1]] == NOBODY)
        agents = self._usable(stay)
        if not agents or book.states[key[1]] != READY or not self._is_in_time(book, key[1], left_s):
            return True
        # That it needs more than this agent has, perhaps a host, may be known only now.
        return stay.agent is not None and not agents[0].can_ever_hold(book.bytes_of(key[1]))

    def _reserve_hosts(self, left_s: float) -> None:
        """Reserve hosts for as many lone tasks as may have one now, in their order."""
        lone = self._pool.lone
        free = self._free_hosts() if lone or self._pool.is_short else []
        n_hosts = sum(stay.agent is None for stay in self._stays.values())
        if not free:
            return
        # Whom hosts are left to: while others are ready, at most one host is reserved at a time.
        n_left = len(free) + n_hosts - 1 if self._are_others_ready() else 0
        for key in lone:
            if len(free) <= n_left:
                return
            if key not in self._stays and self._is_in_time(
                self._pool.books[key[0]], key[1], left_s
            ):
                self._reserve_host(key, free)
        while len(free) > n_left and (drawn := self._draw(left_s)) is not None:
            self._reserve_host(drawn, free)

    def _reserve_host(self, key: _Key, free: list[str]) -> None:
        place = self._choose_host(key, free)
        if place is not None:
            self._stays[key] = _Stay(place)
            free.remove(place)

    def _free_hosts(self) -> list[str]:
        """Return the hosts that could be reserved."""
        # A wide task that runs is waited for; one that is about to run has precedence.
        taken = {x.place for x in self._stays.values() if x.agent is None or not x.is_running}
        places = [place for place in self._pool.places if place not in taken]
        return [place for place in places if self._usable(_Stay(place))]

    def _are_others_ready(self) -> bool:
        """Tell whether any task is ready that need not be alone."""
        pool, stays = self._pool, self._stays
        n_others = sum(book.n_ready for book in pool.books.values())
        n_others -= sum(int(book.n_ready_of[index]) for book, index in pool.oversized())
        n_lone = len(pool.lone) - sum(x.agent is None and x.is_running for x in stays.values())
        if n_others > n_lone or not pool.is_short:
            return n_others > n_lone
        # Those of a class that was taken off as a whole are not to be taken off again.
        lone = [(pool.books[space], task) for space, task in pool.lone]
        return n_others > sum(
            bool(book.states[task] == READY and book.bytes_of(task) <= pool.most_bytes)
            for book, task in lone
        )

    def _draw(self, left_s: float) -> _Key | None:
        """Make the next task that no agent could hold a lone one, the largest first."""
        lone = self._pool.lone
        for book, index in self._pool.oversized():
            if not book.n_ready_of[index] or book.bound_s[index] > left_s:
                continue
            if book.n_threads[index]:
                ids = book.pending(index, first=READY).tolist()
                ids = [task for task in ids if (book.space, task) not in lone][:1]
            else:
                ids = self._pool.queues[book.space].take_of(index).tolist()
            for task in ids:
                lone[book.space, task] = ""
                return book.space, task
        return None

    def _choose_host(self, key: _Key, free: list[str]) -> str | None:
        """Return the best host that is not taken: where it may work, with the most memory."""
        failed_on = self._failed_on(key)
        if failed_on:
            ranks = {
                place: min(_rank(failed_on.get(agent.number)) for agent in agents)
                for place in self._pool.places
                if (agents := self._usable(_Stay(place)))
            }
            # Were any place good enough, a task could fail for ever where its program is missing.
            free = [place for place in free if ranks[place] == min(ranks.values())]
        last = self._pool.lone[key]
        return min(
            free,
            key=lambda place: (-self._memory(place), place == last, self._n_held(_Stay(place))),
            default=None,
        )

    def _reserve_agents(self, left_s: float) -> None:
        """Reserve agents for the longest wide tasks that wait."""
        due = self._due(left_s) if self._pool.wide else []
        if not due:
            return
        taken = {agent.number for stay in self._stays.values() for agent in self._members(stay)}
        free = [agent for agent in self._pool.in_service if agent.number not in taken]
        for book, index in due if free else ():
            task_bytes = int(book.memory_bytes[index])
            for task in book.pending(index, first=READY).tolist():
                key = book.space, task
                if key in self._stays or key in self._pool.lone:
                    continue
                fitting = [agent for agent in free if agent.can_ever_hold(task_bytes)]
                if not fitting:
                    break
                agent = self._choose_agent(key, fitting)
                if agent is not None:
                    self._stays[key] = _Stay(agent.place, agent.number)
                    free.remove(agent)

    def _due(self, left_s: float) -> list[tuple[Ledger, int]]:
        """Return the classes whose wide tasks may start, the longest first.

        One that ends in time only if its prediction is wrong waits for what others would end.
        """
        is_by_level = self._pool.options.order == "level"
        must_be_sure = left_s < np.inf and any(
            bool(((x.n_threads == 0) & (x.n_ready_of > 0) & (x.cost_s <= left_s)).any())
            for x in self._pool.books.values()
        )
        found: list[tuple[float, Ledger, int]] = []
        for book in self._pool.books.values():
            seconds = book.cost_s if must_be_sure else book.bound_s
            is_due = (book.n_threads > 0) & (book.n_ready_of > 0) & (seconds <= left_s)
            if is_by_level and is_due.any():
                is_due &= book.stages == book.stages[book.n_ready_of > 0].min()
            found += [(-float(book.cost_s[i]), book, i) for i in np.flatnonzero(is_due).tolist()]
        return [(book, index) for _, book, index in sorted(found, key=lambda each: each[0])]

    def _choose_agent(self, key: _Key, free: list[Agent]) -> Agent | None:
        """Return the emptiest agent that is not taken, of those where a task may work."""
        failed_on = self._failed_on(key)
        if failed_on:
            task_bytes = self._pool.books[key[0]].bytes_of(key[1])
            fitting = [x for x in self._pool.in_service if x.can_ever_hold(task_bytes)]
            best = min(_rank(failed_on.get(agent.number)) for agent in fitting)
            free = [agent for agent in free if _rank(failed_on.get(agent.number)) == best]
        return min(free, key=lambda agent: agent.n_held, default=None)

    def _mark(self) -> list[int]:
        """Bring the agents' marks up to date; return who is not reserved any more."""
        wanted = {agent.number for stay in self._stays.values() for agent in self._members(stay)}
        changed = [x for x in sorted(wanted ^ self._marked) if x in self._pool.agents]
        for number in changed:
            agent = self._pool.agents[number]
            agent.is_reserved = number in wanted
            self._supply.note(agent)
        self._marked = wanted
        return [number for number in changed if number not in wanted]

    # ------------------------------------------------------------------- use

    def _empty(self, stay: _Stay) -> list[Assign | Retract]:
        """Ask for what has not been started where a task is to run."""
        return [
            self._supply.ask(agent, space)
            for agent in self._members(stay)
            if agent.n_unstarted and not agent.is_dry
            for space in agent.spaces
            if space not in agent.asked
        ]

    def _start(self, key: _Key, stay: _Stay) -> list[Assign | Retract]:
        """Assign a task if nothing is held where it is to run."""
        if self._n_held(stay):
            return []
        space, task = key
        book = self._pool.books[space]
        failed_on = self._failed_on(key)
        agent = min(
            self._usable(stay),
            key=lambda each: (_rank(failed_on.get(each.number)), -(each.memory_bytes or 1 << 62)),
        )
        ids = as_ids([task])
        index = int(book.class_of(ids)[0])
        book.move(ids, ASSIGNED)
        book.holders[ids] = agent.number
        agent.add(space, index, ids)
        stay.is_running = True
        n_threads = int(book.n_threads[index])
        return [Assign(agent.number, space, ids, stay.agent is None, n_threads)]

    def _members(self, stay: _Stay) -> list[Agent]:
        agents = self._pool.places.get(stay.place, {})
        if stay.agent is None:
            return list(agents.values())
        return [agents[stay.agent]] if stay.agent in agents else []

    def _usable(self, stay: _Stay) -> list[Agent]:
        return [agent for agent in self._members(stay) if not agent.is_aside]

    def _n_held(self, stay: _Stay) -> int:
        return sum(agent.n_held for agent in self._members(stay))

    def _failed_on(self, key: _Key) -> dict[int, ErrorClass]:
        trials = self._pool.books[key[0]].trials.get(key[1])
        return {} if trials is None else trials.failed_on

    def _memory(self, place: str) -> float:
        """Return the bytes of a host as far as its agents know a limit."""
        limits = [agent.memory_bytes for agent in self._pool.places[place].values()]
        return sum(limits) if all(limits) else float("inf")

    def _is_in_time(self, book: Ledger, task: int, left_s: float) -> bool:
        return bool(book.bound_s[book.class_of(as_ids([task]))[0]] <= left_s)


def _rank(error: ErrorClass | None) -> int:
    """Return how little is to be hoped for where a task failed so; 0 if it lacked only memory."""
    if error is None or error is ErrorClass.RESOURCE:
        return 0
    return 2 if error is ErrorClass.MISSING_PROGRAM else 1
