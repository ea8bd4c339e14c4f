"""The loop that couples the pure scheduler to real agents.

Rules of this file
------------------
1. Payload first: an outcome is in the sink before the scheduler hears of it.
2. Every decision is the scheduler's; here commands are only carried out.
3. A pool may still speak of a job that was stopped: what is not about one of ours is dropped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from qcmb_mpi.errors import Interrupted, TopologyError
from qcmb_mpi.execution.engine import EngineRecipe
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Done,
    FromAgent,
    Lost,
    Open,
    Ready,
    Recall,
    Returned,
    Shut,
    TaskIds,
    Transport,
    Work,
)
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.placement import Layout
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions

_LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_HELLO_S = 300.0


@dataclass(frozen=True, slots=True)
class Job:
    """One task space to be worked off.

    Parameters
    ----------
    space : int
        Its number on the wire.
    recipe : EngineRecipe
        How slots run its tasks.
    classes : tuple of TaskClass
        All its tasks, grouped by predicted cost.
    done : ndarray of int64
        Ids that need not be run.
    """

    space: int
    recipe: EngineRecipe
    classes: tuple[m.TaskClass, ...]
    done: TaskIds = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def n_tasks(self) -> int:
        """Tasks in all."""
        return sum(len(each.ids) for each in self.classes)


class Sink(Protocol):
    """Where outcomes are kept."""

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Keep `outcomes`."""

    def commit_if_due(self) -> None:
        """Make what was kept durable if it has waited long enough."""


class Observer:
    """Hears what happens; every method may be overridden, none need be."""

    def agent_joined(self, agent: int, info: AgentInfo, layout: Layout) -> None:
        """Hear that an agent is ready for work."""

    def agent_lost(self, agent: int, reason: str) -> None:
        """Hear that an agent has gone."""

    def outcomes(self, agent: int, outcomes: Sequence[Outcome]) -> None:
        """Hear of attempts that have ended."""

    def quarantined(self, space: int, task: int, failure: Failure, n_attempts: int) -> None:
        """Hear of a task that failed for good."""

    def stepped(self, event: m.Event, commands: Sequence[m.Command], now: float) -> None:
        """Hear of an event and what the scheduler made of it."""

    def ticked(self, scheduler: Scheduler, now: float) -> None:
        """Be called several times a second."""


class Stop:
    """A request to stop early, safe to make from a signal handler."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.is_urgent = False

    def request(self, reason: str) -> None:
        """Ask for a drain; asked twice, for an end at once."""
        self.is_urgent = self.reason is not None
        self.reason = self.reason or reason


LayoutChoice = Callable[[AgentInfo], Layout]


class Dispatcher:
    """Runs jobs on the agents behind a transport.

    Parameters
    ----------
    transport : Transport
    n_agents : int
        Agents to wait for before the first task.
    sink : Sink
    options : SchedulerOptions, optional
    observer : Observer, optional
    stop : Stop, optional
    timeout_s : float
        Wall seconds of one task.
    scratch : str, optional
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        n_agents: int,
        sink: Sink,
        *,
        options: SchedulerOptions | None = None,
        observer: Observer | None = None,
        stop: Stop | None = None,
        timeout_s: float = 3600.0,
        scratch: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = Scheduler(options=options or SchedulerOptions())
        self._transport = transport
        self._n_agents = n_agents
        self._sink = sink
        self._observer = observer or Observer()
        self._stop = stop or Stop()
        self._timeout_s = timeout_s
        self._scratch = scratch
        self._clock = clock
        self._deadline_s = math.inf
        self._layouts: dict[int, Layout] = {}
        self._answers: dict[int, set[int]] = {}
        self._last_failure: dict[tuple[int, int], Failure] = {}

    def open(self, job: Job, choose: Callable[[Sequence[AgentInfo]], LayoutChoice]) -> None:
        """Have every agent get ready for `job`, then hand its tasks to the scheduler.

        Parameters
        ----------
        job : Job
        choose : callable
            Given all agents, returns the function that gives each its layout.

        Raises
        ------
        QcmbError
            An agent cannot work on the job: a program is missing on its node, say.
        """
        if len(job.done) < job.n_tasks:
            self._gather()
            layout_of = choose(tuple(self._transport.infos.values()))
            self._answers[job.space] = set()
            for agent, info in self._transport.infos.items():
                self._open_at(agent, job, layout_of(info))
            self._await(lambda: len(self._answers[job.space]) == len(self._transport.infos))
            self._join()
        self._heed_stop()
        self._step(m.SpaceAdded(job.space, self._admissible(job.classes), job.done))

    def run(self) -> bool:
        """Work until everything is settled; return False if stopped early."""
        while not self.scheduler.is_finished:
            if self._stop.is_urgent or self._clock() >= self._deadline_s:
                return False
            if self._stop.reason is not None and not self.scheduler.is_draining:
                _LOG.warning(
                    "%s: stopping; running tasks will be finished and kept (once more: at once)",
                    self._stop.reason,
                )
                self._step(m.DrainRequested(self._stop.reason))
            if self.scheduler.is_drained:
                return False
            self._turn(_POLL_S)
            self._step(m.Ticked())
        return True

    def set_deadline(self, at_s: float) -> None:
        """Start nothing that is not predicted to end before `at_s`; what runs then is cut off."""
        self._deadline_s = at_s
        self._step(m.DeadlineSet(at_s))

    def close(self, job: Job) -> None:
        """Have the agents forget `job`."""
        for agent in self._layouts:
            self._transport.send(agent, Shut(job.space))

    def _gather(self) -> None:
        self._await(lambda: len(self._transport.infos) == self._n_agents)

    def _heed_stop(self) -> None:
        """Give up if asked to stop before the first task."""
        if self._stop.reason is not None:
            raise Interrupted(f"stopped while starting: {self._stop.reason}")

    def _await(self, is_met: Callable[[], bool]) -> None:
        give_up_s = self._clock() + _HELLO_S
        while not is_met():
            self._turn(_POLL_S)
            self._heed_stop()
            if self._clock() > give_up_s:
                n_ready = len(self._transport.infos)
                raise TopologyError(
                    f"only {n_ready} of {self._n_agents} agents got ready within {_HELLO_S:g} s; "
                    "look at the nodes that are missing"
                )

    def _admissible(self, classes: tuple[m.TaskClass, ...]) -> tuple[m.TaskClass, ...]:
        """Cap predicted memory at what the largest agent has.

        Predictions are rough before anything has run: a task that is thought too large runs alone
        instead of being refused.
        """
        most = max((info.memory_bytes for info in self._transport.infos.values()), default=0)
        if not most:
            return classes
        return tuple(replace(each, memory_bytes=min(each.memory_bytes, most)) for each in classes)

    def _open_at(self, agent: int, job: Job, layout: Layout) -> None:
        self._layouts[agent] = layout
        message = Open(job.space, job.recipe, layout, self._timeout_s, self._scratch)
        self._transport.send(agent, message)

    def _join(self) -> None:
        for agent, info in self._transport.infos.items():
            layout = self._layouts[agent]
            if layout.n_slots and not self.scheduler.has_agent(agent):
                self._observer.agent_joined(agent, info, layout)
                event = m.AgentJoined(agent, layout.n_slots, info.memory_bytes, info.host)
                self._step(event)

    def _turn(self, timeout_s: float) -> None:
        for agent, message in self._transport.poll(timeout_s):
            self._take(agent, message)
        self._sink.commit_if_due()
        self._observer.ticked(self.scheduler, self._clock())

    def _take(self, agent: int, message: FromAgent) -> None:
        match message:
            case Ready(space, error) if space in self._answers:
                self._answers[space].add(agent)
                if error is not None:
                    raise error
            case Done(outcomes):
                self._take_outcomes(agent, [o for o in outcomes if o.space in self._answers])
            case Returned(space, ids) if space in self._answers:
                self._step(m.TasksReturned(agent, space, ids))
            case Lost(reason):
                self._observer.agent_lost(agent, reason)
                self._step(m.AgentLost(agent, reason))

    def _take_outcomes(self, agent: int, outcomes: Sequence[Outcome]) -> None:
        self._sink.append(outcomes)
        self._observer.outcomes(agent, outcomes)
        for space in {outcome.space for outcome in outcomes}:
            good = [o for o in outcomes if o.space == space and o.failure is None]
            if good:
                self._step(
                    m.TasksDone(
                        agent,
                        space,
                        np.array([o.task for o in good], dtype=np.int64),
                        np.array([o.seconds for o in good]),
                        np.array([o.peak_bytes for o in good], dtype=np.int64),
                    )
                )
        for outcome in outcomes:
            if outcome.failure is not None:
                self._last_failure[outcome.space, outcome.task] = outcome.failure
                error = outcome.failure.error_class
                self._step(m.TaskFailed(agent, outcome.space, outcome.task, error))

    def _step(self, event: m.Event) -> None:
        now = self._clock()
        commands = self.scheduler.step(event, now)
        self._observer.stepped(event, commands, now)
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: m.Command) -> None:
        match command:
            case m.Assign(agent, space, ids, is_alone):
                self._transport.send(agent, Work(space, ids, is_alone))
            case m.Retract(agent, space):
                self._transport.send(agent, Recall(space))
            case m.Quarantine(space, task, error, n_attempts):
                unknown = Failure(error, error.value, "the task cannot be run here")
                failure = self._last_failure.get((space, task), unknown)
                self._observer.quarantined(space, task, failure, n_attempts)
