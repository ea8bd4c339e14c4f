"""The book of one task space: where every task stands, who holds it, what it costs.

Rules of this file
------------------
1. Only :meth:`Ledger.move` changes a state, and only as the table ``MOVES`` allows.
2. Five bytes a task (state and holder), two more if the ids of classes are interleaved; objects
   only per class, and per task that failed.
3. Every method is vectorised over ids; ids given to a method are unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.messages import (
    ASSIGNED,
    DONE,
    MOVES,
    QUARANTINED,
    READY,
    WAITING,
    Ids,
    SpaceAdded,
    TaskClass,
    TaskState,
    as_ids,
)
from qcmb_mpi.scheduling.policy import ErrorClass

NOBODY = -1

Places = slice | NDArray[np.intp]
Parts = Sequence[tuple[int, Places]]  # class indices among some ids, and what picks theirs
Seconds = NDArray[np.float64]

_LEGAL = frozenset((int(move.source), int(move.target)) for move in MOVES)


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks of a space by state; they always add up to ``n_tasks``."""

    waiting: int
    ready: int
    assigned: int
    done: int
    quarantined: int

    @property
    def n_tasks(self) -> int:
        """All of them."""
        return self.waiting + self.ready + self.assigned + self.done + self.quarantined


@dataclass(slots=True)
class Trials:
    """What a task that went wrong has been through.

    Parameters
    ----------
    n_deaths : int
        Agents that were lost with it.
    charged : dict
        Errors of the attempts that count against it, by agent.
    failed_on : dict
        The agents it failed on, with the last error there.
    """

    n_deaths: int = 0
    charged: dict[int, list[ErrorClass]] = field(default_factory=dict)
    failed_on: dict[int, ErrorClass] = field(default_factory=dict)

    @property
    def n_attempts(self) -> int:
        """Attempts that count against it."""
        return sum(map(len, self.charged.values()))

    def n_alike(self, error: ErrorClass) -> int:
        """Return how many of the attempts that count ended in this way."""
        return sum(errors.count(error) for errors in self.charged.values())

    @property
    def missing_on(self) -> frozenset[int]:
        """Agents that turned out not to have the program."""
        missing = ErrorClass.MISSING_PROGRAM
        return frozenset(agent for agent, error in self.failed_on.items() if error is missing)


class Ledger:
    """Tasks of one space.

    Parameters
    ----------
    event : SpaceAdded
    model : CostModel
    prior_doubt : float
        What a prediction that nothing confirms may be wrong by, when a deadline is to be kept.

    Raises
    ------
    IllegalEvent
        The classes do not partition ``range(n_tasks)``, or a done id is not in it.
    """

    def __init__(self, event: SpaceAdded, model: CostModel, *, prior_doubt: float = 10.0) -> None:
        self.space = event.space
        self.classes = event.classes
        self.n_tasks = sum(each.n_tasks for each in event.classes)
        self.stages = np.array([each.stage for each in event.classes], dtype=np.int64)
        self.memory_bytes = np.array([c.memory_bytes for c in event.classes], dtype=np.int64)
        self.least_bytes = self.memory_bytes.copy()  # the smallest prediction so far
        self.n_threads = np.array([c.n_threads for c in event.classes], dtype=np.int64)
        self.states = np.full(self.n_tasks, WAITING, dtype=np.uint8)
        self.holders = np.full(self.n_tasks, NOBODY, dtype=np.int32)
        self.trials: dict[int, Trials] = {}
        self.open_stages = dict.fromkeys(self.stages.tolist())
        self.n_ready_of = np.zeros(len(event.classes), dtype=np.int64)
        self.n_unsettled_of = np.zeros(len(event.classes), dtype=np.int64)
        self.is_admitted = False  # whether there were agents to judge by what it needs
        self._n_by_state: list[int] = []
        self._n_unsettled_in = dict.fromkeys(self.stages.tolist(), 0)
        self._doubt = prior_doubt
        self._find_classes()
        self._settle(as_ids(event.done))
        self._recount()
        self.recost(model)

    # ------------------------------------------------------------- questions

    def class_of(self, ids: Ids) -> NDArray[np.intp]:
        """Return the class index of each id, shape (m,)."""
        if self._class_of is not None:
            return self._class_of[ids].astype(np.intp)
        return self._in_order[self._starts.searchsorted(ids, side="right") - 1]

    def bytes_of(self, task: int) -> int:
        """Return the predicted bytes of a task."""
        return int(self.memory_bytes[self.class_of(as_ids([task]))[0]])

    def checked(self, ids: Ids) -> Ids:
        """Return int64 ids, each once, in the order given.

        Raises
        ------
        IllegalEvent
            One of them is not a task of this space.
        """
        ids = as_ids(ids)
        if len(ids) == 1:
            if 0 <= ids[0] < self.n_tasks:
                return ids
        elif not len(ids) or (ids.min() >= 0 and ids.max() < self.n_tasks):
            if len(set(ids.tolist())) == len(ids):
                return ids
            return ids[np.sort(np.unique(ids, return_index=True)[1])]
        wrong = ids[(ids < 0) | (ids >= self.n_tasks)][:3].tolist()
        raise IllegalEvent(f"space {self.space} has tasks 0..{self.n_tasks - 1}, not {wrong}")

    def new_results(self, ids: Ids, seconds: Seconds) -> tuple[Ids, Seconds]:
        """Return the ids that were not done yet, each once, and their times.

        Raises
        ------
        IllegalEvent
            The arrays are not parallel, or an id is not a task of this space.
        """
        seconds = np.asarray(seconds, dtype=np.float64).reshape(-1)
        if len(seconds) != len(ids):
            raise IllegalEvent(f"{len(ids)} ids of space {self.space} with {len(seconds)} times")
        new = self.checked(ids)
        n_done = np.count_nonzero(self.states[new] == DONE)
        if n_done:
            new = new[self.states[new] != DONE]
        if len(new) < len(seconds):
            time_of = dict(zip(as_ids(ids).tolist(), seconds.tolist(), strict=True))
            seconds = np.array([time_of[task] for task in new.tolist()])
        return new, seconds

    def groups(self, ids: Ids) -> Parts:
        """Return each class index among ids, with what picks its ids from the array."""
        if not len(ids):
            return []
        classes = self.class_of(ids)
        found = sorted(set(classes.tolist()))
        if len(found) == 1:
            return [(found[0], slice(None))]
        order = classes.argsort(kind="stable")
        cuts = [0, *classes[order].searchsorted(found[1:]).tolist(), len(ids)]
        return [
            (index, order[slice(*cut)]) for index, cut in zip(found, pairwise(cuts), strict=True)
        ]

    def pending(self, index: int, *, first: int = WAITING) -> Ids:
        """Return the ids of a class that are waiting or ready; from ``first=READY``, ready only."""
        each = self.classes[index]
        states = self._states_of(each)
        return as_ids(np.asarray(each.ids)[(states >= first) & (states <= READY)])

    @property
    def counts(self) -> Counts:
        """Tasks by state."""
        return Counts(*self._n_by_state)

    @property
    def n_ready(self) -> int:
        """Tasks that could be assigned now."""
        return self._n_by_state[READY]

    @property
    def n_assigned(self) -> int:
        """Tasks that agents hold."""
        return self._n_by_state[ASSIGNED]

    @property
    def is_finished(self) -> bool:
        """Whether every task is done or quarantined."""
        settled = self._n_by_state[DONE] + self._n_by_state[QUARANTINED]
        return settled == self.n_tasks

    @property
    def ready_s(self) -> float:
        """Predicted seconds of all ready tasks."""
        return _total(self.n_ready_of, self.cost_s)

    @property
    def unsettled_s(self) -> float:
        """Predicted seconds of all tasks that are not done or quarantined."""
        return _total(self.n_unsettled_of, self.cost_s)

    @property
    def wide_s(self) -> float:
        """The part of them in which a task keeps a whole agent busy."""
        return _total(self.n_unsettled_of, self.cost_s * (self.n_threads > 0))

    def story(self, task: int) -> tuple[object, ...]:
        """Return what is known of a task, for error messages."""
        state = TaskState(int(self.states[task])).name.lower()
        holder = int(self.holders[task])
        where = f"task {task} of space {self.space} is {state}, held by {holder}"
        return where, self.trials.get(task)

    # --------------------------------------------------------------- changes

    def move(self, ids: Ids, target: int, parts: Parts | None = None) -> None:
        """Put tasks into a state; ``parts`` are their :meth:`groups`, if these are known.

        Raises
        ------
        IllegalEvent
            The table ``MOVES`` has no such move.
        """
        if not len(ids):
            return
        sources = self.states[ids]
        found = set(sources.tolist())
        for source in found:
            if (source, target) not in _LEGAL:
                message = f"a task cannot become {TaskState(target).name.lower()}"
                raise IllegalEvent(message, story=self.story(int(ids[sources == source][0])))
        if len(found) == 1:
            self._move_alike(ids, found.pop(), target, parts)
            return
        for source in sorted(found):
            self._move_alike(ids[sources == source], source, target)

    def release(self, index: int) -> None:
        """Make the waiting tasks of a class ready."""
        states = self._states_of(self.classes[index])
        is_waiting = states == WAITING
        n = int(np.count_nonzero(is_waiting))
        states[is_waiting] = READY
        if self._class_of is not None:  # a copy, unless a slice indexed it
            self.states[_index(self.classes[index])] = states
        self.n_ready_of[index] += n
        self._n_by_state[WAITING] -= n
        self._n_by_state[READY] += n

    def n_unsettled_in(self, stage: int) -> int:
        """Return how many tasks of a stage are not done or quarantined."""
        return self._n_unsettled_in[stage]

    def recost(self, model: CostModel) -> None:
        """Take over what the model has learnt; ``cost_s`` and ``bound_s`` have shape (n_classes,).

        ``bound_s`` is what is counted on when a deadline is to be kept: a prediction that no
        measured time supports is divided by ``prior_doubt``, or nothing would ever be tried.
        """
        families = [each.family for each in self.classes]
        n_kin = {family: model.n_kin(family) for family in set(families)}
        self.n_kin = [n_kin[family] for family in families]
        doubts = [1.0 if n else self._doubt for n in self.n_kin]
        self.cost_s = model.costs_s(self.classes)
        self.cost_of: list[float] = self.cost_s.tolist()  # the same, of one class at a time
        self.bound_s = self.cost_s / np.array(doubts)
        self.n_seen = np.array([model.n_seen(each.key) for each in self.classes], dtype=np.int64)

    # -------------------------------------------------------------- internals

    def _move_alike(self, ids: Ids, source: int, target: int, parts: Parts | None = None) -> None:
        """Move tasks that are all in one state."""
        self.states[ids] = target
        self._n_by_state[source] -= len(ids)
        self._n_by_state[target] += len(ids)
        ready = int(target == READY) - int(source == READY)
        settled = int(source < DONE <= target)
        if not (ready or settled):
            return
        for index, places in self.groups(ids) if parts is None else parts:
            n = len(ids) if isinstance(places, slice) else len(places)
            if ready:
                self.n_ready_of[index] += ready * n
            if settled:
                self.n_unsettled_of[index] -= n
                self._n_unsettled_in[int(self.stages[index])] -= n

    def _find_classes(self) -> None:
        """Make id -> class cheap: by the starts of ranges, or by an array where ids interleave."""
        filled = np.array([i for i, each in enumerate(self.classes) if each.n_tasks], dtype=np.intp)
        classes = [self.classes[i] for i in filled.tolist()]
        for each in classes:
            low, high = _bounds(each)
            if low < 0 or high >= self.n_tasks:
                message = f"ids {low}..{high} in a space of {self.n_tasks} tasks"
                raise IllegalEvent(message, story=(each.key,))
        self._class_of: NDArray[Any] | None = None
        # There are as many ids as tasks: if one is there twice, another is not.
        indices = [_index(each) for each in classes]
        if all(isinstance(index, slice) for index in indices):
            starts = np.array([each.ids[0] for each in classes], dtype=np.int64)
            order = np.argsort(starts)
            self._starts, self._in_order = starts[order], filled[order]
            sizes = np.array([each.n_tasks for each in classes], dtype=np.int64)[order]
            is_partition = np.array_equal(np.cumsum(sizes) - sizes, self._starts)
        else:
            nobody = len(self.classes)
            kind = np.uint16 if nobody < 1 << 16 else np.uint32
            self._class_of = np.full(self.n_tasks, nobody, dtype=kind)
            for number, index in zip(filled.tolist(), indices, strict=True):
                self._class_of[index] = number
            is_partition = not (self._class_of == nobody).any()
        if not is_partition:
            raise IllegalEvent(f"classes of space {self.space} overlap")

    def _settle(self, done: Ids) -> None:
        if len(done) and (done.min() < 0 or done.max() >= self.n_tasks):
            raise IllegalEvent(f"done ids of space {self.space} exceed its {self.n_tasks} tasks")
        self.states[done] = DONE

    def _recount(self) -> None:
        # np.bincount would make eight bytes of each state.
        self._n_by_state = [int(np.count_nonzero(self.states == int(each))) for each in TaskState]
        has_done = self._n_by_state[DONE] > 0
        for index, each in enumerate(self.classes):
            n_left = each.n_tasks
            if has_done:
                n_left = int(np.count_nonzero(self._states_of(each) < DONE))
            self.n_unsettled_of[index] = n_left
            self._n_unsettled_in[each.stage] += n_left

    def _states_of(self, each: TaskClass) -> NDArray[np.uint8]:
        return self.states[_index(each)]


def _index(each: TaskClass) -> slice | NDArray[Any]:
    """Return what indexes a class's tasks: a slice, which copies nothing, for a range."""
    ids = each.ids
    if isinstance(ids, range) and ids.step == 1:
        return slice(ids.start, ids.stop)
    return np.asarray(ids)


def _total(counts: NDArray[np.int64], seconds: Seconds) -> float:
    """Sum up without BLAS, whose threads wait for cores that tasks are busy on."""
    return float(np.add.reduce(counts * seconds))


def _bounds(each: TaskClass) -> tuple[int, int]:
    if isinstance(each.ids, range):
        return min(each.ids[0], each.ids[-1]), max(each.ids[0], each.ids[-1])
    return int(each.ids.min()), int(each.ids.max())
