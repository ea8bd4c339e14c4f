"""How long a task takes and how much memory it needs: predicted, then learnt.

Rules of this file
------------------
1. Before anything is measured the formulas of scaling.py hold; measured times replace them class
   by class, and correct the rest of a family by calibration.py.
2. Learning is deterministic: the same observations in the same order give the same estimates.
3. What is kept for another run is of families, never of molecules.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.scheduling.calibration import LogStatistics, PeakEnvelope, TimeCurve, peak_of
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

__all__ = [
    "FAMILIES",
    "CostEstimate",
    "CostModel",
    "Distribution",
    "LoadBalancer",
    "Scaling",
    "TaskSize",
    "Term",
    "certain_bytes",
    "driver_factor",
    "family_of",
]

CALIBRATION_VERSION = 1
_TINY_S = 1e-7


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
        What times depend on besides the task: processor and threads. A calibration of another
        machine is doubted in seconds, not in how they grow.
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
        curve = self._curves.setdefault(family, TimeCurve())
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
            if prior_bytes > 0:
                envelope = self._envelopes.setdefault(family, PeakEnvelope())
                envelope.note(prior_bytes, own.peak_bytes)

    def n_seen(self, key: Hashable) -> int:
        """Return how many tasks of a class were measured."""
        own = self._classes.get(key)
        return 0 if own is None else own.n

    def is_family_calibrated(self, family: Hashable) -> bool:
        """Tell whether any class of a family was ever measured on such a machine."""
        curve = self._curves.get(family)
        return curve is not None and curve.is_calibrated

    def n_known(self, family: Hashable) -> int:
        """Return how many tasks, of this run and of earlier ones, calibrate a family."""
        curve = self._curves.get(family)
        return 0 if curve is None else curve.n + curve.n_before

    def cost_s(self, key: Hashable, prior_s: float, *, family: Hashable = None) -> float:
        """Return the expected seconds of a task of a class, by all that is known."""
        prior_s = max(prior_s, _TINY_S)
        own, curve = self._classes.get(key), self._curves.get(family)
        if own is not None:
            return prior_s * math.exp(own.mean + 0.5 * min(own.variance, 1.0))
        if curve is None or not curve.has_opinion:
            return prior_s
        return curve.seconds(prior_s)

    def memory_bytes(self, key: Hashable, prior_bytes: int, *, family: Hashable = None) -> int:
        """Return the bytes to count on for a class; 0, which is unknown, stays 0."""
        if not prior_bytes:
            return 0
        return peak_of(self._classes.get(key), self._envelopes.get(family), prior_bytes)

    def estimate(
        self, key: Hashable, prior_s: float, *, memory_bytes: int = 0, family: Hashable = None
    ) -> CostEstimate:
        """Return :meth:`cost_s` and :meth:`memory_bytes` with the error to be expected."""
        own, curve = self._classes.get(key), self._curves.get(family)
        error = self._prior_error
        if own is not None:
            error = own.spread + self._prior_error / (1 + own.n**2)
        elif curve is not None and curve.is_calibrated:
            error = min(error, curve.relative_error(prior_s))
        cost_s = self.cost_s(key, prior_s, family=family)
        return CostEstimate(cost_s, self.memory_bytes(key, memory_bytes, family=family), error)

    @property
    def median_relative_error(self) -> float:
        """Median of ``|predicted - measured| / measured``, each predicted before it was measured.

        To about 5 %; nan when nothing was measured.
        """
        return self._errors.median

    # ---------------------------------------------------------- from run to run

    def as_dict(self) -> dict[str, Any]:
        """Return what was learnt of families that have a name (str), for JSON."""
        families = dict(self._recalled)
        for family, curve in self._curves.items():
            if isinstance(family, str) and curve.n:
                peaks = self._envelopes.get(family, PeakEnvelope())
                seconds, machine = curve.as_dict(), self._machine
                row = {"seconds": seconds, "bytes": peaks.as_dict(), "machine": machine}
                families[family] = row
        return {"version": CALIBRATION_VERSION, "families": families}

    def recall(self, calibration: Mapping[str, Any] | None, *, machine: str = "") -> None:
        """Start from what an earlier run learnt; what does not read as that is left out.

        Parameters
        ----------
        calibration : mapping, optional
            :meth:`as_dict` of that run.
        machine : str
            This machine.
        """
        self._machine = machine
        if not isinstance(calibration, Mapping):
            return
        families = calibration.get("families")
        if calibration.get("version") != CALIBRATION_VERSION or not isinstance(families, Mapping):
            return
        for family, known in families.items():
            try:
                is_same = known["machine"] == machine
                curve = TimeCurve(known["seconds"], is_same_machine=is_same)
                envelope = PeakEnvelope(known["bytes"])
            except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
                continue
            self._curves[family], self._envelopes[family] = curve, envelope
            self._recalled[family] = known


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


@dataclass(frozen=True, slots=True)
class Distribution:
    """Tasks dealt out to workers.

    Parameters
    ----------
    assignments : tuple of tuple of int
        Indices into the costs, per worker, longest first.
    loads_s : tuple of float
        Predicted seconds per worker.
    """

    assignments: tuple[tuple[int, ...], ...]
    loads_s: tuple[float, ...]

    @property
    def makespan_s(self) -> float:
        """Predicted seconds until the last worker ends."""
        return max(self.loads_s)

    @property
    def efficiency(self) -> float:
        """Mean load over the largest one; 1 when there is nothing to do."""
        top = self.makespan_s
        return sum(self.loads_s) / (len(self.loads_s) * top) if top > 0 else 1.0


class LoadBalancer:
    """Estimate costs and deal tasks out, longest processing time first.

    Parameters
    ----------
    model : CostModel, optional
        Shares what it has learnt.
    """

    def __init__(self, model: CostModel | None = None) -> None:
        self.model = model or CostModel()

    def estimate_cost(
        self,
        n_basis_functions: int,
        method: str = "hf",
        driver: str = "energy",
        *,
        n_atoms: int = 0,
        n_electrons: int = 0,
        n_ghost_atoms: int = 0,
    ) -> CostEstimate:
        """Predict seconds and bytes of one task.

        Parameters
        ----------
        n_basis_functions : int
            Ghosts included.
        method, driver : str
            As in QCSchema.
        n_atoms, n_electrons : int
            Of the real atoms; 0 when unknown.
        n_ghost_atoms : int

        Returns
        -------
        CostEstimate
        """
        size = TaskSize(
            *(n_basis_functions, method, driver, n_atoms),
            n_electrons=n_electrons,
            n_ghost_atoms=n_ghost_atoms,
        )
        return self._estimate(size)

    def _estimate(self, size: TaskSize) -> CostEstimate:
        return self.model.predict(size)

    def distribute_work(
        self,
        costs: Sequence[float] | Iterable[CostEstimate],
        n_workers: int,
        *,
        busy_s: Sequence[float] = (),
    ) -> Distribution:
        """Deal tasks to workers: always the longest one left to the least loaded worker.

        Parameters
        ----------
        costs : sequence of float or of CostEstimate
            Predicted seconds.
        n_workers : int
        busy_s : sequence of float, optional
            Seconds for which each worker has work already; they are part of its load.

        Returns
        -------
        Distribution
            Without `busy_s` its makespan is at most 4/3 - 1/(3 n_workers) of the best (Graham
            1969).

        Raises
        ------
        ValueError
            No workers, or not as many of `busy_s` as workers.
        """
        if n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, got {n_workers}")
        if busy_s and len(busy_s) != n_workers:
            raise ValueError(f"busy_s has {len(busy_s)} numbers for {n_workers} workers")
        seconds = [c.cost_s if isinstance(c, CostEstimate) else float(c) for c in costs]
        loads = [(float(busy), worker) for worker, busy in enumerate(busy_s or [0.0] * n_workers)]
        heapq.heapify(loads)
        lists: list[list[int]] = [[] for _ in range(n_workers)]
        for index in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
            load, worker = loads[0]
            heapq.heapreplace(loads, (load + seconds[index], worker))
            lists[worker].append(index)
        by_worker = sorted(loads, key=lambda item: item[1])
        return Distribution(tuple(map(tuple, lists)), tuple(load for load, _ in by_worker))
