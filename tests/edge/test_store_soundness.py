"""What ``repair`` calls sound: all that a reader would not refuse, and nothing else."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store import Store, n_if_sound
from qcmb_mpi.store import tables as store_schema
from tests.edge.store_cases import execute, fill, make_failure, make_outcome, make_space

SPACE = make_space(2, driver="gradient", sizes=(1,) * 14)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store of all kinds of rows: two blocks, failures, arrays, records, remedies, notes."""
    path = tmp_path_factory.mktemp("whole") / "s.sqlite"
    fill(path, SPACE, range(40))
    with Store.open(path) as store:
        store.attach(0, SPACE)
        store.append([make_outcome(SPACE, task, remedy="x=1") for task in range(40, 50)])
        store.append([make_outcome(SPACE, task, record=b"{}") for task in range(50, 60)])
        store.append([make_failure(SPACE, task) for task in range(60, 65)])
        store.append([make_outcome(SPACE, 65, start_s=np.nan, cpu_s=np.nan)])
        store.set_meta({"status": "failed", "input": {"molecule": {}}})
    return path


@pytest.fixture
def path(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "s.sqlite"))


def is_readable(path: Path, space: TaskSpace) -> bool:
    """Read all that a program can ask for."""
    try:
        with Store.open(path, is_read_only=True) as store:
            store.attach(0, space)
            done = store.done(0)
            assert len(store.rows(0).tasks) == len(done) + len(store.failures(0))
            list(store.records(0))
            store.meta("status")
            store.counts()
            for _ in store.values(0).arrays(space.blocks[0], "gradient"):
                pass
    except StoreError:
        return False
    return True


def test_a_sound_store_is_counted_and_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert is_readable(path, SPACE)
    assert n_if_sound(path) == 61
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    Store.open(tmp_path / "s.sqlite").close()
    assert n_if_sound(tmp_path / "s.sqlite") == 0


def test_a_torn_commit_that_can_be_rolled_back_is_no_damage(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE component SET energy = 1.0")
    rows = [(1, rank, 1, 5, b"x" * 2000) for rank in range(1000, 1060)]
    db.executemany("INSERT INTO payload VALUES (?,?,?,?,?)", rows)
    torn, journal = path.read_bytes(), store_schema.journal_of(path).read_bytes()
    db.execute("ROLLBACK")
    db.close()
    path.write_bytes(torn)
    store_schema.journal_of(path).write_bytes(journal)
    assert n_if_sound(path) == 61
    assert path.read_bytes() == torn
    assert store_schema.journal_of(path).read_bytes() == journal
    store_schema.journal_of(path).unlink()
    assert n_if_sound(path) is None


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 1",
        "DROP VIEW result",
        "DROP INDEX remedied",
        "DROP TABLE meta",
        "UPDATE meta SET value = '{' WHERE key = 'status'",
        "UPDATE block SET specification = 9",
        "UPDATE specification SET fingerprint = x'00'",
        "UPDATE component SET status = 2 WHERE rank = 3",
        "UPDATE component SET message = NULL WHERE status = 1",
        "UPDATE component SET seconds = 'long' WHERE rank = 3",
        "UPDATE origin SET n_threads = 1.5",
        "DELETE FROM payload WHERE kind = 4",
        "INSERT INTO payload VALUES (1, 5000, 1, 7, x'00')",
    ],
)
def test_damage_is_found(path: Path, sql: str) -> None:
    execute(path, sql)
    before = path.read_bytes()
    assert n_if_sound(path) is None
    assert path.read_bytes() == before


def test_whatever_is_called_sound_can_be_read(path: Path, whole: Path) -> None:
    content, rng = whole.read_bytes(), np.random.default_rng(23)
    n_sound = 0
    for turn in range(80):
        changed = bytearray(content)
        place, length = int(rng.integers(100, len(content))), int(rng.integers(1, 65))
        changed[place : place + length] = rng.bytes(length)[: len(content) - place]
        path.write_bytes(changed if turn % 4 else content[: place + 1])
        n_results = n_if_sound(path)
        if n_results is not None:
            n_sound += 1
            assert n_results == 61
            assert is_readable(path, SPACE), turn
    assert 0 < n_sound < 60
