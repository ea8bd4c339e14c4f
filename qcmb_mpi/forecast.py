"""What a run will cost, before it runs: classes with predicted seconds and bytes, and ``plan``.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
2. Runs no chemistry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from qcmb_mpi.schema import LoadedInput


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


def make_plan(loaded: LoadedInput, config: ExecutorConfig) -> dict[str, Any]:
    """Return what a run of `loaded` would do on this node.

    Returns
    -------
    dict
        ``n_tasks``, ``core_seconds`` and ``wall_s`` (predicted), ``memory_bytes`` of the largest
        task, ``layout`` and one row a level in ``levels``.
    """
    space = TaskSpace(loaded.expansion)
    classes = forecast(space)
    info = host_share(memory_bytes=config.memory_bytes).info
    limit = thread_limit(space)
    layout = choose_layouts([info], classes, config, thread_limit=limit)(info)
    core_s = sum(each.n_tasks * each.cost_s for each in classes)
    longest_s = max((each.cost_s for each in classes), default=0.0)
    return {
        "n_tasks": space.n_tasks,
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
        "levels": _levels(space, classes),
        "warnings": list(loaded.warnings),
    }


def _levels(space: TaskSpace, classes: Sequence[TaskClass]) -> list[dict[str, Any]]:
    rows = []
    for stage in space.level_graph().stages:
        ours = [each for each in classes if each.stage == stage.index]
        rows.append(
            {
                "model_chemistry": space.expansion.model_chemistries[stage.model_chemistry].label,
                "nbody": stage.n_real,
                "n_tasks": sum(each.n_tasks for each in ours),
                "longest_s": max(each.cost_s for each in ours),
                "core_seconds": sum(each.n_tasks * each.cost_s for each in ours),
                "memory_bytes": max(each.memory_bytes for each in ours),
            }
        )
    return rows


def format_plan(plan: dict[str, Any]) -> str:
    """Return a plan as text for people."""
    lines = [
        f"{plan['n_fragments']} fragments, {plan['n_atoms']} atoms, {plan['n_tasks']} tasks",
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
