"""One open store file: who may open it, how a query is repeated, how a transaction is.

Rules of this file
------------------
1. Readers never need the writer's lock and hold SQLite's for one query at a time; a writer that
   finds a reader in the way keeps its rows and tries again later.
2. Where the file system has no locks, a reader trusts only what it read while no commit was going
   on, before or after.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from qcmb_mpi.errors import StoreError
from qcmb_mpi.store import tables as schema
from qcmb_mpi.store.lock import LEASE_S, WriterLock, has_posix_locks, lock_path, read_owner
from qcmb_mpi.store.pages import PageFile
from qcmb_mpi.store.write import Transaction

_READ_PATIENCE_S = 30.0
_READ_PAUSE_S = 0.02
_COMMIT_S = 2.0
_CHANGE_COUNTER = 24  # its place in SQLite's file header

T = TypeVar("T")


class Connection:
    """An open database with the rights to it.

    Parameters
    ----------
    db : sqlite3.Connection
        In autocommit mode.
    path : Path, optional
        The file; None for a temporary one.
    lock : WriterLock, optional
        Held by a writer of a file.
    has_locks : bool
        Whether the file system has POSIX locks.
    is_read_only : bool
        Whether this is a reader.
    has_tally : bool
        Whether the file has what came with format version 2.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        path: Path | None = None,
        lock: WriterLock | None = None,
        has_locks: bool = True,
        is_read_only: bool = False,
        has_tally: bool = True,
    ) -> None:
        self._db = db
        self._lock = lock
        self._has_locks = has_locks
        self._is_read_only = is_read_only
        self.path = path
        self.has_tally = has_tally
        self._identity = None if path is None else _identity(path)
        # Without locks nobody knows whether bytes are of one commit.
        self.pages = PageFile(db, path) if path is not None and has_locks else None
        self.is_open = True

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return str(self.path or "the temporary store")

    def query(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """Run a statement and return all its rows.

        Parameters
        ----------
        sql : str
            A SELECT.
        parameters : tuple
            Its parameters.

        Returns
        -------
        list of tuple

        Raises
        ------
        StoreError
            If the file is damaged or cannot be read.
        """
        return self._steady(lambda: self._db.execute(sql, parameters).fetchall())

    def check_size(self) -> None:
        """Refuse a file that was cut; see :func:`~qcmb_mpi.store.tables.check_size`."""
        if self.path is not None:
            path = self.path
            self._steady(lambda: schema.check_size(self._db, path))

    def write(self, body: Callable[[Transaction], None], *, patience_s: float) -> bool:
        """Run a write transaction.

        Parameters
        ----------
        body : callable
            Writes; may be called again.
        patience_s : float
            How long to try while readers are in the way.

        Returns
        -------
        bool
            False if readers were in the way and ``patience_s`` is 0.

        Raises
        ------
        StoreError
            If it cannot be written; nothing of it is.
        """
        if self._is_read_only:
            raise StoreError(f"{self.name}: was opened to read only")
        give_up_s = time.monotonic() + patience_s
        while True:
            self._check_ours()
            try:
                with Transaction(self._db) as transaction:
                    body(transaction)
                return True
            except sqlite3.ProgrammingError:
                raise
            except sqlite3.Error as error:
                is_busy = schema.is_busy(error)
                if is_busy and not patience_s:
                    return False
                if not is_busy or time.monotonic() > give_up_s:
                    raise schema.explain(error, self.name) from error

    def _check_ours(self) -> None:
        """Make sure that what is written is found under the file's name, and by nobody else."""
        if self._lock is not None:
            self._lock.check()
        if self.path is not None and _identity(self.path) != self._identity:
            raise StoreError(
                f"{self.path}: was removed or replaced while this run had it open; nothing more "
                "is written"
            )

    def close(self) -> None:
        """Close the file and release the lock."""
        self.is_open = False
        try:
            if self._lock is not None:
                with contextlib.suppress(sqlite3.Error):  # all is committed; this only tidies up
                    self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.close()
            if self.pages is not None:
                self.pages.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _steady(self, action: Callable[[], T]) -> T:
        """Read; without locks, again until no commit went on meanwhile."""
        if not self._is_read_only or self._has_locks or self.path is None:
            with schema.guarded(self.name):
                return action()
        give_up_s = time.monotonic() + _READ_PATIENCE_S
        while True:
            before, failure = _stamp(self.path), None
            try:
                with schema.guarded(self.name):
                    found = action()
                if before is not None and before == _stamp(self.path):
                    return found
            except StoreError as error:
                failure = error
            if time.monotonic() > give_up_s:
                raise failure or StoreError(f"{self.name}: is being written all the time")
            time.sleep(_READ_PAUSE_S)


def open_temporary() -> Connection:
    """Make a private temporary store, gone when closed.

    Returns
    -------
    Connection
    """
    db = sqlite3.connect("", isolation_level=None)
    schema.create_tables(db)
    db.execute("PRAGMA temp_store=MEMORY")
    return Connection(db)


def open_writer(path: Path, *, lease_s: float = LEASE_S) -> Connection:
    """Open or make a store as its one writer, and see that it can be written.

    Parameters
    ----------
    path : Path
        The file, without symbolic links.
    lease_s : float
        See :meth:`~qcmb_mpi.store.Store.open`.

    Returns
    -------
    Connection

    Raises
    ------
    StoreError
        See :meth:`~qcmb_mpi.store.Store.open`.
    """
    schema.check_place(path)
    lock = WriterLock.acquire(path, lease_s=lease_s)
    try:
        if not path.exists() or path.stat().st_size == 0:
            schema.create(path)
        schema.check_header(path)
        db = schema.connect_writer(path, has_locks=lock.has_posix_locks)
        connection = Connection(db, path=path, lock=lock, has_locks=lock.has_posix_locks)
    except BaseException:
        lock.release()
        raise
    try:
        note = json.dumps(lock.owner.since)
        connection.write(lambda t: t.begin_session(note), patience_s=_READ_PATIENCE_S)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, *, lease_s: float = LEASE_S) -> Connection:
    """Open a store to read.

    Parameters
    ----------
    path : Path
        The file, without symbolic links.
    lease_s : float
        See :meth:`~qcmb_mpi.store.Store.open`.

    Returns
    -------
    Connection

    Raises
    ------
    StoreError
        See :meth:`~qcmb_mpi.store.Store.open`.
    """
    schema.check_place(path)
    if not path.exists():
        raise StoreError(f"{path}: there is no such store")
    schema.check_header(path)
    _finish_torn_commit(path, lease_s)
    version = schema.check_header(path)
    with path.open("rb") as file:
        has_locks = has_posix_locks(file.fileno(), fcntl.LOCK_SH)
    db = schema.connect_reader(path, has_locks=has_locks)
    connection = Connection(
        db, path=path, has_locks=has_locks, is_read_only=True, has_tally=version > 1
    )
    try:
        connection.check_size()
    except BaseException:
        connection.close()
        raise
    return connection


def _finish_torn_commit(path: Path, lease_s: float) -> None:
    """Let SQLite undo what a killed writer left half written, which a reader may not."""
    give_up_s = time.monotonic() + _COMMIT_S
    while _is_journal_hot(path):
        owner = read_owner(lock_path(path))
        if owner is not None and owner.is_near() and not owner.is_gone():
            return  # SQLite waits for it
        if owner is None or owner.is_gone() or time.monotonic() > give_up_s:
            break
        time.sleep(_READ_PAUSE_S)  # where we cannot see it, it may be in the midst of a commit
    else:
        return
    try:
        open_writer(path, lease_s=lease_s).close()
    except StoreError:
        if _is_journal_hot(path):  # else a new writer was faster and did it
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_journal_hot(path: Path) -> bool:
    try:
        return schema.journal_of(path).stat().st_size > 0
    except FileNotFoundError:
        return False


def _stamp(path: Path) -> bytes | None:
    """Read the change counter of the file; None while a commit is going on."""
    if _is_journal_hot(path):
        return None
    with path.open("rb") as file:
        file.seek(_CHANGE_COUNTER)
        return file.read(4)
