"""The ranks of one node: their processors and bells, and how to end one that does not answer.

Rules of this file
------------------
1. A process is known by a descriptor taken while its rank was alive: a process id may have been
   given to somebody else meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qcmb_mpi.execution.executors.mpi.bell import Bell


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A rank of this node; made by that rank.

    Parameters
    ----------
    rank : int
    mask : frozenset of int
        Its processors.
    bell : bytes
        The address of its bell, if it has one.
    pid : int
    namespace, network : str
        Where `pid` and where `bell` means something.
    """

    rank: int
    mask: frozenset[int]
    bell: bytes = b""
    pid: int = field(default_factory=os.getpid)
    namespace: str = field(default_factory=lambda: _namespace("pid"))
    network: str = field(default_factory=lambda: _namespace("net"))


class Neighbours:
    """The processes of the other ranks of this node.

    Parameters
    ----------
    rows : sequence of Neighbour
        All ranks of the node, ourselves too.
    bell : Bell
        Our own.
    """

    def __init__(self, rows: Sequence[Neighbour], bell: Bell) -> None:
        here, network = _namespace("pid"), _namespace("net")
        self._bell = bell
        self._bells = {
            row.rank: row.bell
            for row in rows
            if row.network == network and row.bell != bell.address
        }
        self._processes: dict[int, int] = {}
        for row in rows:
            if row.pid != os.getpid() and row.namespace == here and hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):
                    self._processes[row.rank] = os.pidfd_open(row.pid)

    def kill(self, rank: int) -> bool:
        """Kill the process of `rank`; return False if it is not one of ours to kill."""
        process = self._processes.get(rank)
        if process is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        return True

    def have_bells(self, ranks: Iterable[int]) -> bool:
        """Tell whether we hear each of `ranks` when it has sent something."""
        return self._bell.fileno() >= 0 and all(self._bells.get(rank) for rank in ranks)

    def ring(self, rank: int) -> None:
        """Have `rank` look for messages, if it is one of the node."""
        self._bell.ring(self._bells.get(rank, b""))

    def close(self) -> None:
        """Forget them."""
        self._bell.close()
        for process in self._processes.values():
            os.close(process)
        self._processes.clear()
