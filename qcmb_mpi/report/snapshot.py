"""The state of a run at one moment, and how it is put in words.

Rules of this file
------------------
1. Plain values and plain text: nothing is drawn, read or asked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qcmb_mpi.scheduling.placement import plain

_DAY_S = 86400
_YEAR_S = 365.25 * _DAY_S
_N_NUMBERS_SHOWN = 8
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
    """

    model_chemistry: str
    nbody: int | str
    n_done: int
    n_tasks: int


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
    levels: tuple[LevelCount, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the tasks that are settled (done or failed for good), 0 to 1."""
        return (self.n_done + self.n_failed) / self.n_tasks if self.n_tasks else 1.0


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


def level_name(nbody: int | str) -> str:
    """Write an n-body level for people: ``2-body`` or ``supersystem``."""
    return f"{nbody}-body" if isinstance(nbody, int) else str(nbody)


def format_line(snapshot: Snapshot) -> str:
    """Write a snapshot as one line."""
    parts = [
        f"{snapshot.n_done}/{snapshot.n_tasks} tasks ({percent(snapshot.fraction)})",
        *notes(snapshot),
        f"{snapshot.n_busy}/{snapshot.n_slots} slots busy",
        format_duration(snapshot.elapsed_s),
    ]
    if has_estimate(snapshot):
        parts.append(f"about {format_duration(snapshot.remaining_s)} left")
    return ", ".join(parts)


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
