"""Tasks of one model chemistry in this process, without QCSchema objects.

Only for programs that come with the package: through QCEngine they run the same calculation.

Rules of this file
------------------
1. The same outcome as through QCEngine, numbers bit by bit and failures word by word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial

from qcmb_mpi.execution.acceptance import failure, judge_numbers
from qcmb_mpi.execution.attempts import Attempts, Fields, raised
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.programs.native import (
    Atoms,
    Calculation,
    CalculationFailed,
    Means,
    NativeProgram,
    Specification,
)


class NativeRunner:
    """Run one model chemistry.

    Parameters
    ----------
    program : str
        QCEngine's name, as the user wrote it.
    runs : NativeProgram
    specification : Specification
    means : callable
        Gives what QCEngine's configuration allows it.
    attempts : Attempts
    """

    def __init__(
        self,
        program: str,
        runs: NativeProgram,
        specification: Specification,
        means: Callable[[], Means],
        attempts: Attempts,
    ) -> None:
        self._program = program
        self._runs = runs
        self._specification = specification
        self._driver = specification.driver.value
        self._means = means
        self._attempts = attempts
        self._known: Calculation | None = None

    def warm_up(self) -> None:
        """Find what all tasks share before the first one; what is wrong with it, that one tells."""
        with suppress(Exception):
            self._calculation(self._specification)
            _ = self._provenance

    def rehearse(self) -> None:
        """Have what computes do what it does in its first calculation only."""
        if self._known is not None:
            self._known.rehearse()

    def run(self, task: int, atoms: Atoms) -> Outcome:
        """Return the outcome of one calculation."""
        asked = self._specification, partial(self._attempt, atoms)
        return self._attempts.outcome(task, self._program, lambda: asked, time.process_time)

    def _attempt(self, atoms: Atoms, specification: Specification) -> Fields:
        try:
            numbers = self._calculation(specification).run(atoms)
            return judge_numbers(numbers, len(atoms.numbers), self._driver, *self._provenance)
        except CalculationFailed as error:
            told = failure(self._program, error.error_type, error.told, error.output)
            return {"failure": told}
        except (Exception, SystemExit) as error:
            return raised(self._program, error)

    @cached_property
    def _provenance(self) -> tuple[str, str]:
        return self._runs.creator, self._runs.get_version()

    def _calculation(self, specification: Specification) -> Calculation:
        """Return what computes; that of the plain specification is kept for all tasks."""
        is_plain = specification is self._specification
        if is_plain and self._known is not None:
            return self._known
        made = self._runs.calculation(specification, self._means())
        if is_plain:
            self._known = made
        return made
