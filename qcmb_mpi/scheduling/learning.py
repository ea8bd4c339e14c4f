"""Measured tasks to the cost model, and what it has learnt back into the books.

Rules of this file
------------------
1. Predicted memory changes for what is assigned from now on. What an agent holds when a prediction
   is raised may be more than it has room for: it gets nothing more until that is over.
2. No prediction is raised above what the largest agent has: such a task gets that agent alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.ledger import Ledger, Seconds
from qcmb_mpi.scheduling.messages import Ids, TasksDone
from qcmb_mpi.scheduling.pool import Pool


def teach(model: CostModel, book: Ledger, ids: Ids, times: Seconds, event: TasksDone) -> None:
    """Show the model the new results of an event, by class.

    Parameters
    ----------
    model : CostModel
    book : Ledger
    ids, times : ndarray, shape (m,)
        Those of the event that are new.
    event : TasksDone
    """
    peaks = _peaks(ids, event)
    for index, places in book.groups(ids):
        each = book.classes[index]
        model.observe(
            each.key,
            times[places],
            prior_s=each.cost_s,
            family=each.family,
            peak_bytes=peaks[places],
            prior_bytes=each.memory_bytes,
        )


def take_over(pool: Pool, model: CostModel) -> None:
    """Bring costs and memory in all books up to what the model knows."""
    for space, book in pool.books.items():
        book.recost(model)
        _recast(book, model, pool.most_bytes)
        pool.largest_bytes = max(pool.largest_bytes, int(book.memory_bytes.max(initial=0)))
        pool.queues[space].sort()


def _recast(book: Ledger, model: CostModel, most_bytes: float) -> None:
    for index, each in enumerate(book.classes):
        known = model.memory_bytes(each.key, each.memory_bytes, family=each.family)
        book.memory_bytes[index] = min(known, max(each.memory_bytes, most_bytes))
    np.minimum(book.least_bytes, book.memory_bytes, out=book.least_bytes)


def _peaks(ids: Ids, event: TasksDone) -> NDArray[np.int64]:
    """Return the peak of each task, 0 where the event does not tell."""
    if len(event.peak_bytes) != len(event.ids):
        return np.zeros(len(ids), dtype=np.int64)
    if len(ids) == len(event.ids):
        return event.peak_bytes
    peak_of = dict(zip(event.ids.tolist(), event.peak_bytes.tolist(), strict=True))
    return np.array([peak_of[task] for task in ids.tolist()], dtype=np.int64)
