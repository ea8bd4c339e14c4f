"""A load balancer that learns from the tasks it has seen.

Rules of this file
------------------
1. A face on the cost model: a run of ours needs none of this, its scheduler learns by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcmb_mpi.scheduling.cost import CostEstimate, CostModel, LoadBalancer
from qcmb_mpi.scheduling.scaling import TaskSize


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
        size = TaskSize(
            *(n_basis_functions, method, driver, n_atoms),
            n_electrons=n_electrons,
            n_ghost_atoms=n_ghost_atoms,
        )
        prior = self.model.predict(size)
        self.model.observe(
            size,
            [seconds],
            prior_s=prior.cost_s,
            family=_family(size),
            peak_bytes=[peak_bytes],
            prior_bytes=prior.memory_bytes,
        )

    def _estimate(self, size: TaskSize) -> CostEstimate:
        prior = self.model.predict(size)
        return self.model.estimate(
            size, prior.cost_s, memory_bytes=prior.memory_bytes, family=_family(size)
        )


def _family(size: TaskSize) -> str:
    return f"{size.method.lower()}/{size.driver}"
