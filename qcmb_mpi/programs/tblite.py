"""QCEngine harness for tblite (https://tblite.readthedocs.io): GFN1-xTB and GFN2-xTB.

==========================  ===============================================  =======
keyword                     meaning                                          default
==========================  ===============================================  =======
``accuracy``                numerical thresholds, smaller is tighter         1.0
``max_iterations``          SCC iterations                                   250
``electronic_temperature``  of the Fermi filling, kelvin                     300
``mixer_damping``           of the SCC mixer, 0 to 1                         0.4
``verbosity``               of the captured output                           0
==========================  ===============================================  =======

Rules of this file
------------------
1. A semi-empirical Hamiltonian has no ghost atoms: they are refused, never treated as real ones.
2. tblite is imported when the first calculation starts; nothing it writes reaches our stdout.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcelemental.util import which_import
from qcengine.config import TaskConfig
from qcengine.exceptions import ConvergenceError, InputError, UnknownError
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.tblite_model import check_basis, parse_keywords, parse_method
from qcmb_mpi.programs.threads import limited_threads


class TBLiteHarness(ProgramHarness):  # type: ignore[misc]
    """tblite as a QCEngine program, in process."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "tblite",
        "scratch": False,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": False,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Say whether tblite can be imported, without importing it."""
        return bool(
            which_import(
                "tblite",
                return_bool=True,
                raise_error=raise_error,
                raise_msg="Please install tblite: pip install tblite",
            )
        )

    def get_version(self) -> str:
        """Return tblite's version."""
        self.found(raise_error=True)
        return version("tblite")

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Run one calculation.

        Raises
        ------
        qcengine.exceptions.InputError
            Method, keyword, driver or molecule that tblite cannot take.
        qcengine.exceptions.ConvergenceError
            The self-consistent charges did not converge.
        """
        self.found(raise_error=True)
        output: list[str] = []
        try:
            numbers = _calculate(input_data, config, output)
        except RequestError as error:
            raise InputError(str(error)) from error
        return _result(input_data, numbers, "\n".join(output), self.get_version())


def _calculate(input_data: AtomicInput, config: TaskConfig, output: list[str]) -> dict[str, Any]:
    specification = input_data.specification
    driver = specification.driver.value
    if driver not in ("energy", "gradient"):
        raise RequestError(
            f"the tblite harness has no driver {driver!r}, only energy and gradient", part="driver"
        )
    method = parse_method(specification.model.method)
    check_basis(specification.model.basis)
    settings = parse_keywords(specification.keywords)
    _check_molecule(input_data.molecule)
    return _singlepoint(input_data.molecule, method, settings, config.ncores, output)


def _check_molecule(molecule: Any) -> None:
    if not np.all(molecule.real):
        raise RequestError(
            "tblite has no ghost atoms: a semi-empirical method has no basis set to add; use "
            "bsse_type nocp, or another program for cp and vmfc",
            part="molecule",
        )
    charge, unpaired = molecule.molecular_charge, molecule.molecular_multiplicity - 1
    n_electrons = int(np.sum(molecule.atomic_numbers)) - charge
    if n_electrons < unpaired or (n_electrons - unpaired) % 2:
        raise RequestError(
            f"multiplicity {unpaired + 1:g} is impossible with {n_electrons:g} electrons",
            part="molecule",
        )


def _singlepoint(
    molecule: Any, method: str, settings: Mapping[str, Any], n_threads: int, output: list[str]
) -> dict[str, Any]:
    import tblite.interface
    from tblite.exceptions import TBLiteRuntimeError

    try:
        with limited_threads(n_threads):
            calculator = tblite.interface.Calculator(
                method,
                np.asarray(molecule.atomic_numbers),
                np.asarray(molecule.geometry, dtype=np.float64),
                charge=float(molecule.molecular_charge),
                uhf=int(molecule.molecular_multiplicity) - 1,
                color=False,
                logger=output.append,
            )
            for name, value in settings.items():
                calculator.set(name, value)
            result = calculator.singlepoint()
    except TBLiteRuntimeError as error:
        raise _translated(error, output) from error
    return {
        "energy": float(result.get("energy")),
        "gradient": np.array(result.get("gradient"), dtype=np.float64),
        "n_orbitals": int(result.get("norbitals")),
    }


def _translated(error: Exception, output: list[str]) -> Any:
    extras = {"stdout": "\n".join(output)}
    if "not converged" in str(error):
        advice = "raise keyword 'max_iterations', 'electronic_temperature' or 'mixer_damping'"
        return ConvergenceError(f"tblite: {error}; {advice}", extras=extras)
    if "No support" in str(error) or "not compatible" in str(error) or "Too close" in str(error):
        return InputError(f"tblite: {error}", extras=extras)
    return UnknownError(f"tblite: {error}", extras=extras)


def _result(
    input_data: AtomicInput, numbers: Mapping[str, Any], stdout: str, program_version: str
) -> AtomicResult:
    is_energy = input_data.specification.driver.value == "energy"
    properties = {
        "calcinfo_natom": len(input_data.molecule.symbols),
        "calcinfo_nbasis": numbers["n_orbitals"],
        "calcinfo_nmo": numbers["n_orbitals"],
        "return_energy": numbers["energy"],
        "scf_total_energy": numbers["energy"],
    }
    if not is_energy:
        properties |= {"return_gradient": numbers["gradient"]}
        properties |= {"scf_total_gradient": numbers["gradient"]}
    return AtomicResult(
        input_data=input_data,
        molecule=input_data.molecule,
        properties=properties,
        return_result=numbers["energy"] if is_energy else numbers["gradient"],
        stdout=stdout or None,
        success=True,
        provenance={"creator": "tblite", "version": program_version, "routine": "qcmb_mpi.tblite"},
    )
