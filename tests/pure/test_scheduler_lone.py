"""Tasks that need a host for themselves."""

from __future__ import annotations

import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, ids, one_class

LONG = SchedulerOptions(lookahead_tasks=1, lookahead_s=0.0)
RESOURCE = ErrorClass.RESOURCE


def alone(said: list[m.Command]) -> list[tuple[int, int]]:
    found = [each for each in said if isinstance(each, m.Assign) and each.is_alone]
    return [(each.agent, task) for each in found for task in each.ids.tolist()]


def two_hosts(options: SchedulerOptions = NO_LOOKAHEAD) -> Checked:
    pool = Checked(options)
    for agent in range(4):
        pool.join(agent, 1, 100, f"h{agent // 2}")
    return pool


def test_a_host_is_emptied_for_a_task_that_ran_out_of_memory() -> None:
    pool = two_hosts()
    pool.add(one_class(9, memory_bytes=80))
    assert assigned(pool.fail(0, 0, RESOURCE)) == {0: [4]}  # the other host is kept free for it
    assert pool.done(2, 2) == []
    assert alone(pool.done(3, 3)) == [(2, 0)]
    assert assigned(pool.done(1, 1)) == {1: [5]}
    assert assigned(pool.done(2, 0)) == {2: [6], 3: [7]}
    pool.work_off()
    assert pool.scheduler.counts(0).done == 9


def test_with_one_host_it_is_the_same_one_and_even_if_it_is_the_last_work() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 100)
    pool.add(one_class(2, memory_bytes=10))
    assert pool.fail(0, 0, RESOURCE) == []
    assert alone(pool.done(0, 1)) == [(0, 0)]
    assert alone(pool.fail(0, 0, RESOURCE)) == [(0, 0)]
    assert pool.fail(0, 0, RESOURCE)[0] == m.Quarantine(0, 0, RESOURCE, 3)


def test_unstarted_work_is_asked_back_from_the_host() -> None:
    pool = Checked(LONG)
    pool.join(0, 1, 100, "h")
    pool.join(1, 1, 100, "h")
    pool.add(one_class(9))
    assert pool.held == {0: {0: [0, 1]}, 1: {0: [2, 3]}}
    assert pool.fail(0, 0, RESOURCE) == [m.Retract(1, 0)]
    assert pool.answer_retracts() == []
    assert pool.done(0, 1) == []
    assert alone(pool.done(1, 2)) == [(0, 0)]
    assert pool.join(2, 1, 100, "h") == []  # it shares that memory, too
    assert set(assigned(pool.done(0, 0))) == {0, 1, 2}


def test_the_host_with_the_most_memory_and_then_another_one_is_chosen() -> None:
    pool = Checked(NO_LOOKAHEAD)
    for agent, memory in enumerate((100, 100, 200)):
        pool.join(agent, 1, memory)
    pool.add(one_class(3))
    pool.fail(2, 2, RESOURCE)
    assert pool.scheduler.held(2)[0].tolist() == [2]
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 100)
    pool.join(1, 1, 100)
    pool.add(one_class(2))
    assert pool.fail(0, 0, RESOURCE) == []
    assert alone(pool.done(1, 1)) == [(1, 0)]


def test_one_host_while_others_wait_and_every_host_when_nobody_does() -> None:
    pool = Checked(NO_LOOKAHEAD)
    for agent in range(3):
        pool.join(agent)
    pool.add(one_class(5))
    assert assigned(pool.fail(0, 0, RESOURCE)) == {0: [3]}
    assert alone(pool.fail(1, 1, RESOURCE)) == [(1, 0)]
    said = pool.fail(2, 2, RESOURCE)
    assert assigned(said) == {2: [4]}  # the last one that need not be alone
    assert not alone(said)
    assert alone(pool.done(0, 3)) == [(0, 1)]
    assert alone(pool.done(2, 4)) == [(2, 2)]
    pool.work_off()
    assert pool.scheduler.is_finished


@pytest.mark.parametrize("end", ["failed", "returned", "lost"])
def test_it_stays_a_lone_task_however_its_attempt_ends(end: str) -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0)
    pool.join(1)
    pool.add(one_class(1))
    assert alone(pool.fail(0, 0, RESOURCE)) == [(1, 0)]
    said = {
        "failed": lambda: pool.fail(1, 0, ErrorClass.CRASHED),
        "returned": lambda: pool.step(m.TasksReturned(1, 0, ids(0))),
        "lost": lambda: pool.step(m.AgentLost(1)),
    }[end]()
    assert alone(said)
    pool.work_off()
    assert pool.scheduler.counts(0).done == 1


def test_a_lost_agent_gives_its_place_up() -> None:
    pool = two_hosts()
    pool.add(one_class(6))
    pool.fail(0, 0, RESOURCE)
    pool.step(m.AgentLost(2))
    assert alone(pool.step(m.AgentLost(3))) == []
    pool.work_off()
    assert pool.scheduler.counts(0).done == 6


def test_a_late_result_frees_the_host() -> None:
    pool = two_hosts()
    pool.add(one_class(5))
    pool.fail(0, 0, RESOURCE)
    assert assigned(pool.done(0, 0)) == {}
    pool.work_off()
    assert pool.scheduler.counts(0).done == 5


def test_its_prediction_may_exceed_what_any_agent_has() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 100)
    pool.join(1, 1, 50)
    pool.add(one_class(1, memory_bytes=90))
    pool.fail(0, 0, RESOURCE)
    assert alone(pool.step(m.AgentLost(0))) == [(1, 0)]
    assert pool.scheduler.counts(0).assigned == 1


def test_draining_and_deadline_hold_for_lone_tasks() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2)
    pool.add(one_class(2))
    pool.fail(0, 0, RESOURCE)
    pool.step(m.DrainRequested())
    assert pool.done(0, 1) == []
    assert pool.scheduler.is_drained
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2)
    pool.add((m.TaskClass(0, range(1), 50.0, key="l"), m.TaskClass(0, range(1, 9), 1.0, key="s")))
    pool.step(m.DeadlineSet(100.0))
    pool.done(0, 1, seconds=1.0)
    pool.fail(0, 0, RESOURCE)
    pool.now = 60.0
    said = pool.step(m.Ticked())
    assert alone(said) == []
    assert assigned(said)  # the host is not kept free for what would not end in time
    pool.work_off()
    assert pool.scheduler.counts(0).done == 8
    assert pool.scheduler.drain_reason == "deadline"


def test_a_lone_task_goes_first_where_its_program_is() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 200)
    pool.join(1, 1, 100)
    pool.add(one_class(1))
    assert alone(pool.fail(0, 0, RESOURCE)) == [(0, 0)]
    assert alone(pool.fail(0, 0, ErrorClass.MISSING_PROGRAM)) == [(1, 0)]
    said = pool.fail(1, 0, ErrorClass.MISSING_PROGRAM)
    assert said[0] == m.Quarantine(0, 0, ErrorClass.MISSING_PROGRAM, 2)


def test_company_is_noticed() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2)
    pool.add(one_class(3))
    pool.scheduler._pool.lone[0, 0] = "h"
    with pytest.raises(IllegalEvent, match="has company"):
        pool.scheduler.check_invariants()
