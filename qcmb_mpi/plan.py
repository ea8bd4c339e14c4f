"""``plan``: what a run would do on nodes like this one, in figures.

Rules of this file
------------------
1. Plain data for JSON; plan_text.py makes it readable.
2. Runs no chemistry.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.expansion.system import formula
from qcmb_mpi.forecast import Outlook, Prospect
from qcmb_mpi.learned import calibration_of, uncertainty
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.plan_ranks import Ranks, agents_of, fewer_ranks, wall_s
from qcmb_mpi.plan_text import format_plan
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.cost import CostModel

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
    walltime_s: float | None = None,
    words: Sequence[str] = ("INPUT",),
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
    walltime_s : float, optional
        What a run may take.
    words : sequence of str
        What follows ``run`` on the command line.

    Returns
    -------
    dict
        ``n_tasks``, ``n_done`` and ``store`` (where they are), ``core_seconds`` (of reserved cores)
        and ``wall_s`` (predicted, of the rest), ``uncertainty`` of that
        (:func:`~qcmb_mpi.learned.uncertainty`), ``memory_bytes`` of the largest task, ``node``,
        ``ranks`` and the ``layout`` of each, equal fragments together in ``fragments`` and one row
        a level in ``levels``, where ``n_wide`` tasks run on all cores; ``problems``, for which a
        run here would end at once, and ``command``, which runs it.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    ranks = ranks or Ranks()
    config = replace(config, n_workers=1) if executor == "serial" else config
    space = TaskSpace(loaded.expansion)
    done, calibration = _found(space, store_path, with_records=loaded.wants_records)
    prospect = Prospect(space, config, done=done[:0] if is_fresh else done)
    agents = agents_of(ranks, config, can_widen=executor not in _NEVER_WIDE)
    model = CostModel(calibration=calibration, machine=processor_name())
    outlook = prospect.on(agents.infos, model)
    levels = _levels(space, outlook)
    expected_s = wall_s(outlook, agents)
    advice = (
        agents.crowding(outlook.placement.layout_of, outlook.layout),
        fewer_ranks(prospect, ranks, model),
        beyond(walltime_s, expected_s),
    )
    return {
        "n_tasks": space.n_tasks,
        "n_done": 0 if is_fresh else len(done),
        "store": None if store_path is None or is_fresh else str(store_path),
        **_of_system(loaded.expansion.system),
        "core_seconds": sum(row["core_seconds"] for row in levels),
        "wall_s": expected_s,
        "walltime_s": walltime_s,
        "uncertainty": uncertainty(outlook.placement.classes, outlook.n_left, model),
        "memory_bytes": outlook.largest_bytes,
        "node": agents.node_as_dict(),
        "ranks": agents.as_dict(ranks),
        "layout": _layout(outlook),
        "levels": levels,
        "problems": _refusals(prospect, space, agents.node),
        "warnings": [*loaded.warnings, *prospect.memory_doubts(outlook), *filter(None, advice)],
        "command": shlex.join(["python", "-m", "qcmb_mpi", "run", *words]),
    }


def _of_system(system: System) -> dict[str, Any]:
    return {
        "fragments": _fragments(system),
        "n_fragments": system.n_fragments,
        "n_atoms": system.n_atoms,
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


def _refusals(prospect: Prospect, space: TaskSpace, node: AgentInfo) -> list[str]:
    """Say what a run on this node would refuse."""
    from qcmb_mpi.execution.engine import check_programs, prepare

    def check_programs_here() -> None:
        prepare(prospect.config.imports)
        check_programs(space)

    found = []
    for check in (check_programs_here, lambda: prospect.check_memory([node])):
        try:
            check()
        except QcmbError as error:
            found.append(f"this node would refuse it: {error}")
    return found


def beyond(walltime_s: float | None, expected_s: float) -> str:
    """Say that it is predicted to take longer than it may; else nothing."""
    if walltime_s is None or expected_s <= walltime_s:
        return ""
    return (
        f"{format_duration(expected_s)} are predicted and the time limit is "
        f"{format_duration(walltime_s)}: the run would end incomplete (exit code 75), to be "
        "continued by the same command"
    )


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
        key = (formula(system.symbols[atoms]), charge, multiplicity)
        groups.setdefault(key, []).append(index)
    return [
        {"fragments": members, "formula": name, "charge": charge, "multiplicity": multiplicity}
        for (name, charge, multiplicity), members in groups.items()
    ]


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
