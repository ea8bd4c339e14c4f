"""Rows that are read straight from the pages of a store are those that SQLite gives."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store import Store, pages
from qcmb_mpi.store import values as store_values
from tests.edge.store_cases import make_failure, make_outcome, make_space

SPACE = make_space(3, sizes=(1,) * 30)  # so many tasks that pages are three deep


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run.store.sqlite") as opened:
        opened.attach(0, SPACE)
        yield opened


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many rows SQLite gave."""
    found: list[int] = []
    decode = store_values.decode_rows

    def noting(key: object, rows: list[object]) -> object:
        found.append(len(rows))
        return decode(key, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(store_values, "decode_rows", noting)
    return found


def outcome_of(space: TaskSpace, task: int) -> Outcome:
    """Make outcomes of all kinds: whole energies, long texts, failures."""
    if task % 50 == 7:
        return make_failure(space, task, "no luck " * (task % 400))
    if task % 40 == 3:
        return make_outcome(space, task, remedy="maxiter " * (task % 400))
    if task % 30 == 1:
        return make_outcome(space, task, energy_hartree=float(-(task % 3) * 76 * task))
    return make_outcome(space, task)


def fill(store: Store, tasks: np.ndarray) -> dict[int, float]:
    """Append outcomes in random order; return the energies of those that are done."""
    order = np.random.default_rng(1).permutation(tasks)
    for part in np.array_split(order, 6):
        store.append([outcome_of(SPACE, int(task)) for task in part])
        store.flush()
    outcomes = {int(task): outcome_of(SPACE, int(task)) for task in sorted(tasks)}
    return {
        task: float(each.energy_hartree)
        for task, each in outcomes.items()
        if each.failure is None and each.energy_hartree is not None
    }


def test_rows_of_all_kinds_come_from_pages(
    store: Store, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(store, np.arange(SPACE.n_tasks))
    for n_pages in (1, 3, 512):
        monkeypatch.setattr(pages, "_PAGES", n_pages)
        assert store.done(0).tolist() == list(expected)
    for block in SPACE.blocks:
        found = store.values(0).energies(block, allow_missing=True)
        done = {block.start + i: e for i, e in enumerate(found.tolist()) if e == e}
        assert done == {task: e for task, e in expected.items() if task in block.ids}
    assert not decoded


def test_after_a_commit_meanwhile_sqlite_gives_the_rest(
    store: Store, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_PAGES", 4)
    block = SPACE.blocks[2]
    expected = fill(store, np.arange(block.start, SPACE.n_tasks, 2))
    reading = store.values(0)._done_rows(block)
    first = next(reading)[0]
    last = SPACE.n_tasks - 1 - (SPACE.n_tasks - block.start) % 2
    store.append([make_outcome(SPACE, last)])
    store.flush()
    ranks = np.concatenate([first, *(found[0] for found in reading)])
    assert (ranks + block.start).tolist() == sorted({*expected, last})
    assert sum(decoded) == len(ranks) - len(first)


def test_no_writer_commits_while_bytes_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, np.arange(500))
    path, read, n_reads = store.path, os.pread, []
    assert path is not None

    def trying(file: int, n_bytes: int, place: int) -> bytes:
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN EXCLUSIVE")
        n_reads.append(n_bytes)
        return read(file, n_bytes, place)

    monkeypatch.setattr(pages.os, "pread", trying)
    store.done(0)
    assert n_reads


def test_what_is_odd_is_left_to_sqlite(store: Store) -> None:
    fill(store, np.arange(30))
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as other, other:
        other.execute("UPDATE component SET rank = 1e300 WHERE rank = 17 AND block = 1")
    rows = store._connection.pages
    assert rows is not None
    assert list(rows.done_rows(1)) == []


def test_pages_that_point_in_a_circle_are_not_followed(store: Store) -> None:
    fill(store, np.arange(500))
    rows, path = store._connection.pages, store.path
    assert rows is not None
    assert path is not None
    (found,) = store._connection.query(
        "SELECT rootpage FROM sqlite_master WHERE name = 'component'", ()
    )
    (size,) = store._connection.query("PRAGMA page_size", ())[0]
    start = (found[0] - 1) * size
    with path.open("r+b") as file:
        page = path.read_bytes()[start : start + size]
        n_cells = int.from_bytes(page[3:5], "big")
        cells = [int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") for i in range(n_cells)]
        for place in (8, *cells):  # all pages below are the root itself
            file.seek(start + place)
            file.write(found[0].to_bytes(4, "big"))
    assert n_cells > 3
    assert list(rows.done_rows(2)) == []


def test_pages_are_not_read_where_commits_may_be_in_another_file(store: Store) -> None:
    fill(store, np.arange(30))
    rows, path = store._connection.pages, store.path
    assert rows is not None
    assert path is not None
    assert list(rows.done_rows(1))
    with path.open("r+b") as file:
        file.seek(18)
        file.write(bytes((2, 2)))  # as PRAGMA journal_mode=WAL does
    assert list(rows.done_rows(1)) == []
