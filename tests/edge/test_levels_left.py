"""What is left by level, in seconds, adds up to what the scheduler expects."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.levels_left import LevelsLeft
from qcmb_mpi.report.summary import RunSummary
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.leftover import work_left
from qcmb_mpi.scheduling.scheduler import Scheduler
from tests.toys import toy_expansion


def started(space: TaskSpace) -> Scheduler:
    """Return a scheduler with one agent and a class for each block, the nth of n seconds."""
    scheduler = Scheduler()
    scheduler.step(m.AgentJoined(agent=0, n_slots=2, memory_bytes=1000, host="a"), 0.0)
    classes = tuple(
        m.TaskClass(stage=0, ids=block.ids, cost_s=1.0 + n, memory_bytes=100, key=n, family="f")
        for n, block in enumerate(space.blocks)
    )
    scheduler.step(m.SpaceAdded(space=0, classes=classes), 0.0)
    return scheduler


def test_the_work_left_is_told_by_level() -> None:
    space = TaskSpace(toy_expansion(5))
    scheduler = started(space)
    summary = RunSummary(space, "serial", start_s=0.0)
    snapshot = LevelsLeft(space, scheduler.pool).added_to(summary.snapshot(1.0), scheduler)
    by_level = {level.nbody: level.left_s for level in snapshot.levels}
    assert by_level == {
        level.nbody: sum(
            (1.0 + n) * block.n_tasks
            for n, block in enumerate(space.blocks)
            if block.n_real == level.nbody
        )
        for level in snapshot.levels
    }
    assert snapshot.work == 0.0
    assert (snapshot.held_bytes, snapshot.limit_bytes) == (200, 1000)


def test_what_was_measured_makes_the_rest_surer() -> None:
    scheduler = started(TaskSpace(toy_expansion(5)))
    before = work_left(scheduler.pool, scheduler.cost_model).relative_error
    assert before == pytest.approx(2.0)  # nothing was ever measured
    (space,) = scheduler.held(0)
    for _ in range(4):
        ids = np.asarray(scheduler.held(0)[space])[:1]
        done = m.TasksDone(agent=0, space=space, ids=ids, seconds=np.array([3.0]))
        scheduler.step(done, 1.0)
    after = work_left(scheduler.pool, scheduler.cost_model).relative_error
    assert after is not None
    assert after < 1.0


def test_nothing_is_left_of_nothing() -> None:
    scheduler = Scheduler()
    assert work_left(scheduler.pool, scheduler.cost_model).relative_error is None
