"""The processes of a job, found by a variable in their environment, whoever their parent is."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

MARK = "QCMB_TORTURE"
_PARENT, _GROUP = 1, 2


@dataclass(frozen=True)
class Process:
    """One living process.

    Parameters
    ----------
    pid : int
    role : str
        launcher, rank (also the master without MPI), server, slot or program.
    rank : int
        Of a rank.
    """

    pid: int
    role: str
    rank: int = 0


def living(mark: str) -> list[Process]:
    """Return the processes whose environment has ``QCMB_TORTURE=mark``."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                environment = _fields(int(entry), "environ")
                if f"{MARK}={mark}" in environment and _state(int(entry)) not in "ZX":
                    found[int(entry)] = environment
    servers = {pid for pid in found if "forkserver" in " ".join(_words(pid))}
    processes = []
    for pid, environment in sorted(found.items()):
        with contextlib.suppress(OSError):  # it may end meanwhile
            processes.append(_process(pid, environment, servers))
    return processes


def kill_all(mark: str) -> int:
    """Kill them all and those they start meanwhile; return how many there were."""
    killed = set()
    while left := living(mark):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                killed.add(process.pid)
    return len(killed)


def describe(mark: str) -> str:
    """Say who lives, and what each of them waits for."""
    lines = []
    for process in living(mark):
        with contextlib.suppress(OSError):
            waits = Path(f"/proc/{process.pid}/wchan").read_text()
            lines.append(f"{process} {_state(process.pid)} {waits} {_words(process.pid)[:4]}")
    return "\n".join(lines)


def _process(pid: int, environment: list[str], servers: set[int]) -> Process:
    words = _words(pid)
    if pid in servers:
        leads_group = _stat(pid)[_GROUP] == str(pid)
        return Process(pid, "slot" if leads_group and _parent(pid) in servers else "server")
    if "qcmb_mpi" not in words:
        return Process(pid, "program")
    if not Path(words[0]).name.startswith("python"):
        return Process(pid, "launcher")
    ranks = [int(e.partition("=")[2]) for e in environment if "OMPI_COMM_WORLD_RANK=" in e]
    return Process(pid, "rank", ranks[0] if ranks else 0)


def _fields(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").split("\0")


def _words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return _fields(pid, "cmdline")
    return []


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return _stat(pid)[0]
    return "X"


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(_stat(pid)[_PARENT])
    return 0
