"""A clean process from which warm slots are forked.

The server is started with an environment free of launcher variables, imports what slots need
once, and forks a slot in a few milliseconds. The ranks of a node share one: imports cost each
node once. It reaps slots, and when an owner dies (end of file on its socket) it kills that
owner's slots together with the programs they run; without owners it ends.

``multiprocessing``'s own fork server would import the user's ``__main__`` in every child and
keeps one environment for the whole process; see ``docs/decisions.md``.

Rules of this file
------------------
1. The server never runs a calculation and never starts a thread, so that forking it is safe.
2. Every slot leads its own process group: killing the group takes its programs along.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import IO, Any

from qcmb_mpi.errors import TransportError
from qcmb_mpi.machine import launcher, threads

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from qcmb_mpi.execution import forkserver; forkserver.serve(int(sys.argv[1]), sys.argv[3])"
)
_PR_SET_PDEATHSIG = 1
_BACKLOG = 1024
_FAREWELL_S = 5.0
_PATIENCE_S = 300.0
_NO_FORK = -1

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
        Where it counts the tasks it has started.
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

    def output_tail(self, n_bytes: int = 2000) -> str:
        """Return the last `n_bytes` that were written."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), n_bytes, max(0, size - n_bytes)).decode(
            errors="replace"
        )

    def kill(self) -> None:
        """Kill the slot and every program in its process group."""
        _kill_group(self.pid)

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
            The server has died.
        """
        mine, theirs = socket.socketpair()
        log = tempfile.TemporaryFile(prefix="qcmb-slot-")  # noqa: SIM115 (lives with the slot)
        mark = tempfile.TemporaryFile(prefix="qcmb-mark-")  # noqa: SIM115 (likewise)
        try:
            with theirs:
                self._send({"fork": True})
                fds = [theirs.fileno(), log.fileno(), mark.fileno()]
                socket.send_fds(self._control, [b"!"], fds)
            pid = self._forked_pid()
            if pid == _NO_FORK:
                raise OSError("the system refused another process")
        except OSError as error:
            mine.close()
            log.close()
            mark.close()
            raise TransportError(f"the fork server has gone: {error}") from error
        return SlotProcess(pid, Connection(mine.detach()), log, mark)

    def exit_status(self, pid: int, timeout_s: float = 1.0) -> int | None:
        """Return the exit status of a slot that ended: -N for signal N, None if not known."""
        while pid not in self._exits:
            readable, _, _ = select.select([self._control], [], [], timeout_s)
            if not readable or not self._read():
                return None
        return self._exits.pop(pid)

    def close(self) -> None:
        """End our slots; the server ends with its last owner."""
        self._control.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_FAREWELL_S)
                _remove(self.address)  # if it was killed it could not do so itself

    def _send(self, request: Mapping[str, Any]) -> None:
        self._control.sendall(json.dumps(request).encode() + b"\n")

    def _forked_pid(self) -> int:
        while True:
            pid = self._exits.pop(0, None)  # process 0 never exits: the key of a fork's answer
            if pid is not None:
                return pid
            if not select.select([self._control], [], [], _PATIENCE_S)[0]:
                raise TimeoutError(f"no answer in {_PATIENCE_S:g} s; does an import hang?")
            if not self._read():
                raise ConnectionResetError("end of file on the control socket")

    def _read(self) -> bool:
        received = self._control.recv(65536)
        *lines, self._incoming = (self._incoming + received).split(b"\n")
        for line in lines:
            pid, value = json.loads(line)
            self._exits[pid] = value
        return bool(received)


def serve(listener_fd: int, address: str) -> None:
    """Run the server on a listening socket until its last owner has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Server(socket.socket(fileno=listener_fd)).run()
    _remove(address)
    os._exit(0)


def _remove(address: str) -> None:
    """Remove a socket and its private directory."""
    with contextlib.suppress(OSError):
        os.unlink(address)
        os.rmdir(os.path.dirname(address))


class _Owner:
    """One connection and the slots that were forked for it."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.slots: set[int] = set()

    def line(self) -> bytes:
        """Read one request byte by byte: what follows it may carry file descriptors."""
        line = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while not line.endswith(b"\n"):
                byte = self.control.recv(1)
                if not byte:
                    return b""
                line += byte
        return bytes(line)

    def report(self, pid: int, value: int) -> None:
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps([pid, value]).encode() + b"\n")

    def leave(self) -> None:
        self.control.close()
        for pid in self.slots:
            _kill_group(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._owners: dict[int, _Owner] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def run(self) -> None:
        self._accept()
        while self._owners:
            sources = [self._listener.fileno(), self._wake_read, *self._owners]
            for source in select.select(sources, [], [])[0]:
                if source == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif source == self._listener.fileno():
                    self._accept()
                elif not self._handle(self._owners[source]):
                    self._owners.pop(source).leave()

    def _accept(self) -> None:
        owner = _Owner(self._listener.accept()[0])
        self._owners[owner.control.fileno()] = owner

    def _handle(self, owner: _Owner) -> bool:
        """Do what an owner asks; return False if it has gone."""
        line = owner.line()
        if not line:
            return False
        request = json.loads(line)
        if "preload" in request:
            _preload(request["preload"])
            return True
        try:
            _, fds, _, _ = socket.recv_fds(owner.control, 1, 3)
        except OSError:
            return False
        self._fork(owner, fds)
        return True

    def _fork(self, owner: _Owner, fds: Sequence[int]) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            pid = _NO_FORK
        if pid == 0:
            self._become_slot(fds, server)
        for fd in fds:
            os.close(fd)
        if pid != _NO_FORK:
            owner.slots.add(pid)
        owner.report(0, pid)

    def _become_slot(self, fds: Sequence[int], server: int) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _die_with_parent(server)
            self._drop_descriptors()
            connection_fd, log_fd, mark_fd = fds
            fcntl.fcntl(log_fd, fcntl.F_SETFL, fcntl.fcntl(log_fd, fcntl.F_GETFL) | os.O_APPEND)
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            from qcmb_mpi.execution import slot

            slot.serve(Connection(connection_fd), mark_fd)
            status = 0
        except BaseException:  # the last frame of this process: say why, then leave
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _drop_descriptors(self) -> None:
        self._listener.close()
        for owner in self._owners.values():
            owner.control.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _reap(self) -> None:
        """Tell owners which slots ended, and end the programs that those leave behind."""
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                pid = ended.si_pid
                # Not reaped yet, so the group is still the slot's own.
                _kill_group(pid)
                _, status = os.waitpid(pid, 0)
                for owner in self._owners.values():
                    if pid in owner.slots:
                        owner.slots.discard(pid)
                        owner.report(pid, os.waitstatus_to_exitcode(status))


def _kill_group(pid: int) -> None:
    """Kill a slot with all its programs, also one so young that it leads no group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
            return


def _preload(modules: Iterable[str]) -> None:
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies (Linux; elsewhere a no-op)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
