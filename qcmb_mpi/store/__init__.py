"""The result store: checkpoint, cache and record of what ran, in one SQLite file."""

from __future__ import annotations

from qcmb_mpi.store.core import Store
from qcmb_mpi.store.repair import n_if_sound, salvage

__all__ = ["Store", "n_if_sound", "salvage"]
