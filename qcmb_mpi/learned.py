"""What a run has learnt about costs, kept in its store for the next one.

Rules of this file
------------------
1. Only order, admission and what is told follow from it, never slots or threads: with other threads
   the last bits of a result would be others.
2. What cannot be read is as good as nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import StoreError
from qcmb_mpi.scheduling.cost import CostModel, with_threads
from qcmb_mpi.scheduling.learning import expected_bytes
from qcmb_mpi.scheduling.placement import counted, seconds_on

if TYPE_CHECKING:
    from qcmb_mpi.scheduling.messages import TaskClass
    from qcmb_mpi.store import Store

_KEY = "calibration"


def calibration_of(store: Store) -> Mapping[str, Any] | None:
    """Return what earlier runs with a store have learnt, if anything."""
    found = store.meta(_KEY)
    return found if isinstance(found, Mapping) else None


def keep(store: Store, model: CostModel) -> None:
    """Leave what a run has learnt in its store; one that takes no more was told of already."""
    if model.has_learnt:
        with contextlib.suppress(StoreError):
            store.set_meta({_KEY: model.as_dict()})


def on_threads(classes: Iterable[TaskClass], n_threads: int) -> tuple[TaskClass, ...]:
    """Return classes with the seconds, and the family, of the threads that their tasks get.

    Parameters
    ----------
    classes : iterable of TaskClass
        As placed: of the wide ones ``cost_s`` holds for their threads, of the others for one.
    n_threads : int
        Of a slot.
    """
    return tuple(
        replace(
            each,
            cost_s=each.cost_s if each.n_threads else _seconds(each, n_threads),
            family=with_threads(str(each.family), each.n_threads or n_threads),
        )
        for each in classes
    )


def _seconds(each: TaskClass, n_threads: int) -> float:
    return seconds_on(n_threads, each.cost_s, each.parallel_fraction or 0.0)


def calibrated(classes: Sequence[TaskClass], model: CostModel) -> tuple[TaskClass, ...]:
    """Return classes with what is expected of them by all that was measured."""
    costs_s, needs = model.costs_s(classes).tolist(), expected_bytes(model, classes).tolist()
    return tuple(
        replace(each, cost_s=cost_s, memory_bytes=need)
        for each, cost_s, need in zip(classes, costs_s, needs, strict=True)
    )


def uncertainty(
    classes: Sequence[TaskClass], n_left: Sequence[int], model: CostModel
) -> dict[str, Any]:
    """Return by what factor the predicted time of some work may be wrong.

    Parameters
    ----------
    classes : sequence of TaskClass
        As predicted by formula.
    n_left : sequence of int
        Tasks of each that are still to be run.
    model : CostModel

    Returns
    -------
    dict
        ``factor``; the number ``n_tasks`` of measured tasks that it rests on; ``n_unknown``, model
        chemistries of which none was ever measured on such a machine; and whether all were
        measured with ``is_same_threads``.
    """
    estimates = [model.estimate(each.key, each.cost_s, family=each.family) for each in classes]
    pairs = list(zip(n_left, estimates, strict=True))
    total_s = sum(n * one.cost_s for n, one in pairs)
    missed_s = sum(n * one.cost_s * one.relative_error for n, one in pairs)
    families = {each.family for each, n in zip(classes, n_left, strict=True) if n}
    sources = {model.source_of(family) for family in families}
    known = {family for family in sources if model.n_known(family)}
    return {
        "factor": round(1.0 + (missed_s / total_s if total_s > 0 else 0.0), 2),
        "n_tasks": sum(map(model.n_known, known)),
        "n_unknown": len(sources - known),
        "is_same_threads": known <= families,
    }


def in_words(doubt: Mapping[str, Any]) -> str:
    """Say it for people."""
    factor = f"within a factor of {doubt['factor']:.2g}"
    n_tasks, n_unknown = doubt["n_tasks"], doubt["n_unknown"]
    if not n_tasks:
        return f"{factor}: never measured on such a processor"
    words = f"{factor}, calibrated by {counted(n_tasks, 'task')} in the store"
    if not doubt["is_same_threads"]:
        words += ", on other numbers of threads"
    if n_unknown:
        chemistries = "model chemistry was" if n_unknown == 1 else "model chemistries were"
        words += f"; {n_unknown} {chemistries} never measured"
    return words
