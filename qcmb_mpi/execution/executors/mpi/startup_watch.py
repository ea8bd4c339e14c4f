"""Ends the job when a rank dies while MPI starts: a program beside the ranks, one on each node.

Where ranks outlive one that dies, the others would wait for it in MPI_Init for ever, in C code
that nothing in their own process can interrupt.

Rules of this file
------------------
1. The standard library only, and little of it: it starts while MPI does.
2. It ends by itself when it has been told that all went well, or when its launcher has gone.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

LIMIT_S = 300.0
_STEP_S = 0.25
_GRACE_S = 3.0
_QUIET_S = 30.0
_JOB = "PMIX_NAMESPACE"
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # Python may need them to start


@contextlib.contextmanager
def kept(environ: Mapping[str, str], n_ranks: int, *, limit_s: float = math.inf) -> Iterator[None]:
    """Watch the ranks of this node while the body runs.

    Parameters
    ----------
    environ : mapping
        The rank's environment.
    n_ranks : int
        Ranks of this node.
    limit_s : float
        Seconds the body may take.
    """
    job = environ.get(_JOB, "")
    words = [str(launcher_of(job)), job, str(n_ranks), str(limit_s)]
    command = [sys.executable, "-I", "-S", __file__, *words]
    passed_on = {name: environ[name] for name in _PASSED_ON if name in environ}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=passed_on) as watch:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                watch.communicate(b"well")


def launcher_of(job: str) -> int:
    """Return the daemon that started this rank, perhaps by way of a script of the user's."""
    pid = os.getppid()
    with contextlib.suppress(OSError):
        while job and f"{_JOB}={job}".encode() in _environment(pid):
            pid = _parent(pid)
    return pid


def end(launcher: int) -> None:
    """Ask a launcher to end the job; one that has died has left its ranks to process 1.

    A ``prte`` server, to which ``prun`` gives jobs, is left alone: others' jobs would end with it.
    """
    if launcher > 1 and _name(launcher) != "prte":
        _signal(launcher, signal.SIGTERM)


def _end_ranks(launcher: int, job: str) -> None:
    """Kill the ranks that a ``prte`` server has started here: in MPI they hear no other signal."""
    for pid in _ranks(launcher, job) if _name(launcher) == "prte" else []:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class Roll:
    """How many ranks of a node are there: they start one after the other, perhaps slowly.

    Parameters
    ----------
    n_ranks : int
        Ranks to be started.
    now : float
        Seconds on any clock that does not go back.
    """

    def __init__(self, n_ranks: int, now: float) -> None:
        self._n_ranks = n_ranks
        self._n_seen = 0
        self._grown_s = self._whole_s = now

    def is_one_missing(self, n_here: int, now: float) -> bool:
        """Whether one has died: fewer are here than were, or no other has come for long.

        Fewer for a moment means nothing: in the middle of an exec a process has no environment.
        """
        if n_here > self._n_seen:
            self._n_seen, self._grown_s = n_here, now
        if n_here == self._n_seen:
            self._whole_s = now
        is_quiet = now - self._grown_s > _QUIET_S
        return now - self._whole_s > _GRACE_S or (is_quiet and 0 < n_here < self._n_ranks)


def main(launcher: int, job: str, n_ranks: int, limit_s: float) -> None:
    """Watch the ranks that `launcher` has started until told that MPI is up."""
    began_s = now = time.monotonic()
    roll = Roll(n_ranks, now)
    while not _has_word(_STEP_S):
        now = time.monotonic()
        if roll.is_one_missing(len(_ranks(launcher, job)), now) or now - began_s > limit_s:
            break
    is_well = _has_word(0.0) and os.read(0, 4)  # at the end of file our own rank has died
    if not is_well and _ranks(launcher, job):
        host = os.uname().nodename
        words = f"qcmb-mpi: a rank on {host} died or hangs while MPI starts; ending the job"
        print(f"{words}, start it again", file=sys.stderr, flush=True)
        end(launcher)
        _end_ranks(launcher, job)


def _has_word(timeout_s: float) -> bool:
    return bool(select.select([0], [], [], timeout_s)[0])


def _ranks(launcher: int, job: str) -> list[int]:
    """Return the living ranks that `launcher` has started for a job."""
    mark = f"{_JOB}={job}".encode()
    found: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{launcher}/task"):
            with open(f"/proc/{launcher}/task/{thread}/children") as children:
                found += children.read().split()
    return [int(pid) for pid in found if mark in _environment(int(pid))]


def _name(pid: int) -> str:
    """Return what the system calls a process; empty where it does not tell."""
    try:
        with open(f"/proc/{pid}/comm") as name:
            return name.read().strip()
    except OSError:
        return ""


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
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
