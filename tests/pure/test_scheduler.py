"""Events in, commands out: one behaviour a test."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.ledger import Counts
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, ids, one_class

LONG = SchedulerOptions(lookahead_tasks=1, lookahead_s=0.0)


@pytest.fixture
def pool() -> Checked:
    return Checked(NO_LOOKAHEAD)


# ------------------------------------------------------------------- supply


def test_work_before_agents_and_agents_before_work() -> None:
    for is_work_first in (True, False):
        pool = Checked(NO_LOOKAHEAD)
        said = pool.add(one_class(3)) if is_work_first else []
        said += pool.join(0, 2)
        said += [] if is_work_first else pool.add(one_class(3))
        assert assigned(said) == {0: [0, 1]}
        assert pool.scheduler.counts(0) == Counts(0, 1, 2, 0, 0)
        assert pool.scheduler.n_busy == pool.scheduler.pool.n_slots == 2


def test_a_free_slot_is_filled_and_the_end_is_told_once(pool: Checked) -> None:
    pool.join(0, 1)
    pool.add(one_class(2))
    assert assigned(pool.done(0, 0)) == {0: [1]}
    assert not pool.scheduler.is_finished
    assert pool.done(0, 1) == [m.FinishStage(0, 0), m.FinishSpace(0)]
    assert pool.scheduler.is_finished
    assert pool.scheduler.is_idle
    assert pool.scheduler.counts(0).n_tasks == pool.scheduler.counts(0).done == 2


def test_lookahead_of_one_task_a_slot_that_ends_before_the_work_does() -> None:
    pool = Checked(LONG)
    pool.join(0, 2)
    assert assigned(pool.add(one_class(12))) == {0: [0, 1, 2, 3]}
    n_at_hand = []
    for task in range(9):
        pool.done(0, task)
        n_at_hand.append(len(pool.held[0][0]))
    assert n_at_hand[0] == 4
    assert n_at_hand[-1] == 2
    assert n_at_hand == sorted(n_at_hand, reverse=True)


def test_tiny_tasks_travel_by_the_hundred_once_they_are_known_to_be_tiny() -> None:
    pool = Checked()
    pool.join(0, 1)
    first = pool.add(one_class(100_000, cost_s=0.001))
    assert assigned(first) == {0: [*range(257)]}
    sizes = []
    for _ in range(12):
        held = pool.held[0][0]
        said = pool.done(0, *held[: max(1, len(held) // 2)], seconds=0.001)
        sizes += [len(each.ids) for each in said if isinstance(each, m.Assign)]
    assert max(sizes) >= 100
    assert len(pool.held[0][0]) <= 1 + 1200


def test_what_was_learnt_counts_though_nothing_is_left_to_be_given_out() -> None:
    pool = Checked()
    pool.join(0, 2)
    pool.add(one_class(100, cost_s=0.001))
    pool.done(0, *pool.held[0][0][:10], seconds=0.001)
    assert len(pool.held[0][0]) == 90
    pool.done(0, *pool.held[0][0][:40], seconds=0.004)
    pool.step(m.Ticked(), after_s=1.0)
    assert pool.scheduler.remaining_s(pool.now) == pytest.approx(50 * 0.003 / 2, rel=0.5)


def test_what_was_learnt_decides_what_is_asked_back_though_all_is_given_out() -> None:
    pool = Checked()
    for agent in (0, 1):
        pool.join(agent, 2)
    pool.add(one_class(8, cost_s=1e-4))
    assert [len(pool.held[agent][0]) for agent in (0, 1)] == [4, 4]
    said = pool.done(0, *pool.held[0][0], seconds=30.0)
    assert m.Retract(1, 0) in said


def test_wrong_predictions_do_not_pile_work_up_on_one_agent() -> None:
    pool = Checked()
    pool.join(0, 1)
    pool.add(one_class(100_000, cost_s=1e-6))
    assert len(pool.held[0][0]) == 257
    pool.done(0, 0, seconds=30.0)
    assert len(pool.held[0][0]) == 256


def test_an_agent_that_joins_late_gets_its_part() -> None:
    pool = Checked(LONG)
    pool.join(0, 1)
    pool.add(one_class(2))
    assert pool.held[0] == {0: [0]}
    assert assigned(pool.join(1, 4)) == {1: [1]}


def test_what_an_only_agent_was_given_at_once_is_asked_back_when_another_one_joins() -> None:
    pool = Checked()
    pool.join(0, 2)
    pool.add(one_class(1500, cost_s=0.005))
    pool.done(0, *pool.held[0][0][:18], seconds=0.0005)
    held = list(pool.held[0][0])
    assert len(held) == 1500 - 18  # it keeps nothing from others: there are none
    assert pool.join(1, 2) == [m.Retract(0, 0)]
    given = assigned(pool.step(m.TasksReturned(0, 0, ids(*held[10:]))))
    assert len(given[1]) > 2
    assert len(pool.held[0][0]) < 100


@pytest.mark.parametrize(("cost_s", "n_at_hand"), [(1.0, 16), (60.0, 1)])
def test_of_long_tasks_few_are_at_hand_so_that_what_comes_back_starts_soon(
    cost_s: float, n_at_hand: int
) -> None:
    pool = Checked()
    pool.join(0, 16)
    pool.join(1, 16)
    pool.add(one_class(400, cost_s))
    assert [len(pool.held[agent][0]) for agent in (0, 1)] == [16 + n_at_hand] * 2
    pool.fail(0, 0)
    first = pool.held[1][0][: n_at_hand + 1]
    assert 0 in assigned(pool.done(1, *first, seconds=cost_s))[1]


def test_idle_slots_get_back_what_others_have_not_started() -> None:
    pool = Checked(LONG)
    pool.join(0, 1)
    pool.add(one_class(3))
    assert pool.held[0] == {0: [0, 1]}
    pool.join(1, 1)
    said = pool.join(2, 1)
    assert said == [m.Retract(0, 0)]
    assert pool.join(3, 1) == []  # one request at a time
    assert assigned(pool.answer_retracts()) == {2: [1]}


def test_an_empty_answer_to_retract_is_not_followed_by_another_request() -> None:
    pool = Checked(LONG)
    pool.join(0, 1)
    pool.add(one_class(3))
    pool.join(1, 1)
    assert pool.join(2, 1) == [m.Retract(0, 0)]
    assert pool.answer_retracts(n_started=9) == []
    assert pool.step(m.Ticked()) == []
    pool.work_off()
    assert pool.scheduler.is_finished


def test_unasked_returns_are_taken_back(pool: Checked) -> None:
    pool.join(0, 2)
    pool.add(one_class(2))
    assert assigned(pool.step(m.TasksReturned(0, 0, ids(1)))) == {0: [1]}


def test_two_spaces_overlap_and_the_first_goes_first(pool: Checked) -> None:
    pool.join(0, 2)
    pool.add(one_class(3), space=0)
    pool.add(one_class(3, cost_s=50.0), space=1)
    pool.done(0, 0)
    said = pool.done(0, 1)
    assert assigned(said) == {0: [0]}
    assert pool.held[0] == {0: [2], 1: [0]}
    assert m.FinishSpace(0) in pool.done(0, 2)
    pool.work_off()
    assert pool.scheduler.counts(1).done == 3


def test_times_of_one_space_are_used_in_the_next(pool: Checked) -> None:
    pool.join(0, 1)
    pool.add(one_class(1), space=0)
    pool.done(0, 0, seconds=40.0)
    pool.add(one_class(1), space=1)
    assert pool.scheduler.remaining_s(pool.now) == pytest.approx(40)


def test_remaining_time() -> None:
    scheduler = Scheduler()
    assert scheduler.remaining_s(0.0) == 0
    scheduler.step(m.SpaceAdded(0, one_class(10)), 0.0)
    assert scheduler.remaining_s(0.0) == np.inf
    scheduler.step(m.AgentJoined(0, 4), 0.0)
    assert scheduler.remaining_s(0.0) == pytest.approx(2.5)
    assert scheduler.remaining_s(0.5) == pytest.approx(2.0)


def test_remaining_time_counts_down_to_what_has_not_begun() -> None:
    scheduler = Scheduler()
    scheduler.step(m.SpaceAdded(0, one_class(10)), 0.0)
    scheduler.step(m.AgentJoined(0, 4), 0.0)
    scheduler.step(m.Ticked(), 0.75)
    assert scheduler.remaining_s(0.75) == pytest.approx(1.75)
    scheduler.step(m.Ticked(), 9.0)
    assert scheduler.remaining_s(9.0) == pytest.approx(1.5)


# ---------------------------------------------------------- spaces and stages


def test_stored_results_are_not_computed_again(pool: Checked) -> None:
    pool.join(0, 9)
    assert assigned(pool.add(one_class(5), done=ids(0, 3))) == {0: [1, 2, 4]}


def test_a_space_that_is_done_or_empty_is_finished_at_once(pool: Checked) -> None:
    assert pool.add(one_class(2), done=ids(1, 0)) == [m.FinishStage(0, 0), m.FinishSpace(0)]
    assert pool.add((), space=1) == [m.FinishSpace(1)]
    assert pool.scheduler.counts(1).n_tasks == 0


def test_waiting_stages_are_released_and_each_end_is_told(pool: Checked) -> None:
    pool.join(0, 9)
    classes = (m.TaskClass(0, range(2), 1.0), m.TaskClass(1, range(2, 4), 9.0))
    assert assigned(pool.add(classes, released=frozenset({0}))) == {0: [0, 1]}
    assert pool.scheduler.counts(0).waiting == 2
    assert pool.done(0, 0, 1) == [m.FinishStage(0, 0)]
    assert assigned(pool.step(m.StageReleased(0, 1))) == {0: [2, 3]}
    assert pool.step(m.StageReleased(0, 1)) == []
    assert pool.done(0, 2, 3) == [m.FinishStage(0, 1), m.FinishSpace(0)]
    assert pool.step(m.StageReleased(0, 1)) == []


def test_a_result_for_a_waiting_task_is_a_result(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(2), released=frozenset())
    pool.done(0, 1)
    assert pool.scheduler.counts(0) == Counts(1, 0, 0, 1, 0)


def test_classes_with_interleaved_ids_are_released_too(pool: Checked) -> None:
    pool.join(0, 9)
    even = m.TaskClass(0, np.array([0, 2]), 1.0)
    odd = m.TaskClass(1, np.array([1, 3]), 2.0)
    assert assigned(pool.add((even, odd), released=frozenset({1}))) == {0: [1, 3]}
    assert assigned(pool.step(m.StageReleased(0, 0))) == {0: [0, 2]}


# ------------------------------------------------------------------- failures


def test_a_failed_task_goes_elsewhere_first(pool: Checked) -> None:
    pool.join(0)
    pool.join(1)
    pool.add(one_class(3))
    assert assigned(pool.fail(0, 0)) == {0: [2]}
    assert assigned(pool.done(1, 1)) == {1: [0]}


def test_a_failed_task_is_retried_where_it_was_if_there_is_no_other_place(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(1))
    assert assigned(pool.fail(0, 0)) == {0: [0]}
    assert assigned(pool.fail(0, 0)) == {0: [0]}
    said = pool.fail(0, 0)
    assert said == [
        m.Quarantine(0, 0, ErrorClass.TRANSIENT, 3),
        m.FinishStage(0, 0),
        m.FinishSpace(0),
    ]
    assert pool.scheduler.counts(0).quarantined == 1


def test_another_place_without_the_memory_is_no_place(pool: Checked) -> None:
    pool.join(0, 1, 100)
    pool.join(1, 1, 10)
    pool.add(one_class(1, memory_bytes=50))
    assert assigned(pool.fail(0, 0)) == {0: [0]}


def test_input_errors_are_given_up_and_the_others_go_on(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(2))
    said = pool.fail(0, 0, ErrorClass.INPUT)
    assert said[0] == m.Quarantine(0, 0, ErrorClass.INPUT, 1)
    assert assigned(said) == {0: [1]}


def test_stopping_on_failure_drains() -> None:
    pool = Checked(SchedulerOptions(is_stopping_on_failure=True))
    pool.join(0, 2)
    pool.add(one_class(9))
    said = pool.fail(0, 0, ErrorClass.INPUT)
    assert [type(each) for each in said] == [m.Quarantine, m.Retract]
    assert pool.scheduler.drain_reason == "a task failed for good"


def test_a_result_after_quarantine_counts_while_the_space_is_open(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(2))
    pool.fail(0, 0, ErrorClass.INPUT)
    pool.done(0, 0)
    assert pool.scheduler.counts(0) == Counts(0, 0, 1, 1, 0)


def test_tasks_of_a_lost_agent_go_first_to_the_others(pool: Checked) -> None:
    pool.join(0, 2)
    pool.join(1, 1)
    pool.add(one_class(9))
    assert pool.step(m.AgentLost(0, "killed")) == []
    assert pool.scheduler.held(0) == {}
    assert assigned(pool.done(1, 2)) == {1: [0]}
    assert assigned(pool.done(1, 0)) == {1: [1]}
    assert assigned(pool.done(1, 1)) == {1: [3]}
    assert pool.scheduler.has_agent(0)


def test_a_task_that_was_there_at_three_deaths_is_given_up(pool: Checked) -> None:
    pool.add(one_class(1))
    said: list[m.Command] = []
    for agent in range(3):
        assert assigned(pool.join(agent)) == {agent: [0]}
        said = pool.step(m.AgentLost(agent))
    assert said[0] == m.Quarantine(0, 0, ErrorClass.CRASHED, 3)
    assert pool.scheduler.is_finished


def test_unstarted_tasks_of_an_agent_are_not_blamed_for_its_death() -> None:
    pool = Checked(SchedulerOptions(max_deaths=2))
    pool.add(one_class(100))
    pool.join(0, 1)
    for task in range(6):
        pool.done(0, task, seconds=0.02)
    held = pool.held[0][0]
    assert len(held) > 4
    pool.step(m.AgentLost(0))
    assert pool.join(1, 50) == [m.Assign(1, 0, m.as_ids(held[:1]), is_alone=True)]
    assert pool.done(1, held[0]) == [m.Assign(1, 0, m.as_ids(held[1:2]), is_alone=True)]
    assert set(held[2:]) <= set(assigned(pool.done(1, held[1]))[1])


def test_the_last_chance_after_deaths_is_alone_so_that_the_innocent_are_spared() -> None:
    pool = Checked(SchedulerOptions(max_deaths=3))
    pool.add(one_class(2))
    for agent in (0, 1):
        assert assigned(pool.join(agent, 2)) == {agent: [0, 1]}
        pool.step(m.AgentLost(agent))
    assert pool.join(2, 2) == [m.Assign(2, 0, m.as_ids([0]), is_alone=True)]
    said = pool.step(m.AgentLost(2))
    assert [each for each in said if isinstance(each, m.Quarantine)] == [
        m.Quarantine(0, 0, ErrorClass.CRASHED, 3)
    ]
    assert pool.join(3, 2) == [m.Assign(3, 0, m.as_ids([1]), is_alone=True)]
    pool.done(3, 1)
    assert pool.scheduler.is_finished


# ------------------------------------------------------------------- the rest


def test_a_clock_that_jumps_back_is_no_harm(pool: Checked) -> None:
    pool.join(0)
    pool.scheduler.step(m.DeadlineSet(100.0), 90.0)
    pool.scheduler.step(m.SpaceAdded(0, one_class(1, cost_s=80.0)), 10.0)
    assert pool.scheduler.counts(0).assigned == 0
    assert pool.scheduler.drain_reason == "deadline"
    pool.scheduler.check_invariants()


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be one of"):
        Scheduler(options=SchedulerOptions(order="fifo"))


def test_a_broken_state_is_noticed(pool: Checked) -> None:
    pool.join(0, 2)
    pool.add(one_class(3))
    agent = pool.scheduler._pool.agents[0]
    agent.n_held += 1
    with pytest.raises(IllegalEvent, match="load does not add up") as caught:
        pool.scheduler.check_invariants()
    assert len(caught.value.story) == 2


def test_messages_compare_by_content() -> None:
    one = m.Assign(0, 1, ids(1, 2))
    assert one == m.Assign(0, 1, ids(1, 2))
    assert one != m.Assign(0, 1, ids(1, 3))
    assert one != m.Retract(0, 1)
    assert one.matches(m.Assign, agent=0, ids=ids(1, 2))
    assert not one.matches(m.Assign, agent=1)
    assert not one.matches(m.Retract)


def test_every_event_has_a_rule_and_a_handler() -> None:
    assert {rule.event for rule in m.EVENT_RULES} == set(m.Event.__args__)  # type: ignore[attr-defined]
    for rule in m.EVENT_RULES:
        assert callable(getattr(Scheduler, m.handler_name(rule.event)))
