"""What an agent holds and has not started: order, recall, fair batches."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.execution.backlog import Backlog, least_worth_s


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def taken(backlog: Backlog, n_sharing: int = 1) -> list[tuple[int, list[int]]]:
    """Take everything, batch by batch."""
    batches = []
    while (batch := backlog.batch(n_sharing)) is not None:
        batches.append((batch[0], batch[1].tolist()))
    return batches


def test_an_empty_backlog_gives_nothing() -> None:
    backlog = Backlog()
    backlog.add(0, ids())
    backlog.put_back(0, ids())
    assert (len(backlog), backlog.next_space, backlog.batch(1)) == (0, None, None)
    assert backlog.recall(0).tolist() == []


def test_tasks_come_in_the_order_in_which_they_came() -> None:
    backlog = Backlog()
    backlog.add(0, ids(5, 3))
    backlog.add(1, ids(0))
    backlog.add(0, ids(9))
    assert (len(backlog), backlog.next_space) == (4, 0)
    flat = [(space, task) for space, batch in taken(backlog) for task in batch]
    assert flat == [(0, 5), (0, 3), (1, 0), (0, 9)]


def test_what_is_put_back_comes_first() -> None:
    backlog = Backlog()
    backlog.add(0, ids(1, 2))
    backlog.put_back(1, ids(7))
    assert backlog.next_space == 1
    assert taken(backlog)[0] == (1, [7])


def test_recall_takes_one_space_only() -> None:
    backlog = Backlog()
    backlog.add(0, ids(1, 2))
    backlog.add(1, ids(1))
    backlog.add(0, ids(3))
    assert backlog.recall(0).tolist() == [1, 2, 3]
    assert taken(backlog) == [(1, [1])]


@pytest.mark.parametrize("n_sharing", [1, 2, 3, 7])
@pytest.mark.parametrize("seconds", [1e-9, 1e-4, 0.01, 10.0])
def test_batches_are_fair_and_complete(n_sharing: int, seconds: float) -> None:
    backlog = Backlog()
    backlog.observe(0, seconds)
    backlog.add(0, np.arange(1000))
    n_left = 1000
    for _, batch in taken(backlog, n_sharing):
        assert 1 <= len(batch) <= -(-n_left // n_sharing)
        assert len(batch) == 1 or len(batch) * seconds <= 0.021
        n_left -= len(batch)
    assert n_left == 0


def test_what_is_not_known_or_long_is_taken_one_at_a_time() -> None:
    backlog = Backlog()
    backlog.add(0, np.arange(5))
    backlog.add(1, np.arange(5))
    backlog.observe(1, 60.0)
    assert [len(batch) for _, batch in taken(backlog)] == [1] * 10


def test_short_is_learnt_for_each_space() -> None:
    backlog = Backlog()
    assert not backlog.is_short(0)
    backlog.observe(0, 0.001)
    backlog.observe(1, 5.0)
    assert backlog.is_short(0)
    assert not backlog.is_short(1)
    for _ in range(50):
        backlog.observe(0, 5.0)
        backlog.observe(1, 0.001)
    assert not backlog.is_short(0)
    assert backlog.is_short(1)


def test_nothing_is_taken_that_is_worth_no_message() -> None:
    backlog = Backlog()
    backlog.add(0, np.arange(6))
    backlog.observe(0, 0.002)
    assert backlog.batch(3, 0.1, least_s=0.01) is None
    assert len(backlog) == 6
    space, ids = backlog.batch(3, 0.1, least_s=0.001) or (None, np.empty(0))
    assert (space, ids.tolist(), len(backlog)) == (0, [0, 1], 4)


def test_a_slot_has_less_at_hand_as_what_is_left_gets_less() -> None:
    backlog = Backlog()
    assert backlog.aim_s(0.15, [0.0, 0.0]) == pytest.approx(0.01)
    backlog.observe(0, 0.01)
    backlog.add(0, np.arange(100))
    aims = [backlog.aim_s(0.15, [0.1, 0.0])]
    while backlog:
        backlog.take(5)
        aims.append(backlog.aim_s(0.15, [0.1, 0.0]))
    assert aims[0] == 0.15
    assert aims == sorted(aims, reverse=True)
    assert aims[-1] == pytest.approx(0.025)


@pytest.mark.parametrize("n_slots", [1, 4, 64])
@pytest.mark.parametrize("share_s", [0.015, 0.03, 0.06, 0.2, 0.4, 3.0])
def test_a_slot_that_has_done_half_of_a_batch_may_have_more(n_slots: int, share_s: float) -> None:
    backlog = Backlog()
    backlog.observe(0, 0.0001)
    task_s = backlog.mean_s(0)
    backlog.add(0, np.arange(round(n_slots * share_s / task_s)))
    batch_s = backlog.aim_s(0.15, [0.0] * n_slots)
    backlog.take(round(n_slots * batch_s / task_s))
    left_s = batch_s / 2
    aim_s = backlog.aim_s(0.15, [left_s] * n_slots)
    assert left_s <= aim_s - least_worth_s(aim_s)
