"""Optimise a water dimer with counterpoise correction by geomeTRIC.

    python examples/optimize_geometric.py
    mpiexec -n 4 python examples/optimize_geometric.py

Needs ``pip install 'qcmb_mpi[geometric]'``. What geomeTRIC writes goes to a folder of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import geometric.optimize

from qcmb_mpi import ManyBodyPotential
from qcmb_mpi.geometric import ManyBodyEngine
from qcmb_mpi.schema import InputOptions
from qcmb_mpi.warm import warm_executor

WATERS = Path(__file__).resolve().parents[1] / "geometries" / "water-2.xyz"


def optimise() -> tuple[int, float]:
    """Return the number of steps and the last energy in hartree."""
    options = InputOptions(method="hf", basis="6-31g", bsse="cp", max_nbody=2)
    engine = ManyBodyEngine(ManyBodyPotential(WATERS, options=options))
    with tempfile.TemporaryDirectory() as folder:
        path = geometric.optimize.run_optimizer(
            customengine=engine,
            input=f"{folder}/waters.xyz",
            prefix=f"{folder}/waters",
            convergence_set="GAU_LOOSE",  # enough for an example
        )
    return len(path.qm_energies) - 1, path.qm_energies[-1]


# Under MPI rank 0 optimises while the other ranks compute; all get what it returns.
executor = warm_executor()
steps, energy = executor.share(optimise)
if executor.is_master:
    print(f"{steps} steps, {energy:.6f} hartree")
