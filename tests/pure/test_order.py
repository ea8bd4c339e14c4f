"""The order of ready tasks, and what is kept of every one of them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.invariants import check_book
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.order import Limits, Priority, WorkQueue


def ledger(*classes: m.TaskClass, done: tuple[int, ...] = ()) -> Ledger:
    return Ledger(m.SpaceAdded(0, classes, m.as_ids(done)), CostModel())


def open_queue(book: Ledger, order: str = "lpt") -> WorkQueue:
    queue = WorkQueue(book, order=order)
    for index in range(len(book.classes)):
        book.release(index)
        queue.release(index)
    queue.sort()
    return queue


def take(book: Ledger, queue: WorkQueue, n: int, limits: Limits | None = None) -> list[int]:
    offer = queue.best(limits or Limits())
    if offer is None:
        return []
    ids = queue.take(offer, n)
    book.move(ids, m.ASSIGNED)
    book.holders[ids] = 0
    check_book(book)
    return ids.tolist()


def drain(book: Ledger, queue: WorkQueue, n: int = 1) -> list[int]:
    taken: list[int] = []
    while part := take(book, queue, n):
        taken += part
    return taken


def give_back(book: Ledger, ids: list[int]) -> m.Ids:
    book.holders[ids] = -1
    book.move(m.as_ids(ids), m.READY)
    return m.as_ids(ids)


SMALL, LARGE, MIDDLE = (
    m.TaskClass(2, range(3), 1.0, 10, key="s"),
    m.TaskClass(1, range(3, 5), 9.0, 1000, key="l"),
    m.TaskClass(1, range(5, 7), 4.0, 100, key="m"),
)


def test_longest_first() -> None:
    book = ledger(SMALL, LARGE, MIDDLE)
    assert drain(book, open_queue(book)) == [3, 4, 5, 6, 0, 1, 2]


def test_level_order_has_low_stages_first_and_longest_first_inside() -> None:
    late = m.TaskClass(0, range(7, 8), 0.1, key="late")
    book = ledger(SMALL, LARGE, MIDDLE, late)
    assert drain(book, open_queue(book, "level")) == [7, 3, 4, 5, 6, 0, 1, 2]
    with pytest.raises(ValueError, match="order must be one of"):
        WorkQueue(book, order="random")


def test_order_follows_what_was_measured() -> None:
    book = ledger(SMALL, LARGE, MIDDLE)
    queue = open_queue(book)
    assert take(book, queue, 1) == [3]
    model = CostModel()
    model.observe("s", [50.0], prior_s=1.0, family="f")
    model.observe("l", [0.1], prior_s=9.0, family="g")
    book.recost(model)
    queue.sort()
    assert drain(book, queue, 2) == [0, 1, 2, 5, 6, 4]


def test_done_tasks_are_passed_over() -> None:
    done = tuple(i for i in range(20_000) if i not in (7, 9_000, 19_999))
    book = ledger(m.TaskClass(0, range(20_000), 1.0), done=done)
    queue = open_queue(book)
    assert take(book, queue, 2) == [7, 9_000]
    assert drain(book, queue, 2) == [19_999]
    assert queue.best(Limits()) is None


def test_ids_may_interleave_and_run_backwards() -> None:
    even = m.TaskClass(0, np.arange(0, 10, 2, dtype=np.int32), 2.0, key="even")
    odd = m.TaskClass(0, range(9, 0, -2), 1.0, key="odd")
    book = ledger(even, odd)
    assert book.class_of(m.as_ids([0, 1, 9, 8])).tolist() == [0, 1, 1, 0]
    assert drain(book, open_queue(book), 3) == [0, 2, 4, 6, 8, 9, 7, 5, 3, 1]


def test_many_classes_of_one_task_each() -> None:
    book = ledger(*(m.TaskClass(0, np.array([i]), 1.0 + i) for i in range(300)))
    assert drain(book, open_queue(book), 5) == list(range(299, -1, -1))


def test_what_came_back_goes_first_lost_before_failed_before_returned() -> None:
    book = ledger(SMALL, LARGE, MIDDLE)
    queue = open_queue(book)
    assert drain(book, queue, 4) == [3, 4, 5, 6, 0, 1, 2]
    queue.push(give_back(book, [0, 6]), Priority.RETURNED)
    queue.push(give_back(book, [3]), Priority.RETRY)
    queue.push(give_back(book, [2]), Priority.LOST)
    assert drain(book, queue, 9) == [2, 3, 6, 0]


def test_groups_are_taken_in_parts_and_without_what_is_done_meanwhile() -> None:
    book = ledger(m.TaskClass(0, range(6), 1.0))
    queue = open_queue(book)
    assert take(book, queue, 6) == list(range(6))
    queue.push(give_back(book, [5, 4, 3, 2]), Priority.RETURNED)
    queue.push(give_back(book, [0]), Priority.LOST)
    book.move(m.as_ids([4, 0]), m.DONE)
    assert take(book, queue, 2) == [5, 3]
    assert take(book, queue, 2) == [2]
    assert take(book, queue, 2) == []


def test_limits_let_smaller_tasks_pass() -> None:
    book = ledger(SMALL, LARGE, MIDDLE)
    queue = open_queue(book)
    assert take(book, queue, 9, Limits(memory_bytes=999)) == [5, 6]
    queue.push(give_back(book, [5]), Priority.RETRY)
    assert take(book, queue, 1, Limits(memory_bytes=99)) == [0]
    assert take(book, queue, 1, Limits(seconds=0.05)) == []
    assert take(book, queue, 1) == [5]


def test_a_group_is_left_to_others_when_it_should_be() -> None:
    book = ledger(m.TaskClass(0, range(2), 1.0))
    queue = open_queue(book)
    assert take(book, queue, 1) == [0]
    queue.push(give_back(book, [0]), Priority.RETRY, avoid=frozenset({4}))
    assert take(book, queue, 1, Limits(is_avoiding=lambda avoid, _: 4 in avoid)) == [1]
    assert take(book, queue, 1, Limits(is_avoiding=lambda avoid, _: 5 in avoid)) == [0]


@pytest.mark.parametrize(
    "classes",
    [
        (m.TaskClass(0, range(3), 1.0), m.TaskClass(0, range(2, 5), 1.0)),
        (m.TaskClass(0, range(1, 4), 1.0),),
        (m.TaskClass(0, range(-1, 4), 1.0),),
        (m.TaskClass(0, np.array([0, 0, 1]), 1.0),),
        (m.TaskClass(0, np.array([0, 3]), 1.0),),
    ],
)
def test_classes_must_partition_the_ids(classes: tuple[m.TaskClass, ...]) -> None:
    with pytest.raises(IllegalEvent):
        ledger(*classes)


def test_a_book_needs_few_bytes_a_task_while_it_is_made_too() -> None:
    n = 300_000
    ids = np.arange(n, dtype=np.int32)
    classes = tuple(m.TaskClass(0, ids[start::3], 1.0 + start) for start in range(3))
    tracemalloc.start()
    try:
        book = ledger(*classes)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert book.counts.waiting == n
    assert peak_bytes < 12 * n


def test_only_moves_of_the_table_are_made() -> None:
    legal = {(move.source, move.target) for move in m.MOVES}
    for source in m.TaskState:
        for target in m.TaskState:
            book = ledger(m.TaskClass(0, range(2), 1.0))
            book.states[:] = [source, m.ASSIGNED]
            if (source, target) in legal:
                book.move(m.as_ids([0]), target)
                assert book.states[0] == target
            else:
                with pytest.raises(IllegalEvent, match="cannot become") as caught:
                    book.move(m.as_ids([0]), target)
                assert f"is {source.name.lower()}" in str(caught.value.story[0])
                assert book.states.tolist() == [source, m.ASSIGNED]


def test_a_move_is_made_for_all_or_none() -> None:
    book = ledger(m.TaskClass(0, range(3), 1.0), done=(1,))
    with pytest.raises(IllegalEvent):
        book.move(m.as_ids([0, 1, 2]), m.READY)
    check_book(book)
    assert book.counts.waiting == 2


def test_a_miscounted_book_is_noticed() -> None:
    book = ledger(m.TaskClass(0, range(3), 1.0))
    book.states[0] = m.DONE
    with pytest.raises(IllegalEvent, match="counts disagree"):
        check_book(book)
