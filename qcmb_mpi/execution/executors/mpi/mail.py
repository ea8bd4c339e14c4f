"""Messages between ranks of which any may die.

Rules of this file
------------------
1. Point-to-point only, received by matched probe from any source: a posted wildcard receive hangs
   when a rank dies, and so does a collective.
2. No call blocks: a rank that stops in the middle of a long message must not stop us.
3. Never on a communicator of the user's, whose messages and error handler are its own.
4. Memory of a message on its way to a rank that was given up is never freed: the rank may wake up
   and fetch it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from mpi4py import MPI

_N_TAGS = 32767  # what every MPI has
# Open MPI looks for what it has, then fetches what has come: only the next look finds that.
_N_LOOKS = 2
_SHORTEST_S = 0.0002
_LONGEST_S = 0.01
_LONGEST_CALM_S = 0.03
_LONGEST_CALLED_S = 0.1


class Nap:
    """How long to sleep between two looks for messages: it doubles while nothing happens."""

    def __init__(self) -> None:
        self.interval_s = _SHORTEST_S
        self._is_seeking = False

    def follow(
        self, *, is_busy: bool, is_calm: bool, is_called: bool, is_vain: bool = False
    ) -> None:
        """Choose the next interval.

        Parameters
        ----------
        is_busy : bool
            Something has happened: start again, with the shortest.
        is_calm : bool
            Nobody waits for an answer: no need to start again, and a higher limit.
        is_called : bool
            A bell rings for every message: the longest at once.
        is_vain : bool
            It has rung, and the message is still to come, or was found before the bell was heard.
        """
        is_over = is_busy or self.interval_s >= _LONGEST_S
        self._is_seeking = is_vain or (self._is_seeking and not is_over)
        if is_called and not self._is_seeking:
            self.interval_s = _LONGEST_CALLED_S
        elif is_vain or (is_busy and not is_calm):
            self.interval_s = _SHORTEST_S
        else:
            longest_s = _LONGEST_CALM_S if is_calm else _LONGEST_S
            self.interval_s = min(2 * self.interval_s, longest_s)


class Line:
    """A copy of a communicator, for us alone; made by all its ranks together.

    It is kept with the communicator for whoever comes next and freed with it. Freeing it earlier
    is a collective, which hangs if a rank has died, and MPI may give its number to the next copy
    while a message is still on its way. So each user has a tag of its own instead.

    Parameters
    ----------
    comm : MPI.Comm
    """

    _key: ClassVar[int | None] = None

    def __init__(self, comm: MPI.Comm) -> None:
        from mpi4py import MPI

        self.comm = comm.Dup()
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)  # mpi4py then raises what would end the job
        self._tags = itertools.cycle(range(_N_TAGS))

    @classmethod
    def beside(cls, comm: MPI.Comm) -> Line:
        """Return the one that is kept with `comm`."""
        from mpi4py import MPI

        if Line._key is None:
            Line._key = MPI.Comm.Create_keyval(delete_fn=_free)
        line = comm.Get_attr(Line._key)
        if not isinstance(line, Line):
            line = cls(comm)
            comm.Set_attr(Line._key, line)
        return line

    def next_tag(self) -> int:
        """Return a tag of our own, the same on every rank."""
        return next(self._tags)


def _free(comm: MPI.Comm, key: int, line: Line) -> None:
    """Follow the user's communicator; that of all ranks goes in MPI_Finalize, by itself."""
    from mpi4py import MPI

    if comm != MPI.COMM_WORLD:
        line.comm.Free()


class Mail:
    """Messages of any size between the ranks of a communicator; made by all of them together.

    Parameters
    ----------
    comm : MPI.Comm
    """

    def __init__(self, comm: MPI.Comm) -> None:
        from mpi4py import MPI

        line = Line.beside(comm)
        self.comm = line.comm
        self._tag = line.next_tag()
        self._status = MPI.Status()
        self._sending: list[tuple[int, MPI.Request]] = []
        self._arriving: dict[int, deque[MPI.Request]] = {}
        self._given_up: set[int] = set()
        self._stuck: list[object] = []
        self.ring: Callable[[int], None] = lambda _rank: None  # who is to look for messages now
        self.dead: set[int] = set()

    def send(self, to: int, message: object) -> None:
        """Send `message`; to a dead rank, do nothing."""
        self._forward_sends()
        if to in self.dead:
            return
        try:
            request = self.comm.isend(message, to, self._tag)
        except Exception as error:
            self._note_deaths(error)
            return
        if to in self._given_up:
            self._stuck.append(request)
        else:
            self._sending.append((to, request))
        self.ring(to)

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

    @property
    def is_quiet(self) -> bool:
        """Whether no message is on its way, which takes looks for MPI to pass it on."""
        self._forward_sends()
        return not self._sending and not self._arriving

    def flush(self, timeout_s: float) -> None:
        """Wait until what was sent to ranks that are alive has been taken."""
        give_up_s = time.monotonic() + timeout_s
        while self._sending and time.monotonic() < give_up_s:
            self._forward_sends()
            time.sleep(_SHORTEST_S)

    def _match(self) -> None:
        """Start to receive every message that is there."""
        from mpi4py import MPI

        n_left = _N_LOOKS
        while n_left:
            n_dead = len(self.dead)
            try:
                message = self.comm.improbe(MPI.ANY_SOURCE, self._tag, self._status)
                if message is None:
                    n_left -= 1
                    continue
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
        failed = self.comm.Get_failed()
        self.comm.Ack_failed(failed.size)
        own = self.comm.Get_group()
        self.dead.update(failed.Translate_ranks(range(failed.size), own))
        failed.Free()
        own.Free()


def is_loss(error: BaseException) -> bool:
    """Whether an MPI error says that a rank has died."""
    if "mpi4py.MPI" not in sys.modules:  # it cannot even be imported
        return False
    from mpi4py import MPI

    kinds = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
    return isinstance(error, MPI.Exception) and error.Get_error_class() in kinds
