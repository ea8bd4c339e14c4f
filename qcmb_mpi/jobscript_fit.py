"""What a plan says of a batch job: how long it may take, and in a few words why.

Rules of this file
------------------
1. The limit is generous: by as much as the prediction may be wrong, then rounded up.
2. Nothing is refused here that a compute node might accept: it is noted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcmb_mpi.plan import beyond
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.placement import counted

_START_S = 120.0  # ranks start, programs are imported from a slow file system
_LEAST_S = 600.0
_MOST_S = 86400.0  # what most queues allow
_STEPS_S = ((7200.0, 600.0), (math.inf, 3600.0))  # up to what, rounded to what


@dataclass(frozen=True, slots=True)
class Fit:
    """A job's time and what to say about it.

    Parameters
    ----------
    walltime_s : float
        The limit to ask for.
    about : str
        Tasks, work and time, for the script.
    notes : tuple of str
        For whoever has asked for the script.
    """

    walltime_s: float
    about: str
    notes: tuple[str, ...]


def fit(
    found: Mapping[str, Any],
    cores: int | None = None,
    *,
    is_requeued: bool = False,
    how_on: str = "--requeue goes on until it is complete",
) -> Fit:
    """Choose the time limit of a job.

    Parameters
    ----------
    found : mapping
        Of :func:`~qcmb_mpi.plan.make_plan`.
    cores : int, optional
        Cores of a node; by default nodes are as this one.
    is_requeued : bool
        It goes on in a job after it where the time is too short.
    how_on : str
        What to do where it does not, and needs to.

    Returns
    -------
    Fit
    """
    n_nodes = found["ranks"]["n_nodes"]
    n_cores = cores or found["node"]["n_cores"]
    wall_s = found["wall_s"] if cores is None else _at_most_s(found, n_nodes * cores)
    needed_s = _START_S + wall_s * found["uncertainty"]["factor"]
    needed_s /= 0.9  # a script keeps a tenth, or 5 minutes, to end in
    n_left, nodes = found["n_tasks"] - found["n_done"], counted(n_nodes, "node")
    tasks = f"{counted(n_left, 'task')}, {format_duration(wall_s)}"
    if not n_left:
        tasks = f"all {counted(found['n_tasks'], 'task')} are in the store"
    about = f"plan: {tasks} on {nodes} of {counted(n_cores, 'core')}"
    of_here, of_there = (beyond(found["walltime_s"], each) for each in (found["wall_s"], wall_s))
    warnings = [each for each in found["warnings"] if each != of_here]
    notes = [*found["problems"], *warnings, *([of_there] if of_there else [])]
    if needed_s > _MOST_S and not is_requeued:
        notes.append(f"{format_duration(wall_s)} are predicted, more than a job of a day: {how_on}")
    return Fit(min(_rounded_s(needed_s), _MOST_S), about, tuple(notes))


def fit_all(fits: Mapping[str, Fit]) -> Fit:
    """Choose the time limit that all jobs of an array have: that of the longest.

    Parameters
    ----------
    fits : mapping
        Name of an input -> its own.

    Returns
    -------
    Fit
    """
    name = max(fits, key=lambda each: fits[each].walltime_s)
    in_a_line = " ".join(name.split())  # it becomes part of a comment
    about = f"{counted(len(fits), 'input')}, the longest {in_a_line}: {fits[name].about}"
    notes = [f"{each}: {note}" for each, found in fits.items() for note in found.notes]
    return Fit(fits[name].walltime_s, about, tuple(notes))


def _at_most_s(found: Mapping[str, Any], n_cores: int) -> float:
    """Return Graham's bound for any order of the tasks: all work shared, then the longest task."""
    longest_s = max((row["longest_s"] for row in found["levels"] if row["n_left"]), default=0.0)
    return float(found["core_seconds"] / n_cores + longest_s)


def _rounded_s(seconds: float) -> float:
    step_s = next(step_s for most_s, step_s in _STEPS_S if seconds <= most_s)
    return max(_LEAST_S, math.ceil(seconds / step_s) * step_s)
