"""The real scheduler on machines that do not exist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.reporting import report_interval_s
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from qcmb_mpi.scheduling.simulate import Faults, Machine, SimulationResult, simulate

NO_LOOKAHEAD = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)


def run(n: int, cost_s: float, machine: Machine, **more: object) -> SimulationResult:
    rng = np.random.default_rng(7)
    work = [m.TaskClass(0, range(n), cost_s, key="k")]
    return simulate(work, machine, rng=rng, **more)  # type: ignore[arg-type]


def test_equal_tasks_without_latency_take_exactly_their_rounds() -> None:
    result = run(12, 2.0, Machine(2, 2), options=NO_LOOKAHEAD)
    assert result.makespan_s == pytest.approx(6.0)
    assert result.lower_bound_s == result.makespan_s
    assert result.efficiency == 1
    assert (result.n_done, result.n_computed, result.busy_s) == (12, 12, 24.0)


def test_nothing_to_do() -> None:
    result = simulate([], Machine(2), rng=np.random.default_rng(0))
    assert (result.makespan_s, result.n_done, result.efficiency) == (0, 0, 1)


def test_same_seed_same_run_to_the_bit() -> None:
    faults = Faults(0.02, straggler_probability=0.05, losses=((5.0, 1),))
    runs = [
        run(300, 1.0, Machine(4, 2, message_s=0.01), jitter=0.5, faults=faults, is_recorded=True)
        for _ in range(2)
    ]
    assert runs[0].events == runs[1].events
    assert runs[0].makespan_s == runs[1].makespan_s


def test_lookahead_hides_messages() -> None:
    machine = Machine(4, 1, message_s=0.005)
    plain = run(400, 0.02, machine, options=NO_LOOKAHEAD)
    ahead = run(400, 0.02, machine)
    assert plain.efficiency == pytest.approx(2 / 3, abs=0.02)
    assert ahead.efficiency > 0.97


def test_tiny_tasks_need_few_messages_and_keep_slots_busy() -> None:
    result = run(20_000, 0.001, Machine(4, 4, message_s=2e-4, report_s=0.02), jitter=0.2)
    assert result.efficiency > 0.95
    assert result.n_messages < 1000
    assert result.n_done == result.n_computed == 20_000


@pytest.mark.parametrize("bias", [0.01, 1.0, 100.0])
def test_predictions_wrong_by_a_hundred_cost_little(bias: float) -> None:
    result = run(3000, 0.1, Machine(4, 2, message_s=1e-4), bias=bias, jitter=0.3)
    assert result.efficiency > 0.97


def test_true_times_may_be_given_and_are_not_what_the_scheduler_is_told() -> None:
    times_s = np.array([1.0, 1.0, 1.0, 6.0])
    told = run(4, 1.0, Machine(1, 2), times_s=times_s, options=NO_LOOKAHEAD)
    assert (told.busy_s, told.lower_bound_s) == (9.0, 6.0)
    assert told.makespan_s == 7.0  # the long one starts as the others do: last
    assert times_s.tolist() == [1.0, 1.0, 1.0, 6.0]


def test_a_busy_master_delays_everybody() -> None:
    quick = run(500, 0.2, Machine(16, 1, step_s=1e-5))
    slow = run(500, 0.2, Machine(16, 1, step_s=0.1))
    assert slow.makespan_s > 2 * quick.makespan_s
    assert slow.makespan_s >= 500 * 0.1
    assert slow.master_s == pytest.approx(slow.n_events * 0.1)


def test_stragglers_take_longer() -> None:
    faults = Faults(straggler_probability=0.1, straggler_factor=20.0)
    result = run(1000, 1.0, Machine(10), faults=faults)
    assert result.busy_s == pytest.approx(1000 * (0.9 + 0.1 * 20), rel=0.3)
    assert result.lower_bound_s == max(20.0, result.busy_s / 10)


def test_everything_ends_in_spite_of_faults() -> None:
    faults = Faults(0.05, losses=((1.0, 0), (3.0, 3), (3.0, 2), (60.0, 1)))
    machine = Machine(5, 3, message_s=0.01, report_s=0.05)
    result = run(600, 0.5, machine, jitter=1.0, faults=faults, is_checked=True)
    assert result.n_done + result.n_quarantined == 600
    assert result.n_quarantined < 5
    assert result.n_computed > 600


def test_tasks_that_always_fail_are_given_up() -> None:
    faults = Faults(1.0)
    result = run(20, 0.5, Machine(3), faults=faults, options=SchedulerOptions(n_retries=1))
    assert (result.n_quarantined, result.n_computed) == (20, 40)


def test_all_agents_lost_is_an_end_too() -> None:
    result = run(20, 1.0, Machine(2), faults=Faults(losses=((2.5, 0), (2.5, 1))))
    assert result.n_done == 4


def test_a_deadline_is_kept_and_the_time_before_it_used() -> None:
    result = run(5000, 1.0, Machine(10, 4, message_s=1e-3), jitter=0.2, deadline_s=60.0)
    assert 55 < result.makespan_s < 61
    assert 40 * 55 < result.n_done < 40 * 60


def test_unstarted_work_is_taken_back_for_who_has_none() -> None:
    # Times scatter by a factor of ten: at the end one agent sits on a task that others could start.
    result = run(60, 1.0, Machine(6, 1, message_s=0.01), jitter=2.0)
    assert result.n_retracts >= 1
    assert result.n_computed == result.n_done == 60


def test_memory_of_agents_is_respected() -> None:
    work = [m.TaskClass(0, range(40), 1.0, 60, key="a"), m.TaskClass(0, range(40, 80), 1.0, 20)]
    result = simulate(
        work, Machine(2, 4, memory_bytes=100), rng=np.random.default_rng(1), is_checked=True
    )
    assert result.n_done == 80
    assert result.makespan_s == 20  # a large one beside two small ones


def test_a_hundred_thousand_slots_start_and_end() -> None:
    result = run(2000, 10.0, Machine(500, 200, message_s=1e-3, report_s=0.1), jitter=0.5)
    assert result.n_done == 2000
    assert result.n_events < 4000


def test_greedy_tasks_are_done_alone_and_nothing_runs_beside_them() -> None:
    faults = Faults(greedy_tasks=frozenset(range(0, 300, 10)))
    machine = Machine(6, 2, message_s=0.01, report_s=0.05, agents_per_host=2)
    result = run(300, 0.5, machine, jitter=0.5, faults=faults, is_checked=True)
    assert (result.n_done, result.n_lone, result.n_crowded) == (300, 30, 0)
    assert result.n_computed == 330


def test_a_bad_agent_costs_three_attempts_and_no_task() -> None:
    faults = Faults(errors=(ErrorClass.UNKNOWN,), bad_agents=frozenset({2}))
    result = run(300, 0.5, Machine(4, 1), jitter=0.5, faults=faults, is_checked=True)
    assert (result.n_done, result.n_set_aside) == (300, 1)
    assert result.n_computed <= 304


def test_agents_that_fail_no_more_than_the_others_stay_in_service() -> None:
    faults = Faults(0.3, errors=(ErrorClass.UNKNOWN,))
    result = run(3000, 0.5, Machine(8, 2), jitter=0.5, faults=faults)
    assert result.n_set_aside == 0
    assert result.efficiency > 0.6


@pytest.mark.parametrize("machine", [Machine(64, 1), Machine(16, 4)])
def test_a_long_task_does_not_wait_behind_a_longer_one_while_short_ones_start(
    machine: Machine,
) -> None:
    costs = {24.0: range(32), 12.0: range(32, 96), 1.0: range(96, 480)}
    work = [m.TaskClass(0, ids, cost_s, key=cost_s) for cost_s, ids in costs.items()]
    result = simulate(work, replace(machine, message_s=1e-3), rng=np.random.default_rng(0))
    assert result.lower_bound_s == 30
    assert result.efficiency > 0.99


def test_what_has_to_be_done_again_is_part_of_the_bound() -> None:
    faults = Faults(bad_agents=frozenset({0}))
    result = run(2, 10.0, Machine(2), faults=faults, options=NO_LOOKAHEAD)
    assert (result.plain_bound_s, result.lower_bound_s) == (10, 20)
    assert result.makespan_s == pytest.approx(20)
    hopeless = run(1, 10.0, Machine(1), faults=Faults(1.0), options=NO_LOOKAHEAD)
    assert (hopeless.n_quarantined, hopeless.plain_bound_s, hopeless.lower_bound_s) == (1, 10, 30)


# ---- the master's time -----------------------------------------------------------------------


def test_the_master_is_charged_for_steps_messages_and_results() -> None:
    machine = Machine(1, 4, step_s=1e-3, receive_s=2e-3, result_s=4e-3, send_s=8e-3)
    result = run(8, 1.0, machine, options=NO_LOOKAHEAD)
    n_sent = result.n_messages + result.n_retracts
    handled_s = result.n_events * 3e-3 + 8 * 4e-3 + n_sent * 8e-3
    assert result.master_s == pytest.approx(handled_s)
    assert result.steps_s == pytest.approx(result.n_events * 1e-3)
    assert result.master_load == pytest.approx(result.master_s / result.makespan_s)


def test_a_step_takes_what_the_timer_says() -> None:
    ticks = iter(range(10_000))
    result = run(40, 5.0, Machine(4), timer=lambda: 0.01 * next(ticks))
    assert result.steps_s == pytest.approx(0.01 * result.n_events)
    assert result.makespan_s > run(40, 5.0, Machine(4)).makespan_s


def test_who_comes_while_the_master_is_busy_waits_for_its_turn() -> None:
    idle = run(64, 1.0, Machine(1, 4, step_s=1e-6), options=NO_LOOKAHEAD)
    busy = run(64, 1.0, Machine(16, 4, step_s=0.1), options=NO_LOOKAHEAD)
    assert idle.longest_wait_s < 1e-4
    assert 0.1 <= busy.wait_s <= busy.longest_wait_s <= busy.master_s


def test_a_master_that_cannot_keep_up_gets_fewer_and_larger_messages() -> None:
    machine = Machine(64, 16, message_s=1e-4, report_s=0.032, step_s=1e-3, result_s=1e-5)
    result = run(60_000, 0.2, machine, jitter=0.3)
    assert result.master_load > 0.8
    assert result.n_events < 60_000 / 3


def test_a_machine_too_large_for_its_master_gets_as_much_done_as_one_that_is_not() -> None:
    rates = []
    for n_agents in (20, 80, 160):
        n_tasks = n_agents * 16 * 20
        master = Machine(n_agents, 16, message_s=1e-4, report_s=0.05, step_s=5e-3, result_s=1e-4)
        rates.append(n_tasks / run(n_tasks, 1.0, master, jitter=0.2).makespan_s)
    assert rates[1] > 2 * rates[0]  # more results in each message
    assert rates[2] > 0.85 * rates[1]


def test_agents_of_a_large_machine_are_not_idle_for_reporting_late() -> None:
    interval_s = report_interval_s(400)
    machine = Machine(400, 4, message_s=1e-4, step_s=6e-5, report_s=interval_s)
    result = run(400 * 4 * 20, 1.0, machine)
    assert result.efficiency > 0.97
    assert result.n_events < 400 * 4 * 20 / 0.7


def test_attempts_fail_as_often_as_they_are_said_to() -> None:
    result = run(20_000, 1.0, Machine(16, 4), faults=Faults(0.05))
    assert result.n_computed - result.n_done == pytest.approx(20_000 / 19, rel=0.15)
