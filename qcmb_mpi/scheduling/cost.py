"""How long a task takes and how much memory it needs: predicted, then learnt.

Rules of this file
------------------
1. Predictions need plain numbers only (basis functions, method, driver); no program is asked.
2. Absolute numbers are rough, a factor of several either way; ratios between sizes of one method
   are what order and placement live on. Measured times replace them class by class.
3. Learning is deterministic: the same observations in the same order give the same estimates.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Scaling:
    """Cost of an energy as a function of the number of basis functions N.

    ``seconds = offset_s + at_100_s (N/100)^exponent`` on one core, and
    ``bytes = base_bytes + at_100_bytes (N/100)^memory_exponent``.

    Parameters
    ----------
    exponent, at_100_s, offset_s : float
    memory_exponent, at_100_bytes, base_bytes : float
        ``base_bytes`` is the warm slot itself.
    """

    exponent: float
    at_100_s: float
    offset_s: float
    memory_exponent: float
    at_100_bytes: float
    base_bytes: float = 150e6


@dataclass(frozen=True, slots=True)
class TaskSize:
    """What a prediction is made from.

    Parameters
    ----------
    n_basis_functions : int
        Those of ghost atoms included: that is why a cp monomer is not small.
    method : str
        As in a QCSchema model.
    driver : str
        ``energy``, ``gradient`` or ``hessian``.
    n_atoms : int
        Atoms that are displaced (real ones); 0 when unknown.
    scaling : Scaling, optional
        A program's own; default by the family of the method.
    """

    n_basis_functions: int
    method: str = "hf"
    driver: str = "energy"
    n_atoms: int = 0
    scaling: Scaling | None = None


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


# Exponents are those of the algorithms' dominant steps (Helgaker, Jørgensen, Olsen: Molecular
# Electronic-Structure Theory, 2000); below a few hundred functions integral screening and
# overheads make SCF and MP2 milder than their N^4 and N^5. Prefactors: one 2.5 GHz core. Bytes are
# what a program cannot do without (it keeps the rest on disk or recomputes it), because a task that
# is predicted not to fit is refused.
FAMILIES: dict[str, Scaling] = {
    "dispersion": Scaling(2.0, 0.002, 0.002, 1.0, 1e6),
    "semiempirical": Scaling(2.5, 0.05, 0.003, 2.0, 2e6),
    "scf": Scaling(3.0, 1.5, 0.05, 2.0, 20e6),
    "mp2": Scaling(4.0, 2.5, 0.1, 3.0, 15e6),
    "ccsd": Scaling(6.0, 60.0, 0.3, 4.0, 100e6),
    "ccsd(t)": Scaling(7.0, 150.0, 0.3, 4.0, 100e6),
}
_FAMILY_WORDS: tuple[tuple[str, str], ...] = (
    ("ccsd(t)", "ccsd(t)"),
    ("ccsdt", "ccsd(t)"),
    ("cc", "ccsd"),
    ("ci", "ccsd"),
    ("mp2", "mp2"),
    ("mp3", "ccsd"),
    ("mp4", "ccsd(t)"),
    ("gfn", "semiempirical"),
    ("pm", "semiempirical"),
    ("am1", "semiempirical"),
    ("mndo", "semiempirical"),
    ("xtb", "semiempirical"),
    ("d3", "dispersion"),
    ("d4", "dispersion"),
)
_DOUBLE_HYBRIDS = ("b2plyp", "dsd-", "pwpb95", "xyg3")
_GRADIENT_FACTOR = 2.5
_HESSIAN_PER_ATOM = 3.0


def family_of(method: str) -> str:
    """Return the key in ``FAMILIES`` that a method's cost behaves like; SCF when unknown."""
    name = method.lower()
    if name.startswith(_DOUBLE_HYBRIDS):
        return "mp2"
    for word, family in _FAMILY_WORDS:
        if name.startswith(word) or (family not in ("dispersion", "ccsd") and word in name):
            return family
    return "scf"


def driver_factor(driver: str, n_atoms: int = 0) -> float:
    """Return how many energies a task of this driver costs.

    A gradient costs about 2.5; a Hessian about three energies per atom, as coupled-perturbed
    equations for, or differences of gradients along, each of 3 ``n_atoms`` displacements.
    """
    if driver == "gradient":
        return _GRADIENT_FACTOR
    if driver == "hessian":
        return max(_GRADIENT_FACTOR * 2, _HESSIAN_PER_ATOM * max(1, n_atoms))
    return 1.0


class CostModel:
    """Predicts tasks, and corrects itself class by class as times come in.

    Parameters
    ----------
    prior_relative_error : float
        Error claimed for what was never measured.
    """

    def __init__(self, *, prior_relative_error: float = 3.0) -> None:
        self._prior_error = prior_relative_error
        self._classes: dict[Hashable, _LogStatistics] = {}
        self._families: dict[Hashable, _LogStatistics] = {}
        self._errors = _ErrorHistogram()
        self.n_observed = 0

    def predict(self, size: TaskSize) -> CostEstimate:
        """Predict a task from its size alone, without what was learnt."""
        scaling = size.scaling or FAMILIES[family_of(size.method)]
        ratio = max(1, size.n_basis_functions) / 100
        work_s = scaling.at_100_s * ratio**scaling.exponent
        seconds = (scaling.offset_s + work_s) * driver_factor(size.driver, size.n_atoms)
        memory = scaling.base_bytes + scaling.at_100_bytes * ratio**scaling.memory_exponent
        return CostEstimate(seconds, int(memory), self._prior_error)

    def observe(
        self, key: Hashable, seconds: ArrayLike, *, prior_s: float, family: Hashable = None
    ) -> None:
        """Learn from measured times.

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
        """
        times = np.maximum(np.asarray(seconds, dtype=np.float64).reshape(-1), _TINY_S)
        if not len(times):
            return
        logs = np.log(times / max(prior_s, _TINY_S))
        self._errors.add(times, self.cost_s(key, prior_s, family=family))
        mean = float(logs.sum()) / len(logs)
        squares = float(((logs - mean) ** 2).sum()) if len(logs) > 1 else 0.0
        for group, name in ((self._classes, key), (self._families, family)):
            if name not in group:
                group[name] = _LogStatistics()
            group[name].add(len(logs), mean, squares)
        self.n_observed += len(times)

    def n_seen(self, key: Hashable) -> int:
        """Return how many tasks of a class were measured."""
        own = self._classes.get(key)
        return 0 if own is None else own.n

    def is_family_calibrated(self, family: Hashable) -> bool:
        """Tell whether any class of a family was ever measured."""
        return family in self._families

    def cost_s(self, key: Hashable, prior_s: float, *, family: Hashable = None) -> float:
        """Return the expected seconds of a task of a class, by all that is known."""
        return max(prior_s, _TINY_S) * self._factor(key, family)

    def estimate(
        self, key: Hashable, prior_s: float, *, memory_bytes: int = 0, family: Hashable = None
    ) -> CostEstimate:
        """Return :meth:`cost_s` with the error to be expected."""
        own = self._classes.get(key)
        error = self._prior_error
        if own is not None:
            error = own.spread + self._prior_error / (1 + own.n**2)
        elif family in self._families:
            error = min(error, self._families[family].spread + 0.3)
        return CostEstimate(self.cost_s(key, prior_s, family=family), memory_bytes, error)

    @property
    def median_relative_error(self) -> float:
        """Median of ``|predicted - measured| / measured``, each predicted before it was measured.

        To about 5 %; nan when nothing was measured.
        """
        return self._errors.median

    def _factor(self, key: Hashable, family: Hashable) -> float:
        own, kin = self._classes.get(key), self._families.get(family)
        if own is None:
            return 1.0 if kin is None else math.exp(kin.mean)
        return math.exp(own.mean + 0.5 * min(own.variance, 1.0))


_TINY_S = 1e-7


class _LogStatistics:
    """Running mean and variance of logarithms: one slow first task does not spoil them."""

    __slots__ = ("_m2", "mean", "n")

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self._m2 = 0.0

    def add(self, m: int, mean: float, squares: float) -> None:
        """Merge a batch: its size, mean and sum of squares about it (Chan et al. 1979)."""
        delta = mean - self.mean
        total = self.n + m
        self._m2 += squares + delta**2 * self.n * m / total
        self.mean += delta * m / total
        self.n = total

    @property
    def variance(self) -> float:
        return self._m2 / self.n

    @property
    def spread(self) -> float:
        """Typical relative deviation of one task from the class."""
        return math.expm1(math.sqrt(self.variance))


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
    ) -> CostEstimate:
        """Predict seconds and bytes of one task.

        Parameters
        ----------
        n_basis_functions : int
            Ghosts included.
        method, driver : str
            As in QCSchema.
        n_atoms : int
            Matters for Hessians only.

        Returns
        -------
        CostEstimate
        """
        return self.model.predict(TaskSize(n_basis_functions, method, driver, n_atoms))

    def distribute_work(
        self, costs: Sequence[float] | Iterable[CostEstimate], n_workers: int
    ) -> Distribution:
        """Deal tasks to workers: always the longest one left to the least loaded worker.

        Parameters
        ----------
        costs : sequence of float or of CostEstimate
            Predicted seconds.
        n_workers : int

        Returns
        -------
        Distribution
            Its makespan is at most 4/3 - 1/(3 n_workers) of the best (Graham 1969).

        Raises
        ------
        ValueError
            No workers.
        """
        if n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, got {n_workers}")
        seconds = [c.cost_s if isinstance(c, CostEstimate) else float(c) for c in costs]
        loads = [(0.0, worker) for worker in range(n_workers)]
        lists: list[list[int]] = [[] for _ in range(n_workers)]
        for index in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
            load, worker = loads[0]
            heapq.heapreplace(loads, (load + seconds[index], worker))
            lists[worker].append(index)
        by_worker = sorted(loads, key=lambda item: item[1])
        return Distribution(tuple(map(tuple, lists)), tuple(load for load, _ in by_worker))
