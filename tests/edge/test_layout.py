"""Slots and threads of every agent: one number of threads for all, work that is left only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.layout import choose_layouts, work_left
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout

GB = 10**9


def info(rank: int, n_cores: int, memory_bytes: int = 0) -> AgentInfo:
    return AgentInfo(rank, f"node{rank}", n_cores, memory_bytes)


def work(n_tasks: int, cost_s: float = 1.0, memory_bytes: int = 0) -> list[TaskClass]:
    ids = range(n_tasks)
    return [TaskClass(stage=0, ids=ids, cost_s=cost_s, memory_bytes=memory_bytes)]


def layouts(infos: list[AgentInfo], classes: list[TaskClass], **how: Any) -> list[Layout]:
    """Return the layout of each agent; config fields and options of `choose_layouts` in `how`."""
    done, limit = how.pop("done", None), how.pop("thread_limit", None)
    config = ExecutorConfig(**how)
    choice = choose_layouts(infos, classes, config, done=done, thread_limit=limit)
    return [choice(each) for each in infos]


def test_many_small_tasks_get_one_thread_each() -> None:
    [only] = layouts([info(0, 8)], work(1000))
    assert (only.n_slots, only.n_threads) == (8, 1)


def test_few_large_tasks_get_wide_slots_if_their_program_threads() -> None:
    [wide] = layouts([info(0, 8)], work(2, 1000.0))
    assert (wide.n_slots, wide.n_threads) == (2, 4)
    [narrow] = layouts([info(0, 8)], work(2, 1000.0), thread_limit=1)
    assert narrow.n_threads == 1


def test_what_is_done_does_not_count() -> None:
    done = np.arange(998)
    assert layouts([info(0, 8)], work(1000, 1000.0), done=done)[0].n_threads == 4


def test_the_number_of_threads_is_the_same_everywhere() -> None:
    infos = [info(0, 16), info(1, 4), info(2, 8)]
    for n_tasks in (2, 5, 1000):
        chosen = layouts(infos, work(n_tasks, 1000.0))
        assert len({each.n_threads for each in chosen}) == 1
        for each, layout in zip(infos, chosen, strict=True):
            assert 1 <= layout.n_slots * layout.n_threads <= each.n_cores


def test_memory_is_looked_at_on_every_node() -> None:
    """Equal cores, but the second node has less memory: fewer slots there."""
    infos = [info(0, 8, 64 * GB), info(1, 8, 16 * GB)]
    for order in (infos, infos[::-1]):
        for each, layout in zip(order, layouts(order, work(1000, 1.0, 4 * GB)), strict=True):
            assert layout.n_slots * layout.memory_per_slot_bytes <= each.memory_bytes
            assert layout.memory_per_slot_bytes >= 4 * GB


def test_what_the_user_fixed_is_kept() -> None:
    [chosen] = layouts([info(0, 8)], work(1000), n_workers=3, n_threads=2)
    assert (chosen.n_slots, chosen.n_threads) == (3, 2)
    for chosen in layouts([info(0, 8), info(1, 4)], work(1000), n_workers=5):
        assert chosen.n_slots == 5


def test_a_dedicated_master_has_no_slots() -> None:
    master, worker = layouts([info(0, 0), info(1, 4)], work(100))
    assert (master.n_slots, worker.n_slots) == (0, 4)
    assert master.n_threads == worker.n_threads
    assert "dedicated" in master.reason


def test_an_agent_alone_always_computes() -> None:
    assert layouts([info(0, 0)], work(100))[0].n_slots == 1


@pytest.mark.parametrize("n_cores", [1, 3, 64])
def test_no_work_is_a_layout_too(n_cores: int) -> None:
    [chosen] = layouts([info(0, n_cores)], [])
    assert 1 <= chosen.n_slots * chosen.n_threads <= n_cores
    assert chosen.reason


def test_work_left_counts_what_is_not_done() -> None:
    classes = [
        TaskClass(stage=0, ids=range(10), cost_s=1.0),
        TaskClass(stage=0, ids=np.array([10, 12, 14]), cost_s=2.0),
        TaskClass(stage=1, ids=np.array([11, 13]), cost_s=3.0),
    ]
    left = work_left(classes, np.array([0, 9, 11, 12, 13]))
    assert [(each.n_tasks, each.cost_s) for each in left] == [(8, 1.0), (2, 2.0), (0, 3.0)]
    assert [each.n_tasks for each in classes] == [10, 3, 2]
