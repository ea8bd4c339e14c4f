"""One writer at a time, also on file systems without locks: a file beside the store.

Rules of this file
------------------
1. The lock is the exclusive creation of ``<store>.lock``; nothing else decides.
2. A lock is taken over only if its owner is certainly gone: same host, same process namespace,
   and no living process of that number and start. From another host that cannot be known.
3. The owner looks before every commit whether the lock is still its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from qcmb_mpi.errors import StoreError

_LOG = logging.getLogger(__name__)
_DEAD_STATES = "ZX"
_N_TRIES = 5
_WRITING_S = 0.1


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock.

    Parameters
    ----------
    host : str
        Host name.
    pid : int
        Process number.
    namespace : str
        Of process numbers (containers have their own); empty where unknown.
    process_start : str
        The kernel's start time of the process, to tell a reused number; empty where unknown.
    since : str
        When the lock was taken, ISO 8601, UTC.
    token : str
        Unique to this taking.
    """

    host: str
    pid: int
    namespace: str
    process_start: str
    since: str
    token: str

    def is_gone(self) -> bool:
        """Tell whether the owner certainly lives no more."""
        if self.host != socket.gethostname() or self.namespace != _namespace():
            return False
        if not _is_alive(self.pid):
            return True
        started = _process_start(self.pid)
        return bool(started and self.process_start) and started != self.process_start


class WriterLock:
    """A lock that this process holds; made by :meth:`acquire`.

    Parameters
    ----------
    path : Path
        The lock file.
    owner : Owner
        This process.
    has_posix_locks : bool
        Whether the file system has POSIX locks, for SQLite to use beside this one.
    """

    def __init__(self, path: Path, owner: Owner, *, has_posix_locks: bool) -> None:
        self._path = path
        self.owner = owner
        self.has_posix_locks = has_posix_locks

    @classmethod
    def acquire(cls, store: Path) -> WriterLock:
        """Become the one writer of a store.

        Parameters
        ----------
        store : Path
            The store; the lock file is beside it.

        Returns
        -------
        WriterLock

        Raises
        ------
        StoreError
            If there is another writer, or the directory cannot be written.
        """
        path = lock_path(store)
        mine = _this_process()
        for _ in range(_N_TRIES):
            try:
                return cls(path, mine, has_posix_locks=_create(path, mine))
            except FileExistsError:
                _remove_stale(store, path)
            except OSError as error:
                raise StoreError(
                    f"{store}: cannot be written: {error.strerror}; give another --store PATH"
                ) from error
        raise StoreError(f"{store}: other processes are opening it; run the same command again")

    def check(self) -> None:
        """Make sure that the lock is still this process's, and show that it lives.

        Raises
        ------
        StoreError
            If the lock, or its whole directory, was removed or taken.
        """
        found = read_owner(self._path)
        if found != self.owner:
            raise StoreError(
                f"{self._path}: this run's lock was removed or taken by another writer "
                f"({_describe(found)}); nothing more is written to the store"
            )
        with contextlib.suppress(OSError):
            os.utime(self._path)

    def release(self) -> None:
        """Let the next writer in; without effect if the lock is not this process's any more."""
        if self.owner.pid == os.getpid() and read_owner(self._path) == self.owner:
            self._path.unlink(missing_ok=True)


def lock_path(store: Path) -> Path:
    """Name the lock file of a store."""
    return store.with_name(store.name + ".lock")


def read_owner(path: Path) -> Owner | None:
    """Read who holds a lock.

    Parameters
    ----------
    path : Path
        The lock file.

    Returns
    -------
    Owner or None
        None if there is no such file or it says nothing.
    """
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def has_posix_locks(descriptor: int, operation: int) -> bool:
    """Try a POSIX lock on an open file (Lustre and NFS may have none).

    Parameters
    ----------
    descriptor : int
        Open file.
    operation : int
        ``fcntl.LOCK_SH`` for a file open to read, ``LOCK_EX`` for one open to write.

    Returns
    -------
    bool
    """
    try:
        fcntl.lockf(descriptor, operation | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True  # held by another, so they exist
    except OSError:
        return False
    fcntl.lockf(descriptor, fcntl.LOCK_UN)
    return True


def _create(path: Path, owner: Owner) -> bool:
    """Create the lock file; return whether its file system has POSIX locks."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(owner), file)
            file.flush()
            os.fsync(file.fileno())
            return has_posix_locks(file.fileno(), fcntl.LOCK_EX)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _remove_stale(store: Path, path: Path) -> None:
    """Remove the lock of a dead process; refuse to touch any other."""
    owner = read_owner(path)
    if owner is None and path.exists():
        time.sleep(_WRITING_S)  # its maker may be between creating and writing it
        owner = read_owner(path)
    if owner is None and not path.exists():
        return
    if owner is None or not owner.is_gone():
        raise StoreError(f"{store}: {_refusal(path, owner)}")
    # Renaming first: of two that find the same stale lock, one must not remove the other's new one.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if read_owner(aside) == owner:
            _LOG.warning("%s: took over from %s, which is gone", store, _describe(owner))
        else:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _refusal(path: Path, owner: Owner | None) -> str:
    if owner is None:
        return f"{path} names no owner; if no other run uses the store, delete that file"
    text = f"is being written by {_describe(owner)}"
    if owner.host == socket.gethostname() and owner.namespace == _namespace():
        return f"{text}; wait for it to end, or give another --store PATH"
    return (
        f"{text}; whether it still runs cannot be seen from {socket.gethostname()} (last sign of "
        f"life {_last_sign(path)}); if it does not, delete {path} and run the same command again"
    )


def _last_sign(path: Path) -> str:
    try:
        return _iso(path.stat().st_mtime)
    except OSError:
        return "unknown"


def _describe(owner: Owner | None) -> str:
    if owner is None:
        return "nobody known"
    return f"process {owner.pid} on {owner.host} since {owner.since}"


def _this_process() -> Owner:
    pid = os.getpid()
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        namespace=_namespace(),
        process_start=_process_start(pid),
        since=_iso(time.time()),
        token=uuid.uuid4().hex,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    fields = _stat_fields(pid)
    return not fields or fields[0] not in _DEAD_STATES


def _process_start(pid: int) -> str:
    fields = _stat_fields(pid)
    return fields[19] if fields else ""


def _stat_fields(pid: int) -> list[str]:
    """Read ``/proc/<pid>/stat`` from the state on (the name before it may hold anything)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
