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
from qcmb_mpi.machine.processor import processor_name

if TYPE_CHECKING:
    from qcmb_mpi.scheduling.cost import CostModel
    from qcmb_mpi.scheduling.messages import TaskClass
    from qcmb_mpi.store import Store

_KEY = "calibration"


def calibration_of(store: Store) -> Mapping[str, Any] | None:
    """Return what earlier runs with a store have learnt, if anything."""
    found = store.meta(_KEY)
    return found if isinstance(found, Mapping) else None


def keep(store: Store, model: CostModel) -> None:
    """Leave what a run has learnt in its store; one that takes no more was told of already."""
    if model.n_observed:
        with contextlib.suppress(StoreError):
            store.set_meta({_KEY: model.as_dict()})


def machine_name(n_threads: int) -> str:
    """Name what measured seconds hold for: this processor with so many threads a task."""
    return f"{processor_name()} x {n_threads}"


def calibrated(classes: Iterable[TaskClass], model: CostModel) -> tuple[TaskClass, ...]:
    """Return classes with what is expected of them by all that was measured."""
    return tuple(
        replace(
            each,
            cost_s=model.cost_s(each.key, each.cost_s, family=each.family),
            memory_bytes=model.memory_bytes(each.key, each.memory_bytes, family=each.family),
        )
        for each in classes
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
        ``factor`` and the number ``n_tasks`` of measured tasks it rests on, 0 if any of the
        families was never measured on such a machine.
    """
    estimates = [model.estimate(each.key, each.cost_s, family=each.family) for each in classes]
    pairs = list(zip(n_left, estimates, strict=True))
    total_s = sum(n * one.cost_s for n, one in pairs)
    missed_s = sum(n * one.cost_s * one.relative_error for n, one in pairs)
    families = {each.family for each in classes}
    is_known = bool(families) and all(map(model.is_family_calibrated, families))
    factor = 1.0 + (missed_s / total_s if total_s > 0 else 0.0)
    n_tasks = sum(map(model.n_known, families)) if is_known else 0
    return {"factor": round(factor, 2), "n_tasks": n_tasks}


def in_words(doubt: Mapping[str, Any]) -> str:
    """Say it for people."""
    n_tasks = doubt["n_tasks"]
    if not n_tasks:
        return f"within a factor of {doubt['factor']:.2g}: nothing measured yet"
    tasks = "1 task" if n_tasks == 1 else f"{n_tasks} tasks"
    return f"within a factor of {doubt['factor']:.2g}, calibrated by {tasks} in the store"
