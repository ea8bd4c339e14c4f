"""Slots times threads: what is chosen, and the sentence that says why."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import (
    PARALLEL_FRACTIONS,
    Work,
    choose_layout,
    counted,
    dealt,
    divisions,
    in_gb,
    speedup,
)
from qcmb_mpi.scheduling.scaling import FAMILIES


def classes(*sizes: tuple[int, float], memory_bytes: int = 0) -> list[TaskClass]:
    ends = list(itertools.accumulate((n for n, _ in sizes), initial=0))
    return [
        TaskClass(0, range(start, start + n), cost_s, memory_bytes)
        for start, (n, cost_s) in zip(ends, sizes, strict=False)
    ]


def test_many_small_tasks_get_a_core_each() -> None:
    layout = choose_layout(classes((16, 0.1), (120, 0.3), (560, 1.0)), 4, 8_000_000_000)
    assert (layout.n_slots, layout.n_threads) == (4, 1)
    assert layout.memory_per_slot_bytes == 2_000_000_000
    assert layout.reason.startswith("4 slots x 1 thread because 696 tasks >= 4 x 4 slots")


def test_one_large_task_gets_all_cores() -> None:
    layout = choose_layout(classes((1, 100.0)), 8)
    assert (layout.n_slots, layout.n_threads, layout.memory_per_slot_bytes) == (1, 8, 0)
    assert "1 slot x 8 threads because 1 task, the longest being 100% of all work" in layout.reason


def test_few_equal_tasks_are_not_left_with_a_ragged_end() -> None:
    # Five tasks one core each take two rounds on four cores; two at a time, three shorter ones.
    layout = choose_layout(classes((5, 10.0)), 4, parallel_fraction=1.0)
    assert layout.n_slots < 4
    four = choose_layout(classes((4, 10.0)), 4)
    assert (four.n_slots, four.n_threads) == (4, 1)
    assert "4 tasks on 4 cores are done soonest one core each" in four.reason


def test_what_wide_tasks_win_must_be_more_than_predictions_are_good_for() -> None:
    """Ten tasks are three rounds of four cores, or five of two: 1 %, 4 %, 12 % sooner."""
    work = classes((10, 100.0))
    why = "4 slots x 1 thread because more threads would save less than 5%"
    assert choose_layout(work, 4, parallel_fraction=0.81).reason == why
    assert choose_layout(work, 4, parallel_fraction=0.85).reason == why
    assert choose_layout(work, 4, parallel_fraction=0.95).n_threads == 2


SIZES = st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 200.0)), min_size=1, max_size=4).map(
    lambda sizes: classes(*sizes)
)


@given(SIZES, st.sampled_from([0.0, 0.5, 0.65, 0.9, 1.0]), st.integers(1, 32))
def test_the_fewest_threads_within_5_percent_of_the_soonest_are_taken(
    work: list[TaskClass], fraction: float, n_cores: int
) -> None:
    layout = choose_layout(work, n_cores, parallel_fraction=fraction)
    everything = Work.of(work, fraction)
    ends_s = {
        n_threads: everything.end_s(np.zeros(n_cores // n_threads), n_threads)
        for n_threads in range(1, n_cores + 1)
    }
    least_s = 1.05 * min(ends_s.values())
    assert ends_s[layout.n_threads] <= least_s * (1 + 1e-9)
    most_slots = {n_cores // n for n in ends_s if ends_s[n] <= least_s * (1 - 1e-9)}
    assert layout.n_slots >= max(most_slots, default=0)


@given(SIZES, st.sampled_from([0.5, 0.9]), st.integers(1, 31), st.integers(1, 32))
def test_more_cores_are_never_predicted_to_end_later_by_more_than_a_tie(
    work: list[TaskClass], fraction: float, n_cores: int, n_more: int
) -> None:
    everything = Work.of(work, fraction)

    def end_s(n: int) -> float:
        layout = choose_layout(work, n, parallel_fraction=fraction)
        return everything.end_s(np.zeros(layout.n_slots), layout.n_threads)

    assert end_s(n_cores + n_more) <= 1.05 * end_s(n_cores) * (1 + 1e-9)


@given(SIZES, st.integers(1, 32))
def test_the_sentence_says_the_layout_and_why(work: list[TaskClass], n_cores: int) -> None:
    layout = choose_layout(work, n_cores)
    size = f"{counted(layout.n_slots, 'slot')} x {counted(layout.n_threads, 'thread')} because "
    assert layout.reason.startswith(size)
    assert len(layout.reason) > len(size)
    assert "\n" not in layout.reason
    one = Work.of(work, 0.85)
    is_soonest = one.end_s(np.zeros(n_cores), 1) <= min(
        one.end_s(np.zeros(n_cores // n), n) for n in range(1, n_cores + 1)
    )
    assert ("save less than 5%" in layout.reason) == (layout.n_threads == 1 and not is_soonest)


def test_programs_that_do_not_thread_get_one_core() -> None:
    layout = choose_layout(classes((2, 10.0)), 8, thread_limit=1)
    assert (layout.n_slots, layout.n_threads) == (8, 1)


def test_agents_share_the_work() -> None:
    assert choose_layout(classes((8, 10.0)), 4, n_agents=8, parallel_fraction=1.0).n_threads == 4
    narrow = choose_layout(classes((4000, 10.0)), 4, n_agents=8)
    assert narrow.reason.startswith("4 slots x 1 thread because 4000 tasks >= 4 x 32 slots")
    few = choose_layout(classes((32, 10.0)), 4, n_agents=8)
    assert few.reason.endswith("32 tasks on 32 cores are done soonest one core each")


@pytest.mark.parametrize("empty", [[], classes((0, 1.0))])
def test_nothing_to_do(empty: list[TaskClass]) -> None:
    layout = choose_layout(empty, 4)
    assert (layout.n_slots, layout.n_threads) == (4, 1)
    assert layout.reason.endswith("there is nothing to do")


def test_memory_limits_slots_and_the_rest_of_the_cores_make_them_wider() -> None:
    layout = choose_layout(classes((100, 1.0), memory_bytes=3_000_000_000), 8, 8_000_000_000)
    assert (layout.n_slots, layout.n_threads) == (2, 4)
    assert "no more slots because a task may need 3 GB" in layout.reason


def test_a_task_that_never_fits_still_gets_a_layout() -> None:
    assert choose_layout(classes((10, 1.0), memory_bytes=9_000), 4, 1_000).n_slots == 1


def test_the_users_numbers_stand() -> None:
    work = classes((100, 1.0))
    both = choose_layout(work, 4, n_workers=6, n_threads=3)
    assert (both.n_slots, both.n_threads) == (6, 3)
    assert both.reason == "6 slots x 3 threads because both numbers were asked for"
    workers = choose_layout(work, 4, n_workers=2)
    assert (workers.n_slots, workers.n_threads) == (2, 2)
    assert "2 slots were asked for" in workers.reason
    assert choose_layout(work, 4, n_workers=8).n_threads == 1
    alone = choose_layout(work, 4, n_workers=1).reason
    assert alone == "1 slot x 4 threads because 1 slot was asked for"
    assert choose_layout(work, 4, n_workers=1, thread_limit=1).n_threads == 1
    threads = choose_layout(work, 4, n_threads=2)
    assert (threads.n_slots, threads.n_threads) == (2, 2)
    assert "2 threads per task were asked for" in threads.reason
    assert choose_layout(work, 4, n_threads=9).n_slots == 1


@given(st.integers(1, 9), st.integers(0, 20_000), st.integers(1, 20_000))
def test_asked_for_slots_are_told_their_share_or_what_the_largest_task_needs(
    n_workers: int, needed: int, limit: int
) -> None:
    """So that a program that keeps to it does not fail for what `--workers` leaves."""
    work = classes((3, 1.0), memory_bytes=needed)
    told = choose_layout(work, 4, limit, n_workers=n_workers).memory_per_slot_bytes
    assert told <= limit
    assert told >= limit // n_workers
    assert told >= min(needed, limit)
    assert told in (limit // n_workers, needed, limit)


@pytest.mark.parametrize("n_cores", [1, 3, 6, 64])
@pytest.mark.parametrize("n_tasks", [1, 2, 5, 100, 100_000])
@pytest.mark.parametrize("memory_bytes", [None, 10_000])
def test_never_more_threads_than_cores_nor_more_memory_than_there_is(
    n_cores: int, n_tasks: int, memory_bytes: int | None
) -> None:
    work = classes((n_tasks, 2.0), (1, 50.0), memory_bytes=3_000)
    layout = choose_layout(work, n_cores, memory_bytes)
    assert 1 <= layout.n_slots * layout.n_threads <= n_cores
    if memory_bytes:
        assert layout.n_slots * 3_000 <= memory_bytes


@pytest.mark.parametrize("name", ["n_cores", "n_workers", "n_threads", "thread_limit", "n_agents"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        choose_layout([], **{"n_cores": 4, name: 0})


def test_speedup_is_amdahls() -> None:
    assert speedup(1, 0.7) == 1
    assert speedup(4, 1.0) == 4
    assert speedup(10**9, 0.9) == pytest.approx(10)


def test_every_family_says_what_threads_gain() -> None:
    assert PARALLEL_FRACTIONS.keys() == FAMILIES.keys()


@pytest.mark.parametrize(
    ("sizes", "n_threads", "measured"),
    [
        (((3, 0.06), (6, 2.24)), 2, 0.88),
        (((3, 0.06), (6, 2.24)), 4, 1.04),
        (((36, 0.01), (28, 0.06), (1, 6.1)), 2, 0.52),
        (((36, 0.01), (28, 0.06), (1, 6.1)), 4, 0.64),
    ],
)
def test_what_threads_gain_is_as_measured(
    sizes: tuple[tuple[int, float], ...], n_threads: int, measured: float
) -> None:
    """HF on four cores beside one thread each, a second of start-up subtracted from both."""
    work = Work.of(classes(*sizes), PARALLEL_FRACTIONS["scf"])
    one_s, more_s = (work.end_s(np.zeros(4 // n), n) for n in (1, n_threads))
    assert more_s / one_s == pytest.approx(measured, rel=0.1)


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 200), st.floats(0.01, 100.0)), max_size=5),
)
def test_equal_tasks_are_dealt_as_one_by_one(
    starts_s: list[float], sizes: list[tuple[int, float]]
) -> None:
    ends_s = starts_s.copy()
    heapq.heapify(ends_s)
    for n, cost_s in sorted(sizes, key=lambda size: -size[1]):
        for _ in range(n):
            heapq.heapreplace(ends_s, ends_s[0] + cost_s)
    assert dealt(np.array(starts_s), sizes) == pytest.approx(sorted(ends_s), rel=1e-6)


def test_of_many_kinds_the_shortest_fill_what_is_left() -> None:
    sizes = [(3, 1.0 + i / 1000) for i in range(1000)]
    ends_s = dealt(np.zeros(64), sizes)
    total_s = sum(n * cost_s for n, cost_s in sizes)
    assert ends_s.sum() == pytest.approx(total_s, rel=0.01)
    assert ends_s.max() == pytest.approx(total_s / 64, rel=0.01)


def test_a_ragged_end_is_seen_on_thousands_of_slots() -> None:
    work = Work.of(classes((5001, 10.0)))
    assert work.end_s(np.zeros(5000), 1) == 20
    assert work.end_s(np.zeros(5001), 1) == 10
    assert work.end_s(np.zeros(0), 1) == 0


@pytest.mark.parametrize("n_cores", [1, 2, 7, 12, 64, 128])
@pytest.mark.parametrize("most", [1, 5, 128])
@pytest.mark.parametrize("widest", [1, 3, 128])
def test_divisions_leave_fewest_cores_idle(n_cores: int, most: int, widest: int) -> None:
    widest = min(widest, n_cores)
    found = divisions(n_cores, most, widest)
    every = {
        (n, t)
        for n in range(1, min(most, n_cores) + 1)
        for t in range(1, widest + 1)
        if n * t <= n_cores
    }
    assert set(found) <= every
    assert found == sorted(found, reverse=True)
    for n, t in every:
        assert any(n <= slots and t <= threads for slots, threads in found)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (131e9, "130 GB"),
        (1.5e9, "1.5 GB"),
        (20.24e12, "20000 GB"),
        (12e6, "12 MB"),
        (7, "0.000007 MB"),
    ],
)
def test_memory_is_written_without_exponents(n_bytes: float, text: str) -> None:
    assert in_gb(n_bytes) == text


def test_the_reason_says_what_waits() -> None:
    """One task is half of all work: three cores of four idle in the end, on one rank or four."""
    work = classes((72, 1.0), (1, 72.0))
    for n_cores, n_agents in ((4, 1), (1, 4)):
        reason = choose_layout(work, n_cores, thread_limit=1, n_agents=n_agents).reason
        assert "wastes nothing" not in reason
        assert "the longest of 73 tasks is 50% of all work: other cores wait for it" in reason
        assert ("a rank has 1 core; " in reason) == (n_cores == 1)
    reason = choose_layout(classes((73, 1.0)), 1, n_agents=4).reason
    assert reason == "1 slot x 1 thread because a rank has 1 core"


def test_a_share_of_nothing_is_not_told() -> None:
    """So little memory that few slots remain: the longest is one of very many."""
    work = classes((1000, 100.0), memory_bytes=10**9)
    layout = choose_layout(work, 4, 10**9)
    assert layout.n_threads > 1
    assert "0%" not in layout.reason
