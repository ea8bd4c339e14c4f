"""Atoms of a geometry file in any order: the same energy, and arrays in the order of the file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qcmanybody.models.v2 import ManyBodyResult

from qcmb_mpi import schema
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import TaskSpace
from tests.edge.test_schema_result import Components, MemoryStore

ATOMS = (
    *("O 0 0 0.117", "H 0 0.757 -0.467", "H 0 -0.757 -0.467"),
    *("F 3 0.1 0.2", "H 3.3 0.2 1.1"),
    "Na+ -2.4 0 0.6",
)
TIDY = range(len(ATOMS))
OPTIONS = schema.InputOptions(
    program="closedform", method="x", driver="hessian", bsse="cp,nocp", max_nbody=2
)


def computed(folder: Path, order: Sequence[int]) -> tuple[schema.LoadedInput, Any]:
    """Read the atoms in this order from a file, and compute them."""
    path = folder / "cluster.xyz"
    path.write_text("\n".join([str(len(order)), "", *(ATOMS[atom] for atom in order)]))
    loaded = schema.read_input(str(path), options=OPTIONS)
    space = TaskSpace(loaded.expansion)
    values = Components(loaded, space)
    return loaded, schema.build_result(loaded, space, assemble(space, values), values, [])


@cache
def tidy() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return computed(Path(folder), TIDY)[1]


def numbers_of(result: Any) -> dict[str, Any]:
    named = {**result.properties.model_dump(), "return_result": result.return_result}
    return {name: value for name, value in named.items() if not isinstance(value, str)}


def as_in_file(array: Any, order: Sequence[int]) -> np.ndarray:
    """Return a gradient or Hessian of the tidy file for a file with its atoms in this order."""
    rows = np.arange(3 * len(order)).reshape(-1, 3)[list(order)].ravel()
    flat = np.asarray(array).reshape(len(rows), -1)
    moved = flat[rows] if flat.shape[1] == 1 else flat[np.ix_(rows, rows)]
    return moved.reshape(np.shape(array))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(TIDY))
def test_any_order_of_atoms_gives_the_same_energy_and_the_arrays_in_that_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    loaded, result = computed(folder, order)
    expected, found = numbers_of(tidy()), numbers_of(result)
    assert {"return_result", "return_gradient", "cp_corrected_total_energy"} <= set(found)
    for name, value in found.items():
        wanted = as_in_file(expected[name], order) if np.ndim(value) else expected[name]
        np.testing.assert_allclose(value, wanted, rtol=1e-11, atol=1e-11, err_msg=name)
    assert [str(symbol) for symbol in result.molecule.symbols] == [
        ATOMS[atom].split()[0].removesuffix("+") for atom in order
    ]
    path = folder / "cluster.result.json"
    schema.write_result(result, path)
    assert schema.verify(path, MemoryStore(loaded)).is_ok


def test_a_result_of_interleaved_fragments_is_read_back_and_says_which_they_are(
    tmp_path: Path,
) -> None:
    loaded, result = computed(tmp_path, (3, 0, 5, 1, 4, 2))
    path = tmp_path / "cluster.result.json"
    schema.write_result(result, path)
    again = ManyBodyResult(**json.loads(path.read_text()))
    assert [atoms.tolist() for atoms in again.molecule.fragments] == [[0, 4], [1, 3, 5], [2]]
    assert again.molecule.fragment_charges == [0.0, 0.0, 1.0]
    assert [atoms.tolist() for atoms in again.input_data.molecule.fragments] == [
        [0, 1],
        [2, 3, 4],
        [5],
    ]
    water = again.molecule.geometry[again.molecule.fragments[1]]
    np.testing.assert_array_equal(water, tidy().molecule.geometry[[0, 1, 2]])
    gradient = again.cluster_properties['["(auto)", [1], [1]]'].return_gradient
    assert np.abs(gradient).max(axis=1).astype(bool).tolist() == [True, *[False] * 3, True, False]
    assert loaded.permutation == (0, 4, 1, 3, 5, 2)


def test_a_file_in_order_gives_the_molecule_of_its_input() -> None:
    assert tidy().molecule == tidy().input_data.molecule
