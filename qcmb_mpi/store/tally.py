"""How much must be in sight: tallies of the blocks and of the done rows of each.

Rules of this file
------------------
1. A tally changes in the same transaction as what it counts, whoever writes the row.
2. Tallies are compared wherever results are looked for, so that rows which a torn or altered file
   hides are refused as damage and not computed again in silence.
3. A file of format version 1 has none; it gets them when it is first opened to write.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.store import tables as schema
from qcmb_mpi.store.overview import Query

_KEY = "tally"
_MASK = 2**32 - 1

_LIST = (
    "SELECT b.id, s.fingerprint, b.n_real, b.n_basis{counted} FROM (SELECT 1) "
    "LEFT JOIN block b NOT INDEXED LEFT JOIN specification s ON s.id = b.specification "
    "ORDER BY b.id"
)
_COUNTED = f", b.n_done, b.checksums, (SELECT value FROM meta WHERE key = '{_KEY}')"
_RECOUNT = (
    "UPDATE block SET (n_done, checksums) = (SELECT count(*), "
    f"coalesce(sum(checksum & {_MASK}), 0) & {_MASK} FROM component c "
    f"WHERE c.block = block.id AND c.status = {schema.DONE})"
)
_ADD = f"UPDATE block SET n_done = n_done + ?, checksums = (checksums + ?) & {_MASK} WHERE id = ?"


class Tally(NamedTuple):
    """What a block must have.

    Parameters
    ----------
    n_done : int
        Done rows.
    checksums : int
        Sum of their checksums, modulo 2^32.
    """

    n_done: int
    checksums: int

    def plus(self, checksums: Sequence[int] | NDArray[np.int64]) -> Tally:
        """Count some more rows, by their checksums."""
        more = np.asarray(checksums, dtype=np.int64)
        return Tally(self.n_done + len(more), (self.checksums + int(more.sum())) & _MASK)


class Listed(NamedTuple):
    """A block in the file: its number, and its tally if the file has any."""

    id: int
    tally: Tally | None


def blocks(query: Query, path: object, *, has_tally: bool) -> dict[tuple[Any, ...], Listed]:
    """List the blocks in the file by fingerprint, real and basis fragments.

    Parameters
    ----------
    query : callable
        Runs a statement, returns all its rows.
    path : object
        The file, for messages.
    has_tally : bool
        Whether the file's format version has tallies.

    Returns
    -------
    dict of (fingerprint, n_real, n_basis) to Listed

    Raises
    ------
    StoreError
        If they are not those that were written.
    """
    rows = query(_LIST.format(counted=_COUNTED if has_tally else ""), ())
    with schema.guarded(path):
        if has_tally and json.loads(rows[0][6]) != _checksum(rows):
            raise schema.damaged(path, "the blocks are not those that were written")
        known = [row for row in rows if row[0] is not None]
        if not has_tally:
            return {row[1:4]: Listed(int(row[0]), None) for row in known}
        return {row[1:4]: Listed(int(row[0]), Tally(int(row[4]), int(row[5]))) for row in known}


def note_blocks(db: sqlite3.Connection) -> None:
    """Write the tally of the blocks anew, after one was added."""
    rows = db.execute(_LIST.format(counted="")).fetchall()
    if len({row[1:4] for row in rows}) < len(rows):  # an index of a torn file did not show it
        raise sqlite3.DatabaseError("a block is there twice")
    values = _KEY, json.dumps(_checksum(rows))
    db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", values)


def rebuild(db: sqlite3.Connection) -> None:
    """Make all tallies of what is there, within a transaction."""
    db.execute(_RECOUNT)
    note_blocks(db)


def add(db: sqlite3.Connection, block: int, n_done: int, checksums: int) -> None:
    """Enter done rows, and by how much the sum of all checksums changes, within a transaction."""
    db.execute(_ADD, (n_done, checksums & _MASK, block))


def upgrade(db: sqlite3.Connection) -> None:
    """Bring a file of an earlier format version to this one, within a transaction."""
    if db.execute("PRAGMA user_version").fetchone()[0] < schema.FORMAT_VERSION:
        for statement in schema.UPGRADE_FROM_1:
            db.execute(statement)
        rebuild(db)
        db.execute(f"PRAGMA user_version={schema.FORMAT_VERSION}")


def _checksum(rows: Iterable[tuple[Any, ...]]) -> int:
    lines = [" ".join(map(str, row[:4])) + "\n" for row in rows if row[0] is not None]
    return zlib.crc32("".join(lines).encode("utf-8", "replace"))
