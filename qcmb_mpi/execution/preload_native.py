"""Imported once by the fork server where all programs are ours: what slots need but QCEngine.

Rules of this file
------------------
1. Imports and one-off measurements only; nothing here starts a thread or computes.
2. Neither QCEngine nor QCElemental: a slot that needs them after all imports them itself.
"""

from __future__ import annotations

import threadpoolctl

from qcmb_mpi.execution import engine, native, slot
from qcmb_mpi.programs import profiles
from qcmb_mpi.programs.native import installed_version

__all__ = ["engine", "native", "profiles", "slot", "threadpoolctl"]

installed_version("qcengine")
