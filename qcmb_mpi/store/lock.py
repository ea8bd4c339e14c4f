"""One writer at a time, also on file systems without locks: a file beside the store.

Rules of this file
------------------
1. The lock is the exclusive creation of ``<store>.lock``; nothing else decides.
2. A lock is taken over at once if its owner is certainly gone (see ``owner.py``), and refused at
   once if the owner certainly lives. Of any other owner the lock is a lease: who holds it touches
   it as long as it lives, and who wants it watches it and takes over if nothing moves.
3. No clock is compared with another one's: what counts is that the file changes while watched.
4. The owner looks before every commit whether the lock is still its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from qcmb_mpi.errors import StoreError
from qcmb_mpi.store.owner import Owner, parse_owner, this_process

LEASE_S = 45.0

_LOG = logging.getLogger(__name__)
_N_TRIES = 5
_N_TOUCHES = 4  # in the time of a lease
_N_LOOKS = 45
_N_NOTES = 3
_WRITING_S = 0.1


@dataclass(frozen=True, slots=True)
class Sight:
    """What a lock file looked like.

    Parameters
    ----------
    text : str
        What it holds.
    touched_ns : int
        Its modification time.
    """

    text: str
    touched_ns: int

    @property
    def owner(self) -> Owner | None:
        """Who it names; None if nobody."""
        return parse_owner(self.text)

    @property
    def name(self) -> str:
        """What to call its owner in messages."""
        return str(self.owner or "nobody known")


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
    touch_s : float
        Seconds between two signs of life.
    """

    def __init__(self, path: Path, owner: Owner, *, has_posix_locks: bool, touch_s: float) -> None:
        self._path = path
        self.owner = owner
        self.has_posix_locks = has_posix_locks
        self._touch_s = touch_s
        self._is_over = threading.Event()
        # A thread, so that a master that waits or computes is not taken for a dead one; it stops
        # with its process, as it should.
        threading.Thread(target=self._touch, name="store lock", daemon=True).start()

    @classmethod
    def acquire(cls, store: Path, *, lease_s: float = LEASE_S) -> WriterLock:
        """Become the one writer of a store.

        Parameters
        ----------
        store : Path
            The store; the lock file is beside it.
        lease_s : float
            How long to watch the lock of an owner that cannot be judged from here before it is
            taken over; whoever holds a lock touches it four times as often.

        Returns
        -------
        WriterLock

        Raises
        ------
        StoreError
            If there is another writer, or the directory cannot be written.
        """
        path = lock_path(store)
        mine = this_process()
        for _ in range(_N_TRIES):
            try:
                has_locks = _create(path, mine)
            except FileExistsError:
                _remove_stale(store, path, lease_s)
            except OSError as error:
                raise StoreError(
                    f"{store}: cannot be written: {error.strerror}; give another --store PATH"
                ) from error
            else:
                return cls(path, mine, has_posix_locks=has_locks, touch_s=lease_s / _N_TOUCHES)
        raise StoreError(f"{store}: other processes are opening it; run the same command again")

    def check(self) -> None:
        """Make sure that the lock is still this process's.

        Raises
        ------
        StoreError
            If the lock, or its whole directory, was removed or taken.
        """
        found = look(self._path)
        if found is None or found.owner != self.owner:
            what = "was removed" if found is None else f"was taken by another writer, {found.name}"
            raise StoreError(f"{self._path}: this run's lock {what}; nothing more is written")

    def release(self) -> None:
        """Let the next writer in; without effect if the lock is not this process's any more."""
        self._is_over.set()
        if self.owner.pid == os.getpid() and read_owner(self._path) == self.owner:
            self._path.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._is_over.wait(self._touch_s):
            with contextlib.suppress(OSError):
                if read_owner(self._path) == self.owner:
                    os.utime(self._path)


def lock_path(store: Path) -> Path:
    """Name the lock file of a store."""
    return store.with_name(store.name + ".lock")


def look(path: Path) -> Sight | None:
    """Look at a lock file.

    Parameters
    ----------
    path : Path
        The lock file.

    Returns
    -------
    Sight or None
        None if there is no such file.
    """
    try:
        # Opened, because network file systems may believe an old answer to a mere stat.
        with path.open("rb") as file:
            text = file.read().decode("utf-8", "replace")
            return Sight(text, os.fstat(file.fileno()).st_mtime_ns)
    except OSError:
        return None


def read_owner(path: Path) -> Owner | None:
    """Read who holds a lock; None if there is no such file or it says nothing."""
    found = look(path)
    return None if found is None else found.owner


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
            file.write(owner.to_json())
            file.flush()
            os.fsync(file.fileno())
            return has_posix_locks(file.fileno(), fcntl.LOCK_EX)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _remove_stale(store: Path, path: Path, lease_s: float) -> None:
    """Remove the lock of a dead process; refuse to touch that of a living one."""
    seen = look(path)
    if seen is not None and seen.owner is None:
        time.sleep(_WRITING_S)  # its maker may be between creating and writing it
        seen = look(path)
    if seen is None:
        return
    owner = seen.owner
    if owner is not None and owner.is_near() and not owner.is_gone():
        raise StoreError(
            f"{store}: is being written by {owner}; wait for it to end, or give another "
            "--store PATH"
        )
    is_sure = owner is not None and owner.is_gone()
    if is_sure or _is_silent(store, path, seen, lease_s):
        _set_aside(store, path, seen, "which is gone" if is_sure else "which gave no sign of life")


def _is_silent(store: Path, path: Path, seen: Sight, lease_s: float) -> bool:
    """Watch a lock for the time of a lease; False if it was released meanwhile.

    Raises
    ------
    StoreError
        If it changes: somebody lives who holds it.
    """
    began_s = time.monotonic()
    next_note_s = 0.0
    while (watched_s := time.monotonic() - began_s) < lease_s:
        if watched_s >= next_note_s:
            _LOG.warning(
                "%s: locked by %s; no sign of life for %.0f s (will be taken over after %.0f s)",
                store, seen.name, watched_s, lease_s,
            )  # fmt: skip
            next_note_s += lease_s / _N_NOTES
        time.sleep(lease_s / _N_LOOKS)
        found = look(path)
        if found is None:
            return False
        if found != seen:
            raise StoreError(
                f"{store}: is being written by {found.name}, which is alive; wait for it to end, "
                "or give another --store PATH"
            )
    return True


def _set_aside(store: Path, path: Path, seen: Sight, why: str) -> None:
    """Remove a lock, but only the one that was judged: two may judge the same one at once."""
    if look(path) != seen:
        return
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if look(aside) == seen:
            _LOG.warning("%s: took over from %s, %s", store, seen.name, why)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
