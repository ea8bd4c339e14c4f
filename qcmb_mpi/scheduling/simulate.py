"""A run of the real scheduler under a fake clock: any machine, on a laptop, in seconds.

Rules of this file
------------------
1. The scheduler is the real one, untouched; only agents, messages and time are made up.
2. Same arguments and generator, same result to the bit, unless steps are timed; events of one
   moment in order of making.
3. The end of a task costs a few microseconds: no closure, no draw, no scan for each.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.reporting import ReportTiming, is_short
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions
from qcmb_mpi.scheduling.simagent import Item, Luck, SimAgent
from qcmb_mpi.scheduling.simmaster import SimMaster
from qcmb_mpi.scheduling.simulated import Faults, Machine, SimulationResult

__all__ = ["Faults", "Machine", "SimulationResult", "simulate"]

_SPACE = 0

Seconds = NDArray[np.float64]
_Report = tuple[int, list[int], list[tuple[int, ErrorClass]]]
_Act = Callable[[float, int, Any], None]


def simulate(
    classes: Sequence[m.TaskClass],
    machine: Machine,
    *,
    rng: np.random.Generator,
    times_s: Seconds | None = None,
    jitter: float = 0.0,
    bias: float = 1.0,
    faults: Faults | None = None,
    options: SchedulerOptions | None = None,
    deadline_s: float | None = None,
    timer: Callable[[], float] | None = None,
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
    timer : callable, optional
        Seconds of processor time: the master is busy for as long as its steps really take.
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
    means_s = _of_tasks(classes, "cost_s") if times_s is None else np.array(times_s, dtype=float)
    means_s *= bias
    times = _true_times(means_s, rng, jitter=jitter, faults=faults)
    master = SimMaster(machine, Scheduler(options=options), timer)
    world = _World(times, machine, faults, Luck(faults, rng), master)
    if any(each.n_threads for each in classes):
        world.is_wide = _of_tasks(classes, "n_threads") > 0
    if faults.peak_spread:
        factors = rng.lognormal(0.0, faults.peak_spread, len(times))
        world.peaks = (_of_tasks(classes, "memory_bytes") * factors).astype(np.int64)
    world.most_events = most_events
    world.is_checked, world.is_recorded = is_checked, is_recorded
    return world.run(tuple(classes), deadline_s)


def _of_tasks(classes: Sequence[m.TaskClass], name: str) -> Seconds:
    """Return what the scheduler is told of every task, shape (n_tasks,)."""
    values = np.empty(sum(each.n_tasks for each in classes))
    for each in classes:
        ids = each.ids
        is_range = isinstance(ids, range) and ids.step == 1
        places = slice(ids[0], ids[-1] + 1) if is_range and len(ids) else np.asarray(ids, dtype=int)
        values[places] = getattr(each, name)
    return values


def _true_times(
    times: Seconds, rng: np.random.Generator, *, jitter: float, faults: Faults
) -> Seconds:
    """Draw every task's true seconds about their means, shape (n_tasks,); log-normal."""
    n_tasks = len(times)
    if jitter:
        times *= rng.lognormal(-0.5 * jitter**2, jitter, n_tasks)
    if faults.straggler_probability:
        is_straggler = rng.random(n_tasks) < faults.straggler_probability
        times[is_straggler] *= faults.straggler_factor
    return times


class _World:
    """Agents, messages in flight, and the clock."""

    def __init__(
        self, times: Seconds, machine: Machine, faults: Faults, luck: Luck, master: SimMaster
    ) -> None:
        self.is_checked = self.is_recorded = False
        self.most_events = np.inf
        self.is_wide: NDArray[np.bool_] | None = None
        self.peaks: NDArray[np.int64] | None = None
        self._times = times
        self._machine = machine
        self._losses = faults.losses
        self._luck = luck
        self._master = master
        self._agents = [
            SimAgent(
                n_slots,
                memory_bytes,
                f"h{number // machine.agents_per_host}",
                n_slots,
                ReportTiming(machine.report_s),
            )
            for number, (n_slots, memory_bytes) in enumerate(machine.agents)
        ]
        self._agenda: list[tuple[float, int, _Act, int, Any]] = []
        self._n_planned = 0
        self._on_end: _Act = self._end
        self._has_apart = False  # whether any task so far wanted no company
        self._last_result_s = 0.0
        self._busy_s = 0.0
        self._failed_s: dict[int, float] = {}  # all failed attempts of a task
        self._recovered: set[int] = set()
        self._n = dict.fromkeys(("computed", "messages", "retracts"), 0)
        self._n |= dict.fromkeys(("set_aside", "lone", "wide", "crowded"), 0)
        self._log: list[tuple[float, m.Event]] = []

    def run(self, classes: tuple[m.TaskClass, ...], deadline_s: float | None) -> SimulationResult:
        """Run to the end."""
        for number, agent in enumerate(self._agents):
            joined = m.AgentJoined(number, agent.n_slots, agent.memory_bytes, agent.host)
            self._step(0.0, number, joined)
        if deadline_s is not None:
            self._step(0.0, 0, m.DeadlineSet(deadline_s))
            self._plan(deadline_s, self._step, 0, m.Ticked())
        for at_s, number in self._losses:
            self._plan(at_s, self._lose, number)
        self._step(0.0, 0, m.SpaceAdded(_SPACE, classes))
        agenda, pop = self._agenda, heapq.heappop
        scheduler, master = self._master.scheduler, self._master
        while agenda and not scheduler.is_finished and master.n_events < self.most_events:
            now, _, act, number, what = pop(agenda)
            act(now, number, what)
            if scheduler.is_draining and scheduler.is_drained:
                break
        return self._result()

    def _bounds_s(self) -> tuple[float, float]:
        """Return max(longest task, total / slots), without the attempts that failed and with."""
        n_slots = [agent.n_slots for agent in self._agents]
        slot_s, longest_s = float(self._times.sum()), float(self._times.max(initial=0.0))
        if self.is_wide is not None:
            slot_s += float(self._times[self.is_wide].sum()) * (min(n_slots) - 1)
        plain_s = max(longest_s, slot_s / sum(n_slots))
        for task, failed_s in self._failed_s.items():
            once_s = float(self._times[task])
            needed_s = failed_s + (once_s if task in self._recovered else 0.0)
            longest_s = max(longest_s, needed_s)
            slot_s += needed_s - once_s
        return plain_s, max(longest_s, slot_s / sum(n_slots))

    def _result(self) -> SimulationResult:
        counts = self._master.scheduler.counts(_SPACE)
        plain_s, bound_s = self._bounds_s()
        master = self._master
        return SimulationResult(
            makespan_s=self._last_result_s,
            busy_s=self._busy_s,
            lower_bound_s=bound_s,
            plain_bound_s=plain_s,
            n_done=counts.done,
            n_quarantined=counts.quarantined,
            n_computed=self._n["computed"],
            n_events=master.n_events,
            n_messages=self._n["messages"],
            n_retracts=self._n["retracts"],
            master_s=master.busy_s,
            steps_s=master.steps_s,
            wait_s=master.wait_s / max(1, master.n_events),
            longest_wait_s=master.longest_wait_s,
            n_set_aside=self._n["set_aside"],
            n_lone=self._n["lone"],
            n_wide=self._n["wide"],
            n_crowded=self._n["crowded"],
            events=tuple(self._log),
        )

    # ------------------------------------------------------------------- master

    def _plan(self, at_s: float, act: _Act, number: int, what: Any = None) -> None:
        self._n_planned += 1
        heapq.heappush(self._agenda, (at_s, self._n_planned, act, number, what))

    def _tell(self, event: m.Event, number: int, now: float) -> None:
        """Send an event to the master."""
        self._plan(now + self._machine.message_s, self._step, number, event)

    def _step(self, now: float, _: int, event: m.Event) -> None:
        """Have the master take an event as soon as it is free, and carry out what follows."""
        master = self._master
        if self.is_recorded:
            self._log.append((max(now, master.free_s), event))
        for leaves_s, command in master.take(event, now):
            self._carry_out(command, leaves_s + self._machine.message_s)
        if isinstance(event, m.TasksDone | m.TaskFailed):
            self._last_result_s = master.free_s
        if self.is_checked:
            master.scheduler.check_invariants()

    def _carry_out(self, command: m.Command, at_s: float) -> None:
        if isinstance(command, m.Assign):
            sent = command, self._agents[command.agent].n_heard
            self._plan(at_s, self._receive, command.agent, sent)
            self._n["messages"] += 1
            self._n["lone"] += command.is_alone
            self._n["wide"] += command.n_threads > 0
        elif isinstance(command, m.Retract):
            self._plan(at_s, self._give_back, command.agent)
            self._n["messages"] += 1
            self._n["retracts"] += 1
        elif isinstance(command, m.SetAside):
            self._n["set_aside"] += 1

    # ------------------------------------------------------------------- agents

    def _receive(self, now: float, number: int, sent: tuple[m.Assign, int]) -> None:
        agent = self._agents[number]
        work, n_heard = sent
        times = self._times[work.ids].tolist()
        agent.queue.extend(zip(work.ids.tolist(), times, strict=True))
        agent.queued_s += sum(times)
        agent.timing.note_work(now, n_heard)
        if work.is_alone or work.n_threads:
            agent.alone, agent.is_hosts = int(work.ids[0]), work.is_alone
            self._has_apart = True
        while agent.is_alive and agent.n_free and agent.queue:
            agent.n_free -= 1
            self._start(now, number, agent)
        self._report_when_due(now, number)

    def _start(self, now: float, number: int, agent: SimAgent) -> None:
        """Start the next task in a slot that is taken for it."""
        item = agent.queue.popleft()
        agent.last_s = item[1]
        agent.queued_s -= item[1]
        if self._has_apart:
            self._n["crowded"] += self._is_crowded(agent, item[0])
        self._n_planned += 1
        heapq.heappush(self._agenda, (now + item[1], self._n_planned, self._on_end, number, item))

    def _is_crowded(self, agent: SimAgent, task: int) -> bool:
        """Tell whether a start puts one that wants no company and another side by side."""
        host = [agent]
        if self._machine.agents_per_host > 1:
            host = [each for each in self._agents if each.host == agent.host and each.is_alive]
        if agent.alone == task:
            near = host if agent.is_hosts else [agent]
            return any(each.n_slots - each.n_free > (each is agent) for each in near)
        return any(each.alone is not None and (each is agent or each.is_hosts) for each in host)

    def _end(self, now: float, number: int, item: Item) -> None:
        """End an attempt, start the next, and report now or soon."""
        agent = self._agents[number]
        if not agent.is_alive:
            return
        task, seconds = item
        self._n["computed"] += 1
        is_wide = self.is_wide is not None and self.is_wide[task]
        self._busy_s += seconds * agent.n_slots if is_wide else seconds
        error = self._luck.failure(number, task, is_alone=agent.alone == task)
        if error is None:
            agent.done.append(task)
        else:
            agent.failed.append((task, error))
        agent.timing.note_results(now, are_short=is_short(seconds), has_failed=error is not None)
        if agent.alone == task:
            agent.alone = None
        if agent.queue:
            self._start(now, number, agent)
        else:
            agent.n_free += 1
        self._report_when_due(now, number)

    def _report_when_due(self, now: float, number: int, is_planned: bool = False) -> None:
        """Report what is due, or plan to; ``is_planned``: this was planned."""
        agent = self._agents[number]
        agent.is_report_planned &= not is_planned
        if not agent.is_alive:
            return
        due_s = agent.timing.due_s(agent.need)
        if due_s <= now:
            n_reports = agent.timing.note_report(now, agent.need)
            report = n_reports, agent.done, agent.failed
            agent.done, agent.failed = [], []
            self._plan(now + self._machine.message_s, self._hear, number, report)
        elif due_s < np.inf and not agent.is_report_planned:
            agent.is_report_planned = True
            self._plan(due_s, self._report_when_due, number, True)

    def _hear(self, now: float, number: int, report: _Report) -> None:
        """Have the master take a report."""
        self._agents[number].n_heard, done, failed = report
        ids = m.as_ids(done)
        if done:
            peaks = m.as_ids(()) if self.peaks is None else self.peaks[ids]
            self._step(now, number, m.TasksDone(number, _SPACE, ids, self._times[ids], peaks))
            self._recovered.update(self._failed_s.keys() & done)
        for task, error in failed:
            self._failed_s[task] = self._failed_s.get(task, 0.0) + float(self._times[task])
            self._step(now, number, m.TaskFailed(number, _SPACE, task, error))

    def _give_back(self, now: float, number: int, _: None) -> None:
        agent = self._agents[number]
        if agent.is_alive:
            ids = m.as_ids([task for task, _ in agent.queue])
            agent.queue.clear()
            agent.queued_s = 0.0
            self._tell(m.TasksReturned(number, _SPACE, ids), number, now)

    def _lose(self, now: float, number: int, _: None) -> None:
        self._agents[number].is_alive = False
        self._tell(m.AgentLost(number, "simulated"), number, now)
