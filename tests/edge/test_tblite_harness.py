"""The tblite harness against bare tblite, against differences, and against nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tblite.interface import Calculator

from qcmb_mpi.programs.harness import qcengine_error
from qcmb_mpi.programs.tblite import TBLiteHarness
from qcmb_mpi.programs.tblite_run import translated
from tests.edge.harness_cases import (
    AMIDOGEN,
    HYDROGEN,
    WATER,
    compute,
    one_thread,
    refusal,
    slope,
    succeed,
)

pytestmark = pytest.mark.qc
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

NUMBERS = {"H": 1, "N": 7, "O": 8}


def bare(method: str, atoms: Any, charge: float = 0.0, unpaired: int = 0) -> tuple[float, Any]:
    symbols, geometry = atoms
    numbers = np.array([NUMBERS[symbol] for symbol in symbols])
    calculator = Calculator(method, numbers, np.array(geometry), charge, unpaired)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return float(result.get("energy")), np.array(result.get("gradient"))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("GFN2-xTB", "GFN2-xTB"),
        ("gfn2", "GFN2-xTB"),
        ("GFN1-XTB", "GFN1-xTB"),
        ("gfn1", "GFN1-xTB"),
    ],
)
@pytest.mark.parametrize("basis", [None, ""])
def test_energy_and_gradient_are_tblites_own(name: str, method: str, basis: str | None) -> None:
    energy, gradient = bare(method, WATER)
    result = succeed("tblite", WATER, name, basis, driver="gradient")
    assert result.properties.return_energy == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(result.return_result, gradient, atol=1e-12)
    assert succeed("tblite", WATER, name, basis).return_result == result.properties.return_energy
    assert result.properties.calcinfo_nbasis >= 6


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 2), (1, 1), (-1, 3)])
def test_charges_and_open_shells(charge: int, multiplicity: int) -> None:
    energy, _ = bare("GFN2-xTB", AMIDOGEN, charge, multiplicity - 1)
    options = {"charge": charge, "multiplicity": multiplicity}
    assert succeed("tblite", AMIDOGEN, "gfn2", None, **options).return_result == pytest.approx(
        energy, abs=1e-12
    )


def test_gradient_is_the_slope_of_the_energy() -> None:
    tight = {"accuracy": 0.001}
    gradient = succeed("tblite", WATER, "gfn2", None, driver="gradient", keywords=tight)

    def energy(atoms: Any) -> float:
        return float(succeed("tblite", atoms, "gfn2", None, keywords=tight).return_result)

    expected = slope(energy, WATER, 1, 2)
    assert gradient.return_result[1, 2] == pytest.approx(expected, abs=1e-7)


def test_keywords_reach_tblite(capfd: pytest.CaptureFixture[str]) -> None:
    plain = succeed("tblite", AMIDOGEN, "gfn2", None, multiplicity=2).return_result
    keywords = {"electronic_temperature": 20000.0, "Max_Iterations": 300, "mixer_damping": 0.3}
    hot = succeed("tblite", AMIDOGEN, "gfn2", None, multiplicity=2, keywords=keywords)
    assert hot.return_result < plain - 1e-4
    assert hot.stdout is None
    chatty = succeed("tblite", WATER, "gfn2", None, keywords={"verbosity": 1})
    assert "total energy" in chatty.stdout
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_unconverged_is_a_convergence_error() -> None:
    failed = compute("tblite", WATER, "gfn2", None, keywords={"max_iterations": 2})
    assert failed.error.error_type == "convergence_error"
    assert "max_iterations" in failed.error.error_message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keywords": {"acuracy": 1.0}}, "no keyword 'acuracy'; did you mean accuracy"),
        ({"keywords": {"accuracy": "high"}}, "must be a positive number"),
        ({"keywords": {"accuracy": 0}}, "must be a positive number"),
        ({"keywords": {"max_iterations": 2.5}}, "must be an integer"),
        ({"keywords": {"accuracy": True}}, "must be a positive number"),
        ({"driver": "hessian"}, "no driver 'hessian'"),
        ({"n_ghosts": 1}, "no ghost atoms"),
        ({"charge": 0.5, "multiplicity": 1}, "impossible with 1.5 electrons"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, Any], text: str) -> None:
    assert text in refusal("tblite", HYDROGEN, "gfn2", None, **options)


def test_bad_names_and_molecules_are_refused() -> None:
    assert "did you mean GFN2-xTB" in refusal("tblite", WATER, "gfn3", None)
    assert "take no basis set" in refusal("tblite", WATER, "gfn2", "sto-3g")
    assert "Too close" in refusal("tblite", (("H", "H"), ((0.0,) * 3,) * 2), "gfn2", None)
    actinide = (("U",), ((0.0, 0.0, 0.0),))
    assert "No support for elements" in refusal("tblite", actinide, "gfn2", None)


def test_unexpected_failures_stay_unknown() -> None:
    error = qcengine_error(translated(RuntimeError("disk on fire"), "last line"))
    assert error.error_type == "unknown_error"
    assert error.extras == {"stdout": "last line"}


def test_same_bits_on_repeat() -> None:
    first = succeed("tblite", WATER, "gfn2", None, driver="gradient").return_result
    succeed("tblite", AMIDOGEN, "gfn1", None, multiplicity=2)
    again = succeed("tblite", WATER, "gfn2", None, driver="gradient", n_threads=1).return_result
    assert first.tobytes() == again.tobytes()


def test_program_is_described() -> None:
    harness = TBLiteHarness()
    assert harness.found()
    assert harness.get_version().split(".")[0].isdigit()
