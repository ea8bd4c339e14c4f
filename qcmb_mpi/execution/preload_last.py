"""Imported by the fork server after everything else: what slots would each find out for themselves.

Rules of this file
------------------
1. One-off measurements only; nothing here starts a thread or computes.
"""

from __future__ import annotations

from qcmb_mpi.machine import cgroups
from qcmb_mpi.programs import threads

threads.loaded_libraries()
cgroups.oom_counter()
