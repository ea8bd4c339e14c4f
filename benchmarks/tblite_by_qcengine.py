"""Has QCEngine call tblite (``--import tblite_by_qcengine``), as it does a harness of the user's.

Rules of this file
------------------
1. The harness of qcmb_mpi in all but its class, for which no way round QCEngine is known.
"""

from __future__ import annotations

import qcengine

from qcmb_mpi.programs.tblite import TBLiteHarness


class Tblite(TBLiteHarness):
    """The same program under the same name."""


if "tblite" in qcengine.list_all_programs():
    qcengine.unregister_program("tblite")
qcengine.register_program(Tblite())
