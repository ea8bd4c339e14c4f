"""A store that is foreign, newer, cut or altered: refused or repaired loudly, never believed."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store import Store, n_if_sound, salvage
from qcmb_mpi.store import connection as store_connection
from qcmb_mpi.store import lock as store_lock
from qcmb_mpi.store import repair as store_salvage
from qcmb_mpi.store import tables as store_schema
from tests.edge.store_cases import execute, make_failure, make_outcome, make_space

PAGE_BYTES = 4096


def fill(path: Path, space: TaskSpace, tasks: range, **changes: object) -> None:
    with Store.open(path) as store:
        store.attach(0, space)
        store.append([make_outcome(space, task, **changes) for task in tasks])


def read_all(store: Store, space: TaskSpace) -> set[int]:
    """Read everything there is; fail if any of it is not what was written."""
    store.attach(0, space)
    done = set(store.done(0).tolist())
    view = store.values(0)
    for block in space.blocks:
        complete = done >= set(block.ids)
        if not complete:
            continue
        expected = [make_outcome(space, task) for task in block.ids]
        assert view.energies(block).tolist() == [o.energy_hartree for o in expected]
        if space.expansion.driver == "gradient":
            arrays = [a for _, page in view.arrays(block, "gradient") for a in page]
            for array, outcome in zip(arrays, expected, strict=True):
                assert np.array_equal(array, outcome.gradient)
    return done


@pytest.fixture(scope="module")
def space() -> TaskSpace:
    return make_space(2, driver="gradient", sizes=(1,) * 14)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, space: TaskSpace) -> Path:
    """Make a store with all of a space, in several transactions."""
    path = tmp_path_factory.mktemp("whole") / "s.sqlite"
    for start in range(0, space.n_tasks, 20):
        fill(path, space, range(start, min(start + 20, space.n_tasks)))
    return path


@pytest.fixture
def path(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "s.sqlite"))


# ------------------------------------------------------------------------------- refused


def make_text(path: Path) -> None:
    path.write_text("energies, honest\n" * 50)


def make_foreign(path: Path) -> None:
    execute(path, "CREATE TABLE precious (data)")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (make_text, r"not an SQLite database\); it was left as it is"),
        (lambda path: path.write_bytes(b"\0" * 9000), "not an SQLite database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "not an SQLite database"),
        (make_foreign, "another program's SQLite database"),
        (lambda path: path.mkdir(), "is a directory; give the store a file name"),
    ],
)
@pytest.mark.parametrize("is_read_only", [True, False])
def test_what_is_no_store_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], expected: str, is_read_only: bool
) -> None:
    path = tmp_path / "s.sqlite"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(StoreError, match=expected):
        Store.open(path, is_read_only=is_read_only)
    with pytest.raises(StoreError, match=expected):
        salvage(path)
    assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]
    assert before is None or path.read_bytes() == before


def test_a_newer_store_is_refused_naming_both_versions(path: Path) -> None:
    execute(path, "PRAGMA user_version = 7")
    with pytest.raises(StoreError, match=r"store format version 7, this qcmb_mpi knows up to 2;"):
        Store.open(path)
    execute(path, "PRAGMA user_version = 0")
    with pytest.raises(StoreError, match=r"damaged \(format version 0\)"):
        Store.open(path)


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no directory {tmp_path}/not/there; make it"):
        Store.open(tmp_path / "not" / "there" / "s.sqlite")
    with pytest.raises(StoreError, match="there is no such store"):
        Store.open(tmp_path / "s.sqlite", is_read_only=True)
    with pytest.raises(StoreError, match="there is no such store"):
        salvage(tmp_path / "s.sqlite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_orphaned", [False, True])
def test_an_empty_file_is_a_new_store(tmp_path: Path, whole: Path, is_orphaned: bool) -> None:
    path, space = tmp_path / "s.sqlite", make_space()
    path.touch()
    if is_orphaned:
        make_hot_journal(path, whole)
    fill(path, space, range(3))
    with Store.open(path, is_read_only=True) as reader:
        reader.attach(0, space)
        assert reader.done(0).tolist() == [0, 1, 2]


def make_hot_journal(path: Path, other: Path) -> None:
    """Leave the journal of another database beside a file."""
    copy = Path(shutil.copy(other, path.with_name("copy")))
    db = sqlite3.connect(copy, isolation_level=None)
    db.execute("PRAGMA cache_size=1")
    db.execute("BEGIN")
    db.execute("UPDATE component SET energy = 1.0")
    db.execute("UPDATE payload SET data = zeroblob(5000)")
    shutil.copy(store_schema.journal_of(copy), store_schema.journal_of(path))
    db.execute("ROLLBACK")
    db.close()
    copy.unlink()


def test_a_file_system_that_refuses_is_named(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(store_lock.os, "open", refuse)
        with pytest.raises(StoreError, match="cannot be written: Permission denied; give another"):
            Store.open(tmp_path / "other.sqlite")
    with monkeypatch.context() as patched:
        patched.setattr(store_schema.os, "replace", refuse)
        with pytest.raises(StoreError, match="cannot be created: Permission denied"):
            Store.open(tmp_path / "other.sqlite")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(StoreError, match="cannot be read: Permission denied"):
            Store.open(path, is_read_only=True)
    with monkeypatch.context() as patched:
        patched.setattr(store_salvage.shutil, "copyfile", refuse)
        with pytest.raises(StoreError, match="cannot be salvaged: Permission denied"):
            salvage(path)
    with monkeypatch.context() as patched:
        patched.setattr(store_lock.os, "fsync", refuse)
        with pytest.raises(StoreError, match="cannot be written"):
            Store.open(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_a_killed_process_of_our_number_left_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    left = path.with_name(f"{path.name}.new-{os.getpid()}")
    execute(left, "CREATE TABLE meta (half)")
    store_schema.journal_of(left).write_bytes(b"half")
    Store.open(path).close()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_store_that_cannot_be_written_is_refused_when_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = store_schema.connect_writer

    def connect_read_only(place: Path, *, has_locks: bool) -> sqlite3.Connection:
        db = connect(place, has_locks=has_locks)
        db.execute("PRAGMA query_only = 1")
        return db

    monkeypatch.setattr(store_schema, "connect_writer", connect_read_only)
    with pytest.raises(StoreError, match=r"file, its directory or the file system is read-only"):
        Store.open(path)
    assert not store_lock.lock_path(path).exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("database or disk is full", "make room"),
        ("unable to open database file", "is the directory there"),
        ("disk I/O error", "the file system refused"),
        ("no such table: component", "is damaged"),
    ],
)
def test_sqlites_errors_say_what_to_do(text: str, expected: str) -> None:
    error = store_schema.explain(sqlite3.OperationalError(text), "s.sqlite")
    assert expected in str(error)
    assert text in str(error)


# ------------------------------------------------------------------------------- cut


def try_to_read(path: Path, space: TaskSpace, *, is_read_only: bool) -> set[int] | None:
    """Read what there is; None if refused."""
    try:
        with Store.open(path, is_read_only=is_read_only) as store:
            return read_all(store, space)
    except StoreError:
        return None


def cuts(size_bytes: int) -> list[int]:
    """Choose lengths: random ones, those round every page, and every byte of the last 300."""
    rng = np.random.default_rng(20240607)
    chosen = set(rng.integers(0, size_bytes, 200).tolist()) | set(range(30))
    chosen |= set(range(size_bytes - 300, size_bytes))
    chosen |= {p + d for p in range(0, size_bytes, PAGE_BYTES) for d in (-1, 0, 1) if p + d >= 0}
    return sorted(chosen)


def test_a_store_cut_anywhere_is_refused_or_new_but_never_wrong(
    path: Path, whole: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    content = whole.read_bytes()
    for length in cuts(len(content)):
        path.write_bytes(content[:length])
        assert try_to_read(path, space, is_read_only=True) is None, length
        found = try_to_read(path, space, is_read_only=False)
        assert found == (set() if length == 0 else None), length
    path.write_bytes(content)
    assert try_to_read(path, space, is_read_only=True) == set(range(space.n_tasks))


def test_a_store_cut_anywhere_inside_its_last_commit_keeps_all_earlier_results(
    tmp_path: Path, space: TaskSpace
) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, space, range(40))
    before = path.read_bytes()
    torn, journal = torn_commit(path)
    rng = np.random.default_rng(3)
    for length in {len(before), len(torn), *rng.integers(len(before), len(torn), 25).tolist()}:
        path.write_bytes(torn[:length])
        store_schema.journal_of(path).write_bytes(journal)
        assert try_to_read(path, space, is_read_only=False) == set(range(40)), length


def torn_commit(path: Path) -> tuple[bytes, bytes]:
    """Return file and journal in the middle of a commit; end it undone."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN")
    db.execute("UPDATE component SET energy = 1.0")
    rows = [(1, rank, 1, 5, b"x" * 2000) for rank in range(1000, 1060)]
    db.executemany("INSERT INTO payload VALUES (?,?,?,?,?)", rows)
    files = path.read_bytes(), store_schema.journal_of(path).read_bytes()
    db.execute("ROLLBACK")
    db.close()
    assert files[1].startswith(b"\xd9\xd5\x05\xf9")
    return files


# ------------------------------------------------------------------------------- altered


def test_altered_bytes_are_never_believed(
    path: Path, whole: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_schema, "_CHECKED_WHOLE_BYTES", 0)  # row by row must do
    content, rng = whole.read_bytes(), np.random.default_rng(11)
    n_refused = 0
    for _ in range(150):
        place, length = int(rng.integers(0, len(content))), int(rng.integers(1, 200))
        changed = bytearray(content)
        changed[place : place + length] = rng.bytes(length)[: len(content) - place]
        path.write_bytes(changed)
        found = try_to_read(path, space, is_read_only=True)
        assert found is None or found <= set(range(space.n_tasks))
        n_refused += found is None
    assert n_refused > 20


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE component SET energy = energy + 1e-9 WHERE rank = 3",
        "UPDATE component SET energy = 'text' WHERE rank = 3",
        "UPDATE component SET energy = NULL WHERE rank = 3",
        "UPDATE component SET kinds = 0 WHERE rank = 3",
        "UPDATE component SET kinds = 513 WHERE rank = 3",
        "UPDATE component SET checksum = NULL WHERE rank = 3",
        "UPDATE OR REPLACE component SET block = 2, rank = 77 WHERE rank = 3 AND block = 1",
        "UPDATE component SET rank = 14 WHERE rank = 3 AND block = 1",
        "UPDATE component SET rank = 'x' WHERE rank = 3 AND block = 1",
        "UPDATE component SET rank = 1e300 WHERE rank = 3 AND block = 1",
        "UPDATE specification SET fingerprint = upper(fingerprint) || 'x'",
        "UPDATE block SET n_real = 3 WHERE id = 2",
        "DELETE FROM block",
        "DELETE FROM specification",
        "UPDATE component SET status = 1 WHERE rank = 3",
        "DELETE FROM component WHERE rank = 3",
        "DELETE FROM component",
        "DELETE FROM payload WHERE rank = 3",
        "DELETE FROM meta WHERE key = 'tally'",
        "DROP TABLE component",
    ],
)
def test_an_altered_row_is_refused(path: Path, space: TaskSpace, sql: str) -> None:
    execute(path, sql)
    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        with pytest.raises(StoreError, match="the store is damaged"):
            store.done(0)
    assert n_if_sound(path) is None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE payload SET data = zeroblob(24) WHERE rank = 3",
        "UPDATE payload SET data = zeroblob(25) WHERE rank = 3",
        "UPDATE payload SET data = 5 WHERE rank = 3",
        "UPDATE payload SET kind = 2 WHERE rank = 3",
        "DELETE FROM payload WHERE rank = 3",
    ],
)
def test_an_altered_array_is_refused(path: Path, space: TaskSpace, sql: str) -> None:
    execute(path, sql)
    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        with pytest.raises(StoreError, match=r"the store is damaged|are missing"):
            list(store.values(0).arrays(space.blocks[0], "gradient"))
    assert n_if_sound(path) is None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE component SET origin = 99 WHERE rank = 3",
        "UPDATE component SET attempts = 'many' WHERE rank = 3",
        "UPDATE origin SET slot = 'x'",
    ],
)
def test_altered_timings_are_refused(path: Path, space: TaskSpace, sql: str) -> None:
    execute(path, sql)
    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        with pytest.raises(StoreError, match="the store is damaged"):
            store.rows(0)
    assert n_if_sound(path) is None


def test_altered_notes_and_failures_are_refused(path: Path, space: TaskSpace) -> None:
    other = make_space()
    with Store.open(path) as store:
        store.attach(0, other)
        store.append([make_failure(other, 0)])
    execute(path, "UPDATE component SET attempts = 'x' WHERE status = 1")
    execute(path, "INSERT INTO meta VALUES ('note', '{')")
    with Store.open(path, is_read_only=True) as reader:
        reader.attach(0, other)
        with pytest.raises(StoreError, match="the store is damaged"):
            reader.failures(0)
        with pytest.raises(StoreError, match="the store is damaged"):
            reader.meta("note")
    assert n_if_sound(path) is None


def test_an_altered_record_is_refused(tmp_path: Path, space: TaskSpace) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, space, range(2), record=b"{}")
    execute(path, "UPDATE payload SET data = x'00' WHERE kind = 4")
    with Store.open(path) as store:
        store.attach(0, space)
        with pytest.raises(StoreError, match="an array or record fails its checksum"):
            list(store.records(0))
    assert n_if_sound(path) is None


def test_contradicting_pages_are_refused_when_opened_to_write(path: Path) -> None:
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'payload'").fetchone()[0]
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES + 3)
        file.write(b"\xff\xff")
    with pytest.raises(StoreError, match=r"the store is damaged .* repair"):
        Store.open(path)
    assert not store_lock.lock_path(path).exists()


def test_rows_out_of_order_end_the_reading(
    path: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcmb_mpi.store.values._PAGE_ROWS", 2)
    with Store.open(path, is_read_only=True) as store:
        store.attach(0, space)
        query = store._connection.query
        rows = [(0, None, None, None, 0, 1, 0, 1), (0, None, None, None, 0, 1, 0, 1)]
        monkeypatch.setattr(
            store._connection,
            "query",
            lambda sql, values: rows if "start_s" in sql else query(sql, values),
        )
        with pytest.raises(StoreError, match="rows are out of order"):
            store.rows(0)


def test_an_index_that_hides_a_block_does_not_let_it_be_made_twice(
    path: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_schema, "_CHECKED_WHOLE_BYTES", 0)
    db = sqlite3.connect(path, isolation_level=None)
    sql = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_block_1'"
    root = db.execute(sql).fetchone()[0]
    db.close()
    content = bytearray(path.read_bytes())
    start = (root - 1) * PAGE_BYTES
    content[start + 3 : start + 5] = bytes(2)  # no entries
    content[start + 5 : start + 7] = PAGE_BYTES.to_bytes(2, "big")  # no content either
    path.write_bytes(content)
    with pytest.raises(StoreError, match="a block is there twice"):
        fill(path, space, range(1, 2))


# ------------------------------------------------------------------------------- salvaged


def test_salvage_of_a_whole_store_keeps_everything(
    path: Path, space: TaskSpace, caplog: pytest.LogCaptureFixture
) -> None:
    before = path.read_bytes()
    with Store.open(path) as store:
        store.set_meta({"layout": 3})
    with caplog.at_level(logging.WARNING):
        assert salvage(path) == space.n_tasks
    assert "105 results were whole and kept" in caplog.text
    with Store.open(path) as store:
        assert read_all(store, space) == set(range(space.n_tasks))
        assert store.meta("layout") == 3
        assert store.rows(0).host.tolist()[:2] == ["node0", "node1"]
    aside = path.with_name("s.sqlite.damaged-1")
    assert len(aside.read_bytes()) == len(before)
    assert salvage(path) == space.n_tasks
    assert path.with_name("s.sqlite.damaged-2").exists()
    assert len(list(path.parent.iterdir())) == 3


def test_salvage_of_a_cut_store_keeps_what_is_left_and_the_rest_is_computed_again(
    path: Path, whole: Path, space: TaskSpace
) -> None:
    content = whole.read_bytes()
    kept = []
    for n_pages in range(1, len(content) // PAGE_BYTES):
        path.write_bytes(content[: n_pages * PAGE_BYTES + 100])
        n_kept = salvaged(path)
        if not n_kept:
            path.unlink()
        with Store.open(path) as store:
            done = read_all(store, space)
            assert len(done) == n_kept
            rest = sorted(set(range(space.n_tasks)) - done)
            store.append([make_outcome(space, task) for task in rest])
            assert len(read_all(store, space)) == space.n_tasks
        kept.append(n_kept)
    assert kept[0] == 0
    assert 0 < kept[-1] < space.n_tasks


def test_salvage_of_altered_stores_never_keeps_a_wrong_number(
    path: Path, whole: Path, space: TaskSpace
) -> None:
    content, rng = whole.read_bytes(), np.random.default_rng(17)
    kept = []
    for _ in range(40):
        changed = bytearray(content)
        place = int(rng.integers(PAGE_BYTES, len(content)))
        changed[place : place + 64] = rng.bytes(64)[: len(content) - place]
        path.write_bytes(changed)
        kept.append(salvaged(path))
        if kept[-1]:
            with Store.open(path) as store:
                assert len(read_all(store, space)) == kept[-1]
    assert max(kept) == space.n_tasks
    assert sum(kept) > 20 * space.n_tasks


@pytest.mark.parametrize(
    ("sql", "n_lost"),
    [
        ("UPDATE component SET energy = 5.0 WHERE rank = 3 AND block = 1", 1),
        ("UPDATE component SET rank = 'x' WHERE rank = 3 AND block = 1", 1),
        ("UPDATE component SET checksum = 'x' WHERE rank = 3 AND block = 1", 1),
        ("UPDATE component SET attempts = 'x', seconds = 'y' WHERE rank = 3 AND block = 1", 0),
        ("UPDATE payload SET data = zeroblob(24) WHERE rank = 3 AND block = 1", 1),
        ("DELETE FROM payload WHERE rank = 3 AND block = 1", 1),
        ("UPDATE component SET origin = 99 WHERE rank = 3 AND block = 1", 1),
        ("UPDATE block SET n_real = 'x' WHERE id = 1", 14),
        ("UPDATE component SET status = 1 WHERE rank = 3 AND block = 1", 1),
        ("DROP TABLE meta", 0),
    ],
)
def test_salvage_drops_exactly_what_is_altered(
    path: Path, space: TaskSpace, sql: str, n_lost: int
) -> None:
    execute(path, sql)
    assert salvage(path) == space.n_tasks - n_lost
    with Store.open(path) as store:
        assert len(read_all(store, space)) == space.n_tasks - n_lost


@pytest.mark.parametrize("table", ["component", "payload", "specification"])
def test_a_store_of_which_nothing_is_left_stays_as_it_is(path: Path, table: str) -> None:
    execute(path, f"DROP TABLE {table}")
    assert salvaged(path) == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def salvaged(path: Path) -> int:
    """Salvage a store; return 0 if there was nothing to keep, and it was left as it was."""
    before, said = path.read_bytes(), ""
    try:
        return salvage(str(path))
    except StoreError as error:
        said = str(error)
    assert "no result in it is whole" in said
    assert path.read_bytes() == before
    return 0


def test_salvage_keeps_records_and_jumps_over_bad_pages(tmp_path: Path) -> None:
    big = make_space(2, sizes=(1,) * 60)
    path = tmp_path / "s.sqlite"
    fill(path, big, range(big.n_tasks))
    with Store.open(path) as store:
        store.attach(0, big)
        store.append([make_outcome(big, task, record=b"{}") for task in range(0, 60, 7)])
    content = bytearray(path.read_bytes())
    leaves = [
        page
        for page in range(1, len(content) // PAGE_BYTES)
        if content[page * PAGE_BYTES] == 0x0A and content[page * PAGE_BYTES + 4] > 30
    ]
    for page in leaves[3:9:2]:
        content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(content)
    n_kept = salvage(path)
    assert big.n_tasks - 3 * 70 < n_kept < big.n_tasks
    with Store.open(path) as store:
        store.attach(0, big)
        assert len(store.done(0)) == n_kept
        assert {text for _, text in store.records(0)} == {b"{}"}


def test_salvage_takes_the_journal_along_and_needs_no_hard_links(
    tmp_path: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    fill(path, space, range(40))
    torn, journal = torn_commit(path)
    path.write_bytes(torn)
    store_schema.journal_of(path).write_bytes(journal)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(store_salvage.os, "link", refuse)
    assert salvage(path) == 40
    aside = path.with_name("s.sqlite.damaged-1")
    assert (aside.read_bytes(), store_schema.journal_of(aside).read_bytes()) == (torn, journal)


def test_salvage_waits_for_no_writer(path: Path) -> None:
    with Store.open(path), pytest.raises(StoreError, match="is being written by process"):
        salvage(path)


# ------------------------------------------------------------------------------- torn, read only


def test_a_reader_repairs_a_torn_commit_only_where_no_writer_lives(
    path: Path, space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn, journal = torn_commit(path)
    path.write_bytes(torn)
    hot = store_schema.journal_of(path)
    hot.write_bytes(journal)

    def fail(place: Path, *, lease_s: float) -> store_connection.Connection:
        raise StoreError("no")

    with monkeypatch.context() as patched:
        patched.setattr(store_connection, "open_writer", fail)
        with pytest.raises(StoreError, match=r"^no$"):
            Store.open(path, is_read_only=True)

        def fail_after_another_did_it(
            place: Path, *, lease_s: float
        ) -> store_connection.Connection:
            sqlite3.connect(place).execute("SELECT * FROM meta").fetchall()
            hot.unlink(missing_ok=True)
            raise StoreError("no")

        patched.setattr(store_connection, "open_writer", fail_after_another_did_it)
        with Store.open(path, is_read_only=True) as store:
            assert read_all(store, space) == set(range(space.n_tasks))
    store_lock.WriterLock.acquire(path)
    hot.write_bytes(b"\0" * 512)
    with Store.open(path, is_read_only=True) as store:
        assert read_all(store, space) == set(range(space.n_tasks))
