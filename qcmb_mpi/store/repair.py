"""What can still be read of a damaged store, into a new one.

Rules of this file
------------------
1. The damaged file is moved aside and never changed or deleted.
2. Only what passes its checksum is kept; a result without all its arrays is not kept at all.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qcmb_mpi.errors import StoreError
from qcmb_mpi.store import soundness, tally
from qcmb_mpi.store import tables as schema
from qcmb_mpi.store.codec import BlockKey, payload_checksum, row_checksum
from qcmb_mpi.store.lock import WriterLock

_LOG = logging.getLogger(__name__)
_LARGEST_KEY = 2**62
_DICTIONARIES = {
    "specification": "id, fingerprint, program, method, basis, driver, label, input",
    "origin": "id, host, mpi_rank, slot, n_threads, program, version",
    "block": "id, specification, n_real, n_basis",
}

Row = tuple[Any, ...]


def n_if_sound(path: str | os.PathLike[str]) -> int | None:
    """Count the results of a store in which nothing is damaged; nothing is changed.

    Parameters
    ----------
    path : path-like
        The store.

    Returns
    -------
    int or None
        None if something is damaged: see the log for what.

    Raises
    ------
    StoreError
        If there is no such file, it is no store, or another process writes it.
    """
    with _locked(path) as (store, has_locks):
        try:
            return _n_whole(store, has_locks=has_locks)
        except StoreError as error:
            _LOG.info("%s", error)
            return None


def salvage(path: str | os.PathLike[str]) -> int:
    """Replace a damaged store by a new one with every result that is still whole.

    The damaged file stays beside it as ``<path>.damaged-1`` (or the next free number).

    Parameters
    ----------
    path : path-like
        The damaged store.

    Returns
    -------
    int
        Number of results kept.

    Raises
    ------
    StoreError
        If there is no such file, it is no store, another process writes it, or no result in it is
        whole; it is then left as it is.
    """
    with _locked(path) as (store, _), schema.guarded(store):
        return _salvage(store)


@contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[tuple[Path, bool]]:
    """Keep writers away; give the file without symbolic links, and whether it has POSIX locks."""
    store = Path(path).resolve()
    schema.check_place(store)
    if not store.exists():
        raise StoreError(f"{store}: there is no such store")
    lock = WriterLock.acquire(store)
    try:
        schema.check_header(store, is_repaired=True)
        yield store, lock.has_posix_locks
    except OSError as error:
        raise StoreError(f"{store}: cannot be salvaged: {error.strerror}") from error
    finally:
        lock.release()


def _n_whole(store: Path, *, has_locks: bool) -> int:
    """Count the results of a sound store; of a torn commit only a copy is rolled back."""
    if not schema.journal_of(store).exists():
        with closing(schema.connect_reader(store, has_locks=has_locks)) as db:
            schema.check_size(db, store)
            return soundness.check(db, store)
    scratch = store.with_name(f"{store.name}.scratch")
    try:
        _copy_with_journal(store, scratch)
        with closing(sqlite3.connect(scratch, isolation_level=None)) as db:
            schema.check_size(db, scratch)
            return soundness.check(db, store)
    finally:
        _remove(scratch)


def _salvage(store: Path) -> int:
    new, scratch = (store.with_name(f"{store.name}.{kind}") for kind in ("salvaged", "scratch"))
    try:
        _copy_with_journal(store, scratch)
        _pad(scratch)
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new, isolation_level=None)) as target:
            schema.create_tables(target)
            with closing(sqlite3.connect(scratch, isolation_level=None)) as source:
                n_kept = _copy(source, target)
        if not n_kept:
            raise StoreError(
                f"{store}: no result in it is whole, so there is nothing to keep; it was left as "
                "it is; to start over, move it away"
            )
        aside = _keep_aside(store)
        os.replace(new, store)
    finally:
        _remove(new)
        _remove(scratch)
    _LOG.warning("%s was damaged: %d results were whole and kept; see %s", store, n_kept, aside)
    return n_kept


def _remove(database: Path) -> None:
    for leftover in (database, schema.journal_of(database)):
        leftover.unlink(missing_ok=True)


def _copy_with_journal(store: Path, scratch: Path) -> None:
    shutil.copyfile(store, scratch)
    if schema.journal_of(store).exists():
        shutil.copyfile(schema.journal_of(store), schema.journal_of(scratch))


def _pad(scratch: Path) -> None:
    """Bring a file to its full size: SQLite refuses to open a shorter one."""
    with scratch.open("r+b") as file:
        header = file.read(100)
        page_bytes = struct.unpack_from(">H", header, 16)[0]
        n_pages = struct.unpack_from(">I", header, 28)[0]
        file.truncate(max(scratch.stat().st_size, page_bytes * n_pages))


def _keep_aside(store: Path) -> Path:
    """Give the damaged file a second name, so that no moment is without a store."""
    number = 1
    while (aside := store.with_name(f"{store.name}.damaged-{number}")).exists():
        number += 1
    journal = schema.journal_of(store)
    if journal.exists():
        os.rename(journal, schema.journal_of(aside))
    try:
        os.link(store, aside)
    except OSError:  # a file system without hard links
        shutil.copyfile(store, aside)
    return aside


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what is whole; return how many done results that was."""
    try:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        return 0  # not even the list of tables is left
    target.execute("BEGIN")
    for table, names in _DICTIONARIES.items():
        sql = f"SELECT {names} FROM {table} WHERE id >= ? ORDER BY id"
        _insert(target, f"{table} ({names})", list(_readable(source, sql, ())))
    sql = "SELECT key, value FROM meta"
    try:
        _insert(target, "meta", source.execute(sql).fetchall())
    except sqlite3.DatabaseError:
        _LOG.warning("what the store said about its last run is lost")
    sql = (
        "SELECT b.id, s.fingerprint, b.n_real, b.n_basis FROM block b JOIN specification s "
        "ON s.id = b.specification WHERE typeof(s.fingerprint) = 'text' "
        "AND typeof(b.n_real) = 'integer' AND typeof(b.n_basis) = 'integer'"
    )
    n_kept = 0
    for block, *key in target.execute(sql).fetchall():
        n_kept += _copy_block(source, target, block, BlockKey(*key))
    tally.rebuild(target)
    target.execute("COMMIT")
    return n_kept


def _copy_block(
    source: sqlite3.Connection, target: sqlite3.Connection, block: int, key: BlockKey
) -> int:
    names = "rank, block, status, kinds, energy, checksum, attempts, origin, remedy, start_s, "
    names += "seconds, cpu_s, peak_bytes"
    asked = names if _has_remedies(source) else names.replace("remedy", "NULL")
    sql = f"SELECT {asked} FROM component WHERE block = ? AND rank >= ? ORDER BY rank"
    origins = {row[0] for row in target.execute("SELECT id FROM origin")}
    n_kept = 0
    for row in _readable(source, sql, (block,)):
        rank, _, status, kinds, energy, checksum, attempts, origin, remedy, *times = row
        if status != schema.DONE or not _is_whole(key, rank, energy, kinds, checksum):
            continue
        payloads = _payloads(source, block, rank, kinds, checksum)
        if payloads is None or origin not in origins:
            continue
        times = [value if isinstance(value, int | float) else 0 for value in times]
        attempts = attempts if isinstance(attempts, int) else 1
        remedy = remedy if isinstance(remedy, str) else None
        kept = (rank, block, status, kinds, energy, checksum, attempts, origin, remedy, *times)
        _insert(target, f"component ({names})", [kept])
        _insert(target, "payload (block, rank, kind, checksum, data)", payloads)
        n_kept += 1
    return n_kept


def _has_remedies(source: sqlite3.Connection) -> bool:
    """Tell whether the file is of format version 2 or later, whatever its header says."""
    try:
        source.execute("SELECT remedy FROM component LIMIT 0")
    except sqlite3.DatabaseError:
        return False
    return True


def _is_whole(key: BlockKey, rank: Any, energy: Any, kinds: Any, checksum: Any) -> bool:
    try:
        return row_checksum(key, rank, energy, kinds) == int(checksum)
    except (struct.error, TypeError, ValueError):
        return False


def _payloads(
    source: sqlite3.Connection, block: int, rank: int, kinds: int, checksum: int
) -> list[Row] | None:
    """Read all payloads of a result; None if one is missing or damaged."""
    sql = "SELECT checksum, data FROM payload WHERE block = ? AND kind = ? AND rank = ?"
    payloads = []
    for kind in (schema.GRADIENT, schema.HESSIAN, schema.RECORD):
        if not kinds & kind:
            continue
        try:
            row = source.execute(sql, (block, kind, rank)).fetchone()
        except sqlite3.DatabaseError:
            return None
        is_there = row is not None and isinstance(row[1], bytes)
        if not is_there or payload_checksum(checksum, kind, row[1]) != row[0]:
            return None
        payloads.append((block, rank, kind, *row))
    return payloads


def _readable(source: sqlite3.Connection, sql: str, fixed: Row) -> Iterator[Row]:
    """Yield the rows of a query by ascending key (their first column) across unreadable pages."""
    start = 0
    while start <= _LARGEST_KEY:
        try:
            for row in source.execute(sql, (*fixed, start)):
                yield row
                if isinstance(row[0], int):
                    start = max(start, row[0] + 1)
            return
        except sqlite3.DatabaseError:
            start = _next_readable(source, sql, fixed, start)


def _next_readable(source: sqlite3.Connection, sql: str, fixed: Row, start: int) -> int:
    """Find a key behind the unreadable page that ``start`` is on: gallop, then bisect."""

    def is_readable(key: int) -> bool:
        try:
            source.execute(f"{sql} LIMIT 1", (*fixed, key)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return True

    step = 1
    while not is_readable(start + step):
        step *= 2
        if step > _LARGEST_KEY:
            return _LARGEST_KEY + 1
    low, high = start + step // 2, start + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_readable(middle) else (middle, high)
    return high


def _insert(target: sqlite3.Connection, table: str, rows: list[Row]) -> None:
    if rows:
        places = ",".join("?" * len(rows[0]))
        target.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", rows)
