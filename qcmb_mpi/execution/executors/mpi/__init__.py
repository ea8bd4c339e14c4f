"""MPI: an agent on every rank, the scheduler on rank 0; any other rank may be lost.

Rules of this package
---------------------
1. The only place that imports mpi4py.
2. No collective once the run is under way, and no MPI_Finalize after a loss: both may hang.
3. Never spin: a rank sleeps on its slots' pipes and looks for messages between, in an
   interval that grows while nothing happens. Lookahead hides the interval.
4. A rank with a bug aborts the job instead of leaving the others waiting.
"""

from __future__ import annotations

from qcmb_mpi.execution.executors.mpi.executor import MPIExecutor

__all__ = ["MPIExecutor"]
