"""What scheduler, supply, custody, lone tasks and trust share: agents, books and the clock's end.

Rules of this file
------------------
1. State and plain questions about it; no decision.
2. ``n_slots``, ``most_bytes`` and ``places`` change only here, with the agents.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.order import WorkQueue
from qcmb_mpi.scheduling.reporting import report_interval_s

_N_INTERVALS = 3.0
_NEWS = (m.AgentJoined, m.AgentLost, m.SpaceAdded, m.TasksDone, m.TaskFailed)


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How a scheduler decides.

    Parameters
    ----------
    n_retries : int
        Further attempts for errors that can pass.
    order : {"lpt", "level"}
        Longest predicted task first, or lowest stage first.
    is_stopping_on_failure : bool
        Drain at the first task that is given up.
    lookahead_s : float
        Predicted seconds of unstarted work a slot should have at hand, to hide messages; more in a
        large machine, whose agents report in longer intervals.
    lookahead_tasks : int
        Unstarted tasks a slot should have at hand, of long ones only as many as slots will end
        soon; 0 together with ``lookahead_s=0`` is plain list scheduling.
    min_grain_s : float
        Work that is worth a message: what a slot may have at hand even at the very end.
    guided_factor : float
        A slot's lookahead is at most its share of the ready work divided by this.
    max_tasks_per_slot : int
        Unstarted tasks a slot may have at hand however short they are.
    max_deaths : int
        Agents that may be lost while (possibly) running a task before it is given up.
    deadline_safety : float
        Predicted seconds are multiplied by this before they are compared with a deadline.
    prior_doubt : float
        A prediction that nothing measured supports is divided by this when a deadline is kept.
    """

    n_retries: int = 2
    order: str = "lpt"
    is_stopping_on_failure: bool = False
    lookahead_s: float = 0.3
    lookahead_tasks: int = 1
    min_grain_s: float = 0.005
    guided_factor: float = 2.0
    max_tasks_per_slot: int = 4096
    max_deaths: int = 3
    deadline_safety: float = 1.5
    prior_doubt: float = 10.0


@dataclass(slots=True)
class Pool:
    """The state that the scheduler's parts share.

    Parameters
    ----------
    options : SchedulerOptions
    agents : dict
        The living ones, by number, in order of arrival; those set aside are among them.
    places : dict
        The same by the host whose memory they share.
    books, queues : dict
        Of spaces that are not finished, in order of arrival.
    lone : dict
        Tasks (space, id) that must run alone on a host, in order, with where each failed last; of
        classes that no agent could hold, those that had their turn.
    wide : dict
        Classes (space, index) whose tasks run with an agent for themselves, from their release
        until all are settled; in order.
    deadline_s : float
        On the clock of ``now``; infinite when there is none.
    n_slots : int
        Of all agents in service.
    most_bytes : float
        The most memory of an agent in service; infinite without agents or without a limit.
    largest_bytes : int
        The most memory that a task of any space so far is predicted to need.
    news_s : float
        When the predicted time left last changed, on the clock of ``now``.
    """

    options: SchedulerOptions
    agents: dict[int, Agent] = field(default_factory=dict)
    places: dict[str, dict[int, Agent]] = field(default_factory=dict)
    books: dict[int, Ledger] = field(default_factory=dict)
    queues: dict[int, WorkQueue] = field(default_factory=dict)
    lone: dict[tuple[int, int], str] = field(default_factory=dict)
    wide: dict[tuple[int, int], None] = field(default_factory=dict)
    deadline_s: float = np.inf
    n_slots: int = 0
    most_bytes: float = np.inf
    largest_bytes: int = 0
    news_s: float = -np.inf

    @property
    def is_any_ready(self) -> bool:
        """Whether a task could be assigned."""
        return any(book.n_ready for book in self.books.values())

    @property
    def lookahead_s(self) -> float:
        """Seconds of unstarted work for a slot: half of it outlasts a report and the answer."""
        least_s = self.options.lookahead_s
        return least_s and max(least_s, _N_INTERVALS * report_interval_s(len(self.agents)))

    @property
    def in_service(self) -> list[Agent]:
        """The agents that were not set aside."""
        return [agent for agent in self.agents.values() if not agent.is_aside]

    @property
    def is_short(self) -> bool:
        """Whether there may be tasks that no agent in service could hold."""
        return self.largest_bytes > self.most_bytes

    def oversized(self) -> list[tuple[Ledger, int]]:
        """Return the classes that no agent in service could hold, book and index, largest first."""
        if not self.is_short:
            return []
        found = [
            (-int(book.memory_bytes[index]), book, index)
            for book in self.books.values()
            for index in np.flatnonzero(book.memory_bytes > self.most_bytes).tolist()
        ]
        return [(book, index) for _, book, index in sorted(found, key=lambda each: each[0])]

    def left_s(self, now: float) -> float:
        """Return the longest prediction that still ends before the deadline."""
        return (self.deadline_s - now) / self.options.deadline_safety

    def heard(self, event: m.Event, now: float) -> None:
        """Note when the predicted time left last changed; a mere sign of life changes nothing."""
        if isinstance(event, _NEWS):
            self.news_s = now

    def remaining_s(self, now: float) -> float:
        """Predict the seconds until everything is settled; infinite without agents.

        Between two results it counts down, but no further than what no slot can have begun.
        """
        left_s = self._left_s()
        n_left = sum(int(book.n_unsettled_of.sum()) for book in self.books.values())
        sure_s = left_s * (1 - self.n_slots / n_left) if n_left > self.n_slots else 0.0
        return max(left_s - max(0.0, now - self.news_s), sure_s) if left_s else 0.0

    def _left_s(self) -> float:
        """Predict the same as of the last result."""
        books = self.books.values()
        total_s = sum(book.unsettled_s for book in books)
        wide_s = sum(book.wide_s for book in books)
        if total_s == 0:
            return 0.0
        if not self.n_slots:
            return np.inf
        n_agents = len(self.in_service)
        longest_s = max(float(b.cost_s[b.n_unsettled_of > 0].max()) for b in books)
        return max((total_s - wide_s) / self.n_slots + wide_s / n_agents, longest_s)

    def has_other(self, avoid: Collection[int], task_bytes: int) -> bool:
        """Tell whether an agent in service outside ``avoid`` could ever hold a task."""
        return any(
            number not in avoid and not agent.is_aside and agent.can_ever_hold(task_bytes)
            for number, agent in self.agents.items()
        )

    def add(self, agent: Agent) -> None:
        """Take in an agent."""
        self.agents[agent.number] = agent
        self.places.setdefault(agent.place, {})[agent.number] = agent
        self._enlist(agent)

    def remove(self, agent: Agent) -> None:
        """Forget an agent."""
        self.set_aside(agent)
        del self.agents[agent.number], self.places[agent.place][agent.number]
        if not self.places[agent.place]:
            del self.places[agent.place]

    def set_aside(self, agent: Agent) -> None:
        """Take an agent out of service."""
        self.n_slots -= 0 if agent.is_aside else agent.n_slots
        agent.is_aside = True
        limits = [_limit(each) for each in self.agents.values() if not each.is_aside]
        self.most_bytes = max(limits, default=np.inf)

    def recall(self, agent: Agent) -> None:
        """Take an agent into service again."""
        if agent.is_aside:
            agent.is_aside = False
            self._enlist(agent)

    def _enlist(self, agent: Agent) -> None:
        limit = _limit(agent)
        self.most_bytes = max(self.most_bytes, limit) if self.n_slots else limit
        self.n_slots += agent.n_slots


def _limit(agent: Agent) -> float:
    return agent.memory_bytes or np.inf
