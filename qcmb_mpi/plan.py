"""``plan``: what a run would do on nodes like this one, in figures.

Rules of this file
------------------
1. Plain data for JSON; plan_text.py makes it readable.
2. Runs no chemistry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import Outlook, Prospect
from qcmb_mpi.learned import calibration_of, uncertainty
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.plan_ranks import Ranks, agents_of
from qcmb_mpi.plan_text import format_plan
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.widths import end_s

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.execution.wire import AgentInfo
    from qcmb_mpi.expansion.system import System
    from qcmb_mpi.schema import LoadedInput

__all__ = ["format_plan", "make_plan"]

_NEVER_WIDE = ("serial", "thread")


def make_plan(
    loaded: LoadedInput,
    config: ExecutorConfig,
    *,
    store_path: Path | None = None,
    is_fresh: bool = False,
    ranks: Ranks | None = None,
    executor: str = "auto",
) -> dict[str, Any]:
    """Return what a run of `loaded` would do on nodes like this one.

    Parameters
    ----------
    loaded : LoadedInput
        What to compute.
    config : ExecutorConfig
        The pool.
    store_path : Path, optional
        A store that exists; its results count as done and are not predicted.
    is_fresh : bool
        Nothing counts as done; what earlier runs measured is still known.
    ranks : Ranks, optional
        How it would be started; default on this node without MPI.
    executor : str
        As ``--executor`` names it: ``serial`` has one slot, and it and ``thread`` no wide tasks.

    Returns
    -------
    dict
        ``n_tasks``, ``n_done`` and ``store`` (where they are), ``core_seconds`` (of reserved cores)
        and ``wall_s`` (predicted, of the rest), ``uncertainty`` of that
        (:func:`~qcmb_mpi.learned.uncertainty`), ``memory_bytes`` of the largest task, ``node``,
        ``ranks`` and the ``layout`` of each, equal fragments together in ``fragments`` and one row
        a level in ``levels``, where ``n_wide`` tasks run on all cores.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    ranks = ranks or Ranks()
    if executor == "serial":
        config = replace(config, n_workers=1)
    space, system = TaskSpace(loaded.expansion), loaded.expansion.system
    done, calibration = _found(space, store_path, with_records=loaded.wants_records)
    prospect = Prospect(space, config, done=done[:0] if is_fresh else done)
    agents = agents_of(ranks, config, can_widen=executor not in _NEVER_WIDE)
    model = CostModel(calibration=calibration, machine=processor_name())
    outlook = prospect.on(agents.infos, model)
    levels = _levels(space, outlook)
    warnings = [
        *loaded.warnings,
        *_too_large(prospect, agents.node),
        *prospect.memory_doubts(outlook),
    ]
    return {
        "n_tasks": space.n_tasks,
        "n_done": 0 if is_fresh else len(done),
        "store": None if store_path is None or is_fresh else str(store_path),
        "fragments": _fragments(system),
        "n_fragments": system.n_fragments,
        "n_atoms": system.n_atoms,
        "core_seconds": sum(row["core_seconds"] for row in levels),
        # Seconds are of the slot's threads already.
        "wall_s": end_s(outlook.left, replace(outlook.layout, n_threads=1), len(agents.computing)),
        "uncertainty": uncertainty(outlook.placement.classes, outlook.n_left, model),
        "memory_bytes": outlook.largest_bytes,
        "node": agents.node_as_dict(),
        "ranks": agents.as_dict(ranks),
        "layout": _layout(outlook),
        "levels": levels,
        "warnings": warnings,
    }


def _found(
    space: TaskSpace, path: Path | None, *, with_records: bool
) -> tuple[NDArray[np.int64], Mapping[str, Any] | None]:
    """Return the ids, ascending, of the tasks that a store has, and what runs with it learnt."""
    if path is None:
        return np.empty(0, dtype=np.int64), None
    from qcmb_mpi.store import Store

    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        done = np.asarray(store.done(0, with_records=with_records), dtype=np.int64)
        return done, calibration_of(store)


def _too_large(prospect: Prospect, node: AgentInfo) -> list[str]:
    """Say what a run on this node would refuse."""
    try:
        prospect.check_memory([node])
    except InputError as error:
        return [f"this node would refuse it: {error}"]
    return []


def _layout(outlook: Outlook) -> dict[str, Any]:
    layout, classes = outlook.layout, outlook.expected
    return {
        "n_slots": layout.n_slots,
        "n_threads": layout.n_threads,
        "n_wide": sum(each.n_tasks for each in classes if each.n_threads),
        "n_threads_wide": max((each.n_threads for each in classes), default=0),
        "memory_per_slot_bytes": layout.memory_per_slot_bytes,
        "reason": layout.reason,
    }


def _fragments(system: System) -> list[dict[str, Any]]:
    """Return equal fragments (formula, charge, multiplicity) together, counted from 1."""
    groups: dict[tuple[str, float, float], list[int]] = {}
    rows = zip(
        system.fragment_slices,
        system.fragment_charges,
        system.fragment_multiplicities,
        strict=True,
    )
    for index, (atoms, charge, multiplicity) in enumerate(rows, start=1):
        key = (_formula(system.symbols[atoms]), charge, multiplicity)
        groups.setdefault(key, []).append(index)
    return [
        {"fragments": members, "formula": formula, "charge": charge, "multiplicity": multiplicity}
        for (formula, charge, multiplicity), members in groups.items()
    ]


def _formula(symbols: Sequence[str]) -> str:
    """Return a formula in Hill's order: C, H, then by name; without C all by name."""
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    ordered = [*first, *sorted(counts.keys() - set(first))]
    return "".join(f"{each}{counts[each] if counts[each] > 1 else ''}" for each in ordered)


def _levels(space: TaskSpace, outlook: Outlook) -> list[dict[str, Any]]:
    rows = []
    pairs = list(zip(outlook.expected, outlook.n_left, strict=True))
    for stage in space.level_graph().stages:
        ours = [(each, n) for each, n in pairs if each.stage == stage.index]
        rows.append(
            {
                "model_chemistry": space.expansion.model_chemistries[stage.model_chemistry].label,
                "nbody": stage.n_real,
                "n_tasks": sum(each.n_tasks for each, _ in ours),
                "n_wide": sum(each.n_tasks for each, _ in ours if each.n_threads),
                "longest_s": max(each.cost_s for each, _ in ours),
                "n_left": sum(n for _, n in ours),
                "core_seconds": sum(
                    n * each.cost_s * (each.n_threads or outlook.layout.n_threads)
                    for each, n in ours
                ),
                "memory_bytes": max(each.memory_bytes for each, _ in ours),
            }
        )
    return rows
