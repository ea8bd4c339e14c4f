"""One transaction of the store: dictionaries, rows and payloads.

Rules of this file
------------------
1. All or nothing; whoever calls repeats the whole if it fails.
2. A done row is replaced only by a done one that has more (a record that is now asked for).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Any

import numpy as np

from qcmb_mpi.expansion.system import ModelChemistry, System
from qcmb_mpi.store import tally
from qcmb_mpi.store.codec import BlockKey, Encoded, Origin, Payload, storable_text
from qcmb_mpi.store.tables import DONE

Chemistries = dict[str, tuple[ModelChemistry, System]]

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
_ORIGIN = ("host", "mpi_rank", "slot", "n_threads", "program", "version")
_BLOCK = ("specification", "n_real", "n_basis")
_KEY = itemgetter(0, 2)


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

    def write_outcomes(self, outcomes: Sequence[Encoded], chemistries: Chemistries) -> None:
        """Write outcomes in the order of their keys.

        Parameters
        ----------
        outcomes : sequence of Encoded
            In the order of their arrival.
        chemistries : mapping
            Fingerprint to what it stands for.
        """
        blocks: dict[BlockKey, int] = {}
        origins: dict[Origin, int] = {}
        plain: list[tuple[Any, ...]] = []
        heavy: list[tuple[tuple[Any, ...], tuple[Payload, ...]]] = []
        for key, origin, rows, payloads in outcomes:
            if key not in blocks:
                blocks[key] = self._block(key, chemistries)
            if origin not in origins:
                origins[origin] = self._intern("origin", _ORIGIN, origin)
            where = blocks[key], origins[origin]
            found = [(*where, *fields) for fields in rows]
            if payloads:
                heavy += zip(found, payloads, strict=True)
            else:
                plain += found
        plain.sort(key=_KEY)
        self._db.executemany(_INSERT, plain)
        for row, parts in sorted(heavy, key=lambda pair: _KEY(pair[0])):
            # Payloads belong to the attempt that won the row.
            if self._db.execute(_INSERT, row).rowcount == 1:
                self._db.executemany(_INSERT_PAYLOAD, [(row[0], row[2], *p) for p in parts])

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
