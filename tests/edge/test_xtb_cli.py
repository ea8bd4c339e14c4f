"""The executable xtb: the numbers of another program, what it is told, what its words become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation
from qcengine.exceptions import ConvergenceError, InputError, RandomError, UnknownError

from qcmb_mpi.programs import xtb_cli
from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import Atoms
from qcmb_mpi.programs.xtb_cli import coordinates, gradient, turned
from qcmb_mpi.programs.xtb_words import arguments
from tests.edge.harness_cases import AMIDOGEN, HELIUM, HYDROGEN, WATER, WATER_GHOST, atomic_input

URANYL = (("U", "O"), ((0.0, 0.0, 0.0), (0.0, 0.0, 3.3)))
METHODS = ("GFN2-xTB", "gfn1", "gfn0-xtb", "gfnff")


def compute(inp: AtomicInput, program: str = "xtb-cli", **config: Any) -> Any:
    return qcengine.compute(inp, program, task_config={"ncores": 1, "memory": 1.0} | config)


def asked(atoms: Any, method: str = "gfn2", **more: Any) -> AtomicInput:
    return atomic_input(atoms, method, None, **more)


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize(
    ("atoms", "charge", "multiplicity"),
    [(WATER, 0, 1), (WATER, 1, 2), (AMIDOGEN, 0, 2), (AMIDOGEN, -1, 1), (HYDROGEN, 0, 1)],
)
def test_numbers_are_those_of_another_program(
    method: str, atoms: Any, charge: int, multiplicity: int
) -> None:
    """As far as both converge by default."""
    inp = asked(atoms, method, driver="gradient", charge=charge, multiplicity=multiplicity)
    found, theirs = compute(inp), compute(inp, "tblite")
    assert found.properties.return_energy == pytest.approx(
        theirs.properties.return_energy, abs=2e-6
    )
    assert np.abs(found.return_result - theirs.return_result).max() < 2e-5
    assert found.properties.return_gradient.shape == (len(atoms[0]), 3)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_derivatives_of_the_energies(method: str) -> None:
    keywords = {"accuracy": 0.001} if method != "gfnff" else {}
    symbols, geometry = WATER
    energies = []
    for step in (-1e-3, 1e-3):
        moved = np.array(geometry)
        moved[1, 2] += step
        energies.append(compute(asked((symbols, moved), method, keywords=keywords)).return_result)
    found = compute(asked(WATER, method, driver="gradient", keywords=keywords))
    assert (energies[1] - energies[0]) / 2e-3 == pytest.approx(found.return_result[1, 2], abs=1e-6)
    assert sum(energies) / 2 == pytest.approx(found.properties.return_energy, abs=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e-9])
def test_a_coordinate_in_common_leaves_the_gradient_right(shift: float) -> None:
    """Told as it is, xtb 6.5.1 gives a gradient that is wrong by 0.015 hartree/bohr."""
    symbols, geometry = WATER
    moved = np.array(geometry)
    moved[1, 0] = shift
    found, theirs = (
        compute(asked((symbols, moved), driver="gradient"), program).return_result
        for program in ("xtb-cli", "tblite")
    )
    assert np.abs(found - theirs).max() < 2e-5


def test_a_random_energy_is_refused() -> None:
    """GFN1-xTB has one orbital for helium: xtb looks for one above it."""
    for method, is_refused in (("gfn1", True), ("gfn2", False)):
        found = compute(asked(HELIUM, method))
        assert isinstance(found, FailedOperation) == is_refused
        assert not is_refused or "without an empty orbital" in found.error.error_message
    oxygen = asked((("O",), ((0.0, 0.0, 0.0),)), "gfn1", multiplicity=3)
    assert compute(oxygen).error.error_type == "input_error"


def test_an_impossible_spin_is_refused() -> None:
    """xtb would take another one without a word."""
    inp = asked(AMIDOGEN, multiplicity=2)
    atoms = Atoms.of(inp.molecule)._replace(multiplicity=3)
    with pytest.raises(RequestError, match="multiplicity 3 is impossible with 9 electrons"):
        arguments(inp.specification, atoms)


def test_what_it_is_told(tmp_path: Path) -> None:
    keywords = {
        "accuracy": 0.1,
        "Electronic_Temperature": 500,
        "max_iterations": 99,
        "gbsa": "water",
    }
    inp = asked(AMIDOGEN, "GFN1-xTB", driver="gradient", multiplicity=2, keywords=keywords)
    found = compute(inp, ncores=2, scratch_directory=str(tmp_path))
    told = found.stdout
    assert "xtb coord --gfn 1 --acc 0.1 --etemp 500.0 --iterations 99 --gbsa water" in told
    assert "--chrg 0 --uhf 1 --grad --parallel 2" in told
    assert "omp threads                :                     2" in told
    assert found.provenance.version == xtb_cli.XtbExecutableHarness().get_version()
    assert list(tmp_path.iterdir()) == []
    cold = compute(asked(AMIDOGEN, "GFN1-xTB", multiplicity=2))
    assert abs(cold.return_result - found.properties.return_energy) > 1e-4


def test_coordinates_are_turned_and_keep_all_digits() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [1e5 / 7, 0.0, 1.0], [0.0, 1 / 3, 2.0]])
    atoms = Atoms.of(asked(WATER).molecule)._replace(positions_bohr=positions)
    lines = coordinates(atoms).splitlines()
    read = np.array([[float(each) for each in line.split()[:3]] for line in lines[1:4]])
    assert (read == turned(positions, xtb_cli._TURN)).all()
    assert np.abs(read - positions @ xtb_cli._TURN.T).max() < 1e-11
    assert np.abs(turned(read, xtb_cli._TURN.T) - positions).max() < 1e-11
    assert np.linalg.det(xtb_cli._TURN) == pytest.approx(1.0)
    assert np.abs(np.diff(read, axis=0)).min() > 0.1
    assert [line.split()[3] for line in lines[1:4]] == ["o", "h", "h"]


@pytest.mark.parametrize(
    ("inp", "words"),
    [
        (asked(WATER_GHOST, n_ghosts=1), "no ghost atoms"),
        (asked(URANYL), "no parameters for U"),
        (asked(WATER, charge=0.5), "whole charges"),
        (asked(WATER, driver="hessian"), "only energy and gradient"),
        (asked(WATER, "gfn3"), "did you mean GFN"),
        (asked(WATER, keywords={"max_iterations": 1.5}), "must be an integer"),
        (asked(WATER, keywords={"accuracy": 0}), "must be a positive number"),
        (asked(WATER, keywords={"alpb": "water --hess"}), "the name of a solvent"),
        (atomic_input(WATER, "gfn2", "sto-3g"), "take no basis set"),
    ],
)
def test_refused_without_a_start(inp: AtomicInput, words: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(xtb_cli, "execute", None)
    found = compute(inp)
    assert isinstance(found, FailedOperation)
    assert found.error.error_type == "input_error"
    assert words in found.error.error_message


@pytest.mark.parametrize(
    ("code", "stdout", "kind", "said"),
    [
        (1, "-2- outer\n-1- scf: it did not converge \n", ConvergenceError, "scf: it did not"),
        (1, "-1- solvent: 'x' is not parametrized\n", InputError, "'x' is not"),
        (1, "-1- Parameter file p.txt not found!\n", UnknownError, "XTBPATH names the folder"),
        (139, "", RandomError, "ended by SIGSEGV"),
        (-9, "", RandomError, "ended by SIGKILL"),
        (255, "", UnknownError, "ended with code 255 and without a word"),
        (2, "", UnknownError, "ended with code 2 and without a word"),
        (0, "", UnknownError, "without a word"),
    ],
)
def test_errors(code: int, stdout: str, kind: type[Exception], said: str) -> None:
    error = xtb_cli._error(code, stdout, "")
    assert type(error) is kind
    assert said in str(error)


@pytest.mark.parametrize("text", [None, "$grad\n", "$grad\n cycle\n 0 0 0 o\n 1.0 2.0 3.0\n$end"])
def test_a_gradient_of_another_molecule_is_none(text: str | None) -> None:
    with pytest.raises(UnknownError, match="no gradient"):
        gradient(text, Atoms.of(asked(WATER).molecule))


def test_the_parameters_are_found_and_the_users_own_place_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XTBPATH", raising=False)
    assert isinstance(compute(asked(WATER, "gfn0")), AtomicResult)
    monkeypatch.setenv("XTBPATH", str(tmp_path))
    assert "XTBPATH names" in compute(asked(WATER, "gfn0")).error.error_message


def test_an_xtb_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "xtb-cli" not in qcengine.list_available_programs()
    with pytest.raises(ModuleNotFoundError, match="apt install xtb"):
        xtb_cli.XtbExecutableHarness.found(raise_error=True)


def test_arguments_of_an_energy() -> None:
    inp = asked(WATER, charge=-1, multiplicity=2)
    words = arguments(inp.specification, Atoms.of(inp.molecule))
    assert words == ["--gfn", "2", "--chrg", "-1", "--uhf", "1"]
