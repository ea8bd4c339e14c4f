"""The rows of one transaction, and what they add to the tallies of their blocks.

Rules of this file
------------------
1. A done row is replaced only by a done one that has more (a record that is now asked for).
2. Payloads belong to the attempt that won the row.
3. A tally changes by what is written here, in the same transaction; the file has no trigger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from qcmb_mpi.store.codec import Payload
from qcmb_mpi.store.columns import Sheet
from qcmb_mpi.store.tables import DONE
from qcmb_mpi.store.tally import add

Row = tuple[Any, ...]

_COLUMNS = (
    "block, origin, rank, status, kinds, energy, checksum, start_s, seconds, cpu_s, peak_bytes, "
    "error_class, error_type, message, output_tail, remedy, attempts"
)
_REPLACED = ", ".join(
    f"{name} = excluded.{name}"
    for name in _COLUMNS.split(", ")
    if name not in ("block", "rank", "attempts")
)
_INSERT = (
    f"INSERT INTO component ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,1) "
    f"ON CONFLICT (block, rank) DO UPDATE SET {_REPLACED}, attempts = component.attempts + 1 "
    f"WHERE component.status <> {DONE} OR (excluded.status = {DONE} AND "
    "component.kinds <> excluded.kinds AND component.kinds & excluded.kinds = component.kinds)"
)
_INSERT_PAYLOAD = (
    "INSERT OR REPLACE INTO payload (block, rank, kind, checksum, data) VALUES (?,?,?,?,?)"
)
_FIND = (
    "SELECT status, coalesce(checksum & 4294967295, 0) FROM component WHERE block = ? AND rank = ?"
)
_NEW = (
    "INSERT INTO component (rank, energy, checksum, origin, start_s, seconds, cpu_s, peak_bytes, "
    "block, kinds, status, attempts) VALUES "
)
_NEW_PAYLOAD = "INSERT INTO payload (rank, checksum, data, block, kind) VALUES "
_KEY = itemgetter(0, 2)
_FEW = 16
_AT_ONCE = 32  # rows of a statement: it costs as much as a row; SQLite once took 999 values at most


class RowWriter:
    """Writes rows and payloads within a transaction.

    Parameters
    ----------
    db : sqlite3.Connection
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._tallies: dict[int, tuple[int, int]] = {}

    def write(self, outcomes: Iterable[tuple[Row, Sequence[Payload]]]) -> None:
        """Write rows with their payloads, whatever is there already, in the order of their keys.

        Parameters
        ----------
        outcomes : iterable of (row, payloads)
            A row has block, origin and the rest as in :class:`~qcmb_mpi.store.codec.Encoded`; those
            of one task are in the order of their arrival.
        """
        for row, payloads in sorted(outcomes, key=lambda pair: _KEY(pair[0])):
            self._write_one(row, payloads)

    def write_sheet(self, block: int, sheet: Sheet) -> None:
        """Write successes, at once where none of them was there before."""
        if self._has_written(block, sheet):
            self._add(block, len(sheet), sum(sheet.columns[2]))
        elif len(sheet) > _FEW:
            half = len(sheet) // 2
            self.write_sheet(block, sheet.part(slice(half)))
            self.write_sheet(block, sheet.part(slice(half, None)))
        else:
            for index, row in enumerate(zip(*sheet.columns, strict=True)):
                rank, energy, checksum, origin, *times = row
                fields = (block, origin, rank, DONE, sheet.kinds, energy, checksum, *times)
                self._write_one((*fields, *[None] * 5), sheet.payload_rows(index))

    def note_tallies(self) -> None:
        """Enter what was written."""
        for block, (n_done, checksums) in self._tallies.items():
            add(self._db, block, n_done, checksums)
        self._tallies.clear()

    def _write_one(self, row: Row, payloads: Sequence[Payload]) -> None:
        block, _, rank, status, _, _, checksum = row[:7]
        old = self._db.execute(_FIND, (block, rank)).fetchone()
        if self._db.execute(_INSERT, row).rowcount != 1:
            return
        self._db.executemany(_INSERT_PAYLOAD, [(block, rank, *each) for each in payloads])
        if status == DONE:
            was_done = old is not None and old[0] == DONE
            self._add(block, 1 - was_done, checksum - (old[1] if was_done else 0))

    def _has_written(self, block: int, sheet: Sheet) -> bool:
        """Write all, or nothing if one of them is there already."""
        self._db.execute("SAVEPOINT sheet")
        try:
            values = f"(?,?,?,?,?,?,?,?,{block},{sheet.kinds},{DONE},1)"
            self._insert(_NEW + values, values, zip(*sheet.columns, strict=True))
            for kind, (sums, data) in sheet.payloads.items():
                values = f"(?,?,?,{block},{kind})"
                rows = zip(sheet.ranks, sums, data, strict=True)
                self._insert(_NEW_PAYLOAD + values, values, rows)
            is_new = True
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK TO sheet")
            is_new = False
        self._db.execute("RELEASE sheet")
        return is_new

    def _insert(self, sql: str, values: str, rows: Iterator[Row]) -> None:
        """Insert rows by a statement for one, or by as many of its ``values``."""
        whole = ",".join([sql, *[values] * (_AT_ONCE - 1)])
        while len(part := list(islice(rows, _AT_ONCE))) == _AT_ONCE:
            self._db.execute(whole, list(chain.from_iterable(part)))
        self._db.executemany(sql, part)

    def _add(self, block: int, n_done: int, checksums: int) -> None:
        n_before, sum_before = self._tallies.get(block, (0, 0))
        self._tallies[block] = n_before + n_done, sum_before + checksums
