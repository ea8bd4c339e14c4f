"""The store's file: its tables, and what is opened, created, refused or called damaged.

Rules of this file
------------------
1. A file that is not ours, newer than we are, or damaged is refused by name and never changed.
2. Every sqlite3 error leaves as a :class:`~qcmb_mpi.errors.StoreError` that says what to do.
3. A store appears under its name only when it is complete, tables and version included.
4. ``docs/store-format.md`` describes this format; whoever changes one changes the other.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from qcmb_mpi.errors import StoreError

APPLICATION_ID = 0x51434D42  # "QCMB"
FORMAT_VERSION = 2

DONE, FAILED = 0, 1  # component.status
GRADIENT, HESSIAN, RECORD = 1, 2, 4  # payload.kind; component.kinds is their sum

_MAIN_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE specification (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, program TEXT NOT NULL,
    method TEXT NOT NULL, basis TEXT, driver TEXT NOT NULL, label TEXT NOT NULL,
    input TEXT NOT NULL);
CREATE TABLE block (
    id INTEGER PRIMARY KEY, specification INTEGER NOT NULL REFERENCES specification,
    n_real INTEGER NOT NULL, n_basis INTEGER NOT NULL,
    n_done INTEGER NOT NULL DEFAULT 0, checksums INTEGER NOT NULL DEFAULT 0,
    UNIQUE (specification, n_real, n_basis));
CREATE TABLE origin (
    id INTEGER PRIMARY KEY, host TEXT NOT NULL, mpi_rank INTEGER NOT NULL,
    slot INTEGER NOT NULL, n_threads INTEGER NOT NULL, program TEXT NOT NULL,
    version TEXT NOT NULL, UNIQUE (host, mpi_rank, slot, n_threads, program, version));
CREATE TABLE component (
    block INTEGER NOT NULL REFERENCES block, rank INTEGER NOT NULL, status INTEGER NOT NULL,
    kinds INTEGER NOT NULL, energy REAL, checksum INTEGER, attempts INTEGER NOT NULL,
    origin INTEGER NOT NULL REFERENCES origin, start_s REAL, seconds REAL, cpu_s REAL,
    peak_bytes INTEGER, error_class TEXT, error_type TEXT, message TEXT, output_tail TEXT,
    remedy TEXT, PRIMARY KEY (block, rank)) WITHOUT ROWID;
CREATE TABLE payload (
    block INTEGER NOT NULL, rank INTEGER NOT NULL, kind INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (block, kind, rank));
"""
_REMEDIED = """
CREATE INDEX remedied ON component (block, remedy) WHERE remedy IS NOT NULL;
"""
_VIEW = """
CREATE VIEW result AS
    SELECT s.label, s.program, s.method, s.basis, s.driver, b.n_real, b.n_basis, c.rank,
        CASE c.status WHEN 0 THEN 'done' ELSE 'failed' END AS status, c.energy, c.attempts,
        o.host, o.mpi_rank, o.slot, o.n_threads, o.version,
        datetime(c.start_s, 'unixepoch') AS started, c.seconds, c.cpu_s, c.peak_bytes,
        c.error_type, c.message, c.remedy
    FROM component c JOIN block b ON b.id = c.block
        JOIN specification s ON s.id = b.specification JOIN origin o ON o.id = c.origin;
"""
TABLES = _MAIN_TABLES + _REMEDIED + _VIEW
UPGRADE_FROM_1 = (
    "ALTER TABLE block ADD COLUMN n_done INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE block ADD COLUMN checksums INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE component ADD COLUMN remedy TEXT",
    _REMEDIED,
    "DROP VIEW result",
    _VIEW,
)

_MAGIC = b"SQLite format 3\0"
_CHECKED_WHOLE_BYTES = 256 * 2**20
_WRITER_PATIENCE_S = 0.25  # it waits while the master could work; readers hold on for less
_READER_PATIENCE_S = 30.0

# What makes a stored value undecodable, besides sqlite3's own errors.
_UNDECODABLE = (TypeError, ValueError, OverflowError, KeyError, struct.error, zlib.error)


def damaged(path: object, what: str) -> StoreError:
    """Build the error for a store that cannot be trusted.

    Parameters
    ----------
    path : object
        The file.
    what : str
        What was found.

    Returns
    -------
    StoreError
    """
    return StoreError(
        f"{path}: the store is damaged ({what}). To keep every result that is still whole, run "
        f"`python -m qcmb_mpi repair {shlex.quote(str(path))}`; to start over, move the file away. "
        "Then run the same command again."
    )


def explain(error: sqlite3.Error, path: object) -> StoreError:
    """Turn an error of SQLite into one that says what to do.

    Parameters
    ----------
    error : sqlite3.Error
        As caught.
    path : object
        The file.

    Returns
    -------
    StoreError
    """
    text = str(error)
    advice = {
        "full": "the disk is full; make room, or move the store and name it by --store PATH, then "
        "run the same command again: what was committed is safe",
        "readonly": "cannot be written: the file, its directory or the file system is read-only",
        "unable to open": "cannot be opened: is the directory there, and may you write in it?",
        "disk I/O": "the file system refused (quota, largest file size, network or hardware); make "
        "room, or move the store and name it by --store PATH, then run the same command again: "
        "what was committed is safe",
        "is locked": "is kept busy by another program that reads it; close that and run the same "
        "command again",
    }
    for part, meaning in advice.items():
        if part in text:
            return StoreError(f"{path}: {meaning} (SQLite: {text})")
    return damaged(path, text)


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection only has to finish first."""
    return "is locked" in str(error)


@contextmanager
def guarded(path: object) -> Iterator[None]:
    """Turn what a bad file can cause inside the ``with`` into a :class:`StoreError`."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a bug of ours, not of the file
    except sqlite3.Error as error:
        raise explain(error, path) from error
    except _UNDECODABLE as error:
        raise damaged(path, f"unreadable value: {error}") from error


def check_place(path: Path) -> None:
    """Refuse a path at which no store can be.

    Parameters
    ----------
    path : Path
        Where the store is or shall be.

    Raises
    ------
    StoreError
        If it is a directory or a device, or its parent is no directory.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        kind = "directory" if path.is_dir() else "device"
        raise StoreError(f"{path}: is a {kind}; give the store a file name (--store PATH)")
    if not path.parent.is_dir():
        raise StoreError(
            f"{path}: there is no directory {path.parent}; make it, or give another --store PATH"
        )


def check_header(path: Path, *, is_repaired: bool = False) -> int:
    """Refuse a file that is foreign or newer than this program, before SQLite touches it.

    Parameters
    ----------
    path : Path
        An existing file with at least one byte.
    is_repaired : bool
        Whether this is to repair it, so that damage is no reason to refuse.

    Returns
    -------
    int
        Its format version.

    Raises
    ------
    StoreError
        If it is not a store, or one of a later format version, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    is_sqlite = header.startswith(_MAGIC) and len(header) == 100
    if not is_sqlite or struct.unpack_from(">I", header, 68)[0] != APPLICATION_ID:
        kind = "another program's SQLite database" if is_sqlite else "not an SQLite database"
        raise StoreError(
            f"{path}: is not a store of qcmb_mpi ({kind}); it was left as it is; give another "
            "--store PATH or move it away"
        )
    version = struct.unpack_from(">I", header, 60)[0]
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: has store format version {version}, this qcmb_mpi knows up to "
            f"{FORMAT_VERSION}; it was left as it is; use a newer qcmb_mpi or another --store PATH"
        )
    if version < 1 and not is_repaired:
        raise damaged(path, f"format version {version}")
    return int(version)


def create(path: Path) -> None:
    """Make an empty store and put it in place in one step.

    Parameters
    ----------
    path : Path
        Where; nothing or an empty file is there.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    # An orphaned journal would be rolled back into the new file.
    journal_of(path).unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        for leftover in (new, journal_of(new)):  # of a killed process that had our number
            leftover.unlink(missing_ok=True)
        with guarded(path), closing(sqlite3.connect(new, isolation_level=None)) as db:
            create_tables(db)
        os.replace(new, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def create_tables(db: sqlite3.Connection) -> None:
    """Fill an empty database with the tables of this format."""
    db.executescript(
        f"BEGIN; {TABLES} INSERT INTO meta VALUES ('tally', '0'); "
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
    )


def connect_writer(path: Path, *, has_locks: bool) -> sqlite3.Connection:
    """Open a store of ours to write, after SQLite has rolled back a torn transaction.

    Parameters
    ----------
    path : Path
        An existing store whose header is ours.
    has_locks : bool
        Whether the file system has POSIX locks.

    Returns
    -------
    sqlite3.Connection
        In autocommit mode.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    db = _connect(path, "rw", has_locks=has_locks, patience_s=_WRITER_PATIENCE_S)
    try:
        with guarded(path):
            # TRUNCATE: no WAL and no shared memory, so network file systems work; and no
            # directory entry to sync at each commit. FULL: a commit survives a power failure.
            # MEMORY: what a savepoint would restore needs no file.
            for pragma in (
                *("journal_mode=TRUNCATE", "synchronous=FULL", "cache_size=-65536"),
                "temp_store=MEMORY",
            ):
                db.execute(f"PRAGMA {pragma}")
        check_size(db, path)
        if path.stat().st_size <= _CHECKED_WHOLE_BYTES:
            check_pages(db, path)
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path, *, has_locks: bool) -> sqlite3.Connection:
    """Open a store of ours to read.

    Parameters
    ----------
    path : Path
        An existing store whose header is ours.
    has_locks : bool
        Whether the file system has POSIX locks.

    Returns
    -------
    sqlite3.Connection
        In autocommit mode: each query sees the last commit.
    """
    return _connect(path, "ro", has_locks=has_locks, patience_s=_READER_PATIENCE_S)


def _connect(path: Path, mode: str, *, has_locks: bool, patience_s: float) -> sqlite3.Connection:
    uri = f"file:{quote(os.fspath(path))}?mode={mode}" + ("" if has_locks else "&nolock=1")
    with guarded(path):
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience_s)


def check_size(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that was cut: SQLite itself reads the lost part of a last page as zeros.

    Parameters
    ----------
    db : sqlite3.Connection
        Open on ``path``.
    path : Path
        The file.

    Raises
    ------
    StoreError
        If the file is shorter than its own header says.
    """
    with guarded(path):
        db.execute("BEGIN")
        try:
            # The read lock keeps a writer from growing the file between the two answers.
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            n_pages = db.execute("PRAGMA page_count").fetchone()[0]
            page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
            size_bytes = path.stat().st_size
        finally:
            db.execute("ROLLBACK")
    if size_bytes < n_pages * page_bytes:
        raise damaged(path, f"{size_bytes} of {n_pages * page_bytes} bytes are there")


def check_pages(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file whose pages contradict each other (``PRAGMA quick_check``).

    Parameters
    ----------
    db : sqlite3.Connection
        Open on ``path``.
    path : Path
        The file.

    Raises
    ------
    StoreError
        If SQLite finds anything wrong.
    """
    with guarded(path):
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, " ".join(str(verdict).split()))


def journal_of(path: Path) -> Path:
    """Name SQLite's rollback journal of a file."""
    return path.with_name(path.name + "-journal")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
