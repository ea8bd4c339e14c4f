"""Which tasks get all cores: only where that clearly pays, and by the plan alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout, counted, seconds_on
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from qcmb_mpi.scheduling.simulate import Machine, simulate
from qcmb_mpi.scheduling.widths import Widths, choose_widths, end_s

Sizes = Sequence[tuple[int, float]]
TAIL = ((28, 1.0), (8, 0.2), (1, 30.0))


def plan(*sizes: tuple[int, float], fraction: float | None = 0.9) -> list[TaskClass]:
    ends = itertools.accumulate((n for n, _ in sizes), initial=0)
    return [
        TaskClass(
            stage, range(at, at + n), cost_s, 100, key=stage, family="f", parallel_fraction=fraction
        )
        for stage, (at, (n, cost_s)) in enumerate(zip(ends, sizes, strict=False))
    ]


def wide(widths: Widths) -> list[tuple[range, int]]:
    return [(each.ids, each.n_threads) for each in widths.classes if each.n_threads]  # type: ignore[misc]


def test_a_giant_is_wide_and_says_why() -> None:
    widths = choose_widths(plan(*TAIL), 4)
    assert wide(widths) == [(range(36, 37), 4)]
    assert (widths.layout.n_slots, widths.layout.n_threads) == (4, 1)
    assert widths.layout.reason == (
        "1 task x 4 threads first, then 4 slots x 1 thread because it is 50% of all work: "
        "1 thread each would take 1.7 times as long"
    )
    giant = widths.classes[-1]
    assert giant.cost_s == pytest.approx(30 * (0.1 + 0.9 / 4), rel=0.05)
    assert (giant.key, giant.family) == ((2, 4), "f")
    assert widths.narrow == tuple(plan(*TAIL)[:2])


@pytest.mark.parametrize("sizes", [((1000, 1.0),), ((4, 5.0),), ((40, 1.0), (4, 1.5)), ()])
def test_nothing_is_wide_where_it_does_not_pay(sizes: Sizes) -> None:
    widths = choose_widths(plan(*sizes), 4)
    assert widths.classes == tuple(plan(*sizes))
    assert "first" not in widths.layout.reason


def test_what_is_over_a_full_round_of_equal_tasks_is_wide() -> None:
    widths = choose_widths(plan((5, 10.0)), 4)
    assert wide(widths) == [(range(1), 4)]
    assert widths.layout.n_slots == 4
    assert sorted(itertools.chain(*(each.ids for each in widths.classes))) == [*range(5)]


def test_ids_of_a_class_may_be_an_array() -> None:
    [each] = plan((5, 10.0))
    ids = np.array([1, 3, 4, 7, 9])
    widths = choose_widths([replace(each, ids=ids)], 4)
    assert [part.ids.tolist() for part in widths.classes] == [[1], [3, 4, 7, 9]]  # type: ignore[union-attr]


def test_what_does_not_thread_is_never_wide() -> None:
    assert not wide(choose_widths(plan(*TAIL, fraction=0.0), 4))
    assert not wide(choose_widths(plan(*TAIL), 4, thread_limit=1))
    assert not wide(choose_widths(plan(*TAIL), 1))
    assert wide(choose_widths(plan(*TAIL, fraction=None), 4))
    [(_, n_threads)] = wide(choose_widths(plan(*TAIL), 3, thread_limit=2))
    assert n_threads == 2


def test_the_giants_memory_leaves_the_others_their_slots() -> None:
    giant = replace(plan(*TAIL)[-1], memory_bytes=900)
    widths = choose_widths([*plan(*TAIL)[:-1], giant], 4, 1000)
    assert (widths.layout.n_slots, widths.layout.memory_per_slot_bytes) == (4, 250)


def test_several_giants_are_wide_on_as_many_agents() -> None:
    widths = choose_widths(plan((200, 0.5), (2, 60.0)), 4, n_agents=2)
    assert [(len(ids), n) for ids, n in wide(widths)] == [(2, 4)]
    assert widths.layout.reason.startswith("2 tasks x 4 threads first")
    assert "they are 55% of all work" in widths.layout.reason


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="n_agents"):
        choose_widths([], 4, n_agents=0)


def test_what_is_too_large_to_share_memory_runs_alone_and_leaves_the_others_their_slots() -> None:
    for limit in (None, 1):
        small, giant = plan((2000, 1.0), (1, 30.0), fraction=0.0)
        giant = replace(giant, memory_bytes=600_000_000)
        widths = choose_widths([small, giant], 8, 1_000_000_000, thread_limit=limit)
        assert wide(widths) == [(range(2000, 2001), 1)]
        assert (widths.classes[-1].cost_s, widths.layout.n_slots) == (30.0, 8)
        n_threads = counted(limit or 8, "thread")
        assert widths.layout.reason == (
            "1 task alone first, then 8 slots x 1 thread because it may need 0.6 GB, which would "
            f"leave 1 slot x {n_threads} for all"
        )


def test_with_memory_for_a_few_slots_they_are_as_wide_as_leaves_no_core_idle() -> None:
    """Five slots of one thread would leave two of seven cores idle, three of two threads one."""
    widths = choose_widths(
        [replace(each, memory_bytes=70) for each in plan((100, 10.0), (1, 900.0))], 7, 400
    )
    assert (range(100, 101), 7) in wide(widths)
    assert (widths.layout.n_slots, widths.layout.n_threads) == (3, 2)


@pytest.mark.parametrize(("n_cores", "n_agents"), [(4, 1), (64, 1), (128, 1), (64, 2), (128, 4)])
def test_one_task_more_than_slots_is_not_a_second_round(n_cores: int, n_agents: int) -> None:
    classes = plan((n_cores * n_agents + 1, 50.0))
    widths = choose_widths(classes, n_cores, n_agents=n_agents)
    assert wide(widths) == [(range(1), n_cores)]
    assert end_s(widths.classes, widths.layout, n_agents) < 75


@dataclass(frozen=True)
class Case:
    """A plan and a machine, both drawn."""

    classes: tuple[TaskClass, ...]
    n_cores: int
    n_agents: int
    memory_bytes: int | None
    thread_limit: int | None

    def choose(self) -> Widths:
        return choose_widths(
            self.classes,
            self.n_cores,
            self.memory_bytes,
            thread_limit=self.thread_limit,
            n_agents=self.n_agents,
        )

    @property
    def fixed(self) -> list[Layout]:
        """Any number of slots and threads for all that cores, programs and memory allow."""
        largest = max(each.memory_bytes for each in self.classes)
        most = max(1, (self.memory_bytes or largest * self.n_cores) // largest)
        return [
            Layout(n_slots, n_threads, 0, "")
            for n_slots in range(1, min(most, self.n_cores) + 1)
            for n_threads in range(1, self.n_cores // n_slots + 1)
            if n_threads <= (self.thread_limit or n_threads)
        ]


@st.composite
def cases(draw: st.DrawFn, most: int = 3000) -> Case:
    sizes = draw(st.lists(st.tuples(st.integers(1, most), st.floats(0.01, 1000.0)), max_size=4))
    classes = plan((draw(st.integers(1, 20)), draw(st.floats(1.0, 5000.0))), *sizes)
    return Case(
        tuple(
            replace(
                each,
                memory_bytes=draw(st.integers(1, 100)),
                parallel_fraction=draw(st.sampled_from([0.0, 0.5, 0.85, 0.9])),
            )
            for each in classes
        ),
        draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16, 64, 128])),
        draw(st.sampled_from([1, 2, 5])),
        draw(st.sampled_from([None, 90, 150, 400])),
        draw(st.sampled_from([None, None, 1, 2])),
    )


@settings(max_examples=150, deadline=None)
@given(cases())
def test_no_layout_for_all_is_predicted_to_be_much_sooner(case: Case) -> None:
    widths = case.choose()
    best_s = min(end_s(case.classes, each, case.n_agents) for each in case.fixed)
    assert end_s(widths.classes, widths.layout, case.n_agents) <= 1.05 * best_s


@settings(max_examples=150, deadline=None)
@given(cases())
def test_cores_and_memory_are_enough_and_every_task_is_there_once(case: Case) -> None:
    widths = case.choose()
    layout, limit = widths.layout, case.memory_bytes
    assert 1 <= layout.n_slots * layout.n_threads <= case.n_cores
    widest = min(case.n_cores, case.thread_limit or case.n_cores)
    assert max(layout.n_threads, *(each.n_threads for each in widths.classes)) <= widest
    largest = max((each.memory_bytes for each in widths.narrow), default=0)
    assert not limit or layout.n_slots == 1 or layout.n_slots * largest <= limit
    ids = np.sort(np.concatenate([np.asarray(each.ids) for each in widths.classes]))
    assert ids.tolist() == list(range(sum(each.n_tasks for each in case.classes)))


@settings(max_examples=30, deadline=None)
@given(cases(most=200))
def test_the_scheduler_ends_when_predicted(case: Case) -> None:
    """Within 2 %, on machines that know their memory, if predictions of tasks are right."""
    widths = case.choose()
    n_threads = widths.layout.n_threads
    told = [
        each
        if each.n_threads
        else replace(each, cost_s=seconds_on(n_threads, each.cost_s, each.parallel_fraction or 0.0))
        for each in widths.classes
    ]
    machine = Machine(case.n_agents, widths.layout.n_slots, memory_bytes=case.memory_bytes or 0)
    options = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)
    fits = all(each.memory_bytes <= (case.memory_bytes or 100) for each in case.classes)
    result = simulate(told, machine, rng=np.random.default_rng(0), options=options)
    predicted_s = end_s(widths.classes, widths.layout, case.n_agents)
    assert not fits or result.makespan_s == pytest.approx(predicted_s, rel=0.02)
    assert result.n_crowded == 0


def test_as_simulated_it_is_as_soon_as_predicted_and_never_later_than_without() -> None:
    """With predictions that are right."""
    options = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)
    n_wide = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sizes = [(int(rng.integers(1, 40)), float(10 ** rng.uniform(-1, 2))) for _ in range(2)]
        machine = Machine(int(rng.integers(1, 4)), 4)
        classes = plan((int(rng.integers(1, 4)), float(10 ** rng.uniform(2, 3))), *sizes)
        widths = choose_widths(classes, 4, n_agents=machine.n_agents)
        if not wide(widths):
            continue
        n_wide += 1
        hybrid = simulate(widths.classes, machine, rng=rng, options=options, is_checked=True)
        narrow = simulate(classes, machine, rng=rng, options=options)
        assert hybrid.n_crowded == 0, seed
        assert hybrid.makespan_s <= 0.95 * narrow.makespan_s, seed
        predicted_s = end_s(widths.classes, widths.layout, machine.n_agents)
        assert hybrid.makespan_s == pytest.approx(predicted_s, rel=0.01), seed
    assert n_wide >= 15


def test_thousands_of_agents_and_tasks_are_quick_to_choose_for() -> None:
    classes = plan((10**7, 1.0), (10**6, 2.0), (3, 9e4))
    widths = choose_widths(classes, 64, n_agents=500)
    assert [(len(ids), n) for ids, n in wide(widths)] == [(3, 64)]
