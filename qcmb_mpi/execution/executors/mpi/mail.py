"""Messages between ranks of which any may die.

Rules of this file
------------------
1. Point-to-point only, received by matched probe from any source: a posted wildcard receive hangs
   when a rank dies, and so does a collective.
2. No call blocks: a rank that stops in the middle of a long message must not stop us.
3. Memory of a message on its way to a rank that was given up is never freed: the rank may wake up
   and fetch it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpi4py import MPI

_TAG = 1
_FT_VARIABLE = "OMPI_MCA_mpi_ft_enable"
_STEP_S = 0.0002


def is_tolerant() -> bool:
    """Whether ranks outlive one that dies: Open MPI under ``mpiexec --with-ft ulfm``."""
    return os.environ.get(_FT_VARIABLE, "").lower() in ("1", "true", "yes")


class Mail:
    """Messages of any size over one communicator.

    Parameters
    ----------
    comm : MPI.Comm
    """

    def __init__(self, comm: MPI.Comm) -> None:
        from mpi4py import MPI

        comm.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py then raises what would end the job
        self._comm = comm
        self._status = MPI.Status()
        self._sending: list[tuple[int, MPI.Request]] = []
        self._arriving: dict[int, deque[MPI.Request]] = {}
        self._given_up: set[int] = set()
        self._stuck: list[object] = []
        self.dead: set[int] = set()

    def send(self, to: int, message: object) -> None:
        """Send `message`; to a dead rank, do nothing."""
        self._forward_sends()
        if to in self.dead:
            return
        try:
            request = self._comm.isend(message, to, _TAG)
        except Exception as error:
            self._note_deaths(error)
            return
        if to in self._given_up:
            self._stuck.append(request)
        else:
            self._sending.append((to, request))

    def give_up(self, rank: int) -> None:
        """Wait for `rank` no more, neither to take a message nor to finish one."""
        self._given_up.add(rank)
        self._stuck += [request for to, request in self._sending if to == rank]
        self._sending = [(to, request) for to, request in self._sending if to != rank]
        self._stuck += self._arriving.pop(rank, ())

    def receive(self) -> list[tuple[int, Any]]:
        """Return what has arrived as (source, message), in each source's order."""
        self._match()
        arrived = []
        for source in list(self._arriving):
            arrived += [(source, message) for message in self._finished(source)]
        return arrived

    def flush(self, timeout_s: float) -> None:
        """Wait until what was sent to ranks that are alive has been taken."""
        give_up_s = time.monotonic() + timeout_s
        while self._sending and time.monotonic() < give_up_s:
            self._forward_sends()
            time.sleep(_STEP_S)

    def _match(self) -> None:
        """Start to receive every message that is there."""
        from mpi4py import MPI

        while True:
            n_dead = len(self.dead)
            try:
                message = self._comm.improbe(MPI.ANY_SOURCE, _TAG, self._status)
                if message is None:
                    return
                queue = self._arriving.setdefault(self._status.source, deque())
                queue.append(message.irecv())
            except Exception as error:
                self._note_deaths(error)
                if len(self.dead) == n_dead:
                    return

    def _finished(self, source: int) -> Iterator[Any]:
        queue = self._arriving[source]
        while queue:
            is_done, message = self._test(source, queue[0])
            if not is_done:
                return
            queue.popleft()
            if source not in self.dead or message is not None:
                yield message
        del self._arriving[source]

    def _forward_sends(self) -> None:
        if self._sending:
            self._sending = [
                (to, request) for to, request in self._sending if not self._test(to, request)[0]
            ]

    def _test(self, rank: int, request: MPI.Request) -> tuple[bool, Any]:
        """Return whether a message has been passed on, also if that can never be, and what."""
        try:
            is_done, message = request.test()
        except Exception as error:
            self._note_deaths(error)
            return rank in self.dead, None
        return bool(is_done), message

    def _note_deaths(self, error: Exception) -> None:
        """Find out which ranks have died, if that is what the error says."""
        if not is_loss(error):
            raise error
        failed = self._comm.Get_failed()
        self._comm.Ack_failed(failed.size)
        own = self._comm.Get_group()
        self.dead.update(failed.Translate_ranks(range(failed.size), own))
        failed.Free()
        own.Free()


def is_loss(error: BaseException) -> bool:
    """Whether an MPI error says that a rank has died."""
    from mpi4py import MPI

    kinds = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
    return isinstance(error, MPI.Exception) and error.Get_error_class() in kinds
