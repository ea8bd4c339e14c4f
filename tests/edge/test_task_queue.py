"""A queue of tasks kept in arrays does what a plain list of them does."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qcmb_mpi.execution.task_queue import TaskQueue

IDS = st.lists(st.integers(0, 99), max_size=5)
SPACES = st.integers(0, 2)


class Queues(RuleBasedStateMachine):
    """The queue beside a list of (space, task)."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue()
        self.model: list[tuple[int, int]] = []

    @rule(space=SPACES, ids=IDS)
    def add(self, space: int, ids: list[int]) -> None:
        self.queue.add(space, np.array(ids, dtype=np.int64))
        self.model += [(space, task) for task in ids]

    @rule(space=SPACES, ids=IDS)
    def put_back(self, space: int, ids: list[int]) -> None:
        self.queue.put_back(space, np.array(ids, dtype=np.int64))
        self.model = [(space, task) for task in ids] + self.model

    @rule(space=SPACES)
    def recall(self, space: int) -> None:
        taken = self.queue.recall(space).tolist()
        assert taken == [task for of, task in self.model if of == space]
        self.model = [each for each in self.model if each[0] != space]

    @precondition(lambda self: self.model)
    @rule(n=st.integers(1, 7))
    def take(self, n: int) -> None:
        space, ids = self.queue.take(n)
        before = list(takewhile(lambda each: each[0] == space, self.model))
        assert len(ids) == min(n, len(before))
        assert [(space, task) for task in ids.tolist()] == self.model[: len(ids)]
        del self.model[: len(ids)]

    @rule(n=st.integers(0, 9))
    def take_last(self, n: int) -> None:
        taken = [(space, task) for space, ids in self.queue.take_last(n) for task in ids.tolist()]
        place = max(0, len(self.model) - n)
        assert taken == self.model[place:]
        del self.model[place:]

    @rule(n=st.integers(0, 9))
    def drop(self, n: int) -> None:
        self.queue.drop(n)
        del self.model[:n]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def pop(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        assert self.queue.pop(place) == self.model.pop(place)

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.model = []

    @invariant()
    def looks_alike(self) -> None:
        spaces = [space for space, _ in self.model]
        assert len(self.queue) == len(self.model)
        assert self.queue.next_space == (spaces[0] if spaces else None)
        assert self.queue.spaces == tuple(dict.fromkeys(spaces))
        here = list(takewhile(lambda each: each[0] == self.model[0][0], self.model))
        assert self.queue.n_next == len(here)


TestQueues = Queues.TestCase


def test_there_is_nothing_at_a_place_beyond_the_end() -> None:
    queue = TaskQueue()
    queue.add(0, np.arange(3))
    with pytest.raises(IndexError):
        queue.pop(3)
