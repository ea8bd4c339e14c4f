"""A rank leaves even where MPI_Abort hangs."""

from __future__ import annotations

import subprocess
import sys

from tests.launch.jobs import TIMEOUT_S

# PyDLL keeps the interpreter's lock, as a call of MPI's may.
_HANGING = """
import ctypes, sys, types
from qcmb_mpi.execution.executors.mpi import leave

world = types.SimpleNamespace(rank=0, Abort=lambda code: ctypes.PyDLL(None).sleep(3600))
sys.modules["mpi4py"] = types.SimpleNamespace(MPI=types.SimpleNamespace(COMM_WORLD=world))
leave._ABORT_S = 1.0
print("last words", end="")
leave.Departure().with_a_bug(7)
"""


def test_an_abort_that_hangs_is_cut_off_and_what_was_printed_is_out() -> None:
    line = [sys.executable, "-c", _HANGING]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 1
    assert (ended.stdout, ended.stderr) == ("last words", "")
