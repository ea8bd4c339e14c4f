"""Imported by the fork server after everything else: what slots would each find out for themselves.

Rules of this file
------------------
1. One-off measurements only; nothing here starts a thread or computes.
"""

from __future__ import annotations

import sys

from qcmb_mpi.machine import cgroups
from qcmb_mpi.programs import threads
from qcmb_mpi.programs.names import OURS
from qcmb_mpi.programs.native import installed_version

for name in OURS:
    if name in sys.modules:
        installed_version(name)
threads.loaded_libraries()
cgroups.oom_counter()
