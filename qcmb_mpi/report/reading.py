"""Summaries and results as files give them: one of another make is refused where it is read.

Rules of this file
------------------
1. What an older version did not write may be missing; what is there is of the right kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.fields import (
    Check,
    mapping,
    number,
    one_of,
    optional,
    sequence,
    string,
    whole,
)
from qcmb_mpi.report.files import read_json

_SECONDS = optional(number)
_COUNT = optional(whole)


def _row(table: Mapping[str, Check], *required: str) -> Check:
    """Accept an object with any fields, of which those in `table` are checked."""

    def checked(value: Any, path: str) -> None:
        mapping(value, path)
        for key in required:
            if key not in value:
                raise InputError(f"{path}.{key}", "is missing")
        for key, check in table.items():
            if key in value:
                check(value[key], f"{path}.{key}")

    return checked


def _nbody(value: Any, path: str) -> None:
    (string if isinstance(value, str) else whole)(value, path)


_FAILED = {"label": string, "error_type": string, "message": string, "attempts": whole}
_LEVEL: dict[str, Check] = {
    "model_chemistry": string,
    "nbody": _nbody,
    "n_tasks": whole,
    "n_done": whole,
    "busy_s": _SECONDS,
    "finished_s": _SECONDS,
}
_AGENT = {
    **dict.fromkeys(("memory_limit_bytes", "peak_bytes", "n_tasks"), _COUNT),
    "busy_s": _SECONDS,
}
_CLASS: dict[str, Check] = {
    "nbody": _nbody,
    "n_tasks": whole,
    "predicted_s": number,
    "measured_s": number,
}
_PREDICTION = {
    **dict.fromkeys(("predicted_s", "measured_s", "median_relative_error"), _SECONDS),
    "classes": sequence(_row(_CLASS, *_CLASS)),
}
_SUMMARY: dict[str, Check] = {
    "status": one_of("complete", "failed", "incomplete"),
    **dict.fromkeys(("n_tasks", "n_computed", "n_reused", "n_failed", "n_slots"), whole),
    **dict.fromkeys(("n_ranks", "n_retries", "n_remedied"), whole),
    **dict.fromkeys(("wall_s", "setup_s", "assembly_s", "slot_s", "wasted_s"), _SECONDS),
    **dict.fromkeys(("busy_s", "efficiency", "lower_bound_s"), _SECONDS),
    "executor": string,
    "stopped": optional(string),
    "agents": sequence(_row(_AGENT)),
    "failed": sequence(_row(_FAILED)),
    "levels": sequence(_row(_LEVEL, *_LEVEL)),
    "slowest": sequence(_row({"label": string, "seconds": number})),
    "prediction": _row(_PREDICTION),
    "versions": mapping,
}


def read_summary(path: Path) -> dict[str, Any]:
    """Read a run summary.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    InputError
        It is none; the first field that is missing or of the wrong kind is named.
    """
    found = read_json(path)
    try:
        _row(_SUMMARY, "status", "n_tasks")(found, "summary")
    except InputError as error:
        hint = "accepted: the *.run.json that a run wrote"
        raise InputError(str(path), f"is no run summary: {error}; {hint}") from None
    return found
