"""Wide tasks: an agent for each, before all others."""

from __future__ import annotations

import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, assigned, ids


def work(n_narrow: int, n_wide: int, **wide: object) -> tuple[m.TaskClass, ...]:
    """Return narrow tasks, and wide ones with the numbers after them."""
    last = range(n_narrow, n_narrow + n_wide)
    more = {"stage": 0, "ids": last, "cost_s": 5.0, "key": "w", "n_threads": 4, **wide}
    return (m.TaskClass(0, range(n_narrow), 1.0, key="n"), m.TaskClass(**more))  # type: ignore[arg-type]


def wide(said: list[m.Command]) -> list[tuple[int, int]]:
    found = [each for each in said if isinstance(each, m.Assign) and each.n_threads]
    assert all(each.n_threads == 4 for each in found)
    return [(each.agent, task) for each in found for task in each.ids.tolist()]


def pool_of(n_agents: int, n_slots: int = 2, options: SchedulerOptions = NO_LOOKAHEAD) -> Checked:
    pool = Checked(options)
    for agent in range(n_agents):
        pool.join(agent, n_slots, 100, "h")
    return pool


def test_wide_tasks_go_first_one_to_an_agent_and_the_others_fill_the_rest() -> None:
    pool = pool_of(3)
    said = pool.add(work(9, 2))
    assert wide(said) == [(0, 9), (1, 10)]
    assert assigned(said)[2] == [0, 1]
    assert pool.scheduler.n_busy == 6
    assert assigned(pool.done(0, 9)) == {0: [2, 3]}
    pool.work_off()
    assert pool.scheduler.counts(0).done == 11


def test_more_of_them_than_agents_follow_each_other() -> None:
    pool = pool_of(2)
    assert wide(pool.add(work(4, 5))) == [(0, 4), (1, 5)]
    assert wide(pool.done(1, 5)) == [(1, 6)]
    assert wide(pool.done(0, 4)) == [(0, 7)]
    pool.work_off()
    assert pool.scheduler.is_finished


def test_an_agent_is_emptied_for_one_that_comes_later() -> None:
    pool = pool_of(1, options=SchedulerOptions(lookahead_tasks=1, lookahead_s=0.0))
    classes = work(9, 1, stage=1)
    pool.add(classes, released=frozenset({0}))
    said = pool.step(m.StageReleased(0, 1))
    assert said == [m.Retract(0, 0)]
    pool.answer_retracts(2)
    assert wide(pool.done(0, 0)) == []
    assert wide(pool.done(0, 1)) == [(0, 9)]
    pool.work_off()
    assert pool.scheduler.is_finished


def test_by_level_it_waits_for_lower_stages() -> None:
    pool = pool_of(1, options=SchedulerOptions(lookahead_tasks=0, lookahead_s=0.0, order="level"))
    assert wide(pool.add(work(3, 1, stage=1))) == []
    assert wide(pool.done(0, 0)) == []
    assert wide(pool.done(0, 1, 2)) == [(0, 3)]


@pytest.mark.parametrize("end", ["failed", "returned", "lost"])
def test_it_stays_wide_however_its_attempt_ends(end: str) -> None:
    pool = pool_of(2)
    assert wide(pool.add(work(0, 1))) == [(0, 0)]
    said = {
        "failed": lambda: pool.fail(0, 0, ErrorClass.TRANSIENT),
        "returned": lambda: pool.step(m.TasksReturned(0, 0, ids(0))),
        "lost": lambda: pool.step(m.AgentLost(0)),
    }[end]()
    assert wide(said) == [(0 if end == "returned" else 1, 0)]
    pool.work_off()
    assert pool.scheduler.counts(0).done == 1


def test_out_of_memory_it_gets_the_host_and_keeps_its_threads() -> None:
    pool = pool_of(2)
    pool.add(work(6, 1))
    assert pool.fail(0, 6, ErrorClass.RESOURCE) == []
    assert pool.done(1, 0) == []
    assert pool.done(1, 1) == [m.Assign(0, 0, ids(6), is_alone=True, n_threads=4)]
    pool.work_off()
    assert pool.scheduler.counts(0).done == 7


def test_a_lone_task_waits_for_a_wide_one_on_its_host() -> None:
    pool = pool_of(2)
    pool.add(work(2, 1))
    assert pool.fail(1, 0, ErrorClass.RESOURCE) == []
    assert pool.done(1, 1) == []
    assert pool.done(0, 2) == [m.Assign(0, 0, ids(0), is_alone=True)]


def test_its_memory_and_the_deadline_are_looked_at() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 50)
    pool.join(1, 2, 100)
    assert wide(pool.add(work(2, 1, memory_bytes=80))) == [(1, 2)]
    pool = pool_of(1)
    pool.step(m.DeadlineSet(0.5))
    assert wide(pool.add(work(2, 1))) == []
    assert wide(pool.step(m.DeadlineSet(100.0))) == []
    pool.done(0, 0)
    assert wide(pool.done(0, 1)) == [(0, 2)]


def test_one_that_may_well_end_too_late_waits_for_all_that_will_not() -> None:
    pool = pool_of(1)
    pool.step(m.DeadlineSet(6.0))
    assert assigned(pool.add(work(3, 1, family="unknown"))) == {0: [0, 1]}
    assert assigned(pool.done(0, 0, seconds=1.0)) == {0: [2]}
    assert wide(pool.done(0, 1, seconds=1.0)) == []
    assert wide(pool.done(0, 2, seconds=1.0)) == [(0, 3)]


def test_what_is_done_already_needs_no_agent() -> None:
    pool = pool_of(1)
    assert assigned(pool.add(work(2, 1), done=ids(2))) == {0: [0, 1]}
    pool = pool_of(1)
    pool.add(work(1, 2))
    pool.done(0, 2)  # unasked
    assert assigned(pool.done(0, 1)) == {0: [0]}


def test_company_is_noticed() -> None:
    pool = pool_of(1)
    pool.add(work(3, 0))
    book = pool.scheduler._pool.books[0]
    book.n_threads[0] = 4
    with pytest.raises(IllegalEvent, match="has company"):
        pool.scheduler.check_invariants()


def test_one_that_only_a_lost_agent_could_hold_runs_alone_and_wide_elsewhere() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 10, "small")
    pool.join(1, 2, 100, "large")
    assert wide(pool.add(work(4, 3, memory_bytes=80))) == [(1, 4)]
    n_said = len(pool.said)
    pool.step(m.AgentLost(1))
    pool.work_off()
    assert wide(pool.said[n_said:]) == [(0, 4), (0, 5), (0, 6)]
    assert all(
        each.is_alone
        for each in pool.said[n_said:]
        if isinstance(each, m.Assign) and each.n_threads
    )
    assert pool.scheduler.counts(0).done == 7
