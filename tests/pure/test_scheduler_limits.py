"""Memory, draining, deadlines and retirement: what keeps the scheduler from assigning."""

from __future__ import annotations

import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.ledger import Counts
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, one_class

LONG = SchedulerOptions(lookahead_tasks=1, lookahead_s=0.0)


@pytest.fixture
def pool() -> Checked:
    return Checked(NO_LOOKAHEAD)


# --------------------------------------------------------------------- memory


def test_slots_stay_empty_rather_than_memory_full(pool: Checked) -> None:
    pool.join(0, 4, 100)
    assert assigned(pool.add(one_class(9, memory_bytes=40))) == {0: [0, 1]}
    assert assigned(pool.done(0, 0)) == {0: [2]}
    pool.work_off()
    assert pool.scheduler.counts(0).done == 9


def test_smaller_tasks_fill_what_memory_is_left(pool: Checked) -> None:
    pool.join(0, 3, 100)
    classes = (m.TaskClass(0, range(2), 9.0, 60), m.TaskClass(0, range(2, 9), 1.0, 20))
    assert assigned(pool.add(classes)) == {0: [0, 2, 3]}


def test_lookahead_needs_no_memory_while_any_choice_of_running_tasks_fits() -> None:
    pool = Checked(LONG)
    pool.join(0, 2, 100)
    assert assigned(pool.add(one_class(20, memory_bytes=50))) == {0: [0, 1, 2, 3]}
    pool = Checked(LONG)
    pool.join(0, 2, 100)
    classes = (m.TaskClass(0, range(1), 9.0, 70), m.TaskClass(0, range(1, 30), 1.0, 40))
    assert assigned(pool.add(classes)) == {0: [0]}
    assert assigned(pool.done(0, 0)) == {0: [1, 2, 3, 4]}


def test_mixed_sizes_leave_room_for_any_choice_of_running_tasks() -> None:
    pool = Checked(LONG)
    pool.join(0, 2, 100)
    classes = (m.TaskClass(0, range(1), 9.0, 60), m.TaskClass(0, range(1, 30), 1.0, 40))
    assert assigned(pool.add(classes)) == {0: [0, 1, 2, 3]}
    more = (m.TaskClass(0, range(2), 99.0, 80), m.TaskClass(0, range(2, 30), 1.0, 20))
    pool.add(more, space=1)
    pool.work_off()
    assert pool.scheduler.is_finished


def test_what_never_fits_is_given_up_at_once(pool: Checked) -> None:
    classes = (m.TaskClass(0, range(2), 9.0, 500), m.TaskClass(1, range(2, 3), 1.0, 5))
    assert pool.add(classes) == []
    said = pool.join(0, 1, 100)
    assert said[:3] == [
        m.Quarantine(0, 0, ErrorClass.RESOURCE, 0),
        m.Quarantine(0, 1, ErrorClass.RESOURCE, 0),
        m.FinishStage(0, 0),
    ]
    assert assigned(said) == {0: [2]}
    said = pool.add(one_class(1, memory_bytes=101), space=1)
    assert said == [
        m.Quarantine(1, 0, ErrorClass.RESOURCE, 0),
        m.FinishStage(1, 0),
        m.FinishSpace(1),
    ]


def alone(said: list[m.Command]) -> list[int]:
    found = [each for each in said if isinstance(each, m.Assign) and each.is_alone]
    return [task for each in found for task in each.ids.tolist()]


def unequal(options: SchedulerOptions = NO_LOOKAHEAD) -> Checked:
    """Two agents with 10 and 100 bytes; tasks of 50, 80 and 5, in that order of numbers."""
    pool = Checked(options)
    pool.join(0, 1, 10)
    pool.join(1, 1, 100)
    sizes = (range(2), 1.0, 50), (range(2, 4), 1.0, 80), (range(4, 9), 1.0, 5)
    pool.add(tuple(m.TaskClass(0, *each) for each in sizes))
    return pool


def test_what_fits_one_agent_only_goes_there_and_runs_alone_when_that_is_lost() -> None:
    pool = unequal()
    assert pool.held == {0: {0: [4]}, 1: {0: [0]}}
    n_said = len(pool.said)
    pool.step(m.AgentLost(1))
    pool.work_off()
    said = pool.said[n_said:]
    assert alone(said) == [2, 3, 0, 1]
    assert not any(isinstance(each, m.Quarantine) for each in said)
    assert pool.scheduler.counts(0) == Counts(0, 0, 0, 9, 0)


def test_what_only_an_agent_could_hold_that_is_set_aside_runs_alone() -> None:
    """Also what that one had not started, and gives back."""
    pool = unequal(LONG)
    pool.done(0, 4)
    for _ in range(3):
        pool.fail(1, pool.held[1][0][0])
    assert any(isinstance(each, m.SetAside) for each in pool.said)
    pool.work_off()
    assert sorted(alone(pool.said))
    assert pool.scheduler.counts(0) == Counts(0, 0, 0, 9, 0)


def test_a_stage_that_opens_after_the_loss_is_not_stuck() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 10)
    pool.join(1, 1, 100)
    classes = (m.TaskClass(0, range(1), 1.0, 5), m.TaskClass(1, range(1, 3), 1.0, 50))
    pool.add(classes, released=frozenset({0}))
    pool.step(m.AgentLost(1))
    said = pool.step(m.StageReleased(0, 1))
    pool.work_off()
    assert alone(pool.said) == [1, 2], said
    assert pool.scheduler.counts(0) == Counts(0, 0, 0, 3, 0)


def test_a_larger_agent_that_comes_later_takes_what_has_not_had_its_turn_alone() -> None:
    pool = unequal()
    pool.step(m.AgentLost(1))
    assert assigned(pool.join(2, 2, 100)) == {2: [0, 1]}
    pool.work_off()
    assert alone(pool.said) == [2]
    assert pool.scheduler.counts(0).done == 9


def test_smaller_agents_that_follow_the_first_ones_refuse_nothing() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 100)
    classes = (m.TaskClass(0, range(2), 1.0, 80), m.TaskClass(1, range(2, 4), 1.0, 80))
    pool.add(classes, released=frozenset({0}))
    pool.step(m.AgentLost(0))
    assert alone(pool.join(1, 1, 10)) == [0]
    pool.step(m.StageReleased(0, 1))
    pool.work_off()
    assert alone(pool.said) == [0, 1, 2, 3]
    assert pool.scheduler.counts(0).done == 4


def test_what_is_too_large_for_those_left_is_given_up_after_its_attempts_only() -> None:
    pool = unequal()
    pool.step(m.AgentLost(1))
    pool.done(0, 4)
    for n_attempts in (1, 2, 3):
        pool.fail(0, 2, ErrorClass.RESOURCE)
        is_over = m.Quarantine(0, 2, ErrorClass.RESOURCE, n_attempts) in pool.said
        assert is_over is (n_attempts == 3)
        while 2 not in pool.held[0].get(0, []) and not is_over:
            pool.done(0, pool.held[0][0][0])


def test_unstarted_work_is_not_asked_back_for_agents_that_cannot_hold_it() -> None:
    pool = Checked(LONG)
    pool.join(0, 1, 100)
    pool.add(one_class(3, memory_bytes=50))
    assert len(pool.held[0][0]) == 2
    assert pool.join(1, 1, 10) == []


# ----------------------------------------------------------- drain, deadline


def test_draining_asks_for_everything_unstarted_and_assigns_nothing() -> None:
    pool = Checked(LONG)
    pool.join(0, 1)
    pool.add(one_class(9))
    assert pool.step(m.DrainRequested("SIGTERM")) == [m.Retract(0, 0)]
    assert pool.step(m.DrainRequested("again")) == []
    assert pool.scheduler.drain_reason == "SIGTERM"
    assert pool.answer_retracts() == []
    assert not pool.scheduler.is_drained
    assert pool.done(0, 0) == []
    assert pool.scheduler.is_drained
    assert not pool.scheduler.is_finished
    assert pool.join(1) == []
    assert pool.add(one_class(2), space=1) == []
    assert pool.step(m.Ticked()) == []


def test_only_what_ends_before_the_deadline_is_assigned(pool: Checked) -> None:
    pool.join(0, 1)
    classes = (m.TaskClass(0, range(2), 50.0, key="l"), m.TaskClass(0, range(2, 4), 4.0, key="s"))
    pool.add(classes)
    pool.done(0, 0, seconds=50.0)
    pool.done(0, 1, seconds=50.0)
    pool.add((m.TaskClass(0, range(1), 50.0, key="l"),), space=1)
    pool.step(m.DeadlineSet(pool.now + 30.0))
    said = pool.done(0, 2, seconds=4.0)
    assert assigned(said) == {0: [3]}
    assert m.FinishSpace(0) in pool.done(0, 3, seconds=4.0)
    assert pool.scheduler.drain_reason == "deadline"
    assert pool.scheduler.counts(1).ready == 1


def test_lookahead_counts_its_wait_against_the_deadline() -> None:
    pool = Checked(SchedulerOptions(lookahead_s=10.0))
    pool.join(0, 1)
    pool.add(one_class(1), space=0)
    pool.done(0, 0)
    pool.step(m.DeadlineSet(pool.now + 4.6))
    pool.add(one_class(50), space=1)
    assert len(pool.held[0][1]) <= 3


def test_predictions_that_nothing_supports_are_tried_before_they_are_believed(
    pool: Checked,
) -> None:
    pool.join(0, 1)
    pool.step(m.DeadlineSet(100.0))
    assert assigned(pool.add(one_class(3, cost_s=300.0))) == {0: [0]}
    assert assigned(pool.done(0, 0, seconds=1.0)) == {0: [1]}


def test_what_may_well_end_too_late_goes_after_what_will_not(pool: Checked) -> None:
    pool.join(0, 1)
    pool.step(m.DeadlineSet(100.0))
    long = m.TaskClass(0, range(1), 300.0, key="l", family="unknown")
    assert assigned(pool.add((long, m.TaskClass(0, range(1, 3), 4.0, key="s")))) == {0: [1]}
    assert assigned(pool.done(0, 1, seconds=4.0)) == {0: [2]}
    assert assigned(pool.done(0, 2, seconds=4.0)) == {0: [0]}


def test_the_deadline_itself_drains_and_takes_back_what_is_not_started() -> None:
    pool = Checked(LONG)
    pool.join(0, 1)
    pool.step(m.DeadlineSet(10.0))
    pool.add(one_class(3))
    assert pool.step(m.Ticked(), after_s=9.0) == []
    assert pool.step(m.Ticked(), after_s=0.95) == [m.Retract(0, 0)]
    assert pool.scheduler.is_draining


def test_a_deadline_that_has_passed_drains_even_if_nothing_is_ready(pool: Checked) -> None:
    pool.join(0, 1)
    pool.step(m.DeadlineSet(10.0))
    pool.add(one_class(1))
    assert pool.step(m.Ticked(), after_s=11.0) == [m.Retract(0, 0)]
    assert pool.scheduler.drain_reason == "deadline"


def test_idle_agents_are_served_when_better_predictions_make_tasks_fit(pool: Checked) -> None:
    pool.join(0, 1)
    pool.join(1, 1)
    pool.add(one_class(1, cost_s=0.1), space=9)
    pool.done(0, 0, space=9, seconds=100.0)
    pool.step(m.DeadlineSet(pool.now + 200.0))
    classes = (
        m.TaskClass(0, range(1), 0.05, key="short"),
        m.TaskClass(0, range(1, 3), 1.0, key="long"),
    )
    assert assigned(pool.add(classes)) == {0: [0]}
    said = pool.done(0, 0, seconds=1e-4)
    assert sorted(task for each in assigned(said).values() for task in each) == [1, 2]


def test_agents_retire_only_when_asked_and_when_all_is_settled(pool: Checked) -> None:
    pool.join(0)
    pool.join(1)
    pool.add(one_class(2))
    assert pool.step(m.CloseRequested()) == []
    pool.done(0, 0)
    assert pool.done(1, 1)[-2:] == [m.Retire(0), m.Retire(1)]
    assert pool.step(m.AgentLost(0)) == []
    with pytest.raises(IllegalEvent, match="after CloseRequested"):
        pool.add(one_class(1), space=1)


def test_agents_retire_from_a_drained_pool(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(2))
    pool.step(m.CloseRequested())
    pool.step(m.DrainRequested())
    assert pool.scheduler.drain_reason == "asked to"
    pool.answer_retracts()
    assert pool.done(0, 0) == [m.Retire(0)]
