"""Whether a store is whole: everything in it read once and compared with its checksums.

Rules of this file
------------------
1. Nothing is changed; what any reader of a store would refuse is refused here too.
2. No task space: a store is judged by what it says of itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from qcmb_mpi.store import tables as schema
from qcmb_mpi.store import tally
from qcmb_mpi.store.codec import BlockKey, decode_rows, payload_checksum
from qcmb_mpi.store.overview import Row

_PAGE_ROWS = 4096
_PARTS = {"meta", "specification", "block", "origin", "component", "payload", "result"}
_DONE = (
    "SELECT rank, energy, kinds, checksum FROM component "
    f"WHERE block = ? AND status = {schema.DONE} ORDER BY rank"
)
_BLOBS = (
    "SELECT p.data, p.kind, p.checksum, c.checksum FROM payload p "
    "JOIN component c ON c.block = p.block AND c.rank = p.rank AND c.kinds & p.kind"
)
_N_PAYLOADS = (
    "SELECT (SELECT count(*) FROM payload), (SELECT total((kinds & 1) + ((kinds >> 1) & 1) "
    f"+ ((kinds >> 2) & 1)) FROM component WHERE status = {schema.DONE})"
)
_TEXTS = ("error_class", "error_type", "message", "output_tail")
_MISFITS = (
    f"status NOT IN ({schema.DONE}, {schema.FAILED})",
    "block NOT IN (SELECT id FROM block)",
    "origin NOT IN (SELECT id FROM origin)",
    *(f"typeof({name}) <> 'integer'" for name in ("rank", "kinds", "attempts", "peak_bytes")),
    *(f"typeof({name}) NOT IN ('real', 'null')" for name in ("start_s", "seconds", "cpu_s")),
    *(f"status = {schema.FAILED} AND typeof({name}) <> 'text'" for name in _TEXTS),
)
_ODD_ORIGINS = " OR ".join(
    f"typeof({name}) <> 'integer'" for name in ("id", "mpi_rank", "slot", "n_threads")
)
_NAMELESS = (
    "SELECT 1 FROM block WHERE specification NOT IN "
    "(SELECT id FROM specification WHERE typeof(fingerprint) = 'text') LIMIT 1"
)


def check(db: sqlite3.Connection, path: Path) -> int:
    """Read all of a store and compare it with its checksums and tallies.

    Parameters
    ----------
    db : sqlite3.Connection
        Open on the store, or on a copy of it.
    path : Path
        The store, for messages.

    Returns
    -------
    int
        Number of results in it.

    Raises
    ------
    StoreError
        Something in it is damaged; it says what.
    """
    with schema.guarded(path):
        _check_structure(db, path)
        has_tally = db.execute("PRAGMA user_version").fetchone()[0] > 1
        for row in db.execute("SELECT value FROM meta"):
            json.loads(*row)
        n_results = _check_rows(db, path, has_tally=has_tally)
        _check_payloads(db, path)
    return n_results


def _check_structure(db: sqlite3.Connection, path: Path) -> None:
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise schema.damaged(path, " ".join(str(verdict).split()))
    version = db.execute("PRAGMA user_version").fetchone()[0]
    wanted = _PARTS | ({"remedied"} if version > 1 else set())
    found = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    names = {row[1] for row in db.execute("PRAGMA table_info(component)")}
    if version < 1 or not wanted <= found or ("remedy" in names) != (version > 1):
        raise schema.damaged(path, f"format version {version} does not look like this")


def _check_rows(db: sqlite3.Connection, path: Path, *, has_tally: bool) -> int:
    """Check every row by itself and against the tally of its block; return how many are done."""
    for misfit in _MISFITS:
        if db.execute(f"SELECT 1 FROM component WHERE {misfit} LIMIT 1").fetchone():
            raise schema.damaged(path, f"rows with {misfit}")
    if db.execute(f"SELECT 1 FROM origin WHERE {_ODD_ORIGINS} LIMIT 1").fetchone():
        raise schema.damaged(path, "where some tasks ran is lost")
    if db.execute(_NAMELESS).fetchone():
        raise schema.damaged(path, "what some blocks are of is lost")

    def query(sql: str, parameters: tuple[object, ...]) -> list[Row]:
        return db.execute(sql, parameters).fetchall()

    n_results = 0
    for key, listed in tally.blocks(query, path, has_tally=has_tally).items():
        seen = tally.Tally(0, 0)
        for rows in _pages(db.execute(_DONE, (listed.id,))):
            *_, is_whole = decode_rows(BlockKey(*key), rows)
            if not is_whole.all():
                raise schema.damaged(path, f"{int((~is_whole).sum())} results fail their checksum")
            seen = seen.plus([row[3] for row in rows])
        if listed.tally not in (None, seen):
            raise schema.damaged(path, f"{seen.n_done} results are in sight, not all of them")
        n_results += seen.n_done
    return n_results


def _check_payloads(db: sqlite3.Connection, path: Path) -> None:
    n_whole = 0
    for data, kind, checksum, start in db.execute(_BLOBS):
        if payload_checksum(start, kind, data) != checksum:
            raise schema.damaged(path, "an array or record fails its checksum")
        n_whole += 1
    if db.execute(_N_PAYLOADS).fetchone() != (n_whole, n_whole):
        raise schema.damaged(path, "not every array and record is in sight")


def _pages(rows: sqlite3.Cursor) -> Iterator[list[Row]]:
    while page := rows.fetchmany(_PAGE_ROWS):
        yield page
