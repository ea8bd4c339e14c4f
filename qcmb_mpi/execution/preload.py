"""Imported once by the fork server: what every slot needs, so that a slot starts in no time.

Rules of this file
------------------
1. Imports and one-off measurements only; nothing here starts a thread or computes.
"""

from __future__ import annotations

import qcelemental.models.v2
import qcengine

from qcmb_mpi import programs
from qcmb_mpi.execution import engine, slot

__all__ = ["engine", "qcelemental", "qcengine", "slot"]

programs.register()
engine.prime_qcengine()
