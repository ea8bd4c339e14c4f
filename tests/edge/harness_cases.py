"""Molecules and calls shared by the tests of the harnesses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput, Molecule
from qcengine.config import get_config
from qcengine.exceptions import InputError
from qcengine.programs.base import programs
from threadpoolctl import threadpool_limits

from qcmb_mpi.programs import register

register()

WATER = (("O", "H", "H"), ((0.0, 0.0, 0.0), (0.0, 0.1, 1.8), (1.7, 0.0, -0.5)))
HELIUM = (("He",), ((0.0, 0.0, 0.0),))
HYDROGEN = (("H", "H"), ((0.0, 0.0, 0.0), (0.1, 0.2, 1.4)))
AMIDOGEN = (("N", "H", "H"), ((0.0, 0.0, 0.0), (0.0, 0.1, 1.9), (1.85, 0.3, -0.5)))
LITHIUM_HYDRIDE = (("Li", "H"), ((0.0, 0.0, 0.0), (0.2, 0.1, 3.0)))
WATER_GHOST = ((*WATER[0], "He"), (*WATER[1], (-1.5, 1.2, -2.0)))


def one_thread() -> Iterator[None]:
    """Let bare programs run on one thread: more wait for each other where cores are taken."""
    with threadpool_limits(1):
        yield


def atomic_input(
    atoms: Any,
    method: str,
    basis: str | None = "sto-3g",
    *,
    driver: str = "energy",
    keywords: dict[str, Any] | None = None,
    n_ghosts: int = 0,
    charge: float = 0,
    multiplicity: int = 1,
    protocols: dict[str, Any] | None = None,
) -> AtomicInput:
    """Build an input, nothing checked or rounded; the last `n_ghosts` atoms are ghosts."""
    symbols, geometry = atoms
    n_atoms = len(symbols)
    molecule = Molecule(
        symbols=list(symbols),
        geometry=np.array(geometry, dtype=float),
        real=np.arange(n_atoms) < n_atoms - n_ghosts,
        molecular_charge=charge,
        molecular_multiplicity=multiplicity,
        fix_com=True,
        fix_orientation=True,
        validate=False,
    )
    return AtomicInput(
        molecule=molecule,
        specification={
            "driver": driver,
            "model": {"method": method, "basis": basis},
            "keywords": keywords or {},
            "protocols": protocols or {},
        },
    )


def compute(program: str, *args: Any, n_threads: int = 1, **kwargs: Any) -> Any:
    """Run through QCEngine and return the result or the failure."""
    config = {"ncores": n_threads, "memory": 2.0}
    return qcengine.compute(atomic_input(*args, **kwargs), program, task_config=config)


def succeed(program: str, *args: Any, **kwargs: Any) -> Any:
    """Run and insist on success."""
    result = compute(program, *args, **kwargs)
    assert result.success, result.error.error_message
    return result


def refusal(program: str, *args: Any, **kwargs: Any) -> str:
    """Return the text of the input error that the harness itself must end with.

    Without ``qcengine.compute``, which validates the molecule again when it reports a failure.
    """
    config = get_config(task_config={"ncores": 1, "memory": 2.0})
    with pytest.raises(InputError) as caught:
        programs[program].compute(atomic_input(*args, **kwargs), config)
    return str(caught.value)


def displaced(atoms: Any, atom: int, axis: int, step: float) -> Any:
    """Move one atom."""
    symbols, geometry = atoms
    moved = np.array(geometry, dtype=float)
    moved[atom, axis] += step
    return symbols, moved


def slope(function: Any, atoms: Any, atom: int, axis: int, step: float = 0.01) -> Any:
    """Return the derivative by a five-point difference."""
    values = [function(displaced(atoms, atom, axis, k * step)) for k in (1, -1, 2, -2)]
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
