"""A plan as text for people.

Rules of this file
------------------
1. Every figure is in the plan's JSON too; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcmb_mpi.learned import in_words
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.placement import counted, in_gb, plain

_FEW_HOURS = 0.01
_N_RANGES = 8
_N_GROUPS = 12


def format_plan(plan: Mapping[str, Any]) -> str:
    """Return what :func:`~qcmb_mpi.plan.make_plan` gives as text."""
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
    lines += ["", *_cost_lines(plan), *_machine_lines(plan)]
    lines += [f"problem     {problem}" for problem in plan["problems"]]
    return "\n".join([*lines, *(f"note        {warning}" for warning in plan["warnings"])])


def _cost_lines(plan: Mapping[str, Any]) -> list[str]:
    if plan["n_done"] == plan["n_tasks"]:
        return ["core time   none: every task is done; a run only assembles"]
    doubt = plan["uncertainty"]
    basis = "peaks of the store included" if doubt["n_tasks"] else "by formula"
    slot_bytes = plan["layout"]["memory_per_slot_bytes"]
    room = f"; a slot has {in_gb(slot_bytes)}" if slot_bytes else ""
    return [
        f"core time   about {_core_time(plan['core_seconds'])}, {in_words(doubt)}",
        f"wall time   about {format_duration(plan['wall_s'])} on {_where(plan['ranks'])}, and some "
        "seconds to start",
        f"memory      up to {in_gb(plan['memory_bytes'])} a task, {basis}{room}",
    ]


def _core_time(seconds: float) -> str:
    hours = seconds / 3600
    if hours < _FEW_HOURS:
        return f"{plain(seconds)} core-seconds"
    return f"{format_duration(seconds)} = {plain(hours)} core-hours"


def _where(ranks: Mapping[str, Any]) -> str:
    return "this node" if ranks["n_nodes"] == 1 else f"{ranks['n_nodes']} nodes like this"


def _machine_lines(plan: Mapping[str, Any]) -> list[str]:
    node, ranks = plan["node"], plan["ranks"]
    each = "" if ranks["n_ranks"] == 1 else "in each rank "
    return [
        f"node        {node['host']}: {counted(node['n_cores'], 'core')} and "
        f"{in_gb(node['memory_bytes'], 3)} for tasks{_of_granted(node)}{_of_all(node)}",
        f"ranks       {_ranks_in_words(ranks, plan['command'])}",
        f"layout      {each}{plan['layout']['reason']}",
    ]


def _of_granted(node: Mapping[str, Any]) -> str:
    granted_bytes = node["memory_granted_bytes"]
    return f", 80 % of {in_gb(granted_bytes, 3)} granted" if granted_bytes else ""


def _of_all(node: Mapping[str, Any]) -> str:
    if node["n_cores"] >= node["n_cores_in_all"]:
        return ""
    return f" (the machine has {node['n_cores_in_all']} cores; `doctor` shows who grants how many)"


def _ranks_in_words(ranks: Mapping[str, Any], command: str) -> str:
    n_advised = ranks["n_advised"]
    advised = f"without MPI is as good: {command}"
    if n_advised > 1:
        advised = f"{n_advised} advised, one for each NUMA domain: mpiexec -n {n_advised} {command}"
    if not ranks["is_mpi"]:
        alone = f"none: {command}"
        return f"{alone}; {advised}" if n_advised > 1 else alone
    cores = f"{counted(ranks['n_ranks'], 'rank')} on {counted(ranks['n_nodes'], 'node')}"
    cores += f", {counted(ranks['n_cores'], 'core')} and {in_gb(ranks['memory_bytes'])} each"
    return cores if ranks["n_ranks"] == n_advised > 1 else f"{cores}; {advised}"


def _fragment_lines(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'fragment' if len(group['fragments']) == 1 else 'fragments'} "
        f"{_ranges(group['fragments'])}: {group['formula']}, "
        f"charge {group['charge']:g}, multiplicity {group['multiplicity']:g}"
        for group in groups[:_N_GROUPS]
    ]
    n_more = len(groups) - _N_GROUPS
    return [*lines, f"and {n_more} other kinds (--json has all)"] if n_more > 0 else lines


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
