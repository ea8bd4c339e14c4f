"""QCEngine harness for PySCF (https://pyscf.org): AtomicInput in, AtomicResult out.

Energies and gradients with HF (RHF, UHF, ROHF), density functionals, MP2, CCSD and CCSD(T);
Hessians with RHF, UHF and density functionals. Ghost atoms carry basis functions and, for density
functionals, a grid. Method names are listed in :mod:`~qcmb_mpi.programs.pyscf_model`, keywords in
:mod:`~qcmb_mpi.programs.pyscf_keywords`.

Rules of this file
------------------
1. Anything PySCF cannot do is refused by name before it starts, as QCEngine's ``InputError``.
2. PySCF is imported when the first calculation starts, not before.
"""

from __future__ import annotations

import contextlib
import io
from importlib.metadata import version
from typing import Any, ClassVar

from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcelemental.util import which_import
from qcengine.config import TaskConfig
from qcengine.exceptions import ConvergenceError, InputError
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.programs import pyscf_run
from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.pyscf_keywords import parse_keywords
from qcmb_mpi.programs.pyscf_model import parse_method
from qcmb_mpi.programs.threads import limited_threads

_DRIVERS = ("energy", "gradient", "hessian")
_MB_PER_GIB = 1024**3 / 1e6


class PySCFHarness(ProgramHarness):  # type: ignore[misc]
    """PySCF as a QCEngine program, in process."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "pyscf",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": True,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Say whether PySCF can be imported, without importing it."""
        return bool(
            which_import(
                "pyscf",
                return_bool=True,
                raise_error=raise_error,
                raise_msg="Please install PySCF: pip install pyscf",
            )
        )

    def get_version(self) -> str:
        """Return PySCF's version."""
        self.found(raise_error=True)
        return version("pyscf")

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Run one calculation.

        Parameters
        ----------
        input_data : qcelemental.models.v2.AtomicInput
        config : qcengine.config.TaskConfig
            Threads (``ncores``), memory and scratch directory are honoured.

        Returns
        -------
        qcelemental.models.v2.AtomicResult

        Raises
        ------
        qcengine.exceptions.InputError
            Method, basis set, keyword, driver or molecule that PySCF cannot take.
        qcengine.exceptions.ConvergenceError
            SCF or coupled-cluster equations did not converge.
        """
        self.found(raise_error=True)
        output, warnings = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stderr(warnings):
                numbers = _calculate(input_data, config, output)
        except RequestError as error:
            raise InputError(str(error)) from error
        except NotImplementedError as error:
            raise InputError(f"pyscf does not implement this: {error}") from error
        except pyscf_run.NotConverged as error:
            raise ConvergenceError(str(error), extras={"stdout": output.getvalue()}) from error
        provenance = {"creator": "PySCF", "version": self.get_version()}
        return _result(
            input_data,
            numbers,
            stdout=output.getvalue(),
            stderr=warnings.getvalue() or None,
            provenance={**provenance, "routine": "qcmb_mpi.programs.pyscf"},
        )


def _calculate(
    input_data: AtomicInput, config: TaskConfig, output: io.StringIO
) -> pyscf_run.Numbers:
    specification = input_data.specification
    driver = str(specification.driver.value)
    if driver not in _DRIVERS:
        raise RequestError(
            f"the pyscf harness has no driver {driver!r}, only {', '.join(_DRIVERS)}", part="driver"
        )
    method = parse_method(specification.model.method)
    settings = parse_keywords(specification.keywords, method, driver)
    memory_mb = min(config.memory * _MB_PER_GIB, settings.max_memory_mb)
    # PySCF threads by itself, calling BLAS from its threads or between them. Threads of BLAS add
    # nothing but a fight for cores: 4 and 4 of them are no faster than 1, 4 and 1 three times.
    with (
        limited_threads(config.ncores, n_blas_threads=1),
        pyscf_run.prepared(config.scratch_directory),
    ):
        mol = pyscf_run.build_molecule(
            input_data.molecule,
            specification.model.basis,
            settings,
            memory_mb=memory_mb,
            output=output,
        )
        return pyscf_run.run(mol, method, settings, driver)


def _result(input_data: AtomicInput, numbers: pyscf_run.Numbers, **fields: Any) -> AtomicResult:
    properties = {**numbers.properties, "return_energy": numbers.energy}
    if numbers.gradient is not None:
        properties["return_gradient"] = numbers.gradient
    if numbers.hessian is not None:
        properties["return_hessian"] = numbers.hessian
    driver = input_data.specification.driver.value
    return AtomicResult(
        input_data=input_data,
        molecule=input_data.molecule,
        properties=properties,
        return_result=properties[f"return_{driver}"],
        success=True,
        **fields,
    )
