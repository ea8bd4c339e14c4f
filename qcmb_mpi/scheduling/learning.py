"""Measured tasks to the cost model, and what it has learnt back into the books.

Rules of this file
------------------
1. Predicted memory changes for what is assigned from now on. What an agent holds when a prediction
   is raised may be more than it has room for: it gets nothing more until that is over.
2. No prediction is raised above what the large agents have: such a task gets one of them alone.
3. A task that ran alone was told of more memory than the others, and may have used it: its peak
   says nothing of theirs. Only where one had run out of memory before, its class learns from it:
   better too few of them at once than a first attempt in vain for each.
   What was ended for lack of memory in company needs more than it was seen to use.
4. What is measured reaches the model many at a time, and when somebody asks: nothing is decided by
   the model in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.ledger import Ledger, Seconds
from qcmb_mpi.scheduling.messages import Ids, TaskClass, TaskFailed, TasksDone, as_ids
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.pool import Pool

_ALIKE = 0.9
_N_AT_ONCE = 4096
_RECOST_GROWTH = 1.2
_TOLD_S = 0.25  # how old costs may be that only tell the time left

_Page = tuple[Ids, Seconds, NDArray[np.int64]]


def common_bytes(limits: Iterable[int]) -> float:
    """Return the memory that the large ones of some agents have in common.

    Nodes of a kind differ by a few pages: what is only thought to need all of one is to fit into
    each.

    Parameters
    ----------
    limits : iterable of int
        Bytes of each agent; 0 for one without a limit.

    Returns
    -------
    float
        The least of those that have about as much as the largest; infinite if any has no limit,
        or there is none.
    """
    known = list(limits)
    if not known or not all(known):
        return float("inf")
    return min(each for each in known if each >= _ALIKE * max(known))


class Lessons:
    """Measured tasks on their way to the model.

    Parameters
    ----------
    model : CostModel
    """

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._pages: dict[int, tuple[Ledger, list[_Page]]] = {}
        self._n_pending = 0
        self._recost_at = 1.0
        self._are_costs_old = False
        self._recosted_s = -np.inf

    @property
    def model(self) -> CostModel:
        """The model, with everything that was measured."""
        for book, pages in self._pages.values():
            ids, times, peaks = (np.concatenate(each) for each in zip(*pages, strict=True))
            _observe(self._model, book, ids, times, peaks)
        self._pages.clear()
        self._n_pending = 0
        return self._model

    @property
    def n_measured(self) -> int:
        """Tasks measured, whether the model has seen them or not."""
        return self._model.n_observed + self._n_pending

    def note(
        self,
        book: Ledger,
        ids: Ids,
        times: Seconds,
        event: TasksDone,
        lone: Collection[tuple[int, int]] = (),
    ) -> None:
        """Take up the new results of an event; see :func:`teach`."""
        # At once, unlike costs: as many tasks of a class are given at once as were measured of it.
        book.n_seen += np.bincount(book.class_of(ids), minlength=len(book.classes))
        if lone:
            teach(self.model, book, ids, times, event, lone)
            return
        page = ids, times, _peaks(ids, event)
        self._pages.setdefault(book.space, (book, []))[1].append(page)
        self._n_pending += len(ids)
        if self._n_pending >= _N_AT_ONCE:
            _ = self.model

    def take_over(self, pool: Pool) -> bool:
        """Bring the books up to what was learnt if that has grown; tell whether it had.

        Costs follow with :meth:`renew_costs`.
        """
        if self.n_measured < self._recost_at:
            return False
        self._recost_at = max(1, self.n_measured) * _RECOST_GROWTH
        self._are_costs_old = True
        _take_over_memory(pool, self.model)
        return True

    def renew_costs(self, pool: Pool, now: float) -> None:
        """Bring costs up to what was learnt: at once if anything is decided by them.

        An only agent that holds all tasks is left alone; then they only tell how long it takes.
        """
        if not self._are_costs_old:
            return
        is_told_only = len(pool.agents) == 1 and not pool.is_any_ready and pool.deadline_s == np.inf
        if not (is_told_only and now - self._recosted_s < _TOLD_S):
            self._are_costs_old, self._recosted_s = False, now
            _take_over_costs(pool, self.model)

    def note_shortage(self, pool: Pool, book: Ledger, event: TaskFailed) -> bool:
        """Admit fewer tasks like one that was ended for lack of memory; tell whether it is so."""
        each = book.classes[int(book.class_of(as_ids([event.task]))[0])]
        is_lesson = event.error is ErrorClass.RESOURCE and event.peak_bytes > 0
        if not is_lesson or each.n_threads or (book.space, event.task) in pool.lone:
            return False
        model = self.model
        model.observe_shortage(
            each.key, event.peak_bytes, family=each.family, prior_bytes=each.memory_bytes
        )
        take_over(pool, model)
        self._are_costs_old = False
        return True


def teach(
    model: CostModel,
    book: Ledger,
    ids: Ids,
    times: Seconds,
    event: TasksDone,
    lone: Collection[tuple[int, int]] = (),
) -> None:
    """Show the model the new results of an event, by class.

    Parameters
    ----------
    model : CostModel
    book : Ledger
    ids, times : ndarray, shape (m,)
        Those of the event that are new.
    event : TasksDone
    lone : collection of (int, int)
        Space and id of tasks that had a host for themselves.
    """
    peaks = _peaks(ids, event)
    if not lone:
        _observe(model, book, ids, times, peaks)
        return
    is_alone = np.array([(book.space, task) in lone for task in ids.tolist()])
    peaks = np.where(is_alone & ~_ran_short(book, ids), 0, peaks)
    _observe(model, book, ids, times, peaks, is_alone)


def _observe(
    model: CostModel,
    book: Ledger,
    ids: Ids,
    times: Seconds,
    peaks: NDArray[np.int64],
    is_alone: NDArray[np.bool_] | None = None,
) -> None:
    """Show times and peaks to the model, by class."""
    for index, places in book.groups(ids):
        each = book.classes[index]
        is_familys = is_alone is None or not is_alone[places].any()
        model.observe(
            each.key,
            times[places],
            prior_s=each.cost_s,
            family=each.family,
            peak_bytes=() if each.n_threads else peaks[places],
            prior_bytes=each.memory_bytes if is_familys else 0,
        )


def take_over(pool: Pool, model: CostModel) -> None:
    """Bring costs and memory in all books up to what the model knows."""
    _take_over_costs(pool, model)
    _take_over_memory(pool, model)


def _take_over_costs(pool: Pool, model: CostModel) -> None:
    """Bring costs up to what the model knows: it takes a millisecond."""
    for space, book in pool.books.items():
        book.recost(model)
        pool.queues[space].sort()


def _take_over_memory(pool: Pool, model: CostModel) -> None:
    most_bytes = common_bytes(agent.memory_bytes for agent in pool.in_service)
    for book in pool.books.values():
        _recast(book, model, most_bytes)
        pool.largest_bytes = max(pool.largest_bytes, int(book.memory_bytes.max(initial=0)))


def admit(pool: Pool, book: Ledger, model: CostModel) -> None:
    """Count on what earlier runs have seen a new space's tasks use, if there are agents."""
    if pool.in_service:
        _recast(book, model, common_bytes(agent.memory_bytes for agent in pool.in_service))
        pool.largest_bytes = max(pool.largest_bytes, int(book.memory_bytes.max(initial=0)))


def expected_bytes(model: CostModel, classes: Sequence[TaskClass]) -> NDArray[np.int64]:
    """Return what tasks of classes may need by all that was measured, and by what the user says.

    Parameters
    ----------
    model : CostModel
    classes : sequence of TaskClass

    Returns
    -------
    ndarray of int64, shape (n_classes,)
    """
    floors = np.array([each.floor_bytes for each in classes], dtype=np.int64)
    return np.maximum(model.peaks_bytes(classes), floors)


def _recast(book: Ledger, model: CostModel, most_bytes: float) -> None:
    prior = np.array([each.memory_bytes for each in book.classes], dtype=np.int64)
    book.memory_bytes[:] = np.minimum(
        expected_bytes(model, book.classes), np.maximum(prior, most_bytes)
    )
    np.minimum(book.least_bytes, book.memory_bytes, out=book.least_bytes)


def _ran_short(book: Ledger, ids: Ids) -> NDArray[np.bool_]:
    """Tell which tasks have run out of memory before."""
    trials = [book.trials.get(task) for task in ids.tolist()]
    return np.array([x is not None and x.n_alike(ErrorClass.RESOURCE) > 0 for x in trials])


def _peaks(ids: Ids, event: TasksDone) -> NDArray[np.int64]:
    """Return the peak of each task, 0 where the event does not tell."""
    if len(event.peak_bytes) != len(event.ids):
        return np.zeros(len(ids), dtype=np.int64)
    if len(ids) == len(event.ids):
        return event.peak_bytes
    peak_of = dict(zip(event.ids.tolist(), event.peak_bytes.tolist(), strict=True))
    return np.array([peak_of[task] for task in ids.tolist()], dtype=np.int64)
