"""The book of a task space: what it accepts as classes, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.messages import DONE, READY, SpaceAdded, TaskClass

EMPTY = range(0)
RANGES = (range(4, 7), EMPTY, range(4))
INTERLEAVED = (np.array([0, 3, 5], dtype=np.int32), EMPTY, np.array([1, 2, 4, 6]))


def book_of(*ids: Any, done: Sequence[int] = ()) -> Ledger:
    """Open a book of classes with these ids."""
    classes = tuple(TaskClass(1, each, 1.0, key=i) for i, each in enumerate(ids))
    return Ledger(SpaceAdded(0, classes, done=np.array(done, dtype=np.int64)), CostModel())


@pytest.mark.parametrize("ids", [RANGES, INTERLEAVED, (range(6, -1, -1),)])
def test_every_task_is_found_in_its_class(ids: Sequence[Any]) -> None:
    book = book_of(*ids)
    for index, each in enumerate(ids):
        assert set(book.class_of(np.array(each, dtype=np.int64)).tolist()) <= {index}


@pytest.mark.parametrize(
    "ids",
    [
        (range(3), range(2, 4)),
        (range(1, 4),),
        (range(2), range(3, 5)),
        (np.array([0, 2]), np.array([2])),
        (np.array([0, 2]), range(2, 3)),
        (np.array([0, 3]), range(1, 2)),
        (np.array([-1, 1]), range(1)),
    ],
)
def test_classes_that_are_no_partition_are_refused(ids: Sequence[Any]) -> None:
    with pytest.raises(IllegalEvent, match=r"overlap|in a space of"):
        book_of(*ids)


@pytest.mark.parametrize("ids", [RANGES, INTERLEAVED])
@pytest.mark.parametrize("done", [[], [0, 5], [4, 5, 6], list(range(7))])
def test_what_is_not_done_becomes_ready(ids: Sequence[Any], done: list[int]) -> None:
    book = book_of(*ids, done=done)
    for index in range(len(ids)):
        book.release(index)
    expected = [DONE if task in done else READY for task in range(7)]
    assert book.states.tolist() == expected
    assert book.n_ready == book.n_ready_of.sum() == 7 - len(done)
    assert book.counts.done == len(done)
    for index, each in enumerate(ids):
        assert book.n_unsettled_of[index] == sum(task not in done for task in each)
