"""The shell of QCSchema around a calculation that runs in this process.

Rules of this file
------------------
1. No chemistry, and no choice that a calculation without QCSchema would not make as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.config import TaskConfig
from qcengine.exceptions import ConvergenceError, InputError, UnknownError
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.programs.native import (
    Atoms,
    Calculation,
    CalculationFailed,
    Means,
    Specification,
    installed_version,
)

_ERRORS = {
    "input_error": InputError,
    "convergence_error": ConvergenceError,
    "unknown_error": UnknownError,
}


class NativeHarness(ProgramHarness):  # type: ignore[misc]
    """A program of ours, as QCEngine knows it.

    Attributes
    ----------
    package, creator, routine : str
        The Python package, and what the provenance of results says.
    """

    package: ClassVar[str]
    creator: ClassVar[str]
    routine: ClassVar[str]

    def get_version(self) -> str:
        """Return the program's version."""
        self.found(raise_error=True)
        return installed_version(self.package)

    def calculation(self, specification: Specification, means: Means) -> Calculation:
        """Check a specification and return what computes it.

        Raises
        ------
        CalculationFailed
            The program cannot take it.
        """
        raise NotImplementedError

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
            Method, basis set, keyword, driver or molecule that the program cannot take.
        qcengine.exceptions.ConvergenceError
            Equations did not converge.
        qcengine.exceptions.UnknownError
            Any other failure that the program reports.
        """
        self.found(raise_error=True)
        try:
            calculation = self.calculation(input_data.specification, means_of(config))
            numbers = calculation.run(Atoms.of(input_data.molecule))
        except CalculationFailed as error:
            raise qcengine_error(error) from error
        properties = numbers.all_properties()
        return AtomicResult(
            input_data=input_data,
            molecule=input_data.molecule,
            properties=properties,
            return_result=properties[f"return_{input_data.specification.driver.value}"],
            stdout=numbers.stdout or None,
            stderr=numbers.stderr or None,
            success=True,
            provenance={
                "creator": self.creator,
                "version": self.get_version(),
                "routine": self.routine,
            },
        )


def means_of(config: TaskConfig) -> Means:
    """Translate QCEngine's configuration of a task."""
    return Means(config.ncores, config.memory, config.scratch_directory)


def qcengine_error(error: CalculationFailed) -> Any:
    """Return QCEngine's exception for a failure."""
    extras = {"stdout": error.output} if error.output else None
    return _ERRORS[error.error_type](error.message, extras=extras)
