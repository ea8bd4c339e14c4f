"""A run of the real scheduler under a fake clock: any machine, on a laptop, in seconds.

Rules of this file
------------------
1. The scheduler is the real one, untouched; only agents, messages and time are made up.
2. Same arguments and generator, same result to the bit; events of one moment in order of making.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions

_SPACE = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong.

    Parameters
    ----------
    failure_probability : float
        That an attempt fails.
    error : ErrorClass
        What it fails with.
    straggler_probability, straggler_factor : float
        That a task takes so many times longer.
    losses : sequence of (seconds, agent)
        Agents that die.
    """

    failure_probability: float = 0.0
    error: ErrorClass = ErrorClass.TRANSIENT
    straggler_probability: float = 0.0
    straggler_factor: float = 10.0
    losses: Sequence[tuple[float, int]] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What it runs on.

    Parameters
    ----------
    n_agents, slots_per_agent : int
    memory_bytes : int
        Of each agent; 0 for no limit.
    message_s : float
        From agent to master or back.
    report_s : float
        How long an agent collects results before it reports them, unless it has nothing to do.
    step_s : float
        Master's time for each event: it takes one after the other.
    """

    n_agents: int
    slots_per_agent: int = 1
    memory_bytes: int = 0
    message_s: float = 0.0
    report_s: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came out.

    Parameters
    ----------
    makespan_s : float
        Until the last result is known to the master.
    busy_s : float
        Sum over all attempts.
    lower_bound_s : float
        max(longest task, total / slots): no scheduler can be faster.
    n_done, n_quarantined, n_computed : int
        Tasks with a result, tasks given up, and attempts that ended in the agents.
    n_events, n_messages, n_retracts : int
        Steps of the scheduler; messages to agents; how many of those asked for work back.
    master_s : float
        Master's time, as modelled by ``step_s``.
    events : tuple of (float, Event)
        What the scheduler was told and when, if asked for.
    """

    makespan_s: float
    busy_s: float
    lower_bound_s: float
    n_done: int
    n_quarantined: int
    n_computed: int
    n_events: int
    n_messages: int
    n_retracts: int
    master_s: float
    events: tuple[tuple[float, m.Event], ...] = ()

    @property
    def efficiency(self) -> float:
        """Lower bound over makespan; 1 when there was nothing to do."""
        return self.lower_bound_s / self.makespan_s if self.makespan_s > 0 else 1.0


def simulate(
    classes: Sequence[m.TaskClass],
    machine: Machine,
    *,
    rng: np.random.Generator,
    jitter: float = 0.0,
    bias: float = 1.0,
    faults: Faults | None = None,
    options: SchedulerOptions | None = None,
    deadline_s: float | None = None,
    is_checked: bool = False,
    is_recorded: bool = False,
) -> SimulationResult:
    """Run tasks through the real scheduler on a machine that does not exist.

    Parameters
    ----------
    classes : sequence of TaskClass
        The work; ``cost_s`` is what the scheduler is told.
    machine : Machine
    rng : numpy.random.Generator
    jitter : float
        Standard deviation of the logarithm of a task's true time.
    bias : float
        Mean true time over ``cost_s``: how wrong all predictions are.
    faults : Faults, optional
    options : SchedulerOptions, optional
    deadline_s : float, optional
        The run drains for it.
    is_checked : bool
        Check the scheduler's invariants after each step; slow.
    is_recorded : bool
        Keep the event log.

    Returns
    -------
    SimulationResult
    """
    faults = faults or Faults()
    times = _true_times(classes, rng, jitter=jitter, bias=bias, faults=faults)
    world = _World(times, machine, rng, faults, Scheduler(options=options))
    world.is_checked, world.is_recorded = is_checked, is_recorded
    return world.run(tuple(classes), deadline_s)


def _true_times(
    classes: Sequence[m.TaskClass],
    rng: np.random.Generator,
    *,
    jitter: float,
    bias: float,
    faults: Faults,
) -> NDArray[np.float64]:
    """Draw every task's true seconds, shape (n_tasks,); log-normal with mean ``bias * cost_s``."""
    n_tasks = sum(each.n_tasks for each in classes)
    times = np.empty(n_tasks)
    for each in classes:
        times[np.asarray(each.ids, dtype=np.int64)] = each.cost_s * bias
    if jitter:
        times *= rng.lognormal(-0.5 * jitter**2, jitter, n_tasks)
    if faults.straggler_probability:
        is_straggler = rng.random(n_tasks) < faults.straggler_probability
        times[is_straggler] *= faults.straggler_factor
    return times


@dataclass(slots=True)
class _SimAgent:
    """An agent: slots, and a queue in the order of arrival."""

    n_free: int
    queue: deque[int] = field(default_factory=deque)
    done: list[int] = field(default_factory=list)
    is_report_due: bool = False
    is_alive: bool = True


class _World:
    """Agents, messages in flight, and the clock."""

    def __init__(
        self,
        times: NDArray[np.float64],
        machine: Machine,
        rng: np.random.Generator,
        faults: Faults,
        scheduler: Scheduler,
    ) -> None:
        self.is_checked = self.is_recorded = False
        self._times = times
        self._machine = machine
        self._rng = rng
        self._faults = faults
        self._scheduler = scheduler
        self._agents = [_SimAgent(machine.slots_per_agent) for _ in range(machine.n_agents)]
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._n_planned = 0
        self._master_free_s = 0.0
        self._last_result_s = 0.0
        self._busy_s = 0.0
        self._n = dict.fromkeys(("computed", "events", "messages", "retracts"), 0)
        self._log: list[tuple[float, m.Event]] = []

    def run(self, classes: tuple[m.TaskClass, ...], deadline_s: float | None) -> SimulationResult:
        """Run to the end."""
        for number in range(len(self._agents)):
            machine = self._machine
            joined = m.AgentJoined(number, machine.slots_per_agent, machine.memory_bytes)
            self._step(joined, 0.0)
        if deadline_s is not None:
            self._step(m.DeadlineSet(deadline_s), 0.0)
            self._plan(deadline_s, lambda now: self._step(m.Ticked(), now))
        for at_s, number in self._faults.losses:
            self._plan(at_s, lambda now, number=number: self._lose(number, now))  # type: ignore[misc]
        self._step(m.SpaceAdded(_SPACE, classes), 0.0)
        while self._agenda and not self._is_over:
            now, _, act = heapq.heappop(self._agenda)
            act(now)
        return self._result()

    @property
    def _is_over(self) -> bool:
        return self._scheduler.is_finished or self._scheduler.is_drained

    def _result(self) -> SimulationResult:
        counts = self._scheduler.counts(_SPACE)
        n_slots = self._machine.n_agents * self._machine.slots_per_agent
        longest_s = float(self._times.max(initial=0.0))
        return SimulationResult(
            makespan_s=self._last_result_s,
            busy_s=self._busy_s,
            lower_bound_s=max(longest_s, float(self._times.sum()) / n_slots),
            n_done=counts.done,
            n_quarantined=counts.quarantined,
            n_computed=self._n["computed"],
            n_events=self._n["events"],
            n_messages=self._n["messages"],
            n_retracts=self._n["retracts"],
            master_s=self._n["events"] * self._machine.step_s,
            events=tuple(self._log),
        )

    # ------------------------------------------------------------------- master

    def _plan(self, at_s: float, act: Callable[[float], None]) -> None:
        self._n_planned += 1
        heapq.heappush(self._agenda, (at_s, self._n_planned, act))

    def _tell(self, event: m.Event, now: float) -> None:
        """Send an event to the master."""
        self._plan(now + self._machine.message_s, lambda at: self._step(event, at))

    def _step(self, event: m.Event, now: float) -> None:
        """Have the master take an event as soon as it is free, and carry out what follows."""
        self._master_free_s = max(self._master_free_s, now) + self._machine.step_s
        self._n["events"] += 1
        if self.is_recorded:
            self._log.append((now, event))
        if isinstance(event, m.TasksDone | m.TaskFailed):
            self._last_result_s = self._master_free_s
        for command in self._scheduler.step(event, now):
            self._carry_out(command, self._master_free_s + self._machine.message_s)
        if self.is_checked:
            self._scheduler.check_invariants()

    def _carry_out(self, command: m.Command, at_s: float) -> None:
        if isinstance(command, m.Assign):
            agent, ids = command.agent, command.ids.tolist()
            self._plan(at_s, lambda now: self._receive(agent, ids, now))
            self._n["messages"] += 1
        elif isinstance(command, m.Retract):
            agent = command.agent
            self._plan(at_s, lambda now: self._give_back(agent, now))
            self._n["messages"] += 1
            self._n["retracts"] += 1

    # ------------------------------------------------------------------- agents

    def _receive(self, number: int, ids: list[int], now: float) -> None:
        self._agents[number].queue.extend(ids)
        self._fill(number, now)

    def _fill(self, number: int, now: float) -> None:
        agent = self._agents[number]
        while agent.is_alive and agent.n_free and agent.queue:
            task = agent.queue.popleft()
            agent.n_free -= 1
            self._plan(
                now + float(self._times[task]),
                lambda at, task=task: self._end(number, task, at),  # type: ignore[misc]
            )

    def _end(self, number: int, task: int, now: float) -> None:
        """End an attempt, report it now or soon, and start the next."""
        agent = self._agents[number]
        if not agent.is_alive:
            return
        self._n["computed"] += 1
        self._busy_s += float(self._times[task])
        agent.n_free += 1
        p = self._faults.failure_probability
        if p and self._rng.random() < p:
            self._tell(m.TaskFailed(number, _SPACE, task, self._faults.error), now)
        else:
            agent.done.append(task)
        self._fill(number, now)
        if agent.done:
            self._report_now_or_soon(number, now)

    def _report_now_or_soon(self, number: int, now: float) -> None:
        agent = self._agents[number]
        if not self._machine.report_s or agent.n_free:
            self._report(number, now)
        elif not agent.is_report_due:
            agent.is_report_due = True
            self._plan(now + self._machine.report_s, lambda at: self._report_when_due(number, at))

    def _report_when_due(self, number: int, now: float) -> None:
        agent = self._agents[number]
        agent.is_report_due = False
        if agent.is_alive and agent.done:
            self._report(number, now)

    def _report(self, number: int, now: float) -> None:
        ids = np.array(self._agents[number].done, dtype=np.int64)
        self._agents[number].done = []
        self._tell(m.TasksDone(number, _SPACE, ids, self._times[ids]), now)

    def _give_back(self, number: int, now: float) -> None:
        agent = self._agents[number]
        if agent.is_alive:
            ids = m.as_ids(agent.queue)
            agent.queue.clear()
            self._tell(m.TasksReturned(number, _SPACE, ids), now)

    def _lose(self, number: int, now: float) -> None:
        self._agents[number].is_alive = False
        self._tell(m.AgentLost(number, "simulated"), now)
