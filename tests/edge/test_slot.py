"""When a slot tells what has ended, and what it leaves behind if it dies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcmb_mpi.execution import mark, slot
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.mark import Mark
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.outcomes import Parcel, unpacked
from qcmb_mpi.execution.slot import Outbox
from qcmb_mpi.execution.slots import Slot
from qcmb_mpi.scheduling.policy import ErrorClass

FILE = os.memfd_create("mark")


class Story:
    """An outbox, a clock, and when each outcome ended and was told."""

    def __init__(self) -> None:
        mark.prepare(FILE)
        self.now = 0.0
        self.messages: list[list[int]] = []
        self.ended_s: list[float] = []
        self.told_s: dict[int, float] = {}
        self.outbox = Outbox(self._tell, Mark(FILE), lambda: self.now)

    def _tell(self, parcel: Parcel) -> None:
        outcomes = sorted(unpacked(parcel.message()), key=lambda each: each.task)
        self.messages.append([each.task for each in outcomes])
        self.told_s.update((each.task, self.now) for each in outcomes)

    def left(self) -> list[int]:
        """Return what would be known of the tasks not told if the slot died now."""
        outcomes = mark.untold(FILE, sum(map(len, self.messages)))
        return [each.task for each in outcomes]

    def run(self, seconds: list[float], *, failing: int = -1) -> Story:
        """Have a batch of tasks run; at no time is one of them known to nobody."""
        self.outbox.begin(0)
        for task, each_s in enumerate(seconds):
            self.now += each_s
            self.ended_s.append(self.now)
            failure = Failure(ErrorClass.CONVERGENCE, "x", "x") if task == failing else None
            self.outbox.put(
                Outcome(0, task, 0.0, each_s, energy_hartree=1.0, failure=failure),
                len(seconds) - task - 1,
            )
            told = [each for message in self.messages for each in message]
            assert told + self.left() == list(range(task + 1))
        return self


TIMES = st.lists(st.floats(0.0, 0.3), min_size=1, max_size=60)


@given(TIMES)
def test_everything_is_told_once_in_order_and_nothing_when_the_slot_is_idle(
    seconds: list[float],
) -> None:
    told = [task for message in Story().run(seconds).messages for task in message]
    assert told == list(range(len(seconds)))


@given(TIMES)
def test_nothing_is_held_back_for_longer_than_a_task_of_the_same_length_takes(
    seconds: list[float],
) -> None:
    """While tasks take about the same time, at most for the time that is said."""
    even = [seconds[0]] * len(seconds)
    story = Story().run(even)
    for task, ended_s in enumerate(story.ended_s):
        assert story.told_s[task] - ended_s <= slot._HOLD_S + 1e-9


@given(TIMES, st.data())
def test_a_failure_is_told_at_once(seconds: list[float], data: st.DataObject) -> None:
    failing = data.draw(st.integers(0, len(seconds) - 1))
    story = Story().run(seconds, failing=failing)
    assert story.told_s[failing] == story.ended_s[failing]


@pytest.mark.parametrize(("seconds", "most"), [(0.0001, 10), (0.005, 60), (0.06, 400)])
def test_short_tasks_share_a_message_and_long_ones_do_not_wait(seconds: float, most: int) -> None:
    story = Story().run([seconds] * 400)
    assert len(story.messages) <= most
    if seconds > slot._HOLD_S:
        assert story.messages == [[task] for task in range(400)]


def test_the_agent_hears_in_time_and_once_that_little_is_left() -> None:
    story = Story().run([0.001] * 40)
    assert [len(message) for message in story.messages] == [20, 20]


def test_little_is_left_only_if_nothing_has_come_meanwhile() -> None:
    story = Story()
    story.outbox.begin(0)
    n_left, coming = 8, [0, 8, 8, 8]
    for task in range(32):
        story.now += 0.001
        n_left = story.outbox.put(outcome(task), n_left - 1, lambda: coming.pop() if coming else 0)
    assert n_left == 0
    assert [len(message) for message in story.messages] == [16, 16]


@pytest.fixture
def file() -> Iterator[int]:
    """Give the descriptor of a file made ready for a mark."""
    with tempfile.TemporaryFile() as opened:
        mark.prepare(opened.fileno())
        yield opened.fileno()


def test_the_mark_says_what_was_started_and_when(file: int) -> None:
    ours = Mark(file)
    for _ in range(3):
        ours.count()
    assert mark.n_started(file) == 3
    assert 0 < mark.spent_s(file) <= sum(os.times()[:4])


def test_the_mark_follows_the_processor_time(file: int) -> None:
    ours = Mark(file)
    ours.count()
    before_s = sum(os.times()[:4])
    while sum(os.times()[:4]) < before_s + 0.1:
        pass
    ours.count()
    assert mark.spent_s(file) >= before_s + 0.09


def outcome(task: int, **result: Any) -> Outcome:
    """Return the outcome of a task."""
    return Outcome(0, task, 1.0, 2.0, energy_hartree=-0.1, program="toy", **result)


def hold(ours: Mark, *tasks: int) -> None:
    """Have a mark keep the outcomes of tasks."""
    parcel = Parcel(0)
    for task in tasks:
        ours.hold(parcel.add(outcome(task)))


def test_an_outcome_is_the_same_after_its_slot_has_died(file: int) -> None:
    sent = outcome(7, gradient=np.arange(6.0).reshape(2, 3), record=b"{}", remedy="another guess")
    assert Mark(file).hold(Parcel(3).add(sent))
    [found] = mark.untold(file, 0)
    assert (found.space, found.task, found.record, found.remedy) == (3, 7, b"{}", "another guess")
    assert np.array_equal(found.gradient, sent.gradient)


def test_what_was_told_just_before_the_end_is_not_told_twice(file: int) -> None:
    """The slot died between telling two outcomes and crossing them out."""
    ours = Mark(file)
    ours.hold(Parcel(0).add(outcome(1)))
    ours.told(1)
    hold(ours, 2, 3)
    assert [each.task for each in mark.untold(file, 1)] == [2, 3]
    assert [each.task for each in mark.untold(file, 3)] == []


@pytest.mark.parametrize(
    ("place", "n_sound"),
    [(-1, 2), (0, 0), (8, 0), (9, 0)],
    ids=["in the last", "a size", "the first pickle", "its frame"],
)
def test_what_a_dying_slot_wrote_over_is_not_believed(file: int, place: int, n_sound: int) -> None:
    ours = Mark(file)
    hold(ours, 0, 1, 2)
    begin = 32
    end = begin + int.from_bytes(os.pread(file, 8, 24), "little")
    at = end - 5 if place < 0 else begin + place
    os.pwrite(file, bytes([255 - os.pread(file, 1, at)[0]]), at)
    assert [each.task for each in mark.untold(file, 0)] == list(range(n_sound))


@pytest.mark.parametrize("n_bytes", [-1, 10**15, mark.SIZE])
def test_a_count_that_a_dying_slot_wrote_over_does_no_harm(file: int, n_bytes: int) -> None:
    hold(Mark(file), 0)
    os.pwrite(file, n_bytes.to_bytes(8, "little", signed=True), 24)
    assert [each.task for each in mark.untold(file, 0)] == ([] if n_bytes < 0 else [0])


def test_outcomes_that_are_not_next_are_not_believed(file: int) -> None:
    ours = Mark(file)
    hold(ours, 5, 6, 9)
    process: Any = SimpleNamespace(
        untold=lambda n: mark.untold(file, n),
        start=lambda *_: None,
    )
    server: Any = None
    one = Slot(process, server, SlotResources())
    one.start(0, np.array([5, 6, 7, 9]), 0.0)
    assert [each.task for each in one.untold()] == [5, 6]


def test_a_mark_that_there_is_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 4096)
    with pytest.raises(OSError, match="no room"):
        mark.new()


def test_what_the_mark_has_no_room_for_is_told_at_once() -> None:
    story = Story()
    story.outbox.begin(0)
    wide = np.zeros((60, 60))
    for task in range(5):
        story.outbox.put(outcome(task, hessian=wide), 1000)
    assert story.messages == [[0, 1, 2]]
    assert story.left() == [3, 4]
