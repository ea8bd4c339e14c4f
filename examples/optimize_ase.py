"""Optimise a water dimer with counterpoise correction by ASE, then let it move.

    python examples/optimize_ase.py
    mpiexec -n 4 python examples/optimize_ase.py

Needs ``pip install 'qcmb_mpi[ase]'``.
"""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from qcmb_mpi.ase import ManyBodyCalculator
from qcmb_mpi.warm import warm_executor

WATERS = Path(__file__).resolve().parents[1] / "geometries" / "water-2.xyz"


def simulate() -> tuple[float, float]:
    """Return the energy of the minimum, and by how much the total one drifts, both in eV."""
    atoms = ase.io.read(WATERS)
    ManyBodyCalculator.of(atoms, method="hf", basis="6-31g", bsse="cp", max_nbody=2)
    BFGS(atoms, logfile="-").run(fmax=0.2)
    minimum = atoms.get_potential_energy()
    atoms.rattle(0.02, seed=1)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    before = atoms.get_total_energy()
    dynamics.run(6)
    return minimum, atoms.get_total_energy() - before


# Under MPI rank 0 simulates while the other ranks compute; all get what it returns.
executor = warm_executor()
minimum, drift = executor.share(simulate)
if executor.is_master:
    print(f"minimum {minimum:.4f} eV; 3 fs of dynamics change the total energy by {drift:.4f} eV")
