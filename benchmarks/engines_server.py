"""The process that our slots come from, for ``engines.py``: started as early as our command does.

Rules of this file
------------------
1. Import it before anything slow, NumPy included: the server imports the same meanwhile.
"""

from __future__ import annotations

import os

from qcmb_mpi.execution.forkserver import PRELOAD, ForkServer, clean_environment
from qcmb_mpi.machine import affinity, launcher

BARE = ("qcmb_mpi.execution.slot",)


def started(*, is_mpi: bool, has_programs: bool) -> ForkServer | None:
    """Start the server of this node; None where another rank does.

    Without programs, slots do not import QCEngine.
    """
    affinity.pin(affinity.allocation_mask())  # mpiexec may bind a rank to one core
    if is_mpi and not launcher.leads_node(os.environ):
        return None
    modules = PRELOAD if has_programs else BARE
    return ForkServer.start(clean_environment(os.environ), (*modules, "engines_recipe"))
