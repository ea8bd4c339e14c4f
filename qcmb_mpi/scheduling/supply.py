"""How much goes to whom: guided self-scheduling with a lookahead that can be taken back.

Rules of this file
------------------
1. An idle slot is always served if a ready task fits; lookahead only from what is then left over.
2. Lookahead is measured in predicted seconds, limited by a share of the remaining work that
   shrinks to nothing at the end, and, while a class has hardly been measured, by number.
3. Nothing here changes a task's state for good: it assigns, and asks for unstarted work back.
4. An agent that is set aside, or kept free for a lone task, is neither fed nor asked for others.
"""

from __future__ import annotations

import math
from itertools import islice

import numpy as np

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.messages import ASSIGNED, Assign, Ids, Retract
from qcmb_mpi.scheduling.order import Limits
from qcmb_mpi.scheduling.pool import Pool

_N_CANDIDATES = 64
_SMALL_SHARE = 0.25
_ALIKE = 1.05
_SOON_S = 1.2
_N_LOOKAHEADS = 4.0
# As many times `lookahead_tasks` an only agent gets before anything is measured. It is the first to
# know how long they take, and its slots would have nothing to do while that is learnt here.
_BLIND_FACTOR = 256


class Supply:
    """Gives work to agents and takes unstarted work back.

    Parameters
    ----------
    pool : Pool
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Insertion-ordered sets: replaying the same events must visit agents in the same order.
        self.hungry: dict[int, None] = {}
        self._rich: dict[int, None] = {}
        self._asked: dict[int, None] = {}
        self._fruitless: list[Agent] = []

    def note(self, agent: Agent) -> None:
        """Take notice that an agent's holdings have changed."""
        number = agent.number
        is_open = agent.is_open
        can_give = bool(is_open and agent.n_unstarted and not agent.is_dry and not agent.asked)
        _set(self.hungry, number, bool(is_open and agent.n_idle))
        _set(self._rich, number, can_give)
        _set(self._asked, number, bool(agent.asked))

    def forget(self, number: int) -> None:
        """Take notice that an agent is gone."""
        for group in (self.hungry, self._rich, self._asked):
            group.pop(number, None)

    def top_up(self, agent: Agent, now: float) -> list[Assign]:
        """Assign what an agent should have more."""
        granted: dict[int, list[Ids]] = {}
        for space, book in self._pool.books.items() if agent.is_open else ():
            while book.n_ready and (ids := self._grant(agent, book, now)) is not None:
                if len(ids):
                    granted.setdefault(space, []).append(ids)
        self.note(agent)
        return [
            Assign(agent.number, space, parts[0] if len(parts) == 1 else np.concatenate(parts))
            for space, parts in granted.items()
        ]

    def note_answer(self, agent: Agent, space: int, ids: Ids) -> None:
        """Take notice of what an agent is about to give back, asked or not.

        What none of the idle ones can take it will get again, and is not to be asked for at once.
        """
        agent.asked.discard(space)
        agent.is_dry = not len(ids)
        if self.hungry and agent.is_open:
            room = self._largest_room()
            tasks = ids[:_N_CANDIDATES].tolist()
            if not any(self._is_wanted(agent, space, task, room) for task in tasks):
                self._fruitless.append(agent)

    def relieve(self) -> list[Retract]:
        """Ask agents with unstarted work to give it back while others have nothing to do."""
        while self._fruitless:
            agent = self._fruitless.pop()
            agent.is_dry = True
            self.note(agent)
        n_wanted = len(self.hungry) - len(self._asked)
        if n_wanted <= 0 or not self._rich:
            return []
        room = self._largest_room()
        candidates = [self._pool.agents[number] for number in islice(self._rich, _N_CANDIDATES)]
        candidates = [agent for agent in candidates if self._is_worth_asking(agent, room)]
        candidates.sort(key=lambda agent: -agent.unstarted_s(self._pool.books))
        pairs = ((agent, self._wanted_space(agent, room)) for agent in candidates)
        wanted = ((agent, space) for agent, space in pairs if space is not None)
        return [self.ask(agent, space) for agent, space in islice(wanted, n_wanted)]

    def ask(self, agent: Agent, space: int) -> Retract:
        """Ask an agent for its unstarted tasks of a space."""
        agent.asked.add(space)
        self.note(agent)
        return Retract(agent.number, space)

    def ask_all(self) -> list[Retract]:
        """Ask every agent for everything unstarted."""
        return [
            self.ask(agent, space)
            for agent in self._pool.agents.values()
            for space in agent.spaces
            if space not in agent.asked
        ]

    def ask_overfull(self) -> list[Retract]:
        """Ask who holds more than fits, after a prediction was raised, for what is unstarted."""
        books = self._pool.books
        return [
            self.ask(agent, space)
            for agent in self._pool.agents.values()
            if agent.memory_bytes and agent.n_unstarted and agent.room_bytes(books) < 0
            for space in agent.spaces
            if space not in agent.asked
        ]

    def is_out_of_time(self, now: float) -> bool:
        """Tell whether no ready task can end before the deadline, or it has passed."""
        left_s = self._pool.left_s(now)
        if left_s == np.inf:
            return False
        if left_s <= 0:
            return True
        shortest = [
            book.bound_s[book.n_ready_of > 0].min()
            for book in self._pool.books.values()
            if book.n_ready
        ]
        return bool(shortest) and min(shortest) > left_s

    # ------------------------------------------------------------------- grant

    def _grant(self, agent: Agent, book: Ledger, now: float) -> Ids | None:
        """Assign tasks of one class; None if none is to be had or wanted.

        No ids at all means that what was offered is settled already: ask again.
        """
        if not agent.n_idle and not self._is_short(agent):
            return None
        queue = self._pool.queues[book.space]
        offer = queue.best(self._limits(agent, now, book))
        if offer is None:
            return None
        index = offer.class_index
        n = agent.n_idle + self._n_ahead(agent, book, index)
        n = min(n, self._n_in_time(agent, book, index, now))
        if not self._is_roomy(agent):
            n = agent.n_fitting(int(book.memory_bytes[index]), n, self._pool.books)
        if n <= 0:
            return None
        ids = queue.take(offer, n)
        if len(ids):
            book.move(ids, ASSIGNED, [(index, slice(None))])
            book.holders[ids] = agent.number
            agent.add(book.space, index, ids)
            if offer.group is not None and offer.group.avoid:
                avoid = offer.group.avoid
                agent.shunned.update({(book.space, task): avoid for task in ids.tolist()})
        return ids

    def _is_short(self, agent: Agent) -> bool:
        """Tell whether an agent without idle slots may have less lookahead than it should."""
        options = self._pool.options
        if agent.n_unstarted < options.lookahead_tasks * agent.n_slots:
            return True
        return agent.unstarted_s(self._pool.books) < 0.5 * self._lookahead_s * agent.n_slots

    @property
    def _has_one_agent(self) -> bool:
        """Whether there is but one agent: it keeps nothing from others."""
        return len(self._pool.agents) == 1

    @property
    def _lookahead_s(self) -> float:
        """How long a slot of an agent should be busy with what the agent holds."""
        # Seeing the end of what it holds, it would give it out in small pieces.
        return self._pool.lookahead_s * (_N_LOOKAHEADS if self._has_one_agent else 1.0)

    def _n_ahead(self, agent: Agent, book: Ledger, index: int) -> int:
        """Return how many tasks of a class an agent should get beyond its idle slots."""
        options = self._pool.options
        share_n, share_s = self._shares(agent.n_idle)
        cost_s = book.cost_of[index]
        # What is long is not to wait behind another long one while other slots take short ones.
        is_ahead = share_n >= 1 and (
            cost_s <= _SMALL_SHARE * share_s or cost_s * book.n_ready <= _ALIKE * book.ready_s
        )
        n = self._n_at_hand(agent, cost_s) - agent.n_unstarted if is_ahead else 0
        # An only agent gives its slots by what it measures itself.
        most_s = math.inf if self._has_one_agent else max(share_s, options.min_grain_s)
        aim_s = agent.n_slots * min(self._lookahead_s, most_s)
        have_s = agent.unstarted_s(self._pool.books)
        if have_s <= 0.5 * aim_s:  # in one message what would else be many
            n = max(n, int((aim_s - have_s) / cost_s))
        # A prediction may be wrong by 100: the number grows only as fast as what was measured,
        # though what was measured of larger or smaller ones counts by its square root.
        n_seen, n_kin = int(book.n_seen[index]), book.n_kin[index]
        most = options.max_tasks_per_slot
        if not (self._has_one_agent and (n_seen or n_kin)):
            n_blind = options.lookahead_tasks * (_BLIND_FACTOR if self._has_one_agent else 1)
            most = min(most, n_blind + max(n_seen, math.isqrt(n_kin)))
        most = most * agent.n_slots - agent.n_unstarted
        return max(0, min(n, most))

    def _n_at_hand(self, agent: Agent, cost_s: float) -> int:
        """Return how many tasks of a class an agent should have at hand, however few seconds.

        Of long ones few end before others come, and what came back is not to wait behind them.
        """
        n_all = self._pool.options.lookahead_tasks * agent.n_slots
        soon_s = max(_SOON_S, _N_LOOKAHEADS * self._pool.lookahead_s)
        return math.ceil(n_all * min(1.0, soon_s / cost_s))

    def _shares(self, n_idle: int) -> tuple[float, float]:
        """Return a slot's guided share of the ready work, as a number and in seconds.

        The number is without the ``n_idle`` tasks that go to idle slots first. It stops adding
        where both are more than anyone can want.
        """
        n_sharing = max(1, self._pool.n_slots) * self._pool.options.guided_factor
        share_n, share_s = -n_idle / n_sharing, 0.0
        for book in self._pool.books.values():
            if book.n_ready:
                share_n += book.n_ready / n_sharing
                share_s += book.ready_s / n_sharing
            if share_n >= 1 and share_s >= self._pool.lookahead_s:
                break
        return share_n, share_s

    def _limits(self, agent: Agent, now: float, book: Ledger) -> Limits:
        left_s = self._pool.left_s(now)
        if left_s < np.inf and not agent.n_idle:
            left_s -= agent.held_s(self._pool.books) / agent.n_slots

        def is_avoiding(avoid: frozenset[int], index: int) -> bool:
            task_bytes = int(book.memory_bytes[index])
            return agent.number in avoid and self._pool.has_other(avoid, task_bytes)

        return Limits(left_s, self._room_bytes(agent), is_avoiding)

    def _is_roomy(self, agent: Agent) -> bool:
        """Tell whether an agent can hold the largest tasks of all in every slot."""
        limit = agent.memory_bytes
        return not limit or agent.n_slots * self._pool.largest_bytes <= limit

    def _room_bytes(self, agent: Agent) -> float:
        return np.inf if self._is_roomy(agent) else agent.room_bytes(self._pool.books)

    def _n_in_time(self, agent: Agent, book: Ledger, index: int, now: float) -> int:
        """Return how many tasks of a class an agent could end before the deadline."""
        left_s = self._pool.left_s(now)
        if left_s == np.inf:
            return book.n_tasks
        bound_s = max(float(book.bound_s[index]), 1e-9)
        queued_s = agent.held_s(self._pool.books)
        n_ahead = int((agent.n_slots * (left_s - bound_s) - queued_s) / bound_s)
        return agent.n_idle + max(0, n_ahead)

    # ----------------------------------------------------------------- relieve

    def _largest_room(self) -> float:
        room = -np.inf  # less than nothing, where a prediction was raised: not even 0 bytes fit
        for number in self.hungry:
            room = max(room, self._room_bytes(self._pool.agents[number]))
            if room == np.inf:
                break
        return room

    def _is_worth_asking(self, agent: Agent, room: float) -> bool:
        """Tell whether an agent has unstarted work that is long, or unknown, and fits elsewhere."""
        books = self._pool.books
        fits = [key for key in agent.load if books[key[0]].memory_bytes[key[1]] <= room]
        is_unknown = any(not books[space].n_seen[index] for space, index in fits)
        is_long = agent.unstarted_s(books) >= self._pool.options.min_grain_s
        return bool(fits) and (is_long or is_unknown)

    def _wanted_space(self, agent: Agent, room: float) -> int | None:
        """Return the space of something that an agent may give back and an idle one could take.

        Without this, tasks too large for who is idle, or that failed there, go to and fro for ever.
        """
        if room == np.inf and not agent.shunned:
            return self._main_space(agent)
        n = min(agent.n_unstarted, _N_CANDIDATES)
        unstarted = agent.sent(slice(-n, None), self._pool.books)
        wanted = (space for space, task in unstarted if self._is_wanted(agent, space, task, room))
        return next(wanted, None)

    def _is_wanted(self, agent: Agent, space: int, task: int, room: float) -> bool:
        task_bytes = self._pool.books[space].bytes_of(task)
        avoid = agent.shunned.get((space, task))
        if avoid is None or task_bytes > room:
            return task_bytes <= room
        others = (self._pool.agents[number] for number in self.hungry if number not in avoid)
        return any(task_bytes <= self._room_bytes(other) for other in others)

    def _main_space(self, agent: Agent) -> int:
        """Return the space that most of an agent's predicted seconds belong to."""
        books = self._pool.books
        seconds: dict[int, float] = {}
        for (space, index), n in agent.load.items():
            seconds[space] = seconds.get(space, 0.0) + n * float(books[space].cost_s[index])
        return max(seconds, key=lambda space: seconds[space])


def _set(group: dict[int, None], number: int, is_member: bool) -> None:
    if is_member:
        group.setdefault(number)
    else:
        group.pop(number, None)
