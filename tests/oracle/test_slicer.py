"""Slices of the parent equal the molecules that stock QCManyBody builds."""

from __future__ import annotations

import numpy as np
import pytest
from qcelemental.models.v2 import Molecule
from qcmanybody import ManyBodyCore, delabeler

from qcmb_mpi.execution.slicer import Slicer
from qcmb_mpi.schema import system_from_molecule

ATTRIBUTES = (
    "symbols", "geometry", "masses", "mass_numbers", "atomic_numbers", "real", "atom_labels",
    "fragment_charges", "fragment_multiplicities", "molecular_charge", "molecular_multiplicity",
    "fix_com", "fix_orientation", "fix_symmetry", "name",
)  # fmt: skip


def parent(**more: object) -> Molecule:
    """Return waters, isotopes among them, a cation, an anion and two radicals."""
    symbols = ["O", "H", "H"] * 3 + ["Na", "F", "O", "H", "Ne", "Li"]
    rng = np.random.default_rng(7)
    return Molecule(
        symbols=symbols,
        geometry=rng.uniform(-12, 12, (len(symbols), 3)),
        fragments=[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9], [10], [11, 12], [13], [14]],
        fragment_charges=[0, 0, 0, 1, -1, 0, 0, 0],
        fragment_multiplicities=[1, 1, 1, 1, 1, 2, 1, 2],
        mass_numbers=[16, 2, 1, 18, 1, 1, 16, 1, 1, 23, 19, 16, 1, 20, 7],
        **more,
    )


@pytest.mark.parametrize("more", [{}, {"fix_symmetry": "c1"}, {"name": "a cluster"}])
def test_slices_equal_stock_molecules(more: dict[str, object]) -> None:
    molecule = parent(**more)
    slicer = Slicer(system_from_molecule(molecule))
    core = ManyBodyCore(
        molecule,
        ["nocp", "cp", "vmfc"],
        {1: "a", 2: "a"},
        return_total_data=True,
        supersystem_ie_only=False,
        embedding_charges=None,
    )
    n_compared = 0
    for _, label, expected in core.iterate_molecules():
        _, real, basis = delabeler(label)
        found = slicer.molecule(tuple(real), tuple(basis))
        for name in ATTRIBUTES:
            a, b = getattr(found, name), getattr(expected, name)
            if name == "name":
                a, b = sorted(a), sorted(b)  # stock lists ghosts in the order of a set
            assert np.array_equal(a, b), (label, name)
        assert all(map(np.array_equal, found.fragments, expected.fragments))
        dumps = [molecule.model_dump() for molecule in (found, expected)]
        assert dumps[0].keys() == dumps[1].keys(), label
        assert dumps[0]["provenance"] == dumps[1]["provenance"]
        assert found.to_string("psi4") == expected.to_string("psi4")
        assert found.get_hash() == expected.get_hash()
        n_compared += 1
    assert n_compared > 100


def test_embedding_charges_follow_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCMANYBODY_EMBEDDING_CHARGES", "1")
    molecule = parent()
    charges = {f: [0.1 * f] * len(atoms) for f, atoms in enumerate(molecule.fragments, 1)}
    slicer = Slicer(system_from_molecule(molecule, embedding_charges=charges))
    core = ManyBodyCore(
        molecule,
        ["nocp"],
        {1: "a", 2: "a"},
        return_total_data=True,
        supersystem_ie_only=False,
        embedding_charges=charges,
    )
    for _, label, expected in core.iterate_molecules():
        _, real, basis = delabeler(label)
        found = slicer.molecule(tuple(real), tuple(basis))
        assert found.extras["embedding_charges"] == expected.extras["embedding_charges"], label
