"""Ends a launcher that waits for a host which no longer answers: a program that outlives the ranks.

Measured with Open MPI 5.0: after MPI_Abort, mpiexec waits for the daemon of a host that is cut off
for as long as its TCP connection lives, and leaves at the third SIGTERM.

Rules of this file
------------------
1. The standard library only, and little of it: the rank that starts it is about to be killed.
2. The launcher is known by a descriptor: its number may be somebody else's by then.
3. Only what ends with its job is ended. A ``prte`` that ``prun`` gives jobs to serves others too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

_PATIENCE_S = 3.0
_LAUNCHERS = ("mpiexec", "mpirun", "orterun", "orted", "prterun", "prted")
_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)


def send_for(launcher: int, *, patience_s: float = _PATIENCE_S) -> None:
    """See to it that `launcher` ends, also after this process has gone.

    Parameters
    ----------
    launcher : int
        Its process id; one that is no launcher of a single job is left alone.
    patience_s : float
        How long it may take to end by itself, and after each signal.
    """
    if launcher <= 1 or not hasattr(os, "pidfd_open"):
        return
    with contextlib.suppress(OSError):
        process = os.pidfd_open(launcher)
        if _name(launcher) not in _LAUNCHERS:
            os.close(process)
            return
        # In a session of its own: launchers kill what is in a rank's.
        subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(process), str(patience_s)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={n: os.environ[n] for n in ("PATH", "LD_LIBRARY_PATH") if n in os.environ},
            pass_fds=(process,),
            start_new_session=True,
        )
        os.close(process)


def _name(process: int) -> str:
    with open(f"/proc/{process}/comm") as name:
        return name.read().strip()


def main(process: int, patience_s: float) -> None:
    """Send one signal after the other until the process of that descriptor has ended."""
    for number in _SIGNALS:
        if select.select([process], [], [], patience_s)[0]:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(process, number)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
