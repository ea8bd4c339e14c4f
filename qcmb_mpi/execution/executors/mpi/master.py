"""Rank 0's side: its own agent, those of the other ranks, and which of them are lost.

Rules of this file
------------------
1. A lost rank is told of once; then it gets no work and what it says is not heard.
2. A rank that was given up but speaks again is told to retire, so that it ends with the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.mpi.leave import Departure
from qcmb_mpi.execution.executors.mpi.mail import Mail, Nap
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbours
from qcmb_mpi.execution.executors.mpi.notes import Beat, End, LastWord, Remove, Retire
from qcmb_mpi.execution.heartbeat import Heartbeat
from qcmb_mpi.execution.wire import FromAgent, Hello, Lost, Open, Ready, ToAgent

_GRACE_S = 30.0
_LAST_LOOK_S = 2.0
# While a rank starts, and while its slots import what a space needs, it may not be able to speak.
_N_INTERVALS_TO_START = 8.0


class MasterTransport:
    """Rank 0's own agent and those of the other ranks.

    Parameters
    ----------
    agent : Agent
    mail : Mail
    neighbours : Neighbours
        The ranks of this node.
    departure : Departure
    heartbeat_s : float
        Seconds of silence after which a rank counts as lost.
    """

    def __init__(
        self,
        agent: Agent,
        mail: Mail,
        neighbours: Neighbours,
        departure: Departure,
        heartbeat_s: float,
    ) -> None:
        self._agent = agent
        self._size = mail.comm.size
        self._neighbours = neighbours
        self._departure = departure
        self._heartbeat_s = heartbeat_s
        self._mail = mail
        self._nap = Nap()
        self._is_called = neighbours.have_bells(range(1, self._size))
        self.infos = {0: agent.info}
        self.lost: dict[int, str] = {}
        self._silent: set[int] = set()
        self.greet()

    @property
    def has_silent(self) -> bool:
        """Whether a rank that was given up may still be there: mpiexec would wait for it."""
        return bool(self._silent - self._mail.dead)

    def greet(self) -> None:
        """Give every rank time to come to the next shared work."""
        now = time.monotonic()
        others = [rank for rank in range(1, self._size) if rank not in self.lost]
        self._beats = Heartbeat(others, self._heartbeat_s, now)
        for rank in others:
            self._beats.allow(rank, _N_INTERVALS_TO_START, now)

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Return what has arrived from any agent."""
        give_up_s = time.monotonic() + timeout_s
        n_known = len(self.infos)
        while True:
            left_s = give_up_s - time.monotonic()
            was_rung, news = self._agent.has_rung, list(self._receive())
            is_vain = was_rung and not news
            if len(self.infos) > n_known:  # whoever waits for a Hello looks there
                return news
            wait_s = 0.0 if news else max(0.0, min(self._nap.interval_s, left_s))
            news += [(0, message) for message in self._agent.poll(wait_s)]
            self._nap.follow(
                is_busy=bool(news),
                is_calm=self._agent.is_calm,
                is_called=self._is_called and self._mail.is_quiet,
                is_vain=is_vain,
            )
            if news or left_s <= 0:
                return news

    def send(self, to: int, message: ToAgent) -> None:
        """Send `message` to agent `to`; nothing to one that is lost."""
        if to == 0:
            self._agent.handle(message)
        elif to not in self.lost:
            if isinstance(message, Open):
                self._beats.allow(to, _N_INTERVALS_TO_START, time.monotonic())
            self._post(to, message)

    def flush(self) -> None:
        """Wait a moment until the other ranks have taken what was sent to them."""
        self._mail.flush(_LAST_LOOK_S)

    def conclude(self, value: object, error: BaseException | None) -> End:
        """Tell every rank how the shared work ended; return what they were told.

        That is an error where MPI refuses to send the value: many can send 2 GiB at most.
        """
        self._see_removed_die()
        is_whole = not self.lost and not self._mail.dead
        end = End(value, error, is_whole)
        try:
            self._announce(end)
        except Exception as trouble:
            message = "the result cannot be sent to the other ranks; most MPI libraries send 2 GiB"
            end = End(None, QcmbError(f"{message} at most ({trouble})"), is_whole)
            self._announce(end)
        return end

    def close(self, *, wait: bool = True) -> None:
        """End our own slots; the other ranks end theirs."""
        self._agent.close(wait=wait)
        self._neighbours.close()
        self._mail.flush(_GRACE_S)

    def take_leave(self, patience_s: float) -> None:
        """Wait until every rank that is still there has nothing more to do."""
        give_up_s = time.monotonic() + patience_s
        busy = set(range(1, self._size))
        while time.monotonic() < give_up_s:
            busy -= {rank for rank, word in self._mail.receive() if isinstance(word, LastWord)}
            if busy <= self._silent | self._mail.dead:
                return
            time.sleep(self._nap.interval_s)

    # -------------------------------------------------------------------- hearing

    def _receive(self) -> Iterator[tuple[int, FromAgent]]:
        arrived = self._mail.receive()
        now = time.monotonic()
        for rank, message in arrived:
            if rank in self.lost:
                self._silent.discard(rank)
                self._mail.send(rank, Retire(self.lost[rank]))
            else:
                yield from self._hear(rank, message, now)
        for rank in self._mail.dead - self.lost.keys():
            yield self._lose(rank, "its process has died")
        yield from self._mind_beats(now)

    def _hear(self, rank: int, message: object, now: float) -> Iterator[tuple[int, FromAgent]]:
        self._beats.heard(rank, now)
        if isinstance(message, Ready):
            self._beats.allow(rank, 1.0, now)
        if isinstance(message, Hello):
            self.infos[rank] = message.info
        elif isinstance(message, Lost):
            yield self._lose(rank, message.reason)
        elif not isinstance(message, Beat):
            yield rank, message  # type: ignore[misc]

    # -------------------------------------------------------------------- losing

    def _mind_beats(self, now: float) -> Iterator[tuple[int, FromAgent]]:
        due, silent = self._beats.check(now)
        for rank in silent:
            self._silent.add(rank)
            self._remove(rank)
            yield self._lose(rank, f"it has been silent for {self._beats.limit_s(rank):g} s")
        for rank in due:
            if rank not in self.lost:
                self._post(rank, Beat())

    def _lose(self, rank: int, reason: str) -> tuple[int, FromAgent]:
        self.lost[rank] = reason
        self.infos.pop(rank, None)
        self._beats.drop(rank)
        self._mail.give_up(rank)
        return rank, Lost(reason)

    def _remove(self, rank: int) -> None:
        """Have a silent rank killed, where the others outlive that."""
        if not self._departure.is_tolerant or self._neighbours.kill(rank) or rank not in self.infos:
            return
        host = self.infos[rank].host
        for other, info in self.infos.items():
            if other not in (0, rank) and info.host == host:
                self._post(other, Remove(rank))

    def _see_removed_die(self) -> None:
        """Take a last look at who is dead; what was killed a moment ago may not be yet."""
        is_tolerant = self._departure.is_tolerant
        give_up_s = time.monotonic() + (_LAST_LOOK_S if is_tolerant and self._silent else 0.0)
        self._mail.receive()
        while self.has_silent and time.monotonic() < give_up_s:
            time.sleep(self._nap.interval_s)
            self._mail.receive()

    def _announce(self, end: End) -> None:
        for rank in range(1, self._size):
            self._mail.send(rank, end)
        self._mail.flush(_GRACE_S)

    def _post(self, to: int, message: object) -> None:
        self._mail.send(to, message)
        self._beats.sent(to, time.monotonic())
