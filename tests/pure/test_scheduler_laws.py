"""Laws: what holds for every scheduler, whatever happens to it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass, max_attempts
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions
from qcmb_mpi.scheduling.simulate import Faults, Machine, SimulationResult, simulate
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, ids

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scheduler.md"
STORMY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class Storm:
    """Random events, legal ones and late ones, at a checked scheduler."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.options = SchedulerOptions(
            n_retries=int(self.rng.integers(0, 3)),
            order=str(self.rng.choice(["lpt", "level"])),
            lookahead_tasks=int(self.rng.integers(0, 3)),
            lookahead_s=float(self.rng.choice([0.0, 0.3, 5.0])),
            max_deaths=int(self.rng.integers(1, 4)),
        )
        self.pool = Checked(self.options)
        self.n_agents = 0
        self.n_tasks: list[int] = []
        self.ever_done: list[tuple[int, int]] = []
        self.limits = [0, 0, 100, 250] if self.rng.random() < 0.5 else [60, 100, 100, 250]
        for _ in range(2):
            self.add()
            self.join()

    def blow(self, n_events: int, *, is_draining_allowed: bool = False) -> None:
        """Let ``n_events`` things happen."""
        actions = [self.finish] * 10 + [self.answer] * 4 + [self.fail] * 2 + [self.repeat] * 2
        actions += [self.join, self.lose, self.add, self.release, self.unasked, self.tick]
        if is_draining_allowed:
            actions += [self.drain]
        for _ in range(n_events):
            actions[int(self.rng.integers(len(actions)))]()

    def settle(self) -> None:
        """Let the weather calm down: release everything, one good agent, and work it all off."""
        for space, _ in enumerate(self.n_tasks):
            for stage in range(3):
                self.pool.step(m.StageReleased(space, stage))
        self.pool.join(self.n_agents, 3)
        self.n_agents += 1
        self.pool.work_off(seconds=0.5)

    def join(self) -> None:
        memory = int(self.rng.choice(self.limits))
        host = str(self.rng.choice(["", "h0", "h1"]))
        self.pool.join(self.n_agents, int(self.rng.integers(1, 5)), memory, host)
        self.n_agents += 1

    def lose(self) -> None:
        if len(self.pool.held) > 1:
            self.pool.step(m.AgentLost(int(self.rng.choice(list(self.pool.held)))))

    def add(self) -> None:
        if len(self.n_tasks) > 4:
            return
        sizes = self.rng.integers(0, 40, 3)
        n = int(sizes.sum())
        numbers = self.rng.permutation(n) if self.rng.random() < 0.5 else np.arange(n)
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        classes = tuple(
            m.TaskClass(
                stage,
                np.sort(part) if self.rng.random() < 0.5 else part,
                float(10 ** self.rng.uniform(-3, 1)),
                int(self.rng.choice([0, 20, 90, 200])),
                key=(stage, n % 3),
                n_threads=int(self.rng.choice([0, 0, 4])),
            )
            for stage, part in enumerate(parts)
        )
        done = m.as_ids(np.flatnonzero(self.rng.random(n) < 0.2))
        released = frozenset({0, 1, 2}) if self.rng.random() < 0.5 else frozenset({0})
        space = len(self.n_tasks)
        self.n_tasks.append(n)
        self.ever_done += [(space, task) for task in done.tolist()]
        self.pool.add(classes, space=space, done=done, released=released)

    def release(self) -> None:
        space = int(self.rng.integers(len(self.n_tasks)))
        self.pool.step(m.StageReleased(space, int(self.rng.integers(3))))

    def _held(self) -> tuple[int, int, list[int]] | None:
        held = [(a, s, x) for a, spaces in self.pool.held.items() for s, x in spaces.items()]
        return held[int(self.rng.integers(len(held)))] if held else None

    def finish(self) -> None:
        if (held := self._held()) is not None:
            agent, space, tasks = held
            tasks = tasks[: int(self.rng.integers(1, 6))]
            self.ever_done += [(space, task) for task in tasks]
            seconds = float(self.rng.exponential(1.0))
            peak_bytes = int(self.rng.choice([0, 10, 50, 150]))
            self.pool.done(agent, *tasks, space=space, seconds=seconds, peak_bytes=peak_bytes)

    def fail(self) -> None:
        if (held := self._held()) is not None:
            agent, space, tasks = held
            self.pool.fail(agent, tasks[0], self.rng.choice(list(ErrorClass)), space)

    def answer(self) -> None:
        self.pool.answer_retracts(int(self.rng.integers(0, 4)))

    def unasked(self) -> None:
        if (held := self._held()) is not None:
            agent, space, tasks = held
            self.pool.step(m.TasksReturned(agent, space, ids(*tasks[-2:])))

    def repeat(self) -> None:
        """A result comes twice, or from somebody who does not hold the task any more."""
        space = int(self.rng.integers(len(self.n_tasks)))
        if self.n_tasks[space]:
            agent = int(self.rng.integers(self.n_agents))
            task = int(self.rng.integers(self.n_tasks[space]))
            if m.FinishSpace(space) not in self.pool.said:
                self.ever_done.append((space, task))
            self.pool.done(agent, task, task, space=space)

    def tick(self) -> None:
        self.pool.step(m.Ticked(), after_s=1.0)

    def drain(self) -> None:
        if self.rng.random() < 0.1:
            self.pool.step(m.DrainRequested("storm"))


@STORMY
@given(seed=st.integers(0, 10**6))
def test_every_task_is_done_or_given_up_after_any_storm(seed: int) -> None:
    storm = Storm(seed)
    storm.blow(120)
    storm.settle()
    scheduler = storm.pool.scheduler
    assert scheduler.is_finished
    assert scheduler.is_idle
    for space, n_tasks in enumerate(storm.n_tasks):
        counts = scheduler.counts(space)
        assert counts.done + counts.quarantined == n_tasks
        assert storm.pool.said.count(m.FinishSpace(space)) == 1
        for stage in range(3):
            assert storm.pool.said.count(m.FinishStage(space, stage)) == 1
    n_done = sum(scheduler.counts(space).done for space in range(len(storm.n_tasks)))
    assert n_done >= len(set(storm.ever_done))


@STORMY
@given(seed=st.integers(0, 10**6))
def test_what_is_done_is_never_assigned_again(seed: int) -> None:
    storm = Storm(seed)
    done: set[tuple[int, int]] = set()
    for _ in range(60):
        n_said = len(storm.pool.said)
        n_known = len(storm.ever_done)
        storm.blow(1)
        done |= set(storm.ever_done[:n_known])
        for each in storm.pool.said[n_said:]:
            if isinstance(each, m.Assign):
                assert not done & {(each.space, task) for task in each.ids.tolist()}


@STORMY
@given(seed=st.integers(0, 10**6))
def test_draining_comes_to_an_end_and_assigns_nothing(seed: int) -> None:
    storm = Storm(seed)
    storm.blow(60, is_draining_allowed=True)
    storm.pool.step(m.DrainRequested("end"))
    n_said = len(storm.pool.said)
    storm.blow(60, is_draining_allowed=True)
    storm.pool.work_off()
    assert storm.pool.scheduler.is_drained
    assert not any(isinstance(each, m.Assign) for each in storm.pool.said[n_said:])


@STORMY
@given(seed=st.integers(0, 10**6))
def test_replaying_the_event_log_gives_the_same_commands(seed: int) -> None:
    storm = Storm(seed)
    storm.blow(100, is_draining_allowed=True)
    again = Scheduler(options=storm.options)
    said = [command for now, event in storm.pool.log for command in again.step(event, now)]
    assert said == storm.pool.said


@STORMY
@given(seed=st.integers(0, 10**6))
def test_no_loss_makes_a_task_too_large_that_was_admitted(seed: int) -> None:
    storm = Storm(seed)
    storm.blow(120)
    scheduler = Scheduler(options=storm.options)
    for now, event in storm.pool.log:
        for each in scheduler.step(event, now):
            if isinstance(each, m.Quarantine) and each.n_attempts == 0:
                assert isinstance(event, m.AgentJoined | m.SpaceAdded), (event, each)


def random_work(rng: np.random.Generator) -> tuple[list[m.TaskClass], Machine]:
    sizes = rng.integers(1, 30, int(rng.integers(1, 5)))
    starts = np.cumsum(sizes) - sizes
    work = [
        m.TaskClass(0, range(start, start + n), float(10 ** rng.uniform(-2, 1)), key=int(start))
        for start, n in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return work, Machine(int(rng.integers(1, 6)), int(rng.integers(1, 4)))


def widened(work: list[m.TaskClass], rng: np.random.Generator) -> list[m.TaskClass]:
    """Let some classes run with an agent for each task."""
    return [replace(each, n_threads=int(rng.choice([0, 3]))) for each in work]


def under_fire(rng: np.random.Generator) -> tuple[int, SimulationResult, SchedulerOptions]:
    """Run random work while agents die, lie broken and run short of memory."""
    work, machine = random_work(rng)
    n_tasks = sum(each.n_tasks for each in work)
    unlike = [tuple(rng.integers((1, 40), (5, 120)).tolist()) for _ in range(machine.n_agents)]
    machine = replace(
        machine,
        memory_bytes=int(rng.choice([0, 100])),
        unlike=unlike if rng.random() < 0.5 else (),
        message_s=float(rng.choice([0, 0.01, 0.3])),
        report_s=float(rng.choice([0, 0.05])),
        agents_per_host=int(rng.integers(1, 4)),
    )
    sizes = [0, 30, min(90, max(limit for _, limit in machine.agents) or 90)]
    work = [replace(each, memory_bytes=int(rng.choice(sizes))) for each in widened(work, rng)]
    order = rng.permutation(machine.n_agents).tolist()
    n_lost, n_bad = rng.integers(0, machine.n_agents, 2).tolist()
    faults = Faults(
        float(rng.choice([0, 0.05, 0.3])),
        errors=[list(ErrorClass)[i] for i in rng.permutation(len(ErrorClass))[:3].tolist()],
        losses=[(float(rng.uniform(0, 30)), agent) for agent in order[:n_lost]],
        bad_agents=frozenset(order[::-1][: n_bad // 2]),
        greedy_tasks=frozenset(np.flatnonzero(rng.random(n_tasks) < 0.1).tolist()),
        peak_spread=float(rng.choice([0, 0.5, 1.0])),
    )
    options = SchedulerOptions(
        n_retries=int(rng.integers(0, 4)),
        lookahead_tasks=int(rng.integers(0, 3)),
        lookahead_s=float(rng.choice([0.0, 0.3, 5.0])),
    )
    result = simulate(
        work,
        machine,
        rng=rng,
        jitter=0.5,
        faults=faults,
        options=options,
        most_events=60 * n_tasks + 500,
        is_checked=True,
        is_recorded=True,
    )
    return n_tasks, result, options


def check_quarantines(result: SimulationResult, options: SchedulerOptions) -> int:
    """Replay a run and check that every task that was given up had its chances; return how many."""
    scheduler = Scheduler(options=options)
    failures: dict[int, list[ErrorClass]] = {}
    n_lost = n = 0
    for now, event in result.events:
        n_lost += isinstance(event, m.AgentLost)
        if isinstance(event, m.TaskFailed):
            failures.setdefault(event.task, []).append(event.error)
        for command in scheduler.step(event, now):
            if isinstance(command, m.Quarantine):
                n += 1
                had = failures.get(command.task, [])
                is_dead = command.error is ErrorClass.CRASHED and n_lost >= options.max_deaths
                is_worn = len(had) >= max_attempts(command.error, options.n_retries)
                is_failed = command.error in had[-1:] and is_worn
                assert is_dead or is_failed, (command, had)
    return n


@pytest.mark.parametrize("seed", range(120))
def test_everything_is_settled_with_good_reason_under_fire(seed: int) -> None:
    n_tasks, result, options = under_fire(np.random.default_rng(seed))
    assert result.n_done + result.n_quarantined == n_tasks
    assert check_quarantines(result, options) == result.n_quarantined
    assert result.n_crowded == 0
    assert result.n_events < 60 * n_tasks + 500


def graham_bound_s(total_s: float, longest_s: float, n_slots: int) -> float:
    return total_s / n_slots + (1 - 1 / n_slots) * longest_s


@pytest.mark.parametrize("seed", range(40))
def test_list_scheduling_keeps_grahams_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work, machine = random_work(rng)
    result = simulate(work, machine, rng=rng, jitter=1.0, options=NO_LOOKAHEAD, is_checked=True)
    n_slots = machine.n_agents * machine.slots_per_agent
    longest_s = result.lower_bound_s  # at least the longest task
    assert result.makespan_s <= graham_bound_s(result.busy_s, longest_s, n_slots) + 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_wide_tasks_keep_grahams_bound_of_slot_seconds(seed: int) -> None:
    """They come first, when agents are empty: no slot idles while anything is ready."""
    rng = np.random.default_rng(seed)
    work, machine = random_work(rng)
    work = widened(work, rng)
    result = simulate(work, machine, rng=rng, jitter=1.0, options=NO_LOOKAHEAD, is_checked=True)
    n_slots = machine.n_agents * machine.slots_per_agent
    assert result.makespan_s <= result.busy_s / n_slots + result.lower_bound_s + 1e-9
    assert result.n_wide == sum(each.n_tasks for each in work if each.n_threads)
    assert result.n_crowded == 0


@pytest.mark.parametrize("seed", range(40))
def test_lookahead_costs_at_most_what_one_agent_has_at_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work, machine = random_work(rng)
    options = SchedulerOptions()
    result = simulate(work, machine, rng=rng, options=options, is_checked=True)
    n_slots = machine.n_agents * machine.slots_per_agent
    longest_s = max(each.cost_s for each in work)
    extra_s = options.lookahead_s + options.lookahead_tasks * longest_s
    bound_s = graham_bound_s(result.busy_s, longest_s, n_slots) + extra_s
    assert result.makespan_s <= bound_s + 1e-9


def best_makespan_s(costs: list[float], n_slots: int) -> float:
    return min(
        max(sum(c for c, w in zip(costs, owners, strict=True) if w == k) for k in range(n_slots))
        for owners in itertools.product(range(n_slots), repeat=len(costs))
    )


@pytest.mark.parametrize("seed", range(40))
def test_longest_first_keeps_grahams_bound_for_lpt(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_slots = int(rng.integers(2, 4))
    costs = rng.integers(1, 20, int(rng.integers(2, 8))).astype(float).tolist()
    work = [m.TaskClass(0, range(i, i + 1), cost, key=i) for i, cost in enumerate(costs)]
    result = simulate(work, Machine(n_slots), rng=rng, options=NO_LOOKAHEAD)
    best_s = best_makespan_s(costs, n_slots)
    assert best_s <= result.makespan_s + 1e-9
    assert result.makespan_s <= (4 / 3 - 1 / (3 * n_slots)) * best_s + 1e-9


def test_memory_stays_small_for_ten_million_tasks() -> None:
    scheduler = Scheduler()
    n = 10_000_000
    scheduler.step(m.SpaceAdded(0, (m.TaskClass(0, range(n), 1.0),)), 0.0)
    book = scheduler._pool.books[0]
    arrays = [x for x in vars(book).values() if isinstance(x, np.ndarray)]
    assert sum(each.nbytes for each in arrays) <= 5 * n + 1000
    scheduler.step(m.AgentJoined(0, 64), 0.0)
    assert scheduler.counts(0).assigned > 0


def test_the_page_prints_the_tables_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- tables -->\n", "<!-- end of tables -->"
    assert text[text.index(start) + len(start) : text.index(end)] == m.render_tables(), (
        "print qcmb_mpi.scheduling.messages.render_tables() between the marks"
    )
