"""Tasks that want no company: lone ones have a host for themselves, wide ones an agent.

Rules of this file
------------------
1. A host is the agents that share its memory. What is reserved gets no other work; when it holds
   nothing the task is assigned; when that attempt is over, however it ended, it is free again.
2. While other tasks are ready at most one host is reserved; otherwise one for each lone task.
3. What is asked of a host's memory is not looked at: it is all there is.
4. Wide tasks go before others, the longest first, as many at once as there are agents; a wide task
   that must be alone has a host.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Reserves hosts for the tasks of ``pool.lone``, agents for those of ``pool.wide``.

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
        return bool(self._pool.lone or self._pool.wide or self._stays)

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
        wanted = self._pool.lone if stay.agent is None else self._pool.wide
        if book is None or key not in wanted:
            return True
        if stay.is_running:
            return bool(book.holders[key[1]] == NOBODY)
        return not self._usable(stay) or not self._is_in_time(book, key[1], left_s)

    def _reserve_hosts(self, left_s: float) -> None:
        """Reserve hosts for as many lone tasks as may have one now, in their order."""
        for key in self._pool.lone:
            if self._must_share():
                return
            space, task = key
            if key not in self._stays and self._is_in_time(self._pool.books[space], task, left_s):
                place = self._choose_host(key)
                if place is not None:
                    self._stays[key] = _Stay(place)

    def _must_share(self) -> bool:
        """Tell whether a host is reserved already while other tasks wait for one."""
        hosts = [stay for stay in self._stays.values() if stay.agent is None]
        if not hosts:
            return False
        n_running = sum(stay.is_running for stay in hosts)
        n_ready = sum(book.n_ready for book in self._pool.books.values())
        return n_ready > len(self._pool.lone) - n_running

    def _choose_host(self, key: _Key) -> str | None:
        """Return the best host that is not taken: where it may work, with the most memory."""
        failed_on = self._failed_on(key)
        ranks = {
            place: min(_rank(failed_on.get(agent.number)) for agent in agents)
            for place in self._pool.places
            if (agents := self._usable(_Stay(place)))
        }
        best = min(ranks.values(), default=0)
        # A wide task that runs is waited for; one that is about to run has precedence.
        taken = {x.place for x in self._stays.values() if x.agent is None or not x.is_running}
        # Were any place good enough, a task could fail for ever where its program is missing.
        free = [place for place in ranks if ranks[place] == best and place not in taken]
        last = self._pool.lone[key]
        return min(
            free,
            key=lambda place: (-self._memory(place), place == last, self._n_held(_Stay(place))),
            default=None,
        )

    def _reserve_agents(self, left_s: float) -> None:
        """Reserve agents for the longest wide tasks that wait."""
        wide = self._pool.wide
        if len(wide) <= len(self._stays) and all(key in self._stays for key in wide):
            return
        taken = {agent.number for stay in self._stays.values() for agent in self._members(stay)}
        free = [agent for agent in self._pool.in_service if agent.number not in taken]
        for key in self._waiting(left_s) if free else ():
            agent = self._choose_agent(key, free)
            if agent is not None:
                self._stays[key] = _Stay(agent.place, agent.number)
                free.remove(agent)

    def _waiting(self, left_s: float) -> list[_Key]:
        """Return the wide tasks that may start, the longest first."""
        books, due = self._pool.books, self._pool.is_due
        keys = [
            (-float(books[key[0]].cost_s[index]), number, key)
            for number, (key, index) in enumerate(self._pool.wide.items())
            if key not in self._stays
            and key not in self._pool.lone
            and books[key[0]].states[key[1]] == READY
            and books[key[0]].bound_s[index] <= left_s
            and due(key[0], index)
        ]
        return [key for _, _, key in sorted(keys)]

    def _choose_agent(self, key: _Key, free: list[Agent]) -> Agent | None:
        """Return the emptiest agent that is not taken, of those where a task may work."""
        failed_on = self._failed_on(key)
        task_bytes = self._pool.books[key[0]].bytes_of(key[1])
        fitting = [agent for agent in self._pool.in_service if agent.can_ever_hold(task_bytes)]
        best = min((_rank(failed_on.get(agent.number)) for agent in fitting), default=0)
        good = [
            agent
            for agent in free
            if agent.can_ever_hold(task_bytes) and _rank(failed_on.get(agent.number)) == best
        ]
        return min(good, key=lambda agent: agent.n_held, default=None)

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
