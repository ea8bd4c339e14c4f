"""Small running totals that a run summary is made of.

Rules of this file
------------------
1. Constant memory per level, agent and class; two bytes a task for its prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import TaskSpace

NO_LAYOUT = "no slots were started"

Ids = range | NDArray[np.integer[Any]]


class PredictedClass(Protocol):
    """Tasks predicted to cost the same (``scheduling.messages.TaskClass`` is one)."""

    @property
    def ids(self) -> Ids:
        """The tasks."""

    @property
    def cost_s(self) -> float:
        """Predicted seconds of each."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as it introduced itself.

    Parameters
    ----------
    rank : int
    host : str
    cores : int
        Cores it may use.
    slots, threads : int
        Tasks at once, and threads of each.
    memory_limit_bytes : int, optional
    """

    rank: int
    host: str
    cores: int
    slots: int
    threads: int
    memory_limit_bytes: int | None = None


@dataclass(slots=True)
class AgentTally:
    """What one agent has done so far."""

    info: AgentInfo
    n_tasks: int = 0
    busy_s: float = 0.0
    peak_bytes: int = 0
    lost: bool = False
    set_aside: str | None = None
    trouble: str | None = None

    @property
    def n_slots(self) -> int:
        """Slots that get work."""
        return 0 if self.lost or self.set_aside or self.trouble else self.info.slots

    def slots_of(self, n_threads: int) -> int:
        """Return how many slots a task with so many threads keeps busy: all, if it is wide."""
        is_wide = n_threads > self.info.threads > 0
        return max(1, self.info.slots) if is_wide else 1

    def as_dict(self) -> dict[str, Any]:
        """Give the row of the summary."""
        counts = {"n_tasks": self.n_tasks, "busy_s": rounded(self.busy_s), "lost": self.lost}
        why = {"set_aside": self.set_aside, "trouble": self.trouble}
        return asdict(self.info) | counts | why | {"peak_bytes": self.peak_bytes}


@dataclass(slots=True)
class LevelTally:
    """How far one n-body level of one model chemistry is, and what it cost."""

    model_chemistry: str
    nbody: int | str
    n_tasks: int = 0
    n_done: int = 0
    busy_s: float = 0.0
    finished_at: float | None = None


@dataclass(slots=True)
class MedianSketch:
    """Median of positive numbers to 2 % in constant memory: a histogram over their logarithms."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(802, np.int64))

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values."""
        with np.errstate(divide="ignore"):
            bins = np.floor(np.log10(values) * 100) + 401  # 1e-4 ... 1e4, under- and overflow
        np.add.at(self.counts, np.clip(bins, 0, 801).astype(np.intp), 1)

    def value(self) -> float | None:
        """Give the median; None of nothing, 0.0 below 1e-4."""
        total = int(self.counts.sum())
        if total == 0:
            return None
        middle = int(np.searchsorted(np.cumsum(self.counts), (total + 1) // 2))
        return 0.0 if middle == 0 else float(10 ** ((middle - 400.5) / 100))


class Prediction:
    """Predicted seconds per task of one space, and measured ones, kept per class."""

    def __init__(self, classes: Iterable[PredictedClass]) -> None:
        self._known = [each for each in classes if len(each.ids)]
        self._seconds = np.array([each.cost_s for each in self._known] + [np.nan])
        self._n_measured = np.zeros(len(self._seconds), np.int64)
        self._measured_s = np.zeros(len(self._seconds))

    @cached_property
    def _class_of(self) -> NDArray[Any]:
        """The class of each task; made for the first result, as it would delay the first task."""
        n_tasks = 1 + max((_last(each.ids) for each in self._known), default=-1)
        kind = np.uint16 if len(self._known) < 1 << 16 else np.uint32
        class_of: NDArray[Any] = np.full(n_tasks, len(self._known), dtype=kind)
        for index, each in enumerate(self._known):
            class_of[_places(each.ids)] = index
        return class_of

    def note(self, ids: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take in how long tasks took; return what was predicted, NaN where nothing was."""
        kinds = np.full(len(ids), len(self._known))
        is_known = ids < len(self._class_of)
        kinds[is_known] = self._class_of[ids[is_known]]
        np.add.at(self._n_measured, kinds, 1)
        np.add.at(self._measured_s, kinds, seconds)
        return np.asarray(self._seconds[kinds])

    def longest(self, n_wanted: int) -> Iterator[tuple[int, int, float, float]]:
        """Yield of the classes that took longest: a task, tasks measured, both seconds of one."""
        for kind in np.argsort(-self._measured_s[:-1], kind="stable")[:n_wanted].tolist():
            n_tasks = int(self._n_measured[kind])
            if n_tasks:
                mean_s = float(self._measured_s[kind]) / n_tasks
                yield int(self._known[kind].ids[0]), n_tasks, float(self._seconds[kind]), mean_s


def _last(ids: Ids) -> int:
    return max(ids[0], ids[-1]) if isinstance(ids, range) else int(ids.max())


def _places(ids: Ids) -> slice | NDArray[Any]:
    if isinstance(ids, range) and ids.step == 1:
        return slice(ids.start, ids.stop)
    return np.asarray(ids)


def level_of(space: TaskSpace, model_chemistry: int, n_real: int) -> int | str:
    """Name the n-body level of tasks: a number, or ``"supersystem"``.

    Parameters
    ----------
    space : TaskSpace
    model_chemistry : int
        Index in the expansion.
    n_real : int

    Returns
    -------
    int or str
    """
    levels, n_fragments = space.expansion.levels, space.expansion.system.n_fragments
    is_supersystem = model_chemistry == levels.supersystem and n_real == n_fragments
    is_level = n_real in levels.nbodies[model_chemistry]
    return "supersystem" if is_supersystem and not is_level else n_real


def costs(busy_s: float, longest_s: float, n_slots: int, wall_s: float) -> dict[str, Any]:
    """Compare a run with the best possible.

    Parameters
    ----------
    busy_s, longest_s : float
        Sum and maximum over tasks of wall seconds.
    n_slots : int
    wall_s : float

    Returns
    -------
    dict
        ``busy_s``, ``n_slots``, ``lower_bound_s`` = max(longest, busy / slots) and ``efficiency``
        = lower bound / wall, None where nothing was computed.
    """
    lower_bound_s = max(longest_s, busy_s / n_slots if n_slots else 0.0)
    efficiency = lower_bound_s / wall_s if busy_s > 0 and wall_s > 0 else None
    return {
        "busy_s": rounded(busy_s),
        "n_slots": n_slots,
        "lower_bound_s": rounded(lower_bound_s),
        "efficiency": rounded(efficiency),
    }


def rounded(seconds: float | None) -> float | None:
    """Cut a number to microseconds, for a file that people read."""
    return None if seconds is None else round(seconds, 6)
