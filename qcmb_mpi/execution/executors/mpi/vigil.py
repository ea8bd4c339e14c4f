"""Ends the job when a rank dies while MPI starts; run as a program, one on each node.

Where ranks outlive one that dies, the others would wait for it in MPI_Init for ever, in C code
that nothing in their own process can interrupt.

Rules of this file
------------------
1. The standard library only, and little of it: it starts while MPI does.
2. It ends by itself when it has been told that all went well, or when its launcher has gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

_STEP_S = 0.25
_GRACE_S = 3.0
_LIMIT_S = 300.0
_JOB = "PMIX_NAMESPACE"


@contextlib.contextmanager
def kept(environ: Mapping[str, str], n_ranks: int) -> Iterator[None]:
    """Keep vigil over the ranks of this node while the body runs.

    Parameters
    ----------
    environ : mapping
        The rank's environment.
    n_ranks : int
        Ranks of this node.
    """
    job = environ.get(_JOB, "")
    words = [str(launcher_of(job)), job, str(n_ranks)]
    command = [sys.executable, "-I", "-S", __file__, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={}) as watch:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                watch.communicate(b"well")


def launcher_of(job: str) -> int:
    """Return the daemon that started this rank, perhaps by way of a script of the user's."""
    pid = os.getppid()
    while job and f"{_JOB}={job}".encode() in _environment(pid):
        pid = _parent(pid)
    return pid


def main(launcher: int, job: str, n_ranks: int) -> None:
    """Watch the ranks that `launcher` has started until told that MPI is up."""
    give_up_s = time.monotonic() + _LIMIT_S
    can_see = _n_ranks(launcher, job) > 0
    while not _has_word(_STEP_S):
        is_one_missing = can_see and _n_ranks(launcher, job) < n_ranks
        if is_one_missing or time.monotonic() > give_up_s:
            break
    is_well = _has_word(_GRACE_S) and os.read(0, 4)  # at the end of file our own rank has died
    if not is_well and _n_ranks(launcher, job):
        host = os.uname().nodename
        words = f"qcmb-mpi: a rank on {host} died or hangs while MPI starts; ending the job"
        print(f"{words}, start it again", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(launcher, signal.SIGTERM)


def _has_word(timeout_s: float) -> bool:
    return bool(select.select([0], [], [], timeout_s)[0])


def _n_ranks(launcher: int, job: str) -> int:
    """Count the living ranks that `launcher` has started."""
    mark = f"{_JOB}={job}".encode()
    found: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{launcher}/task"):
            with open(f"/proc/{launcher}/task/{thread}/children") as children:
                found += children.read().split()
    return sum(mark in _environment(int(pid)) for pid in found)


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as fields:
        return int(fields.read().rpartition(")")[2].split()[1])


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as variables:
            return variables.read().split(b"\0")
    except OSError:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
