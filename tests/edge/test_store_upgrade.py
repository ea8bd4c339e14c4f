"""A store of format version 1: read as it is, brought to this version by the first who writes."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.store import Store, salvage
from qcmb_mpi.store import tables as store_schema
from tests.edge.store_cases import committed, execute, fill, make_failure, make_outcome, make_space

SPACE = make_space(2, driver="gradient")
EARLY = range(SPACE.n_tasks - 5)
VERSION_1 = """
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE specification (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, program TEXT NOT NULL,
    method TEXT NOT NULL, basis TEXT, driver TEXT NOT NULL, label TEXT NOT NULL,
    input TEXT NOT NULL);
CREATE TABLE block (
    id INTEGER PRIMARY KEY, specification INTEGER NOT NULL REFERENCES specification,
    n_real INTEGER NOT NULL, n_basis INTEGER NOT NULL,
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
    PRIMARY KEY (block, rank)) WITHOUT ROWID;
CREATE TABLE payload (
    block INTEGER NOT NULL, rank INTEGER NOT NULL, kind INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (block, kind, rank));
CREATE VIEW result AS
    SELECT s.label, s.program, s.method, s.basis, s.driver, b.n_real, b.n_basis, c.rank,
        CASE c.status WHEN 0 THEN 'done' ELSE 'failed' END AS status, c.energy, c.attempts,
        o.host, o.mpi_rank, o.slot, o.n_threads, o.version,
        datetime(c.start_s, 'unixepoch') AS started, c.seconds, c.cpu_s, c.peak_bytes,
        c.error_type, c.message
    FROM component c JOIN block b ON b.id = c.block
        JOIN specification s ON s.id = b.specification JOIN origin o ON o.id = c.origin;
PRAGMA application_id = 0x51434D42;
PRAGMA user_version = 1;
COMMIT;
"""
COPIED = {
    "meta": "key, value",
    "specification": "*",
    "block": "id, specification, n_real, n_basis",
    "origin": "*",
    "component": (
        "block, rank, status, kinds, energy, checksum, attempts, origin, start_s, seconds, cpu_s, "
        "peak_bytes, error_class, error_type, message, output_tail"
    ),
    "payload": "block, rank, kind, checksum, data",
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make a store as version 1 made it."""
    path, model = tmp_path / "old.sqlite", tmp_path / "model.sqlite"
    fill(model, SPACE, EARLY)
    with Store.open(model) as store:
        store.attach(0, SPACE)
        store.append([make_failure(SPACE, SPACE.n_tasks - 1)])
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(VERSION_1)
    db.execute("ATTACH ? AS model", (str(model),))
    for table, columns in COPIED.items():
        db.execute(f"INSERT INTO main.{table} SELECT {columns} FROM model.{table}")
    db.execute("DELETE FROM main.meta WHERE key = 'tally'")
    db.close()
    model.unlink()
    return path


def schema_of(path: Path) -> list[tuple[str, list[str]]]:
    """List tables, indices and views with their columns."""
    db = sqlite3.connect(path)
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
    columns = [sorted(r[1] for r in db.execute(f"PRAGMA table_xinfo('{name}')")) for name in names]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return [*zip(names, columns, strict=True), ("version", [str(version)])]


def test_readers_read_it_and_leave_it_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    with Store.open(old, is_read_only=True) as reader:
        reader.attach(0, SPACE)
        assert reader.done(0).tolist() == list(EARLY)
        assert reader.remedied(0) == {}
        assert [task for task, *_ in reader.failures(0)] == [SPACE.n_tasks - 1]
        assert sum(count.n_done for count in reader.counts()) == len(EARLY)
        assert len(reader.rows(0).tasks) == len(EARLY) + 1
        assert len(next(reader.values(0).arrays(SPACE.blocks[0], "gradient"))[1]) == 5
    assert old.read_bytes() == before


def test_the_first_writer_brings_it_to_this_version(old: Path, tmp_path: Path) -> None:
    rest = [t for t in range(SPACE.n_tasks) if t not in EARLY]
    outcomes: list[Outcome] = [make_outcome(SPACE, t, remedy="x=1") for t in rest]
    with Store.open(old, is_read_only=True) as early_reader:
        early_reader.attach(0, SPACE)
        with Store.open(old) as store:
            store.attach(0, SPACE)
            assert store.done(0).tolist() == list(EARLY)
            store.append(outcomes)
            store.flush()
            assert len(early_reader.done(0)) == SPACE.n_tasks
            assert store.remedied(0) == {"x=1": len(rest)}
    new = tmp_path / "new.sqlite"
    Store.open(new).close()
    assert schema_of(old) == schema_of(new)
    assert committed(old, SPACE) == list(range(SPACE.n_tasks))
    execute(old, "DELETE FROM component WHERE rank = 2")
    with pytest.raises(StoreError, match="4 results are in sight, not all of them"):
        committed(old, SPACE)


def test_an_upgrade_that_does_not_get_through_changes_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = schema_of(old)
    broken = (*store_schema.UPGRADE_FROM_1, "SELECT * FROM nowhere")
    monkeypatch.setattr(store_schema, "UPGRADE_FROM_1", broken)
    with pytest.raises(StoreError, match="no such table: nowhere"):
        Store.open(old)
    assert schema_of(old) == before
    assert committed(old, SPACE) == list(EARLY)


@pytest.mark.parametrize("version", [0, 1])
def test_repair_makes_this_version_of_it(old: Path, version: int) -> None:
    execute(old, f"PRAGMA user_version = {version}")
    copy = Path(shutil.copy(old, old.with_name("copy.sqlite")))
    assert salvage(old) == len(EARLY)
    assert committed(old, SPACE) == list(EARLY)
    Store.open(old).close()
    fill(old, SPACE)
    assert committed(old, SPACE) == list(range(SPACE.n_tasks))
    assert old.with_name("old.sqlite.damaged-1").read_bytes() == copy.read_bytes()
