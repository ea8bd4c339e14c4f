"""PySCF calculations of one model chemistry: checked once, run for any number of molecules.

Rules of this file
------------------
1. Anything PySCF cannot do is refused by name before it starts.
2. PySCF is imported when the first calculation starts, not before.
"""

from __future__ import annotations

import contextlib
import io

from qcmb_mpi.programs import pyscf_run
from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import Atoms, CalculationFailed, Means, Numbers, Specification
from qcmb_mpi.programs.pyscf_keywords import parse_keywords
from qcmb_mpi.programs.pyscf_model import parse_method
from qcmb_mpi.programs.threads import limited_threads

_DRIVERS = ("energy", "gradient", "hessian")
_MB_PER_GIB = 1024**3 / 1e6


class PySCFCalculation:
    """One method and basis set with its settings.

    Parameters
    ----------
    specification : Specification
    means : Means

    Raises
    ------
    CalculationFailed
        Method, keyword or driver that PySCF cannot take.
    """

    def __init__(self, specification: Specification, means: Means) -> None:
        try:
            self._driver = _checked_driver(str(specification.driver.value))
            self._method = parse_method(specification.model.method)
            self._settings = parse_keywords(specification.keywords, self._method, self._driver)
        except RequestError as error:
            raise CalculationFailed("input_error", str(error)) from error
        self._basis = specification.model.basis
        self._means = means
        self._memory_mb = min(means.memory_gib * _MB_PER_GIB, self._settings.max_memory_mb)

    def rehearse(self) -> None:
        """Do nothing."""

    def run(self, atoms: Atoms) -> Numbers:
        """Compute what the driver asks for.

        Raises
        ------
        CalculationFailed
            Basis set, molecule or derivative that PySCF cannot take, or no convergence.
        """
        output, warnings = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stderr(warnings):
                numbers = self._numbers(atoms, output)
        except RequestError as error:
            raise CalculationFailed("input_error", str(error)) from error
        except NotImplementedError as error:
            message = f"pyscf does not implement this: {error}"
            raise CalculationFailed("input_error", message) from error
        except pyscf_run.NotConverged as error:
            raise CalculationFailed("convergence_error", str(error), output.getvalue()) from error
        numbers.stdout, numbers.stderr = output.getvalue(), warnings.getvalue()
        return numbers

    def _numbers(self, atoms: Atoms, output: io.StringIO) -> Numbers:
        import pyscf.lib  # noqa: F401  before threads are limited, or it would not be seen

        # PySCF threads by itself, calling BLAS from its threads or between them. Threads of BLAS
        # add nothing but a fight for cores: 4 and 4 of them are no faster than 1, 4 and 1 three
        # times.
        with (
            limited_threads(self._means.n_threads, n_blas_threads=1),
            pyscf_run.prepared(self._means.scratch),
        ):
            mol = pyscf_run.build_molecule(
                atoms, self._basis, self._settings, memory_mb=self._memory_mb, output=output
            )
            return pyscf_run.run(mol, self._method, self._settings, self._driver)


def _checked_driver(driver: str) -> str:
    if driver not in _DRIVERS:
        raise RequestError(
            f"the pyscf harness has no driver {driver!r}, only {', '.join(_DRIVERS)}", part="driver"
        )
    return driver
