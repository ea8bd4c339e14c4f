"""What a run will cost, before it runs: classes with predicted seconds and bytes, and ``plan``.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
2. Runs no chemistry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.layout import choose_layouts
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.programs.profiles import method_family, n_basis_functions, profile
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.cost import FAMILIES, CostModel, Scaling, TaskSize
from qcmb_mpi.scheduling.messages import TaskClass

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.expansion.classes import CompositionClass
    from qcmb_mpi.expansion.system import System
    from qcmb_mpi.schema import LoadedInput

_N_RANGES = 8
_N_GROUPS = 12


def forecast(space: TaskSpace) -> tuple[TaskClass, ...]:
    """Return the tasks of `space` in classes that are predicted alike."""
    model = CostModel()
    stages = {block: stage.index for stage in space.level_graph().stages for block in stage.blocks}
    return tuple(_task_class(space, each, stages[each.block], model) for each in space.classes())


def _task_class(
    space: TaskSpace, each: CompositionClass, stage: int, model: CostModel
) -> TaskClass:
    expansion = space.expansion
    chemistry = expansion.model_chemistries[space.blocks[each.block].model_chemistry]
    clusters = space.clusters(np.asarray(each.ids[:1], dtype=np.int64))
    real, basis = clusters.real[0], clusters.basis[0]
    method = chemistry.specification.get("model", {})
    n_functions = n_basis_functions(expansion.system, real, basis, method)
    n_atoms = sum(expansion.system.fragment_sizes[fragment - 1] for fragment in real)
    size = TaskSize(
        n_functions,
        driver=expansion.driver,
        n_atoms=n_atoms,
        scaling=_scaling(chemistry.program, str(method.get("method", ""))),
    )
    estimate = model.predict(size)
    return TaskClass(
        stage=stage,
        ids=each.ids,
        cost_s=estimate.cost_s,
        memory_bytes=estimate.memory_bytes,
        key=(chemistry.fingerprint, each.real_kinds, each.ghost_kinds),
        family=chemistry.fingerprint,
    )


def _scaling(program: str, method: str) -> Scaling:
    """Return how a method scales, on the base of what the program needs by itself."""
    family = FAMILIES[method_family(program, method)]
    return replace(family, base_bytes=profile(program).base_memory_bytes)


def thread_limit(space: TaskSpace) -> int | None:
    """Return 1 if no program of the space threads, else None."""
    used = {block.model_chemistry for block in space.blocks}
    programs = {space.expansion.model_chemistries[index].program for index in used}
    return None if any(profile(program).is_threaded for program in programs) else 1


def make_plan(
    loaded: LoadedInput, config: ExecutorConfig, *, store_path: Path | None = None
) -> dict[str, Any]:
    """Return what a run of `loaded` would do on this node.

    Parameters
    ----------
    loaded : LoadedInput
        What to compute.
    config : ExecutorConfig
        The pool.
    store_path : Path, optional
        A store that exists; its results count as done and are not predicted.

    Returns
    -------
    dict
        ``n_tasks``, ``n_done`` and ``store`` (where they are), ``core_seconds`` and ``wall_s``
        (predicted, of the rest), ``memory_bytes`` of the largest task, ``layout``, equal
        fragments together in ``fragments`` and one row a level in ``levels``.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    space = TaskSpace(loaded.expansion)
    every = forecast(space)
    done = _done(space, store_path, with_records=loaded.wants_records)
    n_left = {id(each): each.n_tasks - _n_among(done, each.ids) for each in every}
    classes = tuple(each for each in every if n_left[id(each)])
    info = host_share(memory_bytes=config.memory_bytes).info
    limit = thread_limit(space)
    layout = choose_layouts([info], classes, config, thread_limit=limit)(info)
    core_s = sum(n_left[id(each)] * each.cost_s for each in classes)
    longest_s = max((each.cost_s for each in classes), default=0.0)
    return {
        "n_tasks": space.n_tasks,
        "n_done": len(done),
        "store": None if store_path is None else str(store_path),
        "fragments": _fragments(loaded.expansion.system),
        "n_fragments": loaded.expansion.system.n_fragments,
        "n_atoms": loaded.expansion.system.n_atoms,
        "core_seconds": core_s,
        "wall_s": max(longest_s, core_s / max(1, layout.n_slots)) / max(1, layout.n_threads),
        "memory_bytes": max((each.memory_bytes for each in classes), default=0),
        "layout": {
            "n_slots": layout.n_slots,
            "n_threads": layout.n_threads,
            "memory_per_slot_bytes": layout.memory_per_slot_bytes,
            "reason": layout.reason,
        },
        "levels": _levels(space, every, n_left),
        "warnings": list(loaded.warnings),
    }


def _done(space: TaskSpace, path: Path | None, *, with_records: bool) -> NDArray[np.int64]:
    """Return the ids, ascending, of the tasks that a store has results of."""
    if path is None:
        return np.empty(0, dtype=np.int64)
    from qcmb_mpi.store import Store

    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        return np.asarray(store.done(0, with_records=with_records), dtype=np.int64)


def _n_among(done: NDArray[np.int64], ids: range | NDArray[Any]) -> int:
    if not len(done):
        return 0
    if isinstance(ids, range) and ids.step == 1:
        first, last = np.searchsorted(done, [ids.start, ids.stop])
        return int(last - first)
    return int(np.isin(np.asarray(ids), done, assume_unique=True).sum())


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


def _ranges(members: Sequence[int]) -> str:
    """Return ``1-3, 5`` of ascending numbers, shortened."""
    ranges: list[list[int]] = []
    for member in members:
        if ranges and ranges[-1][1] == member - 1:
            ranges[-1][1] = member
        else:
            ranges.append([member, member])
    words = [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges]
    return ", ".join(words[:_N_RANGES]) + (", ..." if len(words) > _N_RANGES else "")


def _levels(
    space: TaskSpace, classes: Sequence[TaskClass], n_left: dict[int, int]
) -> list[dict[str, Any]]:
    rows = []
    for stage in space.level_graph().stages:
        ours = [each for each in classes if each.stage == stage.index]
        rows.append(
            {
                "model_chemistry": space.expansion.model_chemistries[stage.model_chemistry].label,
                "nbody": stage.n_real,
                "n_tasks": sum(each.n_tasks for each in ours),
                "longest_s": max(each.cost_s for each in ours),
                "n_left": sum(n_left[id(each)] for each in ours),
                "core_seconds": sum(n_left[id(each)] * each.cost_s for each in ours),
                "memory_bytes": max(each.memory_bytes for each in ours),
            }
        )
    return rows


def _fragment_lines(groups: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'fragment' if len(group['fragments']) == 1 else 'fragments'} "
        f"{_ranges(group['fragments'])}: {group['formula']}, "
        f"charge {group['charge']:g}, multiplicity {group['multiplicity']:g}"
        for group in groups[:_N_GROUPS]
    ]
    n_more = len(groups) - _N_GROUPS
    return [*lines, f"and {n_more} other kinds (--json has all)"] if n_more > 0 else lines


def format_plan(plan: dict[str, Any]) -> str:
    """Return a plan as text for people."""
    lines = [
        f"{plan['n_fragments']} fragments, {plan['n_atoms']} atoms, {plan['n_tasks']} tasks"
        + (f", {plan['n_done']} of them done in {plan['store']}" if plan["n_done"] else ""),
        *_fragment_lines(plan["fragments"]),
        "",
        f"{'model chemistry':<20} {'n-body':>6} {'tasks':>10} {'longest':>12} {'core time':>14}",
    ]
    lines += [
        f"{row['model_chemistry']:<20} {row['nbody']:>6} {row['n_tasks']:>10} "
        f"{format_duration(row['longest_s']):>12} {format_duration(row['core_seconds']):>14}"
        for row in plan["levels"]
    ]
    lines += [
        "",
        f"core time   about {format_duration(plan['core_seconds'])} "
        "(rough before the first tasks have run: within a factor of several)",
        f"wall time   about {format_duration(plan['wall_s'])} on this node",
        f"memory      up to {plan['memory_bytes'] / 1e9:.2g} GB a task",
        f"layout      {plan['layout']['reason']}",
        *(f"note        {warning}" for warning in plan["warnings"]),
    ]
    return "\n".join(lines)
