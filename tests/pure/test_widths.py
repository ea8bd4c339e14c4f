"""Which tasks get all cores: only where that clearly pays, and by the plan alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from qcmb_mpi.scheduling.simulate import Machine, simulate
from qcmb_mpi.scheduling.widths import Widths, choose_widths, end_s

Sizes = tuple[tuple[int, float], ...]
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


@pytest.mark.parametrize("seed", range(30))
def test_as_simulated_it_is_as_soon_as_predicted_and_never_later_than_without(seed: int) -> None:
    """With predictions that are right; and not much later than predicted if some are wrong."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 40)), float(10 ** rng.uniform(-1, 2))) for _ in range(3)]
    machine = Machine(int(rng.integers(1, 4)), 4)
    classes = plan(*sizes)
    widths = choose_widths(classes, 4, n_agents=machine.n_agents)
    if not wide(widths):
        return
    options = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)
    hybrid = simulate(widths.classes, machine, rng=rng, options=options, is_checked=True)
    narrow = simulate(classes, machine, rng=rng, options=options)
    assert hybrid.n_crowded == 0
    assert hybrid.makespan_s <= 0.95 * narrow.makespan_s
    predicted_s = end_s(widths.classes, widths.layout, machine.n_agents)
    assert hybrid.makespan_s == pytest.approx(predicted_s, rel=0.01)


def test_thousands_of_agents_and_tasks_are_quick_to_choose_for() -> None:
    classes = plan((10**7, 1.0), (10**6, 2.0), (3, 9e4))
    widths = choose_widths(classes, 64, n_agents=500)
    assert [(len(ids), n) for ids, n in wide(widths)] == [(3, 64)]
