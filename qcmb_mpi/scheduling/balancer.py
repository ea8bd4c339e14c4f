"""Load balancers: costs estimated, tasks dealt out, and estimates that learn from what has run.

Rules of this file
------------------
1. Faces on the cost model: a run of ours needs none of this, its scheduler learns by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcmb_mpi.scheduling.cost import CostEstimate, CostModel
from qcmb_mpi.scheduling.scaling import TaskSize


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
        sizes = (n_atoms, None, n_electrons, n_ghost_atoms)
        size = TaskSize(n_basis_functions, method, driver, *sizes)
        prior = self.model.predict(size)
        return self.model.estimate(
            size, prior.cost_s, memory_bytes=prior.memory_bytes, family=_family(size)
        )

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


class DynamicLoadBalancer(LoadBalancer):
    """Estimates that measured times correct.

    With ``busy_s`` of :meth:`distribute_work` what has not started is dealt out again while the
    workers are at work.

    Parameters
    ----------
    model : CostModel, optional
        Shares what it has learnt.
    calibration : mapping, optional
        :attr:`calibration` of an earlier one.

    Examples
    --------
    >>> balancer = DynamicLoadBalancer()
    >>> balancer.observe(2.0, 26, "mp2", n_electrons=20)
    >>> balancer.estimate_cost(26, "mp2", n_electrons=20).cost_s
    2.0
    """

    def __init__(
        self, model: CostModel | None = None, *, calibration: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(model)
        self.model.recall(calibration)

    @property
    def calibration(self) -> dict[str, Any]:
        """What was learnt, in plain data, for another one to start from."""
        return self.model.as_dict()

    def observe(
        self,
        seconds: float,
        n_basis_functions: int,
        method: str = "hf",
        driver: str = "energy",
        *,
        n_atoms: int = 0,
        n_electrons: int = 0,
        n_ghost_atoms: int = 0,
        peak_bytes: int = 0,
    ) -> None:
        """Learn from a task that has ended.

        Parameters
        ----------
        seconds : float
            Its wall time.
        n_basis_functions, method, driver, n_atoms, n_electrons, n_ghost_atoms
            As for :meth:`estimate_cost`.
        peak_bytes : int, optional
            Its peak resident memory; 0 when that is not known.

        Raises
        ------
        ValueError
            The time is not positive.
        """
        if not seconds > 0:
            raise ValueError(f"seconds must be more than 0, got {seconds}")
        sizes = (n_atoms, None, n_electrons, n_ghost_atoms)
        size = TaskSize(n_basis_functions, method, driver, *sizes)
        prior = self.model.predict(size)
        self.model.observe(
            size,
            [seconds],
            prior_s=prior.cost_s,
            family=_family(size),
            peak_bytes=[peak_bytes],
            prior_bytes=prior.memory_bytes,
        )


def _family(size: TaskSize) -> str:
    return f"{size.method.lower()}/{size.driver}"
