"""The state machine: one event in, the commands that follow out.

Rules of this file
------------------
1. ``step`` is the only way to change anything, and depends on (state, event, now) alone.
2. A task is held by at most one agent; done is for ever; what is lost is ready again.
3. Late and double messages are normal and dropped; an event about something that never was is a
   bug and raises :class:`~qcmb_mpi.errors.IllegalEvent` with the story so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.custody import Custody
from qcmb_mpi.scheduling.invariants import check_pool
from qcmb_mpi.scheduling.learning import Lessons, admit
from qcmb_mpi.scheduling.ledger import Counts, Ledger
from qcmb_mpi.scheduling.lone import LoneTasks
from qcmb_mpi.scheduling.order import ORDERS, WorkQueue
from qcmb_mpi.scheduling.pool import Pool, SchedulerOptions
from qcmb_mpi.scheduling.supply import Supply
from qcmb_mpi.scheduling.trust import Trust

__all__ = ["Counts", "Scheduler", "SchedulerOptions"]

_STORY_LENGTH = 20


class Scheduler:
    """Decides who computes what.

    Parameters
    ----------
    options : SchedulerOptions, optional
    cost_model : CostModel, optional
        What was learnt before; it goes on learning.
    """

    def __init__(
        self, *, options: SchedulerOptions | None = None, cost_model: CostModel | None = None
    ) -> None:
        self.options = options or SchedulerOptions()
        if self.options.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.options.order!r}")
        self._lessons = Lessons(cost_model or CostModel())
        self.drain_reason: str | None = None
        self._pool = Pool(self.options)
        self._supply = Supply(self._pool)
        self._trust = Trust(self._pool)
        self._custody = Custody(self._pool, self._trust)
        self._lone = LoneTasks(self._pool, self._supply)
        self._finished: dict[int, Counts] = {}
        self._gone: set[int] = set()
        self._is_closing = False
        self._now = -np.inf
        self._story: deque[tuple[float, m.Event]] = deque(maxlen=_STORY_LENGTH)
        self._out: list[m.Command] = []
        self._to_feed: dict[int, None] = {}
        self._is_stirred = False
        self._handlers: dict[type[m.Message], Callable[[Any], None]] = {
            rule.event: getattr(self, m.handler_name(rule.event)) for rule in m.EVENT_RULES
        }

    def step(self, event: m.Event, now: float) -> list[m.Command]:
        """Take notice of an event and decide what follows.

        Parameters
        ----------
        event : Event
        now : float
            Seconds on a monotonic clock; an earlier time than before counts as the same.

        Returns
        -------
        list of Command
            In the order in which they are to be carried out.

        Raises
        ------
        IllegalEvent
            The event speaks of an agent, space or task that never was, or contradicts an earlier
            one. Nothing has changed then.
        """
        self._now = max(self._now, now)
        self._story.append((now, event))
        self._out = []
        self._to_feed = {}
        self._is_stirred = False
        handler = self._handlers.get(type(event))
        if handler is None:
            raise IllegalEvent(f"{type(event).__name__} is not an event", story=(*self._story,))
        try:
            handler(event)
        except IllegalEvent as error:
            error.story = (*error.story, *self._story)
            raise
        self._pool.heard(event, self._now)
        self._lessons.renew_costs(self._pool, self._now)
        if not self.is_draining and self._supply.is_out_of_time(self._now):
            self._drain("deadline")
        if not self.is_draining:
            if self._lone.is_active:
                self._pursue_lone()
            self._supply_all()
        if self._is_closing and (self.is_finished or self.is_drained):
            self._retire_all()
        return self._out

    # ---------------------------------------------------------------- questions

    @property
    def cost_model(self) -> CostModel:
        """What predicts, with all that was measured so far."""
        return self._lessons.model

    @property
    def is_draining(self) -> bool:
        """Whether no task is started any more."""
        return self.drain_reason is not None

    @property
    def is_drained(self) -> bool:
        """Whether it drains and no agent holds a task."""
        return self.is_draining and self.is_idle

    @property
    def is_idle(self) -> bool:
        """Whether no agent holds a task."""
        return not any(book.n_assigned for book in self._pool.books.values())

    @property
    def is_finished(self) -> bool:
        """Whether every task of every space is done or quarantined."""
        return not self._pool.books

    @property
    def n_busy(self) -> int:
        """Slots in service that have a task, or stand back for one, as far as is known."""
        return sum(a.n_slots - a.n_idle for a in self._pool.in_service) + self._lone.n_blocked

    @property
    def pool(self) -> Pool:
        """Who computes what, to look at."""
        return self._pool

    @property
    def has_agents(self) -> bool:
        """Whether any agent is left."""
        return bool(self._pool.agents)

    def has_agent(self, agent: int) -> bool:
        """Tell whether an agent has ever joined."""
        return agent in self._pool.agents or agent in self._gone

    def held(self, agent: int) -> dict[int, m.Ids]:
        """Return the ids that an agent holds, by space, in the order they were sent."""
        if agent not in self._pool.agents:
            return {}
        holder = self._pool.agents[agent]
        return {space: holder.held(self._pool.books[space]) for space in holder.spaces}

    def counts(self, space: int) -> Counts:
        """Return a space's tasks by state.

        Raises
        ------
        IllegalEvent
            It was never added.
        """
        book = self._book(space)
        return self._finished[space] if book is None else book.counts

    def remaining_s(self, now: float) -> float:
        """Predict the seconds from ``now`` until everything is settled; infinite without agents."""
        return self._pool.remaining_s(now)

    def check_invariants(self) -> None:
        """Check everything that must hold between two steps; for tests, O(number of tasks).

        Raises
        ------
        IllegalEvent
            Something does not hold.
        """
        try:
            check_pool(self._pool, self._out, is_draining=self.is_draining)
        except IllegalEvent as error:
            error.story = (*error.story, *self._story)
            raise

    # ----------------------------------------------------------------- handlers

    def _on_agent_joined(self, event: m.AgentJoined) -> None:
        if self.has_agent(event.agent):
            raise IllegalEvent(f"agent {event.agent} has joined before")
        if event.n_slots < 1 or event.agent < 0 or event.memory_bytes < 0:
            raise IllegalEvent(f"{event} is no agent")
        self._pool.add(Agent(event))
        self._supply.note(self._pool.agents[event.agent])
        self._give_up(self._custody.give_up_oversized())
        self._feed([event.agent])

    def _on_agent_lost(self, event: m.AgentLost) -> None:
        agent = self._agent(event.agent)
        if agent is None:
            return
        given_up = self._custody.lose(agent)
        self._dismiss(agent)
        for each in self._trust.call_back():
            self._supply.note(each)
        self._give_up(given_up)
        self._is_stirred = True

    def _on_space_added(self, event: m.SpaceAdded) -> None:
        if event.space in self._pool.books or event.space in self._finished:
            raise IllegalEvent(f"space {event.space} was added before")
        if self._is_closing:
            raise IllegalEvent("a space was added after CloseRequested")
        book = Ledger(event, self.cost_model, prior_doubt=self.options.prior_doubt)
        self._pool.books[event.space] = book
        self._pool.queues[event.space] = WorkQueue(book, order=self.options.order)
        largest = max((each.memory_bytes for each in event.classes), default=0)
        self._pool.largest_bytes = max(self._pool.largest_bytes, largest)
        admit(self._pool, book, self.cost_model)
        for stage in book.open_stages:
            if event.released is None or stage in event.released:
                self._custody.release(book, stage)
        self._give_up(self._custody.give_up_oversized())
        self._finish(book, list(book.open_stages))
        self._feed(self._pool.agents)

    def _on_tasks_done(self, event: m.TasksDone) -> None:
        agent = self._agent(event.agent)
        book = self._book(event.space)
        if book is None:
            return
        ids, times = book.new_results(event.ids, event.seconds)
        if not len(ids):
            return
        parts = book.groups(ids)
        if agent is not None:
            agent.note_results(len(ids))
            self._lessons.note(book, ids, times, event, self._pool.lone)
            self._feed([event.agent])
        self._feed(self._custody.settle(book, ids, parts))
        self._take_over()
        self._finish(book, sorted({int(book.stages[index]) for index, _ in parts}))

    def _on_task_failed(self, event: m.TaskFailed) -> None:
        agent = self._agent(event.agent)
        book = self._book(event.space)
        if book is None:
            return
        book.checked(m.as_ids([event.task]))
        if agent is not None and book.holders[event.task] == event.agent:
            if self._lessons.note_shortage(self._pool, book, event):
                self._out += self._supply.ask_overfull()
            given_up = self._custody.judge(book, event.task, agent, event.error)
            if self._trust.is_hopeless(agent):
                self._set_aside(agent)
            self._give_up(given_up)
            self._feed([event.agent])
            self._is_stirred = True

    def _on_tasks_returned(self, event: m.TasksReturned) -> None:
        agent = self._agent(event.agent)
        book = self._book(event.space)
        if agent is None:
            return
        ids = m.as_ids(()) if book is None else book.checked(event.ids)
        if book is not None:
            ids = ids[book.holders[ids] == event.agent]
        self._supply.note_answer(agent, event.space, ids)
        if book is not None:
            self._custody.give_back(book, ids)
        self._supply.note(agent)
        self._feed([event.agent])
        self._is_stirred = True

    def _on_stage_released(self, event: m.StageReleased) -> None:
        book = self._book(event.space)
        if book is None:
            return
        if event.stage not in book.stages:
            raise IllegalEvent(f"space {event.space} has no stage {event.stage}")
        self._custody.release(book, event.stage)
        self._feed(self._pool.agents)

    def _on_drain_requested(self, event: m.DrainRequested) -> None:
        self._drain(event.reason or "asked to")

    def _on_deadline_set(self, event: m.DeadlineSet) -> None:
        self._pool.deadline_s = event.at_s
        self._is_stirred = True

    def _on_close_requested(self, _: m.CloseRequested) -> None:
        self._is_closing = True

    def _on_ticked(self, _: m.Ticked) -> None:
        self._is_stirred = True

    # ---------------------------------------------------------------- internals

    def _take_over(self) -> None:
        """Take over what was learnt, now and then."""
        if self._lessons.take_over(self._pool):
            self._out += self._supply.ask_overfull()
            if self._pool.deadline_s < np.inf:
                self._is_stirred = True

    def _give_up(self, given_up: list[m.Quarantine]) -> None:
        """Tell of tasks that were given up, and of what is finished by that."""
        self._out += given_up
        for space in dict.fromkeys(each.space for each in given_up):
            book = self._pool.books[space]
            self._finish(book, list(book.open_stages))
        if given_up and self.options.is_stopping_on_failure:
            self._drain("a task failed for good")

    def _finish(self, book: Ledger, stages: list[int]) -> None:
        """Tell of stages that are finished now, and of the space if it is."""
        for stage in stages:
            if stage in book.open_stages and not book.n_unsettled_in(stage):
                del book.open_stages[stage]
                self._out.append(m.FinishStage(book.space, stage))
        if book.is_finished and book.space in self._pool.books:
            self._out.append(m.FinishSpace(book.space))
            self._finished[book.space] = book.counts
            del self._pool.books[book.space], self._pool.queues[book.space]

    def _feed(self, agents: Iterable[int]) -> None:
        """Have agents looked at when the event is through."""
        self._to_feed.update(dict.fromkeys(agents))

    def _set_aside(self, agent: Agent) -> None:
        """Give an agent no work any more; ask for what it has not started."""
        self._out.append(self._trust.set_aside(agent))
        self._out += [self._supply.ask(agent, x) for x in agent.spaces if x not in agent.asked]
        self._supply.note(agent)

    def _pursue_lone(self) -> None:
        """See to the tasks that are to run alone, before anybody else is fed."""
        said, freed = self._lone.pursue(self._now)
        self._out += said
        self._feed(freed)

    def _supply_all(self) -> None:
        """Serve idle slots first if there may be something new for them, then who is concerned."""
        hungry = list(self._supply.hungry) if self._is_stirred else []
        for number in (*hungry, *filter(self._pool.agents.__contains__, self._to_feed)):
            agent = self._pool.agents[number]
            if self._pool.is_any_ready:
                self._out += self._supply.top_up(agent, self._now)
            elif number in self._to_feed:
                self._supply.note(agent)
        self._out += self._supply.relieve()

    def _drain(self, reason: str) -> None:
        if not self.is_draining:
            self.drain_reason = reason
            self._out += self._supply.ask_all()

    def _retire_all(self) -> None:
        for agent in list(self._pool.agents.values()):
            self._out.append(m.Retire(agent.number))
            self._dismiss(agent)

    def _dismiss(self, agent: Agent) -> None:
        """Forget an agent that holds nothing."""
        self._supply.forget(agent.number)
        self._pool.remove(agent)
        self._gone.add(agent.number)

    def _book(self, space: int) -> Ledger | None:
        """Return an open space's book, or None if it is finished."""
        book = self._pool.books.get(space)
        if book is None and space not in self._finished:
            raise IllegalEvent(f"space {space} was never added")
        return book

    def _agent(self, number: int) -> Agent | None:
        """Return a living agent, or None if it is gone."""
        agent = self._pool.agents.get(number)
        if agent is None and number not in self._gone:
            raise IllegalEvent(f"agent {number} never joined")
        return agent
