"""Bad places: agents set aside, missing programs, agents lost."""

from __future__ import annotations

import pytest

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, one_class

NO_RETRIES = SchedulerOptions(n_retries=0, lookahead_s=0.0, lookahead_tasks=0)
UNKNOWN = ErrorClass.UNKNOWN


def aside(said: list[m.Command]) -> list[int]:
    return [each.agent for each in said if isinstance(each, m.SetAside)]


def given_up(said: list[m.Command]) -> list[int]:
    return [each.task for each in said if isinstance(each, m.Quarantine)]


def good_and_bad(options: SchedulerOptions = NO_LOOKAHEAD, n: int = 20) -> Checked:
    """Return a pool with a good agent 0, which has a result, and a bad agent 1."""
    pool = Checked(options)
    pool.join(0, 2)
    pool.join(1, 1)
    pool.add(one_class(n))
    pool.done(0, 0)
    return pool


@pytest.mark.parametrize("options", [NO_LOOKAHEAD, NO_RETRIES])
def test_an_agent_on_which_everything_fails_is_set_aside_and_no_task_pays(
    options: SchedulerOptions,
) -> None:
    pool = good_and_bad(options)
    for n in range(3):
        assert not aside(pool.said), n
        (task,) = pool.held[1][0]
        pool.fail(1, task, UNKNOWN)
    assert aside(pool.said) == [1]
    assert pool.held[1] == {}
    assert pool.scheduler.pool.n_slots == 2
    assert all(not each.charged for each in pool.scheduler._pool.books[0].trials.values())
    pool.work_off()
    assert pool.scheduler.counts(0).done == 20


def test_what_it_has_not_started_is_asked_back_and_its_results_still_count() -> None:
    pool = good_and_bad(SchedulerOptions(lookahead_tasks=3, lookahead_s=0.0), n=200)
    held = pool.held[1][0]
    said = [pool.fail(1, task, UNKNOWN) for task in held[:3]]
    assert [type(each) for each in said[-1][:2]] == [m.SetAside, m.Retract]
    assert pool.done(1, *pool.held[1][0][:1]) == []
    pool.answer_retracts(0)
    assert pool.held[1] == {}
    assert pool.fail(1, held[3], UNKNOWN) == []
    pool.work_off()
    assert pool.scheduler.counts(0).done == 200


def test_an_attempt_that_fails_after_its_agent_was_set_aside_costs_nothing() -> None:
    pool = Checked(NO_RETRIES)
    pool.join(0, 1)
    pool.join(1, 4)
    pool.add(one_class(20))
    pool.done(0, 0)
    for task in pool.held[1][0][:4]:
        pool.fail(1, task, UNKNOWN)
    assert aside(pool.said) == [1]
    assert not given_up(pool.said)


def test_one_task_alone_or_errors_of_the_tasks_set_nobody_aside() -> None:
    for error in (ErrorClass.INPUT, ErrorClass.CONVERGENCE, ErrorClass.TIMEOUT):
        pool = good_and_bad()
        for _ in range(5):
            pool.fail(1, pool.held[1][0][0], error)
        assert not aside(pool.said)
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0)
    pool.join(1)
    pool.add((m.TaskClass(0, range(1), 1.0, 50), m.TaskClass(0, range(1, 9), 9.0, 5)))
    for _ in range(9):
        pool.fail(1, pool.held[1][0][0], ErrorClass.INPUT)
        if not pool.held[1]:
            break
    assert not aside(pool.said)


def test_nobody_is_set_aside_where_nothing_ever_went_well() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0)
    pool.join(1)
    pool.add(one_class(9))
    while pool.held[0] or pool.held[1]:
        for agent in (0, 1):
            if pool.held[agent]:
                pool.fail(agent, pool.held[agent][0][0], UNKNOWN)
    assert not aside(pool.said)
    assert pool.scheduler.counts(0).quarantined == 9


def test_a_row_of_failures_is_bad_luck_where_many_fail() -> None:
    pool = good_and_bad(SchedulerOptions(n_retries=0, lookahead_s=0.0, lookahead_tasks=0), 400)
    pool.done(1, pool.held[1][0][0])
    for _ in range(60):  # every second attempt fails on agent 0 as well
        pool.fail(0, pool.held[0][0][0], UNKNOWN)
        pool.done(0, pool.held[0][0][0])
    for _ in range(8):
        pool.fail(1, pool.held[1][0][0], UNKNOWN)
    assert not aside(pool.said)
    while pool.held[1]:
        pool.fail(1, pool.held[1][0][0], UNKNOWN)
    assert aside(pool.said) == [1]


def test_the_last_agent_is_called_back() -> None:
    pool = good_and_bad(n=9)
    for _ in range(3):
        pool.fail(1, pool.held[1][0][0], UNKNOWN)
    assert aside(pool.said) == [1]
    assert assigned(pool.step(m.AgentLost(0)))
    assert pool.scheduler.pool.n_slots == 1
    pool.work_off()
    assert pool.scheduler.is_finished


def test_a_retry_is_not_taken_from_where_it_may_run_to_where_it_failed() -> None:
    pool = Checked(SchedulerOptions(lookahead_tasks=1, lookahead_s=0.0))
    pool.join(0)
    pool.join(1)
    pool.add(one_class(12))
    retried = pool.held[1][0][0]
    pool.fail(1, retried, UNKNOWN)
    pool.done(0, 0)
    assert pool.held[0][0][1] == retried
    while pool.held[1]:
        pool.done(1, pool.held[1][0][0])
    assert pool.step(m.Ticked()) == []
    assert pool.retracts == []
    assert pool.held[0][0][1] == retried
    assert pool.join(2) == [m.Retract(0, 0)]
    assert assigned(pool.answer_retracts()) == {2: [retried]}
    pool.work_off()
    assert pool.scheduler.counts(0).done == 12


def test_a_missing_program_costs_nothing_while_another_agent_is_left() -> None:
    pool = Checked(NO_RETRIES)
    for agent in range(3):
        pool.join(agent)
    pool.add(one_class(1))
    missing = ErrorClass.MISSING_PROGRAM
    assert assigned(pool.fail(0, 0, missing)) == {1: [0]}
    assert assigned(pool.fail(1, 0, missing)) == {2: [0]}
    assert pool.fail(2, 0, missing)[0] == m.Quarantine(0, 0, missing, 1)


def test_a_task_goes_back_to_where_it_failed_rather_than_where_its_program_is_missing() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0)
    pool.join(1)
    pool.add(one_class(1))
    assert assigned(pool.fail(0, 0, ErrorClass.TRANSIENT)) == {1: [0]}
    assert assigned(pool.fail(1, 0, ErrorClass.MISSING_PROGRAM)) == {0: [0]}
    assert assigned(pool.fail(0, 0, ErrorClass.TRANSIENT)) == {0: [0]}
    assert pool.fail(0, 0, ErrorClass.TRANSIENT)[0].matches(m.Quarantine, n_attempts=3)


def test_only_the_oldest_of_all_spaces_are_blamed_for_a_death() -> None:
    pool = Checked(SchedulerOptions(max_deaths=1, lookahead_tasks=4, lookahead_s=0.0))
    pool.join(0)
    pool.add(one_class(2), space=0)
    pool.done(0, 0)
    pool.add(one_class(40), space=1)
    assert len(pool.held[0]) == 2
    pool.step(m.AgentLost(0))
    blamed = []
    for agent in range(1, 40):  # those to blame get their last chance alone, and die there
        said = [*pool.join(agent), *pool.step(m.AgentLost(agent))]
        blamed += [(each.space, each.task) for each in said if isinstance(each, m.Quarantine)]
        if len(blamed) == 2:
            break
    assert blamed[:2] == [(0, 1), (1, 0)]
