"""Slots and threads of every agent: one number of threads for all, by the whole plan."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.layout import Grant, place
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout
from qcmb_mpi.scheduling.widths import end_s

GB = 10**9


def info(rank: int, n_cores: int, memory_bytes: int = 0) -> AgentInfo:
    return AgentInfo(rank, f"node{rank}", n_cores, memory_bytes)


def work(n_tasks: int, cost_s: float = 1.0, memory_bytes: int = 0) -> list[TaskClass]:
    ids = range(n_tasks)
    return [TaskClass(stage=0, ids=ids, cost_s=cost_s, memory_bytes=memory_bytes)]


def layouts(infos: list[AgentInfo], classes: list[TaskClass], **how: Any) -> list[Layout]:
    """Return the layout of each agent; config fields and options of `place` in `how`."""
    limit = how.pop("thread_limit", None)
    placement = place(infos, classes, ExecutorConfig(**how), thread_limit=limit)
    return [placement.layout_of(each) for each in infos]


def test_many_small_tasks_get_one_thread_each() -> None:
    [only] = layouts([info(0, 8)], work(1000))
    assert (only.n_slots, only.n_threads) == (8, 1)


def test_the_layout_says_that_ranks_differ() -> None:
    alike, unlike = (layouts([info(0, n), info(1, 2)], work(1000))[1] for n in (2, 4))
    assert unlike.reason == f"{alike.reason}; more slots where there are more cores"


def test_few_large_tasks_get_wide_slots_if_their_program_threads() -> None:
    [wide] = layouts([info(0, 8)], work(2, 1000.0))
    assert (wide.n_slots, wide.n_threads) == (2, 4)
    [narrow] = layouts([info(0, 8)], work(2, 1000.0), thread_limit=1)
    assert narrow.n_threads == 1


TAIL = [
    TaskClass(0, range(100), 1.0, 2 * GB),
    TaskClass(1, range(100, 101), 100.0, 20 * GB),
]


def able(rank: int, n_cores: int, memory_bytes: int = 0) -> AgentInfo:
    return AgentInfo(rank, "node", n_cores, memory_bytes, can_widen=True)


def test_a_giant_gets_all_cores_where_agents_can_do_that() -> None:
    placement = place([able(0, 8), able(1, 4)], TAIL, ExecutorConfig())
    assert {(each.n_threads, each.n_tasks) for each in placement.classes} == {(0, 100), (4, 1)}
    assert [placement.layout_of(each).n_slots for each in (able(0, 8), able(1, 4))] == [8, 4]
    assert placement.reason.startswith("1 task x 4 threads first, then 4 slots x 1 thread because")
    assert placement.layout_of(able(0, 8)).reason == placement.reason


def test_its_memory_does_not_limit_the_slots_of_the_others() -> None:
    infos = [able(0, 8, 32 * GB), able(1, 8, 24 * GB)]
    placement = place(infos, TAIL, ExecutorConfig())
    assert [placement.layout_of(each).n_slots for each in infos] == [8, 8]


@pytest.mark.parametrize("fixed", [{"n_threads": 1}, {"n_workers": 4}, {"n_threads": 4}])
def test_nothing_is_wide_where_the_user_fixed_a_number(fixed: dict[str, int]) -> None:
    placement = place([able(0, 4)], TAIL, ExecutorConfig(**fixed))
    assert placement.classes == tuple(TAIL)


def test_nothing_is_wide_unless_every_agent_that_computes_can_do_it() -> None:
    infos = [able(0, 4), info(1, 4)]
    assert place(infos, TAIL, ExecutorConfig()).classes == tuple(TAIL)
    assert place([able(0, 4), info(1, 0)], TAIL, ExecutorConfig()).classes != tuple(TAIL)


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


def test_every_task_is_told_the_same_memory_wherever_it_runs() -> None:
    infos = [able(0, 8, 32 * GB), able(1, 4, 64 * GB), able(2, 8, 24 * GB)]
    for classes in (work(1000, 1.0, 2 * GB), TAIL):
        chosen = layouts(infos, classes)
        assert {each.memory_per_slot_bytes for each in chosen} == {3 * GB}
        assert {each.memory_per_agent_bytes for each in chosen} == {24 * GB}
    [unknown] = layouts([able(0, 8)], TAIL)
    assert (unknown.memory_per_slot_bytes, unknown.memory_per_agent_bytes) == (0, 0)


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


def test_more_threads_must_save_what_can_be_noticed() -> None:
    """They cost the identity of the last bits."""
    [short] = layouts([able(0, 4)], work(1, 0.3))
    assert (short.n_slots, short.n_threads) == (4, 1)
    assert short.reason == "4 slots x 1 thread because more threads would save less than 0.25 s"
    assert layouts([able(0, 4)], work(1, 1.5))[0].n_threads == 4
    tail = [*work(100, 0.01), TaskClass(1, range(100, 101), 0.5)]
    assert place([able(0, 4)], tail, ExecutorConfig()).classes == tuple(tail)


def test_what_runs_alone_on_one_thread_need_not_save_seconds() -> None:
    """It is for memory, and costs no bits."""
    giant = TaskClass(1, range(100, 101), 0.001, 20 * GB)
    agent = able(0, 8, 24 * GB)
    placement = place([agent], [*work(100, 0.0025, GB), giant], ExecutorConfig(), thread_limit=1)
    assert {(each.n_threads, each.n_tasks) for each in placement.classes} == {(0, 100), (1, 1)}
    assert placement.layout_of(agent).n_slots == 8


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0.01, 100.0), st.sampled_from([0.0, 0.65, 0.9])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([1, 2, 4, 6, 16]),
)
def test_no_fixed_layout_is_predicted_to_save_much(
    sizes: list[tuple[int, float, float]], n_cores: int
) -> None:
    """At most 5 %, or what cannot be noticed."""
    classes: list[TaskClass] = []
    for n, cost_s, fraction in sizes:
        start = sum(each.n_tasks for each in classes)
        ids = range(start, start + n)
        classes.append(TaskClass(0, ids, cost_s, parallel_fraction=fraction))
    chosen = place([able(0, n_cores)], classes, ExecutorConfig())
    chosen_s = end_s(chosen.classes, chosen.layout_of(able(0, n_cores)))
    for n_threads in range(1, n_cores + 1):
        for n_slots in range(1, n_cores // n_threads + 1):
            fixed_s = end_s(classes, Layout(n_slots, n_threads, 0, ""))
            assert chosen_s <= max(1.05 * fixed_s, fixed_s + 0.25)


def test_workers_that_were_asked_for_are_told_what_the_largest_task_needs() -> None:
    """Fewer run at once then; never more than there is."""
    [asked] = layouts([info(0, 8, 16 * GB)], work(100, 1.0, 3 * GB), n_workers=8)
    assert (asked.n_slots, asked.memory_per_slot_bytes) == (8, 3 * GB)
    [roomy] = layouts([info(0, 8, 64 * GB)], work(100, 1.0, 3 * GB), n_workers=8)
    assert roomy.memory_per_slot_bytes == 8 * GB
    [tight] = layouts([info(0, 8, 2 * GB)], work(100, 1.0, 3 * GB), n_workers=8)
    assert tight.memory_per_slot_bytes == 2 * GB
    [unknown] = layouts([info(0, 8)], work(100, 1.0, 3 * GB), n_workers=8)
    assert unknown.memory_per_slot_bytes == 0


def test_slots_that_share_cores_are_told_of() -> None:
    infos = [info(0, 4), info(1, 4), info(2, 8)]
    [line] = place(infos, work(100), ExecutorConfig(n_workers=8)).crowded(infos)
    assert line.startswith("8 slots x 1 thread share 4 cores: each task is predicted to take 2 ")
    assert place(infos, work(100), ExecutorConfig(n_workers=4)).crowded(infos) == []
    assert place(infos, work(100), ExecutorConfig()).crowded(infos) == []


def test_what_is_granted_of_a_node_is_shared_by_its_agents_who_never_get_more_than_they_have() -> (
    None
):
    infos = {rank: AgentInfo(rank, "node", 4, 4 * GB, 8 * GB) for rank in range(2)}
    infos |= {2: info(2, 4, GB), 3: info(3, 0)}
    granted = Grant(n_cores=6, memory_bytes=6 * GB).of(infos)
    assert [each.n_cores for each in granted.values()] == [3, 3, 4, 0]
    assert [each.memory_bytes for each in granted.values()] == [3 * GB, 3 * GB, GB, 0]
    assert granted[0].node_memory_bytes == 6 * GB
    assert [each.n_cores for each in Grant(n_cores=1).of(infos).values()] == [1, 1, 1, 0]
    assert Grant().of(infos) == infos
