"""A QCEngine program that only spins, and returns a closed-form energy and gradient.

For measurements of everything around chemistry: ``--import spin``, with this folder on
``PYTHONPATH``. Keywords ``spin_s`` and ``power`` say how long: ``spin_s`` times atoms, ghosts
included, to that power; 5 ms without them. With ``sleep_s`` it then sleeps for that long.

Rules of this file
------------------
1. What is spun is processor time of this thread, so that a core that is shared stays visible.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.programs.model import ProgramHarness

SPIN_S = 0.005
_MICROSECONDS = range(1000)  # about twenty


def seconds_of(input_data: AtomicInput) -> float:
    """Return the processor time that a task is to take."""
    keywords = input_data.specification.keywords
    n_atoms = len(input_data.molecule.symbols)
    return float(keywords.get("spin_s", SPIN_S) * n_atoms ** keywords.get("power", 0.0))


class SpinHarness(ProgramHarness):
    """Keeps a core busy, as chemistry does."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "spin",
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
        """Spin for as much processor time as the keywords say."""
        end_s = time.thread_time() + seconds_of(input_data)
        while time.thread_time() < end_s:
            sum(_MICROSECONDS)  # looking at the clock is work of the system, not of the program
        time.sleep(input_data.specification.keywords.get("sleep_s", 0.0))
        molecule = input_data.molecule
        energy = float(np.sin(molecule.geometry).sum())
        gradient = np.cos(molecule.geometry)
        driver = input_data.specification.driver.value
        return AtomicResult(
            input_data=input_data,
            molecule=molecule,
            success=True,
            provenance={"creator": "Spin", "version": "1.0", "routine": "spin"},
            properties={
                "calcinfo_natom": len(molecule.symbols),
                "return_energy": energy,
                "return_gradient": gradient,
            },
            return_result=energy if driver == "energy" else gradient,
        )


qcengine.register_program(SpinHarness())
