"""The calculator for ASE: its numbers, its units, its atoms, and the paths ASE goes with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from qcmb_mpi import ExecutorConfig, InputError, ManyBodyPotential, MultiprocessingExecutor
from qcmb_mpi.ase import ManyBodyCalculator
from tests import stock
from tests.edge.task_cases import IMPORTS, many_body_input
from tests.flaky import FlakyHarness
from tests.stock import StockCalculator, gradient

WATER = Atoms("OH2", [[0.0, 0.0, 0.0], [0.7569, 0.5859, 0.0], [-0.7569, 0.5859, 0.0]])


@pytest.fixture(scope="module")
def pool() -> Iterator[MultiprocessingExecutor]:
    """One pool for all tests here."""
    assert FlakyHarness().found()
    with MultiprocessingExecutor(ExecutorConfig(n_workers=2, imports=IMPORTS)) as made:
        yield made


def start(document: dict[str, Any]) -> Atoms:
    """Return the atoms of an input."""
    molecule = document["molecule"]
    return Atoms(molecule["symbols"], np.reshape(molecule["geometry"], (-1, 3)) * units.Bohr)


def waters(n: int) -> Atoms:
    """Return waters behind each other."""
    found = Atoms()
    for index in range(n):
        one = WATER.copy()
        one.translate([0.3 * index, 0.2 * index, 2.9 * index])
        found += one
    return found


def test_energy_and_forces_are_in_electronvolt_and_angstrom(pool: MultiprocessingExecutor) -> None:
    document = many_body_input(4)
    atoms = start(document)
    atoms.calc = ManyBodyCalculator(document, pool)
    energy, slope = gradient(document, document["molecule"]["geometry"])
    assert atoms.get_potential_energy() == pytest.approx(energy * units.Hartree, abs=1e-9)
    assert atoms.calc.potential.end.result.input_data.specification.driver == "energy"
    expected = -slope * units.Hartree / units.Bohr
    np.testing.assert_allclose(atoms.get_forces(), expected, rtol=0, atol=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    step = 1e-3
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert (energies[1] - energies[0]) / (2 * step) == pytest.approx(expected[1, 2], rel=1e-4)


def test_dynamics_go_the_path_of_qcmanybody_and_keep_the_energy(
    pool: MultiprocessingExecutor,
) -> None:
    document = many_body_input(4)
    paths = []
    for calculator in (ManyBodyCalculator(document, pool), StockCalculator(document)):
        atoms = start(document)
        atoms.calc = calculator
        dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
        energies = [atoms.get_total_energy()]
        for _ in range(12):
            dynamics.run(1)
            energies.append(atoms.get_total_energy())
        assert np.ptp(energies) < 1e-3 * atoms.get_kinetic_energy()
        paths.append(atoms.get_positions())
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-9)


@pytest.mark.qc
def test_an_optimisation_finds_the_minimum_of_qcmanybody(pool: MultiprocessingExecutor) -> None:
    document = stock.waters(2, "tblite", "GFN2-xTB", None, "nocp")
    ends = []
    for calculator in (ManyBodyCalculator(document, pool), StockCalculator(document)):
        atoms = start(document)
        atoms.calc = calculator
        search = BFGS(atoms, logfile=None)
        assert search.run(fmax=0.05, steps=60)
        ends.append((search.nsteps, atoms.get_positions()))
    assert ends[0][0] == ends[1][0]
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=0, atol=1e-6)


def test_interleaved_atoms_get_their_own_forces(pool: MultiprocessingExecutor) -> None:
    options = {"program": "flaky", "method": "any", "basis": "any", "bsse": "cp"}
    atoms = waters(3)
    order = [0, 3, 6, 8, 5, 2, 1, 4, 7]
    mixed = atoms[order]
    ManyBodyCalculator.of(atoms, pool, **options)
    ManyBodyCalculator.of(mixed, pool, **options)
    assert mixed.calc.potential.symbols == tuple(mixed.get_chemical_symbols())
    np.testing.assert_allclose(mixed.get_forces(), atoms.get_forces()[order], rtol=0, atol=1e-9)
    assert mixed.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def ions() -> Atoms:
    """Return a hydroxide, a sodium ion and a water, with ASE's initial charges."""
    found = WATER[:2] + Atoms("Na", [[0.0, 0.0, 2.6]]) + waters(3)[6:]
    found.set_initial_charges([-0.7, -0.3, 1.0, 0.0, 0.0, 0.0])
    return found


def test_initial_charges_and_moments_are_those_of_the_fragments(
    pool: MultiprocessingExecutor,
) -> None:
    options = {"method": "hf", "basis": "sto-3g"}
    molecule = ManyBodyCalculator.of(ions(), pool, **options).potential._document["molecule"]
    assert molecule["fragment_charges"] == [-1.0, 1.0, 0.0]
    assert molecule["fragment_multiplicities"] == [1, 1, 1]
    radical = ions()
    radical.set_initial_charges([0, 0, 1, 0, 0, 0])
    radical.set_initial_magnetic_moments([0.9, 0.1, 0, 0, 0, 0])
    molecule = ManyBodyCalculator.of(radical, pool, **options).potential._document["molecule"]
    assert molecule["fragment_charges"] == [0.0, 1.0, 0.0]
    assert molecule["fragment_multiplicities"] == [2, 1, 1]
    told = ManyBodyCalculator.of(ions(), pool, charge="-1,1,0", **options)
    assert told.potential._document["molecule"]["fragment_charges"] == [-1.0, 1.0, 0.0]


def test_what_cannot_be_is_refused(pool: MultiprocessingExecutor) -> None:
    document = many_body_input(3)
    atoms = start(document)
    atoms.calc = ManyBodyCalculator(document, pool)
    atoms.pbc = True
    with pytest.raises(InputError, match=r"^atoms\.pbc"):
        atoms.get_potential_energy()
    other = Atoms("He2", [[0, 0, 0], [0, 0, 3]], calculator=atoms.calc)
    with pytest.raises(InputError, match=r"^atoms: are not those of the input"):
        other.get_potential_energy()
    with pytest.raises(InputError, match=r"^options: unknown: functional"):
        ManyBodyCalculator.of(waters(2), pool, functional="b3lyp")
    with pytest.raises(InputError, match=r"^--method: is missing"):
        ManyBodyCalculator.of(waters(2), pool)
    uneven = ions()
    uneven.set_initial_charges([0.5, 0, 1, 0, 0, 0])
    with pytest.raises(InputError, match=r"^atoms\.initial_charges"):
        ManyBodyCalculator.of(uneven, pool, method="hf", basis="sto-3g")


def test_a_copy_shares_the_pool(pool: MultiprocessingExecutor) -> None:
    potential = ManyBodyPotential(many_body_input(3), pool)
    assert copy.deepcopy(ManyBodyCalculator(potential)).potential is potential
