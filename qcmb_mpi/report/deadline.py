"""A run that had too little time for a single task: it would get no further the next time.

Rules of this file
------------------
1. The exit code stays 75; what tells this end from others is ``needed_walltime_s`` in the summary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qcmb_mpi.report.snapshot import format_duration

_SAFETY = 1.5  # as the scheduler's, and a little more than its margin at the end
_MARGIN_S = 20.0
_LONGEST_START_S = 60.0
_STEPS_S = ((120.0, 10.0), (7200.0, 60.0), (math.inf, 600.0))  # up to what, rounded to what


def needed_walltime(
    summary: Mapping[str, Any], given_s: float | None, longest_s: float
) -> dict[str, float]:
    """Tell how much time a run needs to get on, if the deadline came before any task ended.

    Parameters
    ----------
    summary : mapping
        Of :meth:`RunSummary.finish`.
    given_s : float, optional
        Seconds the run had, from its start; None without a deadline.
    longest_s : float
        Predicted seconds of the longest task that is left; 0 if it is not known.

    Returns
    -------
    dict
        ``needed_walltime_s`` and ``longest_left_s`` for the summary; empty if there was progress,
        or something else ended the run.
    """
    is_deadline = summary["status"] == "incomplete" and "deadline" in summary.get("stopped", "")
    if given_s is None or not is_deadline or summary["n_computed"]:
        return {}
    start_s = min(summary["wall_s"], _LONGEST_START_S)
    needed_s = _SAFETY * longest_s + start_s + _MARGIN_S
    if needed_s <= given_s:  # it was tried, and took longer than predicted
        needed_s = 2 * given_s
    step_s = next(step_s for most_s, step_s in _STEPS_S if needed_s <= most_s)
    return {
        "needed_walltime_s": math.ceil(needed_s / step_s) * step_s,
        "longest_left_s": round(longest_s, 6),
    }


def no_progress(stats: Mapping[str, Any]) -> str:
    """Say that running again as before is of no use, and what is.

    Parameters
    ----------
    stats : mapping
        A summary.

    Returns
    -------
    str
        Empty if it is of use.
    """
    needed_s = stats.get("needed_walltime_s")
    if not needed_s:
        return ""
    longest_s = stats.get("longest_left_s")
    why = f", the longest is predicted to take {format_duration(longest_s)}" if longest_s else ""
    return (
        f"no progress: no task ended before the deadline{why}; give it at least "
        f"{clock(needed_s)} (--walltime, and the limit of a batch job)"
    )


def clock(seconds: float) -> str:
    """Write seconds as ``H:MM:SS``, at least one."""
    minutes, second = divmod(max(1, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
