"""A QCEngine program for tests, registered by ``--import tests.flaky``.

Its energy is a sum over real atoms and their pairs. The keyword ``faults`` maps "number of
real atoms" to what goes wrong there: raise, random, input, crash, hang, nan, none; ``once``
names a file, and a fault happens only until it is there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.exceptions import InputError, RandomError
from qcengine.programs.model import ProgramHarness


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
        molecule = input_data.molecule
        n_real = int(np.sum(molecule.real))
        keywords = input_data.specification.keywords
        time.sleep(keywords.get("sleep", 0.0))
        energy, gradient = self._potential(molecule)
        fault = keywords.get("faults", {}).get(str(n_real))
        if fault and self._is_due(keywords.get("once")):
            energy, gradient = self._fail(fault, energy, gradient)
        driver = input_data.specification.driver.value
        return AtomicResult(
            input_data=input_data,
            molecule=molecule,
            success=True,
            provenance={"creator": "Flaky", "version": "1.0", "routine": "tests.flaky"},
            properties={
                "calcinfo_natom": len(molecule.symbols),
                "return_energy": energy,
                "return_gradient": gradient if driver == "gradient" else None,
            },
            return_result=energy if driver == "energy" else self._potential(molecule)[1],
            stdout="flaky says hello",
        )

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

    @staticmethod
    def _is_due(mark: str | None) -> bool:
        """Tell whether a fault is to happen: with a mark, only while that file is not there."""
        if mark is None:
            return True
        is_first = not os.path.exists(mark)
        Path(mark).touch()
        return is_first

    @staticmethod
    def _fail(fault: str, energy: float, gradient: np.ndarray) -> tuple[float, np.ndarray | None]:
        print(f"flaky is about to {fault}", flush=True)
        if fault == "raise":
            raise ValueError("flaky raised as ordered")
        if fault == "random":
            raise RandomError("flaky failed at random")
        if fault == "input":
            raise InputError("flaky does not like this input")
        if fault == "crash":
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(3600)
        if fault == "nan":
            return float("nan"), gradient
        if fault == "none":
            return energy, None
        return energy, gradient


qcengine.register_program(FlakyHarness())
