"""Memory that differs from agent to agent, and that is learnt while tasks run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions
from qcmb_mpi.scheduling.simulate import Faults, Machine, SimulationResult, simulate
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, ids, one_class


def cramped(rng: np.random.Generator) -> tuple[int, SimulationResult, SchedulerOptions]:
    """Run tasks that turn out to need other memory than was said, on agents that have little."""
    n_agents = int(rng.integers(2, 5))
    unlike = [tuple(rng.integers((2, 40), (5, 130)).tolist()) for _ in range(n_agents)]
    sizes = rng.integers(1, 12, 5)
    work = [
        m.TaskClass(
            int(is_wide),
            range(start, start + n),
            float(10 ** rng.uniform(-1, 1)),
            memory_bytes,
            key=start,
            family="f",
            n_threads=3 * is_wide,
        )
        for start, n, memory_bytes, is_wide in zip(
            (np.cumsum(sizes) - sizes).tolist(),
            sizes.tolist(),
            (0, 0, 20, 35, 35),
            (False, False, *(rng.random(3) < 0.5).tolist()),
            strict=True,
        )
    ]
    largest = max(range(n_agents), key=lambda number: unlike[number][1])
    faults = Faults(
        losses=[(float(rng.uniform(0, 10)), largest)] if rng.random() < 0.5 else [],
        peak_spread=1.0,
    )
    options = SchedulerOptions(
        order=str(rng.choice(["lpt", "level"])),
        lookahead_tasks=int(rng.integers(1, 3)),
        lookahead_s=float(rng.choice([0.3, 5.0])),
    )
    result = simulate(
        work,
        Machine(
            n_agents,
            unlike=unlike,
            message_s=float(rng.choice([0, 0.01])),
            agents_per_host=int(rng.integers(1, 3)),
        ),
        rng=rng,
        jitter=0.5,
        faults=faults,
        options=options,
        most_events=30 * int(sizes.sum()) + 300,
        is_checked=True,
        is_recorded=True,
    )
    return int(sizes.sum()), result, options


def n_raises(result: SimulationResult, options: SchedulerOptions) -> int:
    """Replay a run, and check that who holds more than fits by a new prediction is asked for it."""
    scheduler = Scheduler(options=options)
    pool = scheduler._pool
    n = 0
    for now, event in result.events:
        learnt_at = scheduler._lessons._recost_at
        scheduler.step(event, now)
        if scheduler._lessons._recost_at == learnt_at:
            continue
        for agent in pool.agents.values():
            is_over = agent.memory_bytes and sum(agent._largest(pool.books)) > agent.memory_bytes
            if is_over and agent.n_unstarted:
                n += 1
                assert agent.asked >= set(agent.spaces)
    return n


@pytest.mark.parametrize("seed", range(120))
def test_learning_what_tasks_need_never_overfills_an_agent_nor_goes_round_in_circles(
    seed: int,
) -> None:
    n_tasks, result, _ = cramped(np.random.default_rng(seed))
    assert result.n_done == n_tasks, result.n_events
    assert result.n_crowded == 0


def test_what_is_not_started_comes_back_when_it_turns_out_too_large() -> None:
    runs = [cramped(np.random.default_rng(seed)) for seed in range(40)]
    assert sum(n_raises(result, options) for _, result, options in runs) > 10


def test_only_what_runs_stays_where_a_prediction_was_raised() -> None:
    pool = Checked(SchedulerOptions(lookahead_tasks=2, lookahead_s=0.0))
    pool.join(0, 2, 100)
    pool.add(one_class(20, memory_bytes=40))
    assert pool.held[0][0] == [0, 1, 2, 3, 4, 5]
    assert pool.done(0, 0, peak_bytes=80) == [m.Retract(0, 0)]
    assert assigned(pool.answer_retracts(2)) == {}
    assert pool.held[0][0] == [1, 2]
    assert assigned(pool.done(0, 1)) == {}
    assert len(assigned(pool.done(0, 2))[0]) == 1
    pool.work_off()
    assert pool.scheduler.counts(0).done == 20


def test_a_wide_task_leaves_an_agent_that_turns_out_too_small_for_it() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 60)
    pool.join(1, 2, 200)
    narrow = m.TaskClass(0, range(4), 1.0, 25, key="n", family="f")
    wide = m.TaskClass(1, range(4, 6), 5.0, 50, key="w", family="f", n_threads=2)
    pool.add((narrow, wide), released=frozenset({0}))
    pool.step(m.StageReleased(0, 1))
    pool.done(1, 2, peak_bytes=80)
    pool.work_off()
    given = [each for each in pool.said if isinstance(each, m.Assign) and each.n_threads]
    assert [(each.agent, each.is_alone) for each in given] == [(1, False)] * 2


def test_a_hundred_thousand_tasks_too_large_for_those_left_are_looked_at_one_by_one() -> None:
    scheduler = Scheduler(options=NO_LOOKAHEAD)
    n = 100_000
    for agent, memory_bytes in enumerate((100, 60, 60)):
        scheduler.step(m.AgentJoined(agent, 1, memory_bytes), 0.0)
    scheduler.step(m.SpaceAdded(0, one_class(n, memory_bytes=80)), 0.0)
    said = scheduler.step(m.AgentLost(0), 1.0)
    given = [(each.agent, each.ids[0]) for each in said if isinstance(each, m.Assign)]
    assert given == [(1, 0), (2, 1)]
    for task in range(0, 40, 2):
        for agent in (1, 2):
            result = m.TasksDone(agent, 0, ids(task + agent - 1), np.array([1.0]))
            [command] = scheduler.step(result, 2.0)
            assert command == m.Assign(agent, 0, ids(task + agent + 1), is_alone=True)
            assert len(scheduler._pool.lone) == 2


def family(n_tasks: int, memory_bytes: int = 20) -> tuple[m.TaskClass, ...]:
    """Two classes of one family that are predicted to need as much."""
    half = n_tasks // 2
    return tuple(
        m.TaskClass(0, each, 1.0, memory_bytes, key=key, family="f")
        for key, each in (("a", range(half)), ("b", range(half, n_tasks)))
    )


def most_at_once(pool: Checked, agent: int = 0, peak_bytes: int = 0) -> int:
    """Let an agent do all that is left one by one; return the most it had running."""
    most = 0
    while held := pool.held[agent].get(0, []):
        most = max(most, len(held))
        pool.done(agent, held[0], peak_bytes=peak_bytes)
    return most


def test_what_was_ended_for_lack_of_memory_is_not_tried_four_at_once_again() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 4, 100)
    pool.add(family(12))
    assert pool.held[0][0] == [0, 1, 2, 3]
    pool.fail(0, 0, ErrorClass.RESOURCE, peak_bytes=45)
    for task in (1, 2, 3):
        pool.done(0, task)
    assert most_at_once(pool) == 2
    assert pool.scheduler.counts(0).done == 12


def test_a_task_that_was_ended_alone_says_nothing_of_those_in_company() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 4, 100)
    pool.add(family(12))
    for task in range(4):
        pool.fail(0, task, ErrorClass.RESOURCE)
    (alone,) = pool.held[0][0]
    pool.fail(0, alone, ErrorClass.RESOURCE, peak_bytes=100)
    assert pool.scheduler.cost_model.memory_bytes("a", 20, family="f") == 20


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_next_run_starts_from_what_the_last_one_saw(is_killed: bool) -> None:
    first = Checked(NO_LOOKAHEAD)
    first.join(0, 4, 100)
    first.add(family(12))
    if is_killed:
        first.fail(0, 0, ErrorClass.RESOURCE, peak_bytes=45)
    else:
        first.done(0, 0, peak_bytes=45)
    kept = json.loads(json.dumps(first.scheduler.cost_model.as_dict()))
    model = CostModel(calibration=kept)
    assert model.memory_bytes("new", 20, family="f") >= 45
    scheduler = Scheduler(options=NO_LOOKAHEAD, cost_model=model)
    scheduler.step(m.AgentJoined(0, 4, 100), 0.0)
    scheduler.step(m.SpaceAdded(0, family(12)), 0.0)
    assert len(scheduler.held(0)[0]) == 2
    # A prediction that no agent could meet gives nothing up: such a task runs alone.
    scheduler = Scheduler(options=NO_LOOKAHEAD, cost_model=model)
    scheduler.step(m.AgentJoined(0, 4, 30), 0.0)
    scheduler.step(m.SpaceAdded(0, family(12)), 0.0)
    assert len(scheduler.held(0)[0]) == 1
