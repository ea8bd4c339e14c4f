"""A rank other than 0: its agent, served until the master ends the work.

Rules of this file
------------------
1. Without the master there is nothing to do: the slots are killed and the rank leaves.
2. A rank that cannot go on says so and waits for the end: the others finish its work.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from typing import NoReturn

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.mpi import leave
from qcmb_mpi.execution.executors.mpi.mail import Mail, Nap
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbours
from qcmb_mpi.execution.executors.mpi.notes import Beat, End, LastWord, Remove, Retire
from qcmb_mpi.execution.heartbeat import Heartbeat
from qcmb_mpi.execution.wire import Hello, Lost, Open, Shut, ToAgent

_GRACE_S = 1.0
_STEP_S = 0.1
# A file system may stall the master. With no task space open it may be busy with its own for any
# time, and says nothing then: its death is seen by MPI.
_N_INTERVALS_OPEN = 4.0


class Worker:
    """A rank's agent and its way to the master.

    Parameters
    ----------
    agent : Agent
    mail : Mail
    neighbours : Neighbours
        The ranks of this node.
    departure : Departure
    heartbeat_s : float
        A quarter of the seconds of silence after which the master counts as lost.
    """

    def __init__(
        self,
        agent: Agent,
        mail: Mail,
        neighbours: Neighbours,
        departure: leave.Departure,
        heartbeat_s: float,
    ) -> None:
        self._agent = agent
        self._departure = departure
        self._neighbours = neighbours
        self._heartbeat_s = heartbeat_s
        self._mail = mail
        self._is_called = neighbours.have_bells([0])
        self._spaces: set[int] = set()
        self._is_retired = False
        self._beats = Heartbeat([0], heartbeat_s, time.monotonic())
        self._mail.send(0, Hello(agent.info))

    def serve(self) -> End:
        """Serve until the master concludes; return how."""
        nap = Nap()
        self._spaces.clear()
        self._beats = Heartbeat([0], self._heartbeat_s, time.monotonic())
        self._be_patient()
        self._mail.send(0, Beat())
        while True:
            was_rung, messages = self._agent.has_rung, self._mail.receive()
            for _, message in messages:
                if isinstance(message, End):
                    return message
                self._take(message)
            is_busy = self._work(0.0 if messages else nap.interval_s) or bool(messages)
            self._mind_master(has_spoken=bool(messages))
            nap.follow(
                is_busy=is_busy,
                is_calm=self._agent.is_calm,
                is_called=self._is_called and self._mail.is_quiet,
                is_vain=was_rung and not messages,
            )

    def close(self, *, wait: bool = True) -> None:
        """End our slots."""
        if not self._is_retired:
            self._agent.close(wait=wait)
        self._neighbours.close()
        self._mail.flush(_GRACE_S)

    def take_leave(self, patience_s: float) -> None:
        """Tell the master that we are about to go, and give it time to end the job for all."""
        self._mail.send(0, LastWord())
        self._mail.flush(_GRACE_S)
        give_up_s = time.monotonic() + patience_s
        while time.monotonic() < give_up_s:
            self._mail.receive()
            time.sleep(_STEP_S)

    def _take(self, message: object) -> None:
        match message:
            case Retire(reason):
                self._retire(f"it was given up, because {reason}")
            case Remove(rank):
                self._neighbours.kill(rank)
            case Beat():
                pass
            case _ if not self._is_retired:
                self._obey(message)  # type: ignore[arg-type]

    def _obey(self, message: ToAgent) -> None:
        if isinstance(message, Open):
            self._spaces.add(message.space)
        elif isinstance(message, Shut):
            self._spaces.discard(message.space)
        try:
            self._agent.handle(message)
        except QcmbError as error:
            self._give_up(error)
        self._be_patient()

    def _work(self, timeout_s: float) -> bool:
        """Keep the slots busy; return whether there was anything to tell."""
        if self._is_retired:
            time.sleep(timeout_s)
            return False
        try:
            news = self._agent.poll(timeout_s)
        except QcmbError as error:
            self._give_up(error)
            return True
        for message in news:
            self._post(message)
        return bool(news)

    def _post(self, message: object) -> None:
        self._mail.send(0, message)
        self._beats.sent(0, time.monotonic())

    # -------------------------------------------------------- trouble of our own

    def _give_up(self, error: QcmbError) -> None:
        """Leave our work to the others."""
        self._post(Lost(str(error)))
        self._retire(str(error))

    def _retire(self, reason: str) -> None:
        if self._is_retired:
            return
        self._is_retired = True
        self._complain(f"takes no more part: {reason}")
        self._agent.close(wait=False)
        self._be_patient()

    # ----------------------------------------------------- trouble of the master

    def _be_patient(self) -> None:
        # The master speaks no more to a retired rank, which ends when the others do.
        is_patient = self._is_retired or not self._spaces
        n_intervals = math.inf if is_patient else _N_INTERVALS_OPEN
        self._beats.allow(0, n_intervals, time.monotonic())

    def _mind_master(self, *, has_spoken: bool) -> None:
        if 0 in self._mail.dead:
            self._desert("rank 0 has died")
        now = time.monotonic()
        if has_spoken:
            self._beats.heard(0, now)
        due, silent = self._beats.check(now)
        if silent:
            self._end_silent_master()
            self._desert(f"rank 0 has been silent for {self._beats.limit_s(0):g} s")
        if due:
            self._post(Beat())

    def _end_silent_master(self) -> None:
        """See to it that mpiexec does not wait for the master; without ULFM it will not."""
        if self._departure.is_tolerant and not self._neighbours.kill(0):
            leave.end_launcher()

    def _desert(self, reason: str) -> NoReturn:
        self._complain(f"leaves: {reason}; the same command resumes")
        try:
            self._agent.close(wait=False)
        except Exception:
            traceback.print_exc()
        leave.at_once(leave.EXIT_INCOMPLETE)

    def _complain(self, words: str) -> None:
        print(f"qcmb-mpi: {leave.rank_name()} {words}", file=sys.stderr, flush=True)
