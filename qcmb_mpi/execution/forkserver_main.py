"""The fork server's own process: forks slots, reaps them, and leaves nothing of theirs behind.

Two processes: the *warden*, which is started, and the server, which the warden forks at once.
What a dead slot leaves behind is adopted by the server, and what a dead server leaves behind by the
warden; each kills what it adopts.

Rules of this file
------------------
1. The server never runs a calculation and never starts a thread, so that forking it is safe.
2. Every slot leads its own process group: killing the group takes its programs along.
3. A child of the server that is no slot was left behind by one that died: it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Sequence

from qcmb_mpi.machine.processes import adopt_orphans, die_with_parent, end_children, kill_tree

NO_FORK = -1
_N_FDS = 4

# What a batch system or a terminal sends to all processes of a job asks the master to stop.
_FOR_MASTER = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(listener_fd: int, address: str) -> None:
    """Run the server on a listening socket until its last owner has gone."""
    for number in (*_FOR_MASTER, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    listener = socket.socket(fileno=listener_fd)
    server = os.fork()
    if not server:
        adopt_orphans()
        _Server(listener).run()
        os._exit(0)
    listener.close()  # nobody is to wait for a server that has died
    while os.waitpid(-1, 0)[0] != server:
        end_children(spared=[server])
    _clear()
    remove(address)
    os._exit(0)


def remove(address: str) -> None:
    """Remove a socket and its private directory."""
    with contextlib.suppress(OSError):
        os.unlink(address)
        os.rmdir(os.path.dirname(address))


def _clear() -> None:
    """Kill what was adopted until there is nothing left: a child's death may bring in others."""
    with contextlib.suppress(ChildProcessError):
        while True:
            end_children()
            os.waitpid(-1, 0)


class _Owner:
    """One connection and the slots that were forked for it."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.slots: set[int] = set()

    def request(self) -> tuple[bytes, list[int]]:
        """Read a line and the descriptors that came with it; a line without end if it has gone."""
        line = bytearray()
        fds: list[int] = []
        with contextlib.suppress(ConnectionResetError):
            while not line.endswith(b"\n"):  # byte by byte: the next one has its own descriptors
                byte, received, _, _ = socket.recv_fds(self.control, 1, _N_FDS)
                fds += received
                if not byte:
                    break
                line += byte
        return bytes(line), fds

    def report(self, pid: int, value: int) -> None:
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps([pid, value]).encode() + b"\n")

    def leave(self) -> None:
        self.control.close()
        for pid in self.slots:
            kill_tree(pid)
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
                    self._end_orphans()
        _clear()

    def _accept(self) -> None:
        owner = _Owner(self._listener.accept()[0])
        self._owners[owner.control.fileno()] = owner

    def _handle(self, owner: _Owner) -> bool:
        """Do what an owner asks; return False if it has gone."""
        line, fds = owner.request()
        if not line.endswith(b"\n"):
            for fd in fds:
                os.close(fd)
            return False
        request = json.loads(line)
        if "preload" in request:
            _preload(request["preload"])
        else:
            self._fork(owner, fds)
        return True

    def _fork(self, owner: _Owner, fds: Sequence[int]) -> None:
        server = os.getpid()
        pid = NO_FORK
        if len(fds) == _N_FDS:  # else too many are open
            with contextlib.suppress(OSError):
                pid = os.fork()
        if pid == 0:
            self._become_slot(fds, server)
        for fd in fds:
            os.close(fd)
        if pid != NO_FORK:
            owner.slots.add(pid)
        owner.report(0, pid)

    def _become_slot(self, fds: Sequence[int], server: int) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            die_with_parent(server)
            adopt_orphans()
            self._drop_descriptors()
            pipe_fd, log_fd, mark_fd, tickets_fd = fds
            fcntl.fcntl(log_fd, fcntl.F_SETFL, fcntl.fcntl(log_fd, fcntl.F_GETFL) | os.O_APPEND)
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            from qcmb_mpi.execution import slot
            from qcmb_mpi.execution.pipe import Pipe

            slot.serve(Pipe(socket.socket(fileno=pipe_fd)), mark_fd, tickets_fd)
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
                kill_tree(pid)  # not reaped yet, so the group is still the slot's own
                _, status = os.waitpid(pid, 0)
                for owner in self._owners.values():
                    if pid in owner.slots:
                        owner.slots.discard(pid)
                        owner.report(pid, os.waitstatus_to_exitcode(status))
        self._end_orphans()

    def _end_orphans(self) -> None:
        slots: set[int] = set().union(*(owner.slots for owner in self._owners.values()))
        end_children(spared=slots)


def _preload(modules: Iterable[str]) -> None:
    """Import modules, whose objects no slot will then look at for garbage, nor copy their pages."""
    gc.disable()
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
