"""The loop that couples the pure scheduler to real agents.

Rules of this file
------------------
1. Payload first: an outcome is in the sink before the scheduler hears of it.
2. Every decision is the scheduler's; here commands are only carried out.
3. A pool may still speak of a job that was stopped: what is not about one of ours is dropped.
4. Agents may be lost at any moment; only when none is left to work, the run ends, and says why.
5. After SIGTERM or Ctrl-C a failure says nothing of its task: programs may have had it, too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qcmb_mpi.errors import Interrupted, QcmbError, TopologyError
from qcmb_mpi.execution.crew import Crew
from qcmb_mpi.execution.engine import EngineRecipe
from qcmb_mpi.execution.last_words import hear_out
from qcmb_mpi.execution.layout import Grant, Placement
from qcmb_mpi.execution.observer import Observer, Sink
from qcmb_mpi.execution.outcome import Failure
from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.stop import Stop
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
    ToAgent,
    Transport,
    Work,
)
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.reporting import report_interval_s
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions

_LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_LONG_TURN_S = 1.0
_HELLO_S = 300.0  # more than an agent gives its slots


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


Choice = Callable[[Sequence[AgentInfo]], Placement]


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
    grant : Grant, optional
        What may be used of the agents.
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
        grant: Grant | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = Scheduler(options=options or SchedulerOptions())
        self.ending: str | None = None
        self._transport = transport
        self._crew = Crew(transport, n_agents, grant)
        self._sink = sink
        self._observer = observer or Observer()
        self._stop = stop or Stop()
        self._timeout_s = timeout_s
        self._scratch = scratch
        self._clock = clock
        self._deadline_s = self._cut_off_s = math.inf
        self._is_heeding = False
        self._opening: int | None = None
        self._loss: Failure | None = None
        self._last_failure: dict[tuple[int, int], Failure] = {}
        self._n_heard: dict[int, int] = {}

    def open(
        self, job: Job, choose: Choice, before_work: Callable[[], None] = lambda: None
    ) -> None:
        """Have every agent get ready for `job`, then hand its tasks to the scheduler.

        Agents that cannot work on it, or are lost meanwhile, are left out.

        Parameters
        ----------
        job : Job
        choose : callable
            Given all agents, says where the tasks run.
        before_work : callable, optional
            Called when every check is passed, before the first task. All slots wait for it; after
            that it would take a core from one of them, and keep work from the others.

        Raises
        ------
        QcmbError
            No agent can work on the job: a program is missing everywhere, say.
        Interrupted
            It was to stop, or the deadline came, before all were ready; or nobody got ready.
        """
        classes = job.classes
        if len(job.done) < job.n_tasks:
            self._await(lambda: self._crew.absent, lambda: not self._crew.is_idle)
            if not self._crew.is_idle:
                classes = self._muster(job, choose)
        if self._stop.reason is not None:
            raise Interrupted(f"stopped while starting: {self._stop.reason}")
        before_work()
        self._step(m.SpaceAdded(job.space, self._admissible(classes), job.done))

    def run(self) -> bool:
        """Work until everything is settled; return False if stopped early.

        `ending` then says why.
        """
        while not self.scheduler.is_finished:
            self._heed_stop()
            self.ending = self._reason_to_end()
            if self.ending is not None:
                self._sink.flush()
                if not self.scheduler.is_idle:
                    hear_out(self._transport, self._crew, self._take)
                    self._sink.flush()
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
        for agent in self._crew.layouts:
            self._send(agent, Shut(job.space))
        self._transport.flush()

    # ----------------------------------------------------------------- getting ready

    def _muster(self, job: Job, choose: Choice) -> tuple[m.TaskClass, ...]:
        """Have all who are present get ready; those who can join in. Return the tasks."""
        present = self._crew.present
        placement = choose(tuple(present.values()))
        self._crew.begin(job.space)
        self._opening = job.space
        for agent, info in present.items():
            layout = self._crew.layouts[agent] = placement.layout_of(info)
            ours = self._timeout_s, self._scratch, report_interval_s(len(present))
            self._send(agent, Open(job.space, job.recipe, layout, *ours))
        self._await(
            lambda: self._crew.silent(job.space), lambda: self._crew.is_any_ready(job.space)
        )
        for agent, error in self._crew.refusals(job.space).items():
            self._dismiss(agent, error)
        self._opening = None
        for agent, layout in list(self._crew.layouts.items()):
            if layout.n_slots and not self._has_joined(agent):
                info = present[agent]
                self._observer.agent_joined(agent, info, layout)
                event = m.AgentJoined(agent, layout.n_slots, info.memory_bytes, info.host)
                self._step(event)
        return placement.classes

    def _await(self, missing: Callable[[], list[int]], is_any_ready: Callable[[], bool]) -> None:
        """Wait until nobody is missing; in the end do without who is, if anybody is ready."""
        give_up_s = self._clock() + _HELLO_S
        while missing():
            self._turn(_POLL_S)
            now = self._clock()
            if self._stop.reason is not None or now >= self._deadline_s:
                raise Interrupted(f"stopped while starting: {self._stop.reason or 'deadline'}")
            if now > give_up_s and (late := missing()):
                if not is_any_ready():
                    raise Interrupted(
                        f"no agent got ready within {_HELLO_S:g} s; look at the nodes of rank "
                        f"{', '.join(map(str, late))}"
                    )
                for agent in late:
                    error = TopologyError(f"it did not get ready within {_HELLO_S:g} s")
                    self._dismiss(agent, error)

    def _admissible(self, classes: tuple[m.TaskClass, ...]) -> tuple[m.TaskClass, ...]:
        """Cap predicted memory at what the large agents that compute have.

        Predictions are rough before anything has run: a task that is thought too large runs alone
        instead of being refused.
        """
        most = self._crew.common_bytes
        return tuple(
            replace(each, memory_bytes=int(most)) if each.memory_bytes > most else each
            for each in classes
        )

    # ----------------------------------------------------------------------- ending

    def _heed_stop(self) -> None:
        """Drain if asked to; what is finished is made safe before anything else."""
        reason = self._stop.reason
        if reason is None or self._is_heeding:
            return
        self._is_heeding = True
        end = "will be finished and kept"
        if self._stop.grace_s is not None:
            self._sink.flush()
            self._cut_off_s = self._clock() + self._stop.grace_s
            end = f"get {self._stop.grace_s:g} s to finish"
        _LOG.warning("%s: stopping; running tasks %s (once more: at once)", reason, end)
        self._step(m.DrainRequested(reason))

    def _reason_to_end(self) -> str | None:
        now = self._clock()
        if self._stop.is_urgent or now >= self._cut_off_s:
            return self._stop.reason
        if now >= self._deadline_s:
            return "deadline"
        if self.scheduler.is_drained:
            return self.scheduler.drain_reason
        if not self.scheduler.has_agents:
            return f"all agents are lost: {self._crew.obituary}"
        return None

    def _lose(self, agent: int, reason: str) -> None:
        """Do without an agent that has gone."""
        info = self._crew.info(agent)
        if self._part(agent, reason):
            self._observer.agent_lost(agent, info, reason)

    def _dismiss(self, agent: int, error: QcmbError) -> None:
        """Do without an agent that cannot work on one of the spaces."""
        for space in self._crew.spaces:
            self._send(agent, Shut(space))
        info = self._crew.info(agent)
        if self._part(agent, str(error)):
            self._observer.agent_refused(agent, info, error)

    def _part(self, agent: int, reason: str) -> bool:
        """Give what an agent had to the others; return False if that was done before."""
        layout = self._crew.layouts.get(agent)
        if not self._crew.strike(agent, reason):
            return False
        if self._has_joined(agent) and layout is not None:
            held = sum(len(ids) for ids in self.scheduler.held(agent).values())
            # No more can have been running: that is what is repeated. The scheduler suspects up to
            # as many more, whose ends it may not have been told of.
            self._observer.cut_off(min(held, layout.n_slots))
            message = f"rank {agent}, which ran it, was lost: {reason}"
            self._loss = Failure(ErrorClass.CRASHED, "crashed", message)
            self._step(m.AgentLost(agent, reason))
            self._loss = None
        return True

    def _has_joined(self, agent: int) -> bool:
        """Whether the scheduler knows an agent, be it of old."""
        return self.scheduler.has_agent(agent)

    # ------------------------------------------------------------- events and commands

    def _turn(self, timeout_s: float) -> None:
        began_s = self._clock()
        for agent, message in self._transport.poll(timeout_s):
            self._take(agent, message)
        if self._clock() - began_s > _LONG_TURN_S:
            self._sink.flush()  # tasks run in this very thread: the next may take as long
        else:
            self._sink.commit_if_due()
        self._observer.ticked(self.scheduler, self._clock())

    def _take(self, agent: int, message: FromAgent) -> None:
        match message:
            case Lost(reason):
                self._lose(agent, reason)
            case Ready(space, error) if self._crew.knows(space):
                self._crew.answer(agent, space, error)
                if error is not None and space != self._opening and agent in self._crew.layouts:
                    self._dismiss(agent, error)
            case Done(outcomes, number) if self._has_joined(agent):
                self._n_heard[agent] = number
                self._take_outcomes(agent, self._believable(agent, Outcomes.of(outcomes)))
            case Returned(space, ids) if self._crew.knows(space) and self._has_joined(agent):
                self._step(m.TasksReturned(agent, space, ids))

    def _believable(self, agent: int, outcomes: Outcomes) -> Outcomes:
        """Return what is ours; after such a signal, tasks that failed are as if never begun."""
        ours = outcomes.where(self._crew.knows)
        if not (ours.failures and self._stop.may_have_hit_programs):
            return ours
        self._heed_stop()  # so that nothing is given out again
        for each in ours.failures:
            self._step(m.TasksReturned(agent, each.space, np.array([each.task], dtype=np.int64)))
        return ours.successes()

    def _take_outcomes(self, agent: int, outcomes: Outcomes) -> None:
        self._sink.append(outcomes)
        self._observer.outcomes(agent, outcomes)
        for batch in outcomes.times():
            columns = (batch.column(name) for name in ("task", "seconds", "peak_bytes"))
            self._step(m.TasksDone(agent, batch.space, *columns))
        for outcome in outcomes.failures:
            if outcome.failure is not None:
                self._last_failure[outcome.space, outcome.task] = outcome.failure
                error = outcome.failure.error_class
                seen = outcome.peak_bytes
                self._step(m.TaskFailed(agent, outcome.space, outcome.task, error, seen))

    def _step(self, event: m.Event) -> None:
        now = self._clock()
        commands = self.scheduler.step(event, now)
        self._observer.stepped(event, commands, now)
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: m.Command) -> None:
        match command:
            case m.Assign(agent, space, ids, is_alone, n_threads):
                n_heard = self._n_heard.get(agent, 0)
                self._send(agent, Work(space, ids, is_alone, n_threads, n_heard))
            case m.Retract(agent, space):
                self._send(agent, Recall(space))
            case m.SetAside(agent, reason):
                self._observer.agent_set_aside(agent, reason)
            case m.Quarantine(space, task, error, n_attempts):
                failure = self._failure(space, task, error)
                self._observer.quarantined(space, task, failure, n_attempts)

    def _failure(self, space: int, task: int, error: ErrorClass) -> Failure:
        """Return what is known of why a task was given up."""
        last = self._last_failure.get((space, task))
        if self._loss is not None and (last is None or error is self._loss.error_class):
            return self._loss
        if last is None:
            return Failure(error, error.value, "it is predicted not to fit into any agent's memory")
        return last

    def _send(self, agent: int, message: ToAgent) -> None:
        if not self._crew.has_left(agent):
            self._transport.send(agent, message)
