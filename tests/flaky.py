"""A QCEngine program for tests, registered by ``--import tests.flaky``.

Its energy is a sum over real atoms and their pairs. What goes wrong is ordered in two ways:

- The keyword ``faults`` maps "number of real atoms" to a fault of :mod:`tests.faults`; ``once``
  names a file, and a fault happens only until it is there.
- The environment variable ``FLAKY_PLAN`` names a plan (see :mod:`tests.faults`): the input, and
  so every fingerprint, stays the same whatever is to go wrong.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.programs.model import ProgramHarness

from tests import faults


class FlakyHarness(ProgramHarness):
    """Closed-form energies and gradients, with faults to order."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "flaky",
        "scratch": False,
        "thread_safe": True,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Return True: it is here."""
        return True

    def get_version(self) -> str:
        """Return a version."""
        return "1.0"

    def compute(self, input_data: AtomicInput, config: Any) -> AtomicResult:
        """Compute, or fail as ordered."""
        plan = faults.the_plan()
        if plan is None:
            return self._compute_by_keywords(input_data)
        with plan.computing(input_data.molecule) as fault:
            return self._result(input_data, fault)

    def _compute_by_keywords(self, input_data: AtomicInput) -> AtomicResult:
        keywords = input_data.specification.keywords
        time.sleep(keywords.get("sleep", 0.0))
        n_real = int(np.sum(input_data.molecule.real))
        fault = keywords.get("faults", {}).get(str(n_real), "")
        is_due = fault and _is_due(keywords.get("once"))
        return self._result(input_data, fault if is_due else "")

    def _result(self, input_data: AtomicInput, fault: str) -> AtomicResult:
        driver = input_data.specification.driver.value
        molecule = input_data.molecule
        if fault:
            faults.commit(fault)
        if fault == "molecule":
            molecule = molecule.model_copy(update={"geometry": 1.1 * molecule.geometry})
        energy, gradient = self._potential(molecule)
        told = faults.spoilt(fault, energy, gradient)
        result = AtomicResult(
            input_data=input_data,
            molecule=molecule,
            success=True,
            provenance={"creator": "Flaky", "version": "1.0", "routine": "tests.flaky"},
            properties={
                "calcinfo_natom": len(gradient if told[1] is None else told[1]),
                "return_energy": told[0],
                "return_gradient": told[1] if driver == "gradient" else None,
            },
            return_result=told[0] if driver == "energy" else gradient,
            stdout="flaky says hello",
        )
        if driver == "gradient" and told[1] is None:
            result = result.model_copy(update={"return_result": None})
        return result

    @staticmethod
    def _potential(molecule: Any) -> tuple[float, np.ndarray]:
        real = np.flatnonzero(molecule.real)
        gradient = np.zeros((len(molecule.symbols), 3))
        energy = -float(np.sum(molecule.atomic_numbers[real]))
        for a in real:
            for b in real[real > a]:
                d = molecule.geometry[a] - molecule.geometry[b]
                energy += 1.0 / (1.0 + d @ d)
                slope = -2.0 * d / (1.0 + d @ d) ** 2
                gradient[a] += slope
                gradient[b] -= slope
        return energy, gradient


def _is_due(mark: str | None) -> bool:
    """Tell whether a fault is to happen: with a mark, only to the first who can make that file."""
    if mark is None:
        return True
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


qcengine.register_program(FlakyHarness())
