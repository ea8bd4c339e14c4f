"""QCEngine harness for tblite (https://tblite.readthedocs.io): GFN1-xTB and GFN2-xTB.

==========================  ===============================================  =======
keyword                     meaning                                          default
==========================  ===============================================  =======
``accuracy``                numerical thresholds, smaller is tighter         1.0
``max_iterations``          SCC iterations                                   250
``electronic_temperature``  of the Fermi filling, kelvin                     300
``mixer_damping``           of the SCC mixer, 0 to 1                         0.4
``verbosity``               of the captured output                           0
==========================  ===============================================  =======

Rules of this file
------------------
1. What is computed, and how, is in :mod:`~qcmb_mpi.programs.tblite_run`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from qcelemental.util import which_import

from qcmb_mpi.programs.harness import NativeHarness
from qcmb_mpi.programs.native import Means, Specification
from qcmb_mpi.programs.tblite_run import XtbCalculation


class TBLiteHarness(NativeHarness):
    """tblite as a QCEngine program, in process."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "tblite",
        "scratch": False,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": False,
    }
    package = "tblite"
    creator = "tblite"
    routine = "qcmb_mpi.tblite"

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Say whether tblite can be imported, without importing it."""
        return bool(
            which_import(
                "tblite",
                return_bool=True,
                raise_error=raise_error,
                raise_msg="Please install tblite: pip install tblite",
            )
        )

    def calculation(self, specification: Specification, means: Means) -> XtbCalculation:
        """Check a specification and return what computes it."""
        return XtbCalculation(specification, means)
