"""What a run will cost, before it runs: classes with predicted seconds and bytes, and ``plan``.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
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
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.layout import place
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.learned import calibrated, calibration_of, in_words, machine_name, uncertainty
from qcmb_mpi.programs.profiles import method_family, profile
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import PARALLEL_FRACTIONS
from qcmb_mpi.scheduling.scaling import bytes_of, seconds_of
from qcmb_mpi.scheduling.widths import end_s
from qcmb_mpi.sizing import check_memory, family_name, n_among, size_of

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.execution.wire import AgentInfo
    from qcmb_mpi.expansion.classes import CompositionClass
    from qcmb_mpi.expansion.system import System
    from qcmb_mpi.schema import LoadedInput

_N_RANGES = 8
_N_GROUPS = 12


def forecast(space: TaskSpace, *, slot_bytes: int = 0) -> tuple[TaskClass, ...]:
    """Return the tasks of a space in classes that are predicted alike, by formula alone.

    Parameters
    ----------
    space : TaskSpace
    slot_bytes : int, optional
        Memory that a calculation is told it has; 0 when that is not known.
    """
    stages = {block: stage.index for stage in space.level_graph().stages for block in stage.blocks}
    return tuple(
        _task_class(space, each, stages[each.block], slot_bytes) for each in space.classes()
    )


def _task_class(space: TaskSpace, each: CompositionClass, stage: int, slot_bytes: int) -> TaskClass:
    size = size_of(space, each, slot_bytes=slot_bytes)
    chemistry = space.expansion.model_chemistries[space.blocks[each.block].model_chemistry]
    return TaskClass(
        stage=stage,
        ids=each.ids,
        cost_s=seconds_of(size),
        memory_bytes=bytes_of(size),
        key=(chemistry.fingerprint, each.real_kinds, each.ghost_kinds),
        family=family_name(chemistry, space.expansion.driver),
        parallel_fraction=_parallel_fraction(chemistry.program, size.method),
    )


def _parallel_fraction(program: str, method: str) -> float:
    """Return the part of a large task that threads speed up."""
    family = method_family(program, method)
    # A density functional threads as an SCF does.
    fraction = PARALLEL_FRACTIONS.get(family, PARALLEL_FRACTIONS["scf"])
    return fraction if profile(program).is_threaded else 0.0


def slot_bytes_of(config: ExecutorConfig) -> int:
    """Return the memory of a calculation on this node if no core is idle; 0: no known limit."""
    info = host_share(memory_bytes=config.memory_bytes).info
    return info.memory_bytes // max(1, config.n_workers or info.n_cores)


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
        (predicted, of the rest), ``uncertainty`` of that (``factor``, and the measured tasks that
        it rests on), ``memory_bytes`` of the largest task, ``layout``, equal
        fragments together in ``fragments`` and one row a level in ``levels``, where ``n_wide``
        tasks run on all cores.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    space = TaskSpace(loaded.expansion)
    by_formula = forecast(space, slot_bytes=slot_bytes_of(config))
    done, calibration = _found(space, store_path, with_records=loaded.wants_records)
    info = host_share(memory_bytes=config.memory_bytes).info
    placed = place([info], by_formula, config, thread_limit=thread_limit(space))
    layout = placed.layout_of(info)
    model = CostModel(calibration=calibration, machine=machine_name(layout.n_threads))
    every = calibrated(by_formula, model)
    n_left = {id(each): each.n_tasks - n_among(done, each.ids) for each in every}
    classes = tuple(each for each in every if n_left[id(each)])
    core_s = sum(n_left[id(each)] * each.cost_s for each in classes)
    left = [
        replace(each, ids=range(each.n_tasks - n_among(done, each.ids)))
        for each in calibrated(placed.classes, model)
    ]
    return {
        "n_tasks": space.n_tasks,
        "n_done": len(done),
        "store": None if store_path is None else str(store_path),
        "fragments": _fragments(loaded.expansion.system),
        "n_fragments": loaded.expansion.system.n_fragments,
        "n_atoms": loaded.expansion.system.n_atoms,
        "core_seconds": core_s,
        "wall_s": end_s(left, layout),
        "uncertainty": uncertainty(by_formula, list(n_left.values()), model),
        "memory_bytes": max((each.memory_bytes for each in classes), default=0),
        "layout": {
            "n_slots": layout.n_slots,
            "n_threads": layout.n_threads,
            "n_wide": sum(each.n_tasks for each in placed.classes if each.n_threads),
            "n_threads_wide": max((each.n_threads for each in placed.classes), default=0),
            "memory_per_slot_bytes": layout.memory_per_slot_bytes,
            "reason": layout.reason,
        },
        "levels": _levels(space, every, n_left, placed.classes),
        "warnings": [*loaded.warnings, *_too_large(space, info, done)],
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


def _too_large(space: TaskSpace, info: AgentInfo, done: NDArray[np.int64]) -> list[str]:
    """Say what a run on this node would refuse."""
    try:
        check_memory(space, info.node_memory_bytes or info.memory_bytes, done=done)
    except InputError as error:
        return [f"this node would refuse it: {error}"]
    return []


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
    space: TaskSpace,
    classes: Sequence[TaskClass],
    n_left: dict[int, int],
    placed: Sequence[TaskClass],
) -> list[dict[str, Any]]:
    rows = []
    for stage in space.level_graph().stages:
        ours = [each for each in classes if each.stage == stage.index]
        rows.append(
            {
                "model_chemistry": space.expansion.model_chemistries[stage.model_chemistry].label,
                "nbody": stage.n_real,
                "n_tasks": sum(each.n_tasks for each in ours),
                "n_wide": sum(
                    each.n_tasks for each in placed if each.n_threads and each.stage == stage.index
                ),
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
        f"{'model chemistry':<20} {'n-body':>6} {'tasks':>10} {'wide':>6} "
        f"{'longest':>12} {'core time':>14}",
    ]
    lines += [
        f"{row['model_chemistry']:<20} {row['nbody']:>6} {row['n_tasks']:>10} {row['n_wide']:>6} "
        f"{format_duration(row['longest_s']):>12} {format_duration(row['core_seconds']):>14}"
        for row in plan["levels"]
    ]
    lines += [
        "",
        f"core time   about {format_duration(plan['core_seconds'])} "
        f"({in_words(plan['uncertainty'])})",
        f"wall time   about {format_duration(plan['wall_s'])} on this node",
        f"memory      up to {plan['memory_bytes'] / 1e9:.2g} GB a task",
        f"layout      {plan['layout']['reason']}",
        *(f"note        {warning}" for warning in plan["warnings"]),
    ]
    return "\n".join(lines)
