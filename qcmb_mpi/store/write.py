"""One transaction of the store: dictionaries, rows and payloads.

Rules of this file
------------------
1. All or nothing; whoever calls repeats the whole if it fails.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, zip_longest
from types import TracebackType
from typing import Any, cast

import numpy as np

from qcmb_mpi.expansion.system import ModelChemistry, System
from qcmb_mpi.store import tally
from qcmb_mpi.store.codec import BlockKey, Encoded, Origin, storable_text
from qcmb_mpi.store.columns import Columns, sheets
from qcmb_mpi.store.rows import RowWriter

Chemistries = dict[str, tuple[ModelChemistry, System]]

_ORIGIN = ("host", "mpi_rank", "slot", "n_threads", "program", "version")
_BLOCK = ("specification", "n_real", "n_basis")


class Transaction:
    """A write transaction; leave its ``with`` block without error to commit.

    Parameters
    ----------
    db : sqlite3.Connection
        In autocommit mode.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> Transaction:
        self._db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def write_outcomes(
        self, outcomes: Sequence[Encoded | Columns], chemistries: Chemistries
    ) -> None:
        """Write outcomes, many at once in the order of their keys, and what they add to tallies.

        Parameters
        ----------
        outcomes : sequence of Encoded or Columns
            In the order of their arrival.
        chemistries : mapping
            Fingerprint to what it stands for.
        """
        writer = RowWriter(self._db)

        @cache
        def block(key: BlockKey) -> int:
            return self._block(key, chemistries)

        @cache
        def origin(names: Origin) -> int:
            return self._intern("origin", _ORIGIN, names)

        for kind, many in groupby(outcomes, type):
            if kind is Columns:
                for sheet in sheets(cast("Iterator[Columns]", many), origin):
                    writer.write_sheet(block(sheet.key), sheet)
            else:
                writer.write(
                    ((block(key), origin(place), *fields), payloads)
                    for key, place, rows, parts in cast("Iterator[Encoded]", many)
                    for fields, payloads in zip_longest(rows, parts, fillvalue=())
                )
        writer.note_tallies()

    def write_meta(self, values: Mapping[str, str]) -> None:
        """Write entries of the meta table, JSON each."""
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", values.items())

    def begin_session(self, note: str) -> None:
        """Note since when there is a writer; bring an older file to this format version."""
        tally.upgrade(self._db)
        self.write_meta({"opened": note})

    def forget(self, block: int) -> None:
        """Delete all rows of a block."""
        self._db.execute("UPDATE block SET n_done = 0, checksums = 0 WHERE id = ?", (block,))
        self._db.execute("DELETE FROM payload WHERE block = ?", (block,))
        self._db.execute("DELETE FROM component WHERE block = ?", (block,))

    def _block(self, key: BlockKey, chemistries: Chemistries) -> int:
        known = self._find("specification", ("fingerprint",), (key.fingerprint,))
        if known is None:
            columns = _specification(*chemistries[key.fingerprint])
            known = self._insert("specification", tuple(columns), tuple(columns.values()))
        values = known, key.n_real, key.n_basis
        block = self._find("block", _BLOCK, values)
        if block is None:
            block = self._insert("block", _BLOCK, values)
            tally.note_blocks(self._db)
        return block

    def _intern(self, table: str, names: Sequence[str], values: Sequence[object]) -> int:
        known = self._find(table, names, values)
        return self._insert(table, names, values) if known is None else known

    def _find(self, table: str, names: Sequence[str], values: Sequence[object]) -> int | None:
        condition = " AND ".join(f"{name} = ?" for name in names)
        sql = f"SELECT id FROM {table} WHERE {condition}"
        row = self._db.execute(sql, _storable(values)).fetchone()
        return None if row is None else int(row[0])

    def _insert(self, table: str, names: Sequence[str], values: Sequence[object]) -> int:
        places = ",".join("?" * len(names))
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})"
        return int(self._db.execute(sql, _storable(values)).lastrowid or 0)


def _storable(values: Sequence[object]) -> tuple[object, ...]:
    """Replace what sqlite3 cannot take (lone surrogates) or would keep as bytes (numpy's ints)."""
    plain = (value.item() if isinstance(value, np.generic) else value for value in values)
    return tuple(storable_text(value) if isinstance(value, str) else value for value in plain)


def _specification(chemistry: ModelChemistry, system: System) -> dict[str, object]:
    """Describe a model chemistry and its molecule for people and other programs."""
    model = chemistry.specification.get("model") or {}
    molecule = {
        "name": system.name,
        "symbols": system.symbols,
        "mass_numbers": system.mass_numbers,
        "geometry_bohr": system.geometry_bohr,
        "fragment_sizes": system.fragment_sizes,
        "fragment_charges": system.fragment_charges,
        "fragment_multiplicities": system.fragment_multiplicities,
        "embedding_charges": system.embedding_charges,
    }
    described = {"specification": dict(chemistry.specification), "molecule": molecule}
    return {
        "fingerprint": chemistry.fingerprint,
        "program": chemistry.program,
        "method": _text(model.get("method")),
        "basis": None if model.get("basis") is None else _text(model["basis"]),
        "driver": chemistry.driver,
        "label": chemistry.label,
        "input": json.dumps(described, default=_plain),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Reduce numpy values and the like for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
