"""A clean process from which warm slots are forked.

The server is started with an environment free of launcher variables, imports what slots need
once, and forks a slot in a few milliseconds; some are *spares*, forked before it is known what they
are for. The ranks of a node share one server: imports cost each node once. It reaps slots, and
when an owner dies (end of file on its socket) it kills that owner's slots together with the
programs they run; without owners it ends. This is the owner's side; the server's is
:mod:`qcmb_mpi.execution.forkserver_main`.

``multiprocessing``'s own fork server would import the user's ``__main__`` in every child and
keeps one environment for the whole process; see ``docs/decisions.md``.

Rules of this file
------------------
1. Whether the server has died is told by its socket alone: it need not be our child.
2. Nobody waits for a server, which may be importing or stopped: what it answers is taken in when it
   is there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution import mark
from qcmb_mpi.execution.forkserver_main import NO_FORK, remove
from qcmb_mpi.execution.pipe import Pipe
from qcmb_mpi.execution.tickets import Tickets
from qcmb_mpi.machine import launcher, limits, threads
from qcmb_mpi.machine.processes import cpu_s, kill_tree

if TYPE_CHECKING:
    from qcmb_mpi.execution.outcome import Outcome

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "import qcmb_mpi.execution.forkserver_main as main; main.serve(int(sys.argv[1]), sys.argv[3])"
)
_BACKLOG = 1024
_FAREWELL_S = 5.0
_PIPE_BYTES = 2**20  # the system may allow less
_N_ASKED = 16  # what fits into the socket of a server that is at an import

# What every slot needs, and what is enough for our own programs; programs add their own.
PRELOAD = ("qcmb_mpi.execution.preload",)
PRELOAD_NATIVE = ("qcmb_mpi.execution.preload_native",)
PRELOAD_LAST = ("qcmb_mpi.execution.preload_last",)


def clean_environment(environ: Mapping[str, str], n_threads: int = 1) -> dict[str, str]:
    """Return the environment of slots: no launcher variables, `n_threads` numeric threads."""
    granted = limits.read_limits()
    return threads.slot_environment(
        launcher.child_environment(environ),
        n_threads,
        most_threads=granted.n_cpus,
        memory_bytes=granted.memory_bytes,
    )


class SlotProcess:
    """The owner's end of one slot.

    Parameters
    ----------
    pipe : Pipe
        Two-way, never waits.
    log : file object
        What it and its programs write to standard output and error.
    mark_file : file object
        What it leaves behind; see :mod:`qcmb_mpi.execution.mark`.
    tickets : Tickets
        What lets it start the tasks that it is sent.

    Attributes
    ----------
    pid : int
        Process id, also the id of its process group; 0 until the server has told it.
    fault : str
        Why it was never started, if so; its pipe is at its end then.
    """

    def __init__(self, pipe: Pipe, log: IO[bytes], mark_file: IO[bytes], tickets: Tickets) -> None:
        self.pid = 0
        self.fault = ""
        self.is_given_up = False
        self._is_killed = False
        self.pipe = pipe
        self._tickets = tickets
        self._log = log
        self._mark = mark_file

    def was_forked(self, pid: int) -> None:
        """Learn its process id."""
        self.pid = pid
        if self._is_killed:
            self.kill()

    def start(self, space: int, ids: list[int]) -> int:
        """Send it tasks that it may start; return how many: one at least if it has none.

        Raises
        ------
        OSError
            It is not there any more.
        """
        number, n_issued = self._tickets.issue(len(ids))
        if n_issued:
            self.pipe.send(("work", space, ids[:n_issued], number))
        return n_issued

    def take_back(self) -> int:
        """Return how many tasks it will not start any more: the last ones that it was sent."""
        return self._tickets.take_back()

    @property
    def n_started(self) -> int:
        """Tasks it has started in its life; known also after its death."""
        return mark.n_started(self._mark.fileno())

    def untold(self, n_heard: int) -> list[Outcome]:
        """Return what it finished and did not tell before its death; `n_heard` were told."""
        return mark.untold(self._mark.fileno(), n_heard)

    def cpu_s(self) -> float:
        """Return the processor time that it and its programs spent on the task it is at."""
        if not self.pid:
            return 0.0
        return max(0.0, cpu_s(self.pid) - mark.spent_s(self._mark.fileno()))

    def output_tail(self, n_bytes: int = 2000) -> str:
        """Return the last `n_bytes` that were written."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), n_bytes, max(0, size - n_bytes)).decode(
            errors="replace"
        )

    def kill(self) -> None:
        """Kill the slot and every program it started, whatever group that is in."""
        self.is_given_up = self._is_killed = True
        if self.pid:
            kill_tree(self.pid)

    def close(self) -> None:
        """Give up the pipe and the log."""
        self.is_given_up = True
        self.pipe.close()
        self._log.close()
        self._mark.close()
        self._tickets.close()


class ForkServer:
    """An owner's handle of a server; made by :meth:`start` or :meth:`connect`.

    Parameters
    ----------
    address : str
        Path of the server's socket, in a private directory.
    process : subprocess.Popen, optional
        The server, if it is our child.

    Raises
    ------
    TransportError
        Nobody listens there.
    """

    def __init__(self, address: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.address = address
        self._process = process
        self._incoming = b""
        self._exits: dict[int, int] = {}
        self._unasked: deque[tuple[SlotProcess, socket.socket, list[int]]] = deque()
        self._asked: deque[SlotProcess] = deque()
        self._spares: deque[SlotProcess] = deque()
        self._has_gone = False
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._control.connect(address)
        except OSError as error:
            self._control.close()
            raise TransportError(f"no fork server at {address}: {error}") from error

    @classmethod
    def start(cls, environment: Mapping[str, str], preload: Iterable[str] = ()) -> ForkServer:
        """Start a server.

        Parameters
        ----------
        environment : mapping
            The environment of the server and so of every slot and program.
        preload : iterable of str
            Modules to import in the server, at once and in the background; one that cannot be
            imported is left to the slot, which reports it.
        """
        address = os.path.join(tempfile.mkdtemp(prefix="qcmb-"), "slots")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen(_BACKLOG)
            server = cls(address)  # connected before the server is there: it always has an owner
            server._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _START),
                    *(str(listener.fileno()), json.dumps(sys.path), address),
                ],
                pass_fds=[listener.fileno()],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        server.preload(preload)
        return server

    @classmethod
    def connect(cls, address: str) -> ForkServer:
        """Become one more owner of the server at `address`."""
        return cls(address)

    def preload(self, modules: Iterable[str]) -> None:
        """Import `modules` in the server; later slots have them for nothing."""
        self._send({"preload": list(modules)})

    def prefork(self, n_slots: int) -> None:
        """Have slots started before it is known what they are for; some, if they are very many."""
        with contextlib.suppress(TransportError):  # which is told when one is wanted
            while not self.has_gone and len(self._spares) < min(n_slots, _N_ASKED):
                self._spares.append(self._new())

    def drop_spares(self) -> None:
        """End the slots that were started before and that nobody wanted."""
        while self._spares:
            self._spares.popleft().close()  # an idle slot leaves at the end of its pipe

    def fork(self) -> SlotProcess:
        """Have a slot started; its process id comes later, see :meth:`listen`.

        Raises
        ------
        TransportError
            The server has died (:attr:`has_gone`), or the system is out of something.
        """
        if self.has_gone:
            raise TransportError("the fork server has gone")
        while self._spares:
            spare = self._spares.popleft()
            if not (spare.fault or spare.pid in self._exits):
                return spare
            self._exits.pop(spare.pid, None)
            spare.close()
        return self._new()

    def _new(self) -> SlotProcess:
        with contextlib.ExitStack() as undo:
            try:
                mine, theirs = map(undo.enter_context, socket.socketpair())
                log = undo.enter_context(tempfile.TemporaryFile(prefix="qcmb-slot-"))
                left = undo.enter_context(mark.new())
                tickets = undo.enter_context(contextlib.closing(Tickets()))
            except OSError as error:
                raise TransportError(f"no slot can be started: {error}") from error
            undo.pop_all()
        mine.setblocking(False)
        # A slot goes on to its next task while its agent is busy with other things.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
        slot = SlotProcess(Pipe(mine), log, left, tickets)
        fds = [theirs.fileno(), log.fileno(), left.fileno(), tickets.slot_fd]
        self._unasked.append((slot, theirs, fds))
        self._ask()
        return slot

    def fileno(self) -> int:
        """Return the descriptor to wait for; -1 if the server has died."""
        return -1 if self._has_gone else self._control.fileno()

    def listen(self, timeout_s: float = 0.0) -> bool:
        """Take in what the server tells, waiting for it; return whether there was anything."""
        if self._has_gone or not _is_readable(self._control, timeout_s):
            return False
        self._read()
        self._ask()
        return True

    @property
    def has_gone(self) -> bool:
        """Whether the server has died: no slot comes from it any more, and none of it lives."""
        while self.listen():
            pass
        return self._has_gone

    def exit_status(self, pid: int, timeout_s: float = 0.0) -> int | None:
        """Return the exit status of a slot that ended: -N for signal N, None if not known."""
        while pid not in self._exits:
            if not self.listen(timeout_s):
                return None
        return self._exits.pop(pid)

    def close(self) -> None:
        """End our slots; the server ends with its last owner."""
        self.drop_spares()
        self._has_gone = True
        self._ask()
        self._control.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL_S)
                remove(self.address)  # if it was killed it could not do so itself

    def _send(self, request: Mapping[str, Any]) -> None:
        self._control.sendall(json.dumps(request).encode() + b"\n")

    def _ask(self) -> None:
        """Ask for slots, for few enough at a time that nobody waits."""
        while self._unasked and (self._has_gone or len(self._asked) < _N_ASKED):
            slot, theirs, fds = self._unasked[0]
            if not (self._has_gone or slot.is_given_up):
                try:
                    # In one piece, so that there is nothing to be undone if it does not go.
                    socket.send_fds(self._control, [b'{"fork": true}\n'], fds)
                    self._asked.append(slot)
                except OSError as error:
                    if error.errno == errno.ETOOMANYREFS and self._asked:
                        return  # a user's descriptors on their way: when an answer has come
                    slot.fault = f"no slot can be started: {error}"
            self._unasked.popleft()
            theirs.close()  # if nobody has got it, the end of its pipe tells that there is no slot

    def _read(self) -> None:
        received = b""
        with contextlib.suppress(OSError):  # reset: it died with a request of ours unread
            received = self._control.recv(65536)
        *lines, self._incoming = (self._incoming + received).split(b"\n")
        for line in lines:
            pid, value = json.loads(line)
            if pid:
                self._exits[pid] = value
            else:  # process 0 never exits: the answer to a request for a slot
                self._answer(value)
        self._has_gone = not received

    def _answer(self, pid: int) -> None:
        slot = self._asked.popleft()
        if pid == NO_FORK:
            slot.fault = "no slot can be started: the system refused another process"
        else:
            self._exits.pop(pid, None)  # of another one that had this number once
            slot.was_forked(pid)


def _is_readable(control: socket.socket, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    return bool(poller.poll(math.ceil(1000 * timeout_s)))
