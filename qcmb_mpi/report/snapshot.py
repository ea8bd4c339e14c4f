"""The state of a run at one moment, and how it is put in words.

Rules of this file
------------------
1. Plain values and plain text: nothing is drawn, read or asked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcmb_mpi.scheduling.placement import plain

_DAY_S = 86400
_YEAR_S = 365.25 * _DAY_S
_N_NUMBERS_SHOWN = 8
_ROUGH_ERROR = 1.0  # from here on only the order of magnitude is to be trusted
_NUMBERS = re.compile(r"\[(\d+(?:, \d+)+)\]")


@dataclass(frozen=True, slots=True)
class LevelCount:
    """How far one n-body level of one model chemistry is.

    Parameters
    ----------
    model_chemistry : str
        Its label.
    nbody : int or str
        Number of real fragments, or ``"supersystem"``.
    n_done, n_tasks : int
        ``n_done`` counts reused results too.
    busy_s : float
        Measured seconds of the tasks that this run has done.
    left_s : float, optional
        Predicted seconds of those that are not settled.
    """

    model_chemistry: str
    nbody: int | str
    n_done: int
    n_tasks: int
    busy_s: float = 0.0
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment.

    Parameters
    ----------
    n_tasks, n_done, n_reused, n_failed, n_retries : int
        ``n_done`` counts reused results too; ``n_failed`` those that failed for good.
    n_busy, n_slots : int
        Slots at work, slots there are.
    elapsed_s : float
        Since the run began.
    remaining_s : float, optional
        Predicted time left.
    relative_error : float, optional
        Of the predicted time.
    held_bytes, limit_bytes : int
        Memory that the running tasks are counted on to need, and what there is; 0 if not known.
    levels : tuple of LevelCount
    """

    n_tasks: int
    n_done: int
    n_reused: int
    n_failed: int
    n_retries: int
    n_busy: int
    n_slots: int
    elapsed_s: float
    remaining_s: float | None = None
    relative_error: float | None = None
    held_bytes: int = 0
    limit_bytes: int = 0
    levels: tuple[LevelCount, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the tasks that are settled (done or failed for good), 0 to 1."""
        return (self.n_done + self.n_failed) / self.n_tasks if self.n_tasks else 1.0

    @property
    def work(self) -> float | None:
        """Share of this run's work that is done, by seconds; None where it is not predicted."""
        left_s = [level.left_s for level in self.levels]
        return work_share(
            sum(level.busy_s for level in self.levels),
            None if None in left_s or not left_s else sum(each or 0.0 for each in left_s),
        )


def work_share(busy_s: float, left_s: float | None) -> float | None:
    """Return the share of some work that is done, by measured and predicted seconds."""
    if left_s is None:
        return None
    return busy_s / (busy_s + left_s) if left_s > 0 else 1.0


def format_duration(seconds: float | None) -> str:
    """Write a duration for people: ``0.8 s``, ``42 s``, ``2 h 07 min``, ``3.5 years``."""
    if seconds is None:
        return "unknown"
    if 0 < seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    if seconds < 2 * _YEAR_S:
        return f"{hours // 24} d {hours % 24} h"
    return f"{plain(seconds / _YEAR_S)} years"


def short_label(label: str) -> str:
    """Write the label of a task with long lists of fragments shortened."""

    def shortened(found: re.Match[str]) -> str:
        numbers = found[1].split(", ")
        if len(numbers) <= _N_NUMBERS_SHOWN:
            return found[0]
        return f"[{', '.join(numbers[:3])}, ..., {numbers[-1]}: {len(numbers)} fragments]"

    return _NUMBERS.sub(shortened, label)


def task_name(label: str, chemistries: Mapping[str, str]) -> str:
    """Write the label of a task for people: ``hf/6-31g, pyscf: 2 + 4, basis of 1-4``."""
    try:
        name, real, basis = json.loads(label)
        fragments = " + ".join(map(str, real)) if len(real) <= _N_NUMBERS_SHOWN else _ranges(real)
        ghosts = "" if real == basis else f", basis of {_ranges(basis)}"
    except (ValueError, TypeError):
        return label
    return f"{chemistries.get(name, name)}: {fragments}{ghosts}"


def _ranges(numbers: Sequence[int]) -> str:
    """Write ``1-3, 5`` of ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def level_name(nbody: int | str) -> str:
    """Write an n-body level for people: ``2-body`` or ``supersystem``."""
    return f"{nbody}-body" if isinstance(nbody, int) else str(nbody)


def format_line(snapshot: Snapshot) -> str:
    """Write a snapshot as one line."""
    tasks = f"{snapshot.n_done}/{snapshot.n_tasks} tasks ({percent(snapshot.fraction)})"
    return ", ".join([tasks, *notes(snapshot), *usage(snapshot), *times(snapshot)])


def times(snapshot: Snapshot) -> list[str]:
    """Write how long it took, and how long it will take."""
    left = [time_left(snapshot)] if has_estimate(snapshot) else []
    return [format_duration(snapshot.elapsed_s), *left]


def usage(snapshot: Snapshot) -> list[str]:
    """Write what is in use of slots and memory."""
    parts = [f"{snapshot.n_busy}/{snapshot.n_slots} slots busy"]
    if snapshot.held_bytes and snapshot.limit_bytes:
        held, limit = (size / 2**30 for size in (snapshot.held_bytes, snapshot.limit_bytes))
        parts.append(f"memory {held:.1f} of {limit:.1f} GiB")
    return parts


def time_left(snapshot: Snapshot) -> str:
    """Write the predicted time left, and how sure it is."""
    left, error = format_duration(snapshot.remaining_s), snapshot.relative_error
    if error is None:
        return f"about {left} left"
    if error >= _ROUGH_ERROR:
        return f"roughly {left} left"
    return f"about {left} left ± {max(round(100 * error), 1)} %"


def percent(fraction: float) -> str:
    """Write a share, rounded down so that 100 % means all."""
    return f"{int(100 * fraction)} %"


def notes(snapshot: Snapshot) -> list[str]:
    """Write the counts that are not zero: failed, repeated, reused."""
    counts = (
        (snapshot.n_failed, "failed"),
        (snapshot.n_retries, "repeated"),
        (snapshot.n_reused, "reused"),
    )
    return [f"{n} {word}" for n, word in counts if n]


def has_estimate(snapshot: Snapshot) -> bool:
    """Whether there is a time left to show."""
    return bool(snapshot.remaining_s) and snapshot.fraction < 1.0


def share(fraction: float) -> str:
    """Write a share to the nearest per cent."""
    return f"{100 * fraction:.0f} %"
