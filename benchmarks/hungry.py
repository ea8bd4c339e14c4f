"""A QCEngine program that really holds as much memory as its keyword ``bytes`` says.

For measurements of everything around chemistry: ``--import hungry``, with this folder on
``PYTHONPATH``. It is predicted as any program that nothing is known of, by method and basis.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.programs.model import ProgramHarness


class HungryHarness(ProgramHarness):
    """Holds memory for a while and returns the sum of the nuclear charges."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "hungry",
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
        """Touch every page of ``bytes``, keep them for ``seconds``, and let go."""
        keywords = input_data.specification.keywords
        held = np.ones(int(keywords.get("bytes", 0)), dtype=np.uint8)
        time.sleep(keywords.get("seconds", 0.0))
        molecule = input_data.molecule
        energy = -float(molecule.atomic_numbers[molecule.real].sum()) - 0.0 * held.size
        return AtomicResult(
            input_data=input_data,
            molecule=molecule,
            success=True,
            provenance={"creator": "Hungry", "version": "1.0", "routine": "hungry"},
            properties={"calcinfo_natom": len(molecule.symbols), "return_energy": energy},
            return_result=energy,
        )


def document(n_tasks: int, held_bytes: int, seconds: float) -> dict[str, Any]:
    """Return an input of equal tasks, each predicted to need some 0.5 GB."""
    n_atoms = 3  # of a fragment
    n = n_atoms * n_tasks
    specification = {
        "program": "hungry",
        "driver": "energy",
        "model": {"method": "ccsd", "basis": "aug-cc-pvtz"},
        "keywords": {"bytes": held_bytes, "seconds": seconds},
    }
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": ["Ne"] * n,
            "geometry": [[0.01 * i * i, 0.0, 4.0 * i] for i in range(n)],
            "fragments": [list(range(i, i + n_atoms)) for i in range(0, n, n_atoms)],
        },
        "specification": {
            "driver": "energy",
            "keywords": {"bsse_type": ["nocp"], "max_nbody": 1, "return_total_data": True},
            "specification": {"(auto)": specification},
        },
    }


qcengine.register_program(HungryHarness())
