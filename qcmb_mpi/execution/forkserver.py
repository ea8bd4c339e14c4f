"""A clean process from which warm slots are forked.

The server is started with an environment free of launcher variables, imports what slots need
once, and forks a slot in a few milliseconds. The ranks of a node share one: imports cost each
node once. It reaps slots, and when an owner dies (end of file on its socket) it kills that
owner's slots together with the programs they run; without owners it ends. This is the owner's side;
the server's is :mod:`qcmb_mpi.execution.forkserver_main`.

``multiprocessing``'s own fork server would import the user's ``__main__`` in every child and
keeps one environment for the whole process; see ``docs/decisions.md``.

Rules of this file
------------------
1. Whether the server has died is told by its socket alone: it need not be our child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution.forkserver_main import NO_FORK, remove
from qcmb_mpi.machine import launcher, threads
from qcmb_mpi.machine.processes import cpu_s, kill_tree

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "import qcmb_mpi.execution.forkserver_main as main; main.serve(int(sys.argv[1]), sys.argv[3])"
)
_BACKLOG = 1024
_FAREWELL_S = 5.0
_PATIENCE_S = 300.0

# What every slot needs; programs add their own.
PRELOAD = ("qcmb_mpi.execution.preload",)


def clean_environment(environ: Mapping[str, str], n_threads: int = 1) -> dict[str, str]:
    """Return the environment of slots: no launcher variables, `n_threads` numeric threads."""
    return launcher.child_environment(environ) | threads.thread_environment(n_threads)


class SlotProcess:
    """The owner's end of one slot.

    Parameters
    ----------
    pid : int
        Process id, also the id of its process group.
    connection : multiprocessing.connection.Connection
        Two-way pipe to it.
    log : file object
        What it and its programs write to standard output and error.
    mark : file object
        Where it counts the tasks it has started; see :class:`~qcmb_mpi.execution.slot.Mark`.
    """

    def __init__(self, pid: int, connection: Connection, log: IO[bytes], mark: IO[bytes]) -> None:
        self.pid = pid
        self.connection = connection
        self._log = log
        self._mark = mark

    @property
    def n_started(self) -> int:
        """Tasks it has started in its life; known also after its death."""
        return int.from_bytes(os.pread(self._mark.fileno(), 8, 0), "little")

    def cpu_s(self) -> float:
        """Return the processor time that it and its programs spent on the task it is at."""
        before_ms = int.from_bytes(os.pread(self._mark.fileno(), 8, 8), "little")
        return max(0.0, cpu_s(self.pid) - before_ms / 1000)

    def output_tail(self, n_bytes: int = 2000) -> str:
        """Return the last `n_bytes` that were written."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), n_bytes, max(0, size - n_bytes)).decode(
            errors="replace"
        )

    def kill(self) -> None:
        """Kill the slot and every program it started, whatever group that is in."""
        kill_tree(self.pid)

    def close(self) -> None:
        """Give up the pipe and the log."""
        self.connection.close()
        self._log.close()
        self._mark.close()


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

    def fork(self) -> SlotProcess:
        """Start a slot.

        Raises
        ------
        TransportError
            The server has died (:attr:`has_gone`), or the system is out of something.
        """
        with contextlib.ExitStack() as undo:
            try:
                mine, theirs = map(undo.enter_context, socket.socketpair())
                log = undo.enter_context(tempfile.TemporaryFile(prefix="qcmb-slot-"))
                mark = undo.enter_context(tempfile.TemporaryFile(prefix="qcmb-mark-"))
                self._send({"fork": True})
                fds = [theirs.fileno(), log.fileno(), mark.fileno()]
                socket.send_fds(self._control, [b"!"], fds)
                pid = self._forked_pid()
            except OSError as error:
                what = "the fork server has gone" if self.has_gone else "no slot can be started"
                raise TransportError(f"{what}: {error}") from error
            undo.pop_all()
        theirs.close()
        self._exits.pop(pid, None)  # of another one that had this number once
        return SlotProcess(pid, Connection(mine.detach()), log, mark)

    @property
    def has_gone(self) -> bool:
        """Whether the server has died: no slot comes from it any more, and none of it lives."""
        while not self._has_gone and select.select([self._control], [], [], 0.0)[0]:
            self._read()
        return self._has_gone

    def exit_status(self, pid: int, timeout_s: float = 1.0) -> int | None:
        """Return the exit status of a slot that ended: -N for signal N, None if not known."""
        while pid not in self._exits:
            if self._has_gone or not select.select([self._control], [], [], timeout_s)[0]:
                return None
            self._read()
        return self._exits.pop(pid)

    def close(self) -> None:
        """End our slots; the server ends with its last owner."""
        self._control.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL_S)
                remove(self.address)  # if it was killed it could not do so itself

    def _send(self, request: Mapping[str, Any]) -> None:
        self._control.sendall(json.dumps(request).encode() + b"\n")

    def _forked_pid(self) -> int:
        while True:
            pid = self._exits.pop(0, None)  # process 0 never exits: the key of a fork's answer
            if pid == NO_FORK:
                raise BlockingIOError("the system refused another process")
            if pid is not None:
                return pid
            if not select.select([self._control], [], [], _PATIENCE_S)[0]:
                raise TimeoutError(f"no answer in {_PATIENCE_S:g} s; does an import hang?")
            self._read()
            if self._has_gone:
                raise ConnectionResetError("end of file on the control socket")

    def _read(self) -> None:
        received = b""
        with contextlib.suppress(OSError):  # reset: it died with a request of ours unread
            received = self._control.recv(65536)
        *lines, self._incoming = (self._incoming + received).split(b"\n")
        for line in lines:
            pid, value = json.loads(line)
            self._exits[pid] = value
        self._has_gone = not received
