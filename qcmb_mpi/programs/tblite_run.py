"""Run xTB calculations with tblite's own classes.

tblite's objects depend on elements, charge and spin, its results on nothing else but positions: an
object that is given other positions gives the bits that a new one gives (a test compares them), so
one is kept for each composition. The guess is never taken from another molecule.

Rules of this file
------------------
1. A semi-empirical Hamiltonian has no ghost atoms: they are refused, never treated as real ones.
2. tblite is imported when the first calculation starts; nothing it writes reaches our stdout.
3. An object serves one thread, and none after an error.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import (
    Array,
    Atoms,
    CalculationFailed,
    Means,
    Numbers,
    Specification,
)
from qcmb_mpi.programs.tblite_model import check_basis, parse_keywords, parse_method
from qcmb_mpi.programs.threads import limited_threads

_DRIVERS = ("energy", "gradient")
_MOST_COMPOSITIONS = 64


class _Kept:
    """A calculator of tblite, asked through its C interface for what every task needs.

    tblite's methods wrap a function and make an error handle for each call: positions and an energy
    take them 50 us when a calculation has just filled the caches, here 8.
    """

    def __init__(self, calculator: Any) -> None:
        from tblite import library

        self.calculator = calculator
        self.n_orbitals = 0
        self._ffi, self._lib = library.ffi, library.lib
        self._error = library.new_error()
        self._energy = library.ffi.new("double *")

    def move(self, positions_bohr: Array) -> None:
        """Give it other positions of the same atoms."""
        positions_bohr = np.ascontiguousarray(positions_bohr, dtype=np.float64)
        if positions_bohr.size == 3 * len(self.calculator):
            new = self._ffi.from_buffer("double[]", positions_bohr)
            self._lib.tblite_update_structure_geometry(
                self._error, self.calculator._mol, new, self._ffi.NULL
            )
            if not self._lib.tblite_check_error(self._error):
                return
        self.calculator.update(positions_bohr)  # which raises

    def energy(self, result: Any) -> float:
        """Return the energy of a result."""
        self._lib.tblite_get_result_energy(self._error, result._res, self._energy)
        if self._lib.tblite_check_error(self._error):
            return float(result.get("energy"))  # which raises
        return float(self._energy[0])


@dataclass(slots=True)
class _OfThread:
    """What one thread keeps: objects by composition, and what was written."""

    known: dict[Any, _Kept] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)


class XtbCalculation:
    """One xTB method with its settings.

    Parameters
    ----------
    specification : Specification
    means : Means

    Raises
    ------
    CalculationFailed
        Method, basis set, keyword or driver that tblite cannot take.
    """

    def __init__(self, specification: Specification, means: Means) -> None:
        try:
            self._driver = _checked_driver(specification.driver.value)
            self._method = parse_method(specification.model.method)
            check_basis(specification.model.basis)
            self._settings = parse_keywords(specification.keywords)
        except RequestError as error:
            raise CalculationFailed("input_error", str(error)) from error
        self._n_threads = means.n_threads
        self._local = threading.local()

    def run(self, atoms: Atoms) -> Numbers:
        """Compute energy, and gradient if asked for."""
        import tblite.interface  # before threads are limited, or its libraries would not be seen
        from tblite.exceptions import TBLiteRuntimeError

        own = self._of_thread()
        own.output.clear()
        kind = atoms.numbers.tobytes(), atoms.is_real.tobytes()
        key = (*kind, atoms.charge, atoms.multiplicity)
        try:
            with limited_threads(self._n_threads):
                kept = own.known.pop(key, None)
                if kept is None:
                    kept = _Kept(self._new(tblite.interface.Calculator, atoms, own.output))
                else:
                    kept.move(atoms.positions_bohr)
                result = kept.calculator.singlepoint()
                numbers = self._numbers(result, len(atoms.numbers), kept)
        except RequestError as error:
            raise CalculationFailed("input_error", str(error)) from error
        except TBLiteRuntimeError as error:
            raise translated(error, "\n".join(own.output)) from error
        if len(own.known) >= _MOST_COMPOSITIONS:
            own.known.clear()
        own.known[key] = kept
        numbers.stdout = "\n".join(own.output)
        return numbers

    def rehearse(self) -> None:
        """Compute a hydrogen molecule: memory and code are at hand after that."""
        symbols, positions = np.array(["H", "H"]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]])
        real = np.ones(2, dtype=np.bool_)
        self.run(Atoms(np.array([1, 1]), symbols, positions, real, 0.0, 1, lambda: "H2"))

    def _of_thread(self) -> _OfThread:
        own: _OfThread | None = getattr(self._local, "own", None)
        if own is None:
            own = self._local.own = _OfThread()
        return own

    def _new(self, make: Any, atoms: Atoms, output: list[str]) -> Any:
        _check_molecule(atoms)
        calculator = make(
            self._method,
            atoms.numbers,
            atoms.positions_bohr,
            charge=float(atoms.charge),
            uhf=int(atoms.multiplicity) - 1,
            color=False,
            logger=output.append,
        )
        for name, value in self._settings.items():
            calculator.set(name, value)
        return calculator

    def _numbers(self, result: Any, n_atoms: int, kept: _Kept) -> Numbers:
        energy = kept.energy(result)
        kept.n_orbitals = kept.n_orbitals or int(result.get("norbitals"))
        properties: dict[str, Any] = {
            "calcinfo_natom": n_atoms,
            "calcinfo_nbasis": kept.n_orbitals,
            "calcinfo_nmo": kept.n_orbitals,
            "scf_total_energy": energy,
        }
        if self._driver == "energy":
            return Numbers(energy, properties=properties)
        gradient = np.array(result.get("gradient"), dtype=np.float64)
        return Numbers(energy, gradient, properties={**properties, "scf_total_gradient": gradient})


def _checked_driver(driver: str) -> str:
    if driver not in _DRIVERS:
        raise RequestError(
            f"the tblite harness has no driver {driver!r}, only energy and gradient", part="driver"
        )
    return driver


def _check_molecule(atoms: Atoms) -> None:
    if not atoms.is_real.all():
        raise RequestError(
            "tblite has no ghost atoms: a semi-empirical method has no basis set to add; use "
            "bsse_type nocp, or another program for cp and vmfc",
            part="molecule",
        )
    unpaired = atoms.multiplicity - 1
    n_electrons = int(atoms.numbers.sum()) - atoms.charge
    if n_electrons < unpaired or (n_electrons - unpaired) % 2:
        raise RequestError(
            f"multiplicity {unpaired + 1:g} is impossible with {n_electrons:g} electrons",
            part="molecule",
        )


def translated(error: Exception, output: str) -> CalculationFailed:
    """Return what an error of tblite means."""
    if "not converged" in str(error):
        advice = "raise keyword 'max_iterations', 'electronic_temperature' or 'mixer_damping'"
        return CalculationFailed("convergence_error", f"tblite: {error}; {advice}", output)
    if "No support" in str(error) or "not compatible" in str(error) or "Too close" in str(error):
        return CalculationFailed("input_error", f"tblite: {error}", output)
    return CalculationFailed("unknown_error", f"tblite: {error}", output)
