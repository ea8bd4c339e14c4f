"""A store whose last transaction was cut at any byte: all earlier results, or refused; never a lie.

What is covered, each with what a reader and the next run make of it. SQLite commits in this order:
journal (header, then the old pages), journal header again (number of pages), changed pages of the
file by ascending number, journal cut to nothing. The states are

- the journal at every length, file untouched, with and without the final header;
- the journal whole, changed pages written up to every byte;
- the same without the journal (a copy that forgot it), and the file whole with any part of it;
- any single byte of the file flipped.

Both files are as SQLite made them, with pages of 512 bytes so that *every* byte can be tried.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.errors import StoreError
from qcmb_mpi.store import Store
from qcmb_mpi.store import tables as store_schema
from tests.edge.store_cases import make_outcome, make_space

PAGE_BYTES = 512
SPACE = make_space(2, driver="gradient")
MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
N_HEAD = 12  # bytes of the journal's header that are written last: magic and number of pages


class Watched:
    """A database that shows its files when a commit that is complete but for readers is undone."""

    def __init__(self, db: sqlite3.Connection, seen: Callable[[], None]) -> None:
        self._db = db
        self._seen = seen

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":
            self._seen()
        return self._db.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@dataclass(frozen=True)
class Commit:
    """The last transaction of a store: file before and after, and the journal in between."""

    before: bytes
    after: bytes
    journal: bytes
    early: frozenset[int]
    late: frozenset[int]

    @property
    def changes(self) -> list[tuple[int, bytes]]:
        """Changed pages in the order of writing: place and content."""
        places = range(0, len(self.after), PAGE_BYTES)
        pages = [(place, self.after[place : place + PAGE_BYTES]) for place in places]
        return [(at, page) for at, page in pages if self.before[at : at + PAGE_BYTES] != page]

    def partly(self, n_bytes: int) -> bytes:
        """Give the file with the first `n_bytes` of the changes written."""
        file = bytearray(self.before)
        for place, page in self.changes:
            part = page[:n_bytes]
            file[place : place + len(part)] = part
            n_bytes -= len(part)
            if not n_bytes:
                break
        return bytes(file)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a place where thousands of stores are opened without waiting for a disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def commit(tmp_path_factory: pytest.TempPathFactory) -> Commit:
    """Make a store with results, and add the last ones in one more transaction."""
    n = SPACE.n_tasks
    return make_commit(
        tmp_path_factory.mktemp("commit") / "s.sqlite", range(n - 4), range(n - 4, n)
    )


@pytest.fixture(scope="module")
def commit_of_a_block(tmp_path_factory: pytest.TempPathFactory) -> Commit:
    """Make one whose last transaction has the first results of a block."""
    n = SPACE.blocks[0].n_tasks
    path = tmp_path_factory.mktemp("commit") / "s.sqlite"
    return make_commit(path, range(n), range(n, n + 2))


def make_commit(path: Path, early: range, late: range) -> Commit:
    """Keep what the files are before, within and after the commit of the late ones."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    store_schema.create_tables(db)
    db.close()
    with Store.open(path) as store:
        store.attach(0, SPACE)
        store.append([make_outcome(SPACE, task) for task in early])
    journals: list[bytes] = []
    with Store.open(path, commit_interval_s=0.0) as store:
        store.flush()
        before = path.read_bytes()
        store.attach(0, SPACE)
        watched = Watched(
            store._connection._db,
            lambda: journals.append(store_schema.journal_of(path).read_bytes()),
        )
        store._connection._db = watched  # type: ignore[assignment]
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        store.append([make_outcome(SPACE, task) for task in late])
        reader.execute("ROLLBACK")
        reader.close()
        store.flush()
        after = path.read_bytes()
    (journal,) = journals
    return Commit(before, after, with_page_count(journal), frozenset(early), frozenset(late))


def with_page_count(journal: bytes) -> bytes:
    """Give the journal the header that it gets last, before the first page of the file changes."""
    assert journal.startswith(bytes(N_HEAD))
    n_pages, rest = divmod(len(journal) - PAGE_BYTES, 4 + PAGE_BYTES + 4)
    assert rest == 0
    return MAGIC + n_pages.to_bytes(4, "big") + journal[N_HEAD:]


@cache
def truth(task: int) -> tuple[float | None, bytes]:
    """Give energy and gradient of a task as they were written."""
    outcome = make_outcome(SPACE, task)
    assert outcome.gradient is not None
    return outcome.energy_hartree, outcome.gradient.astype("<f8").tobytes()


def read(store: Store) -> frozenset[int]:
    """Read all numbers there are; fail if one is not what was written."""
    store.attach(0, SPACE)
    found = frozenset(store.done(0).tolist())
    view = store._view(0)
    with_gradient: set[int] = set()
    for block in SPACE.blocks:
        energies = view.energies(block, allow_missing=True)
        for rank in np.flatnonzero(~np.isnan(energies)).tolist():
            assert energies[rank] == truth(block.start + rank)[0]
        for rows in view._blobs(block, store_schema.GRADIENT):
            assert all(row[1] == truth(block.start + row[0])[1] for row in rows)
            with_gradient.update(block.start + row[0] for row in rows)
    assert found == with_gradient
    return found


class Trial:
    """Puts files in place and tells what is made of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "s.sqlite"
        self._known: dict[tuple[bytes, bytes | None, bool], frozenset[int] | None] = {}

    @property
    def answers(self) -> set[frozenset[int] | None]:
        """What was made of all of them."""
        return set(self._known.values())

    def __call__(
        self, file: bytes, journal: bytes | None, *, is_read_only: bool = True
    ) -> frozenset[int] | None:
        """Return the tasks whose results are there and right; None if refused.

        Many bytes do not change by being written; the same files are not tried twice.
        """
        state = file, journal, is_read_only
        if state not in self._known:
            self._known[state] = self._open(file, journal, is_read_only=is_read_only)
        return self._known[state]

    def _open(
        self, file: bytes, journal: bytes | None, *, is_read_only: bool
    ) -> frozenset[int] | None:
        hot = store_schema.journal_of(self._path)
        self._path.write_bytes(file)
        hot.unlink(missing_ok=True)
        if journal is not None:
            hot.write_bytes(journal)
        try:
            with Store.open(self._path, is_read_only=is_read_only) as store:
                return read(store)
        except StoreError:
            return None


@pytest.fixture
def trial(folder: Path) -> Iterator[Trial]:
    yield Trial(folder)
    assert {path.name for path in folder.iterdir()} <= {"s.sqlite", "s.sqlite-journal"}


def test_the_commit_is_as_sqlite_makes_it(commit: Commit, trial: Trial) -> None:
    everything = commit.early | commit.late
    assert len(commit.changes) > 3
    assert len(commit.after) > len(commit.before)
    assert trial(commit.before, None) == commit.early
    assert trial(commit.after, None) == everything
    assert trial(commit.after, b"") == everything
    assert trial(commit.after, commit.journal) == commit.early  # rolled back


def test_cut_while_the_journal_is_written(commit: Commit, trial: Trial) -> None:
    growing = bytes(N_HEAD) + commit.journal[N_HEAD:]
    for length in range(len(growing) + 1):
        is_inside = (
            length > PAGE_BYTES and 12 < (length - PAGE_BYTES) % (PAGE_BYTES + 8) < PAGE_BYTES
        )
        if is_inside and length % 8:  # bytes of old pages, which nothing looks at in such a journal
            continue
        assert trial(commit.before, growing[:length]) == commit.early, length
    for place in range(N_HEAD + 1):
        header = commit.journal[:place] + growing[place:]
        assert trial(commit.before, header) == commit.early, place


@pytest.mark.parametrize("is_read_only", [True, False])
def test_cut_while_the_file_is_written(commit: Commit, trial: Trial, is_read_only: bool) -> None:
    n_bytes = len(commit.changes) * PAGE_BYTES
    for length in range(0, n_bytes + 1, 61 if is_read_only else 1):
        answer = trial(commit.partly(length), commit.journal, is_read_only=is_read_only)
        assert answer == commit.early, length


@pytest.mark.parametrize("is_read_only", [True, False])
def test_cut_while_the_file_is_written_and_the_journal_is_lost(
    commit: Commit, trial: Trial, is_read_only: bool
) -> None:
    """No crash does this, but a copy that leaves the journal behind."""
    for length in range(0, len(commit.changes) * PAGE_BYTES, 7):
        trial(commit.partly(length), None, is_read_only=is_read_only)
    assert trial.answers <= {None, commit.early, commit.early | commit.late}
    assert {None, commit.early} <= trial.answers


@pytest.mark.parametrize("which", ["commit", "commit_of_a_block"])
def test_any_of_the_changed_pages_written_without_the_journal(
    which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    """A copy that reads while a commit writes can catch any of them, in any order."""
    commit: Commit = request.getfixturevalue(which)
    assert len(commit.changes) < 10
    for chosen in range(2 ** len(commit.changes)):
        file = bytearray(commit.before)
        for bit, (place, page) in enumerate(commit.changes):
            if chosen >> bit & 1:
                file += bytes(max(0, place - len(file)))
                file[place : place + PAGE_BYTES] = page
        trial(bytes(file), None)
    assert trial.answers <= {None, commit.early, commit.early | commit.late}
    assert {None, commit.early | commit.late} <= trial.answers


def test_the_journal_is_cut_after_the_file_was_written(commit: Commit, trial: Trial) -> None:
    """SQLite cuts it in one step; a file system that took several must not make it lie."""
    for length in range(0, len(commit.journal), 5):
        trial(commit.after, commit.journal[:length])
    assert trial.answers <= {None, commit.early, commit.early | commit.late}
    assert commit.early | commit.late in trial.answers


def test_any_byte_that_flips(commit: Commit, trial: Trial) -> None:
    """Whatever page it is on: all there is and right, or refused."""
    rng = np.random.default_rng(5)
    for place in rng.choice(len(commit.after), 1000, replace=False).tolist():
        changed = bytearray(commit.after)
        changed[place] ^= 1 << int(rng.integers(8))
        answer = trial(bytes(changed), None)
        assert answer in (None, commit.early | commit.late), place
    assert len(trial.answers) == 2
