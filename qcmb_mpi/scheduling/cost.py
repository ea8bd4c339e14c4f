"""How long a task takes and how much memory it needs: predicted, then learnt.

Rules of this file
------------------
1. Before anything is measured the formulas of scaling.py hold; measured times replace them class
   by class, and correct the rest of a family by calibration.py.
2. Learning is deterministic: the same observations in the same order give the same estimates.
3. What is kept for another run is of families, never of molecules.
4. Seconds are of the threads that a task has. A family with another number of them is a family of
   its own, which leans on the first until it is measured itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.scheduling.calibration import (
    OTHER_MACHINE,
    OTHER_THREADS,
    SINCE_THEN,
    LogStatistics,
    PeakEnvelope,
    TimeCurve,
    peak_of,
    with_margin,
)
from qcmb_mpi.scheduling.scaling import (
    FAMILIES,
    Scaling,
    TaskSize,
    Term,
    bytes_of,
    certain_bytes,
    driver_factor,
    family_of,
    seconds_of,
)

if TYPE_CHECKING:
    from qcmb_mpi.scheduling.messages import TaskClass

__all__ = [
    "FAMILIES",
    "CostEstimate",
    "CostModel",
    "Scaling",
    "TaskSize",
    "Term",
    "certain_bytes",
    "driver_factor",
    "family_of",
]

CALIBRATION_VERSION = 1
_TINY_S = 1e-7
_THREADS = " x "
_THREADS_ERROR = 0.35  # of what threads gain, where they were not measured


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """A prediction for one task.

    Parameters
    ----------
    cost_s : float
        Wall seconds on one core.
    memory_bytes : int
        Peak resident memory of the slot that runs it.
    relative_error : float
        Typical ``|true - cost_s| / true``; 1 and above means that only the order is to be trusted.
    """

    cost_s: float
    memory_bytes: int
    relative_error: float


class CostModel:
    """Predicts tasks, and corrects itself as measured times come in.

    Parameters
    ----------
    prior_relative_error : float
        Error claimed for what was never measured.
    calibration : mapping, optional
        :meth:`as_dict` of an earlier run; of another version, or damaged, it is ignored.
    machine : str
        What times depend on besides the task and its threads: the processor. A calibration of
        another machine is doubted in seconds, not in how they grow.
    """

    def __init__(
        self,
        *,
        prior_relative_error: float = 2.0,
        calibration: Mapping[str, Any] | None = None,
        machine: str = "",
    ) -> None:
        self._prior_error = prior_relative_error
        self._machine = machine
        self._classes: dict[Hashable, LogStatistics] = {}
        self._curves: dict[Hashable, TimeCurve] = {}
        self._envelopes: dict[Hashable, PeakEnvelope] = {}
        self._exceeded: dict[Hashable, int] = {}  # by class, bytes that were not enough
        self._recalled: dict[str, Any] = {}
        self._errors = _ErrorHistogram()
        self.n_observed = 0
        self.recall(calibration, machine=machine)

    def predict(self, size: TaskSize) -> CostEstimate:
        """Predict a task from its size alone, without what was learnt."""
        return CostEstimate(seconds_of(size), bytes_of(size), self._prior_error)

    def observe(
        self,
        key: Hashable,
        seconds: ArrayLike,
        *,
        prior_s: float,
        family: Hashable = None,
        peak_bytes: ArrayLike = (),
        prior_bytes: int = 0,
    ) -> None:
        """Learn from measured times, and memory if it was measured.

        Parameters
        ----------
        key : Hashable
            The class.
        seconds : array_like, shape (m,)
            Wall times of tasks of it.
        prior_s : float
            What was predicted for the class before anything was measured.
        family : Hashable, optional
            What predictions err alike in.
        peak_bytes : array_like, optional
            Peak memory of tasks of it; 0 where that is not known.
        prior_bytes : int
            What was predicted before anything was measured.
        """
        times = np.maximum(np.asarray(seconds, dtype=np.float64).reshape(-1), _TINY_S)
        if not len(times):
            return
        self._errors.add(times, self.cost_s(key, prior_s, family=family))
        prior_s = max(prior_s, _TINY_S)
        curve = self._curves.get(family) or self._new_curve(family)
        own = self._classes.get(key)
        if own is None:
            own = self._classes[key] = LogStatistics(prior_s)
            curve.join(own)
        own.add(np.log(times / prior_s))
        curve.note(len(times))
        self.n_observed += len(times)
        peaks = np.asarray(peak_bytes, dtype=np.int64).reshape(-1)
        if len(peaks) and peaks.max() > 0:
            own.peak_bytes = max(own.peak_bytes, int(peaks.max()))
            own.n_peaks += int(np.count_nonzero(peaks))
            if prior_bytes > 0:
                envelope = self._envelopes.setdefault(family, PeakEnvelope())
                envelope.note(prior_bytes, own.peak_bytes)

    def observe_shortage(
        self, key: Hashable, seen_bytes: int, *, family: Hashable = None, prior_bytes: int = 0
    ) -> None:
        """Learn that a task of a class was ended for lack of memory when it used ``seen_bytes``.

        The other parameters are those of :meth:`observe`.
        """
        self._exceeded[key] = max(self._exceeded.get(key, 0), seen_bytes)
        if prior_bytes > 0:
            self._envelopes.setdefault(family, PeakEnvelope()).note(prior_bytes, seen_bytes)

    @property
    def has_learnt(self) -> bool:
        """Whether this run has anything to tell the next one."""
        return self.n_observed > 0 or bool(self._exceeded)

    def n_seen(self, key: Hashable) -> int:
        """Return how many tasks of a class were measured."""
        own = self._classes.get(key)
        return 0 if own is None else own.n

    def n_kin(self, family: Hashable) -> int:
        """Return :meth:`n_known` of what a family is predicted by."""
        return self.n_known(self.source_of(family))

    def n_known(self, family: Hashable) -> int:
        """Return how many tasks of a family were measured, by this run and by earlier ones."""
        curve = self._curves.get(family)
        return 0 if curve is None else curve.n_known

    def source_of(self, family: Hashable) -> Hashable:
        """Return what a family is predicted by: itself, or one that differs in threads alone."""
        curve = self._curves.get(family)
        if not isinstance(family, str) or (curve is not None and curve.n_known):
            return family
        stem = _without_threads(family)
        kin = [
            name
            for name, each in self._curves.items()
            if isinstance(name, str) and _without_threads(name) == stem and each.n_known
        ]
        return max(kin, key=lambda name: (self.n_known(name), name), default=family)

    def cost_s(self, key: Hashable, prior_s: float, *, family: Hashable = None) -> float:
        """Return the expected seconds of a task of a class, by all that is known."""
        prior_s = max(prior_s, _TINY_S)
        own = self._classes.get(key)
        if own is not None:
            return prior_s * own.factor
        return float(self._family_s(family, np.array([prior_s]))[0])

    def memory_bytes(self, key: Hashable, prior_bytes: int, *, family: Hashable = None) -> int:
        """Return the bytes to count on for a class; 0, which is unknown, stays 0."""
        if not prior_bytes:
            return 0
        expected = int(self._family_bytes(family, np.array([prior_bytes]))[0])
        own = self._classes.get(key)
        expected = expected if own is None else peak_of(own, expected)
        return max(expected, with_margin(self._exceeded.get(key, 0)))

    def costs_s(self, classes: Sequence[TaskClass]) -> NDArray[np.float64]:
        """Return :meth:`cost_s` of many classes at once, shape (n_classes,)."""
        prior_s = np.maximum([each.cost_s for each in classes], _TINY_S)
        expected_s = prior_s.copy()
        is_unknown = np.ones(len(classes), dtype=bool)
        for place, own in self._measured(classes):
            expected_s[place] = prior_s[place] * own.factor
            is_unknown[place] = False
        for family, places in _by_family(classes):
            unknown = places[is_unknown[places]]
            if len(unknown):  # what is known of all is found for nobody
                expected_s[unknown] = self._family_s(family, prior_s[unknown])
        return expected_s

    def peaks_bytes(self, classes: Sequence[TaskClass]) -> NDArray[np.int64]:
        """Return :meth:`memory_bytes` of many classes at once, shape (n_classes,)."""
        prior_bytes = np.array([each.memory_bytes for each in classes], dtype=np.int64)
        expected = prior_bytes.copy()
        for family, places in _by_family(classes):
            expected[places] = self._family_bytes(family, prior_bytes[places])
        for place, own in self._measured(classes):
            expected[place] = peak_of(own, int(expected[place]))
        for place, each in enumerate(classes) if self._exceeded else ():
            least = with_margin(self._exceeded.get(each.key, 0))
            expected[place] = max(int(expected[place]), least)
        return np.where(prior_bytes > 0, expected, 0)

    def estimate(
        self, key: Hashable, prior_s: float, *, memory_bytes: int = 0, family: Hashable = None
    ) -> CostEstimate:
        """Return :meth:`cost_s` and :meth:`memory_bytes` with the error to be expected."""
        source = self.source_of(family)
        own, curve = self._classes.get(key), self._curves.get(source)
        error = self._prior_error
        if own is not None:
            error = own.spread + self._prior_error / (1 + own.n**2)
        elif curve is not None and curve.n_known:
            doubt = 0.0 if source == family else _THREADS_ERROR
            error = min(error, (1 + doubt) * (1 + curve.relative_error(prior_s)) - 1)
        cost_s = self.cost_s(key, prior_s, family=family)
        return CostEstimate(cost_s, self.memory_bytes(key, memory_bytes, family=family), error)

    @property
    def median_relative_error(self) -> float:
        """Median of ``|predicted - measured| / measured``, each predicted before it was measured.

        To about 5 %; nan when nothing was measured.
        """
        return self._errors.median

    def _family_s(self, family: Hashable, prior_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of classes that have not run yet."""
        curve = self._curves.get(self.source_of(family))
        return prior_s if curve is None or not curve.has_opinion else curve.seconds(prior_s)

    def _family_bytes(self, family: Hashable, prior: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bytes of classes that have not run yet."""
        envelope = self._envelopes.get(family) or self._envelopes.get(self.source_of(family))
        return prior if envelope is None else envelope.bytes_of(prior)

    def _measured(self, classes: Sequence[TaskClass]) -> Iterator[tuple[int, LogStatistics]]:
        """Yield the places of classes that have run, with what was measured."""
        for place, each in enumerate(classes) if self._classes else ():
            own = self._classes.get(each.key)
            if own is not None:
                yield place, own

    def _new_curve(self, family: Hashable) -> TimeCurve:
        """Begin with what the same tasks took with other threads."""
        kin = self._curves.get(self.source_of(family))
        curve = TimeCurve() if kin is None else TimeCurve(kin.as_dict(), doubt=OTHER_THREADS)
        self._curves[family] = curve
        return curve

    # ---------------------------------------------------------- from run to run

    def as_dict(self) -> dict[str, Any]:
        """Return what was learnt of families that have a name (str), for JSON."""
        families = dict(self._recalled)
        for family in {**self._curves, **self._envelopes}:
            curve, peaks = self._curves.get(family), self._envelopes.get(family, PeakEnvelope())
            if isinstance(family, str) and ((curve and curve.n) or peaks.n):
                seconds = curve.as_dict() if curve and curve.has_opinion else None
                row = {"seconds": seconds, "bytes": peaks.as_dict(), "machine": self._machine}
                families[family] = row
        return {"version": CALIBRATION_VERSION, "families": families}

    def recall(self, calibration: Mapping[str, Any] | None, *, machine: str | None = None) -> None:
        """Start from what an earlier run learnt; what does not read as that is left out.

        Parameters
        ----------
        calibration : mapping, optional
            :meth:`as_dict` of that run.
        machine : str, optional
            This machine, if that was not said before.
        """
        self._machine = self._machine if machine is None else machine
        if not isinstance(calibration, Mapping):
            return
        families = calibration.get("families")
        if calibration.get("version") != CALIBRATION_VERSION or not isinstance(families, Mapping):
            return
        for family, known in families.items():
            try:
                doubt = SINCE_THEN if known["machine"] == self._machine else OTHER_MACHINE
                seconds = known["seconds"]
                curve = None if seconds is None else TimeCurve(seconds, doubt=doubt)
                envelope = PeakEnvelope(known["bytes"])
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
                continue  # LinAlgError is a ValueError
            self._envelopes[family] = envelope
            if curve is not None:
                self._curves[family] = curve
            self._recalled[family] = known


def _by_family(classes: Sequence[TaskClass]) -> Iterator[tuple[Hashable, NDArray[np.intp]]]:
    """Yield each family with the places of its classes."""
    numbers: dict[Hashable, int] = {}
    family_of = np.array([numbers.setdefault(each.family, len(numbers)) for each in classes])
    for family, number in numbers.items():
        yield family, np.flatnonzero(family_of == number)


def with_threads(family: str, n_threads: int) -> str:
    """Name a family's tasks on so many threads."""
    return family if n_threads <= 1 else f"{family}{_THREADS}{n_threads}"


def _without_threads(family: str) -> str:
    stem, _, n_threads = family.rpartition(_THREADS)
    return stem if n_threads.isdigit() and stem else family


class _ErrorHistogram:
    """Counts of relative errors in bins that grow by 5 %: a median in constant memory."""

    _LOWEST, _STEP, _N = 1e-4, math.log(1.05), 400

    def __init__(self) -> None:
        self._counts = np.zeros(self._N, dtype=np.int64)

    def add(self, measured: NDArray[np.float64], predicted: float) -> None:
        errors = np.abs(predicted - measured) / measured
        bins = np.log(np.maximum(errors / self._LOWEST, 1.0)) / self._STEP
        for place in bins.astype(np.int64).tolist() if len(bins) < 8 else ():
            self._counts[min(place, self._N - 1)] += 1
        if len(bins) >= 8:
            np.add.at(self._counts, np.minimum(bins.astype(np.int64), self._N - 1), 1)

    @property
    def median(self) -> float:
        total = int(self._counts.sum())
        if not total:
            return math.nan
        index = int(np.searchsorted(np.cumsum(self._counts), (total + 1) / 2))
        return self._LOWEST * math.exp((index + 0.5) * self._STEP)
