"""QCEngine harness for PySCF (https://pyscf.org): AtomicInput in, AtomicResult out.

Energies and gradients with HF (RHF, UHF, ROHF), density functionals, MP2, CCSD and CCSD(T);
Hessians with RHF, UHF and density functionals. Ghost atoms carry basis functions and, for density
functionals, a grid. Method names are listed in :mod:`~qcmb_mpi.programs.pyscf_model`, keywords in
:mod:`~qcmb_mpi.programs.pyscf_keywords`.

Rules of this file
------------------
1. What is computed, and how, is in :mod:`~qcmb_mpi.programs.pyscf_calculation`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from qcelemental.util import which_import

from qcmb_mpi.programs.harness import NativeHarness
from qcmb_mpi.programs.native import Means, Specification
from qcmb_mpi.programs.pyscf_calculation import PySCFCalculation


class PySCFHarness(NativeHarness):
    """PySCF as a QCEngine program, in process."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "pyscf",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": True,
    }
    package = "pyscf"
    creator = "PySCF"
    routine = "qcmb_mpi.programs.pyscf"

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

    def calculation(self, specification: Specification, means: Means) -> PySCFCalculation:
        """Check a specification and return what computes it."""
        return PySCFCalculation(specification, means)
