"""Late, double and impossible messages."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.ledger import Counts
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, ids, one_class


@pytest.fixture
def pool() -> Checked:
    return Checked(NO_LOOKAHEAD)


def test_double_results_are_dropped(pool: Checked) -> None:
    pool.join(0)
    pool.join(1)
    pool.add(one_class(3))
    assert assigned(pool.done(0, 0, 0)) == {0: [2]}
    assert pool.done(0, 0) == []
    assert pool.done(1, 0) == []
    assert pool.held == {0: {0: [2]}, 1: {0: [1]}}


def test_a_result_from_an_agent_that_lost_the_task_frees_its_new_holder(pool: Checked) -> None:
    pool.join(0)
    pool.join(1)
    pool.add(one_class(3))
    pool.fail(0, 0)
    pool.done(1, 1)
    assert pool.held == {0: {0: [2]}, 1: {0: [0]}}
    pool.add(one_class(1), space=1)
    assert assigned(pool.done(0, 0)) == {1: [0]}
    assert pool.held == {0: {0: [2]}, 1: {1: [0]}}


def test_a_lost_agents_results_are_results_and_its_other_messages_are_ignored(
    pool: Checked,
) -> None:
    pool.join(0, 2)
    pool.add(one_class(3))
    pool.step(m.AgentLost(0))
    assert pool.step(m.AgentLost(0)) == []
    pool.done(0, 1)
    assert pool.scheduler.counts(0) == Counts(0, 2, 0, 1, 0)
    assert pool.fail(0, 0) == []
    assert pool.step(m.TasksReturned(0, 0, ids(0))) == []
    assert pool.scheduler.counts(0) == Counts(0, 2, 0, 1, 0)


def test_failures_and_returns_of_what_an_agent_does_not_hold_are_ignored(pool: Checked) -> None:
    pool.join(0)
    pool.join(1)
    pool.add(one_class(3))
    assert pool.fail(1, 0) == []
    assert pool.step(m.TasksReturned(1, 0, ids(0, 2))) == []
    assert pool.held == {0: {0: [0]}, 1: {0: [1]}}


def test_messages_for_a_finished_space_are_dropped(pool: Checked) -> None:
    pool.join(0)
    pool.add(one_class(1))
    pool.done(0, 0)
    assert pool.done(0, 0) == []
    assert pool.fail(0, 0) == []
    assert pool.step(m.TasksReturned(0, 0, ids(0))) == []


@pytest.mark.parametrize(
    "event",
    [
        m.TasksDone(7, 0, ids(0), np.ones(1)),
        m.TasksDone(0, 7, ids(0), np.ones(1)),
        m.TasksDone(0, 0, ids(3), np.ones(1)),
        m.TasksDone(0, 0, ids(0, -1), np.ones(2)),
        m.TasksDone(0, 0, ids(0), np.ones(2)),
        m.TaskFailed(7, 0, 0, ErrorClass.UNKNOWN),
        m.TaskFailed(0, 7, 0, ErrorClass.UNKNOWN),
        m.TaskFailed(0, 0, 3, ErrorClass.UNKNOWN),
        m.TasksReturned(7, 0),
        m.TasksReturned(0, 7),
        m.TasksReturned(0, 0, ids(99)),
        m.StageReleased(7, 0),
        m.StageReleased(0, 7),
        m.AgentLost(7),
        m.AgentJoined(0, 1),
        m.AgentJoined(8, 0),
        m.AgentJoined(-1, 1),
        m.AgentJoined(8, 1, -5),
        m.SpaceAdded(0, one_class(1)),
        m.SpaceAdded(1, one_class(1), ids(1)),
        m.SpaceAdded(1, (m.TaskClass(0, range(1, 2), 1.0),)),
        m.Retire(0),
    ],
    ids=repr,
)
def test_what_never_was_is_an_illegal_event_that_tells_the_story(event: m.Event) -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0)
    pool.add(one_class(3))
    before = pool.scheduler.counts(0), pool.held
    with pytest.raises(IllegalEvent) as caught:
        pool.scheduler.step(event, 5.0)
    assert (5.0, event) in caught.value.story
    pool.scheduler.check_invariants()
    assert (pool.scheduler.counts(0), pool.held) == before
    with pytest.raises(IllegalEvent, match="space 3 was never added"):
        pool.scheduler.counts(3)
