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
from qcmb_mpi.scheduling.simulated import Faults, Machine, SimulationResult

__all__ = ["Faults", "Machine", "SimulationResult", "simulate"]

_SPACE = 0


def simulate(
    classes: Sequence[m.TaskClass],
    machine: Machine,
    *,
    rng: np.random.Generator,
    times_s: NDArray[np.float64] | None = None,
    jitter: float = 0.0,
    bias: float = 1.0,
    faults: Faults | None = None,
    options: SchedulerOptions | None = None,
    deadline_s: float | None = None,
    most_events: float = np.inf,
    is_checked: bool = False,
    is_recorded: bool = False,
) -> SimulationResult:
    """Run tasks through the real scheduler on a machine that does not exist.

    Parameters
    ----------
    classes : sequence of TaskClass
        The work; ``cost_s`` is what the scheduler is told, of wide ones as wide as they are.
    machine : Machine
    rng : numpy.random.Generator
    times_s : ndarray, shape (n_tasks,), optional
        True seconds of every task; by default they are drawn about ``cost_s``.
    jitter : float
        Standard deviation of the logarithm of a task's true time.
    bias : float
        Mean true time over ``cost_s``: how wrong all predictions are.
    faults : Faults, optional
    options : SchedulerOptions, optional
    deadline_s : float, optional
        The run drains for it.
    most_events : int, optional
        It is given up after so many steps of the scheduler.
    is_checked : bool
        Check the scheduler's invariants after each step; slow.
    is_recorded : bool
        Keep the event log.

    Returns
    -------
    SimulationResult
    """
    faults = faults or Faults()
    means_s = (
        _of_tasks(classes, "cost_s") if times_s is None else np.array(times_s, dtype=np.float64)
    )
    times = _true_times(means_s * bias, rng, jitter=jitter, faults=faults)
    world = _World(times, machine, rng, faults, Scheduler(options=options))
    world.is_wide = _of_tasks(classes, "n_threads") > 0
    if faults.peak_spread:
        factors = rng.lognormal(0.0, faults.peak_spread, len(times))
        world.peaks = (_of_tasks(classes, "memory_bytes") * factors).astype(np.int64)
    world.most_events = most_events
    world.is_checked, world.is_recorded = is_checked, is_recorded
    return world.run(tuple(classes), deadline_s)


def _of_tasks(classes: Sequence[m.TaskClass], name: str) -> NDArray[np.float64]:
    """Return what the scheduler is told of every task, shape (n_tasks,)."""
    values = np.empty(sum(each.n_tasks for each in classes))
    for each in classes:
        values[np.asarray(each.ids, dtype=np.int64)] = getattr(each, name)
    return values


def _true_times(
    times: NDArray[np.float64], rng: np.random.Generator, *, jitter: float, faults: Faults
) -> NDArray[np.float64]:
    """Draw every task's true seconds about their means, shape (n_tasks,); log-normal."""
    n_tasks = len(times)
    if jitter:
        times *= rng.lognormal(-0.5 * jitter**2, jitter, n_tasks)
    if faults.straggler_probability:
        is_straggler = rng.random(n_tasks) < faults.straggler_probability
        times[is_straggler] *= faults.straggler_factor
    return times


@dataclass(slots=True)
class _SimAgent:
    """An agent: slots, and a queue in the order of arrival.

    ``alone`` is a task that wants no company here, nor on the whole host if ``is_hosts``.
    """

    n_slots: int
    memory_bytes: int
    host: str
    n_free: int
    queue: deque[int] = field(default_factory=deque)
    done: list[int] = field(default_factory=list)
    is_report_due: bool = False
    is_alive: bool = True
    alone: int | None = None
    is_hosts: bool = False


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
        self.most_events = np.inf
        self.is_wide = np.zeros(len(times), dtype=bool)
        self.peaks: NDArray[np.int64] | None = None
        self._times = times
        self._machine = machine
        self._rng = rng
        self._faults = faults
        self._scheduler = scheduler
        self._agents = [
            _SimAgent(n_slots, memory_bytes, f"h{number // machine.agents_per_host}", n_slots)
            for number, (n_slots, memory_bytes) in enumerate(machine.agents)
        ]
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._n_planned = 0
        self._master_free_s = 0.0
        self._last_result_s = 0.0
        self._busy_s = 0.0
        self._n = dict.fromkeys(("computed", "events", "messages", "retracts"), 0)
        self._n |= dict.fromkeys(("set_aside", "lone", "wide", "crowded"), 0)
        self._log: list[tuple[float, m.Event]] = []

    def run(self, classes: tuple[m.TaskClass, ...], deadline_s: float | None) -> SimulationResult:
        """Run to the end."""
        for number, agent in enumerate(self._agents):
            joined = m.AgentJoined(number, agent.n_slots, agent.memory_bytes, agent.host)
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
        is_too_long = self._n["events"] >= self.most_events
        return is_too_long or self._scheduler.is_finished or self._scheduler.is_drained

    def _result(self) -> SimulationResult:
        counts = self._scheduler.counts(_SPACE)
        slots = [agent.n_slots for agent in self._agents]
        slot_s = float(self._times @ np.where(self.is_wide, min(slots), 1))
        longest_s = float(self._times.max(initial=0.0))
        return SimulationResult(
            makespan_s=self._last_result_s,
            busy_s=self._busy_s,
            lower_bound_s=max(longest_s, slot_s / sum(slots)),
            n_done=counts.done,
            n_quarantined=counts.quarantined,
            n_computed=self._n["computed"],
            n_events=self._n["events"],
            n_messages=self._n["messages"],
            n_retracts=self._n["retracts"],
            master_s=self._n["events"] * self._machine.step_s,
            n_set_aside=self._n["set_aside"],
            n_lone=self._n["lone"],
            n_wide=self._n["wide"],
            n_crowded=self._n["crowded"],
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
            work = command
            self._plan(at_s, lambda now: self._receive(work, now))
            self._n["messages"] += 1
            self._n["lone"] += command.is_alone
            self._n["wide"] += command.n_threads > 0
        elif isinstance(command, m.Retract):
            agent = command.agent
            self._plan(at_s, lambda now: self._give_back(agent, now))
            self._n["messages"] += 1
            self._n["retracts"] += 1
        elif isinstance(command, m.SetAside):
            self._n["set_aside"] += 1

    # ------------------------------------------------------------------- agents

    def _receive(self, work: m.Assign, now: float) -> None:
        agent = self._agents[work.agent]
        agent.queue.extend(work.ids.tolist())
        if work.is_alone or work.n_threads:
            agent.alone, agent.is_hosts = int(work.ids[0]), work.is_alone
        self._fill(work.agent, now)

    def _fill(self, number: int, now: float) -> None:
        agent = self._agents[number]
        while agent.is_alive and agent.n_free and agent.queue:
            task = agent.queue.popleft()
            self._n["crowded"] += self._is_crowded(agent, task)
            agent.n_free -= 1
            self._plan(
                now + float(self._times[task]),
                lambda at, task=task: self._end(number, task, at),  # type: ignore[misc]
            )

    def _is_crowded(self, agent: _SimAgent, task: int) -> bool:
        """Tell whether a start would put one that wants no company and another side by side."""
        host = [agent]
        if self._machine.agents_per_host > 1:
            host = [each for each in self._agents if each.host == agent.host and each.is_alive]
        if agent.alone == task:
            near = host if agent.is_hosts else [agent]
            return any(each.n_free < each.n_slots for each in near)
        return any(each.alone is not None and (each is agent or each.is_hosts) for each in host)

    def _failure(self, agent: _SimAgent, number: int, task: int) -> ErrorClass | None:
        """Draw what goes wrong with an attempt; None if nothing does."""
        faults = self._faults
        if task in faults.greedy_tasks and agent.alone != task:
            return ErrorClass.RESOURCE
        p = 1.0 if number in faults.bad_agents else faults.failure_probability
        if not p or (p < 1 and self._rng.random() >= p):
            return None
        n = len(faults.errors)
        return faults.errors[int(self._rng.integers(n)) if n > 1 else 0]

    def _end(self, number: int, task: int, now: float) -> None:
        """End an attempt, report it now or soon, and start the next."""
        agent = self._agents[number]
        if not agent.is_alive:
            return
        self._n["computed"] += 1
        self._busy_s += float(self._times[task] * (agent.n_slots if self.is_wide[task] else 1))
        agent.n_free += 1
        error = self._failure(agent, number, task)
        if error is None:
            agent.done.append(task)
        else:
            self._tell(m.TaskFailed(number, _SPACE, task, error), now)
        agent.alone = None if agent.alone == task else agent.alone
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
        peaks = () if self.peaks is None else self.peaks[ids]
        self._tell(m.TasksDone(number, _SPACE, ids, self._times[ids], m.as_ids(peaks)), now)

    def _give_back(self, number: int, now: float) -> None:
        agent = self._agents[number]
        if agent.is_alive:
            ids = m.as_ids(agent.queue)
            agent.queue.clear()
            self._tell(m.TasksReturned(number, _SPACE, ids), now)

    def _lose(self, number: int, now: float) -> None:
        self._agents[number].is_alive = False
        self._tell(m.AgentLost(number, "simulated"), now)
