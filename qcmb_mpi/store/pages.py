"""Rows of one block straight from the pages of a store's file, many at a time.

Rules of this file
------------------
1. Nothing is reported from here: at whatever is not as expected, a commit meanwhile included,
   reading ends, and SQLite reads the rest and says what is wrong. The caller proves every row by
   its checksum.
2. SQLite's read lock is held while bytes are read, neither longer nor shorter.
3. Words and numbers are those of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.store.codec import Ints
from qcmb_mpi.store.tables import DONE

Bytes = NDArray[np.uint8]
Rows = NDArray[Any]  # of _ROW

# What a row begins with, in the order of the table's key and columns.
_NAMES = ("block", "rank", "status", "kinds", "energy", "checksum")
_ROW = np.dtype([(name, "f8" if name == "energy" else "i8") for name in _NAMES])
_NULLS = {"energy": np.nan, "checksum": 0}

_ROOT = "SELECT rootpage FROM sqlite_master WHERE name = 'component'"
_HEADER_BYTES = 100
_ROLLBACK_JOURNAL = bytes((1, 1))
_MOST_LEVELS = 20
_INTERIOR, _LEAF = 2, 10
_PAGES = 512  # at a time: 2 MB, some 25,000 rows
_SPARE_BYTES = 256  # by less than that the start of a row can reach beyond its page
_LONG = 128  # a byte from which on a number goes on in the next byte
# How a value is stored, by its serial type: numpy has no numbers of 3 or 6 bytes.
_TYPES: tuple[tuple[str, ...], ...] = (
    *((), (">i1",), (">i2",), (">i1", ">u2"), (">i4",), (">i2", ">u4"), (">i8",), (">f8",)),
    *((), ()),
)
_LAYOUT = np.uint64(2**56 - 1)  # bytes of a header: its length and the types of six columns
_REAL = 7
_CONSTANTS = {8: 0, 9: 1}
_FIRST, _LAST = -1, np.iinfo(np.int64).max


class Odd(Exception):
    """Something is not as expected."""


class PageFile:
    """The file of an open database.

    Parameters
    ----------
    db : sqlite3.Connection
        In autocommit mode, on a file system with locks.
    path : Path
        Its file.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path
        self._file: int | None = None

    def close(self) -> None:
        """Close the file; after the database, because this process loses its locks on it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def done_rows(self, block: int) -> Iterator[Rows]:
        """Read the done rows of a block, up to where something is odd.

        Parameters
        ----------
        block : int
            Its number in the file.

        Yields
        ------
        structured array
            block, rank, status, kinds, energy (E_h, NaN if there is none) and checksum (0 if there
            is none); by ascending rank, if the file is sound.
        """
        with contextlib.suppress(Odd, OSError):
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            tree = _Tree(self._db, self._file)
            leaves, between = tree.walk(block)
            for start in range(0, len(leaves), _PAGES):
                data, places, _ = tree.cells(leaves[start : start + _PAGES], _LEAF)
                rows = _decode(data, places)
                is_last = start + _PAGES >= len(leaves)
                n = between["rank"].searchsorted(_LAST if is_last else _last_rank(rows, block))
                yield _merged(rows, between[:n], block)
                between = between[n:]


class _Tree:
    """The tree of table ``component`` as of one commit."""

    def __init__(self, db: sqlite3.Connection, file: int) -> None:
        self._db, self._file = db, file
        with self._locked() as root:
            self._header = os.pread(file, _HEADER_BYTES, 0)
        if self._header[18:20] != _ROLLBACK_JOURNAL:  # else commits may be in another file
            raise Odd
        self._root = root
        page_bytes = int.from_bytes(self._header[16:18], "big")
        self._page_bytes = 1 << 16 if page_bytes == 1 else page_bytes

    def walk(self, block: int) -> tuple[Ints, Rows]:
        """Find the leaves where rows of a block can be, and its rows that are between leaves."""
        pages, found = np.array([self._root], dtype=np.int64), [np.empty(0, _ROW)]
        seen = pages
        for _ in range(_MOST_LEVELS):
            if self._read(pages[:1])[0, 0] == _LEAF:
                between = np.concatenate(found)
                between = between[between["block"] == block]
                return pages, between[between["rank"].argsort()]
            portions = [pages[i : i + _PAGES] for i in range(0, len(pages), _PAGES)]
            parts = [self._below(portion, block) for portion in portions]
            pages = np.concatenate([children for children, _ in parts])
            # Not numpy.unique, whose first call takes as long to import as a small run to assemble.
            seen = np.sort(np.concatenate([seen, pages]))
            if (seen[1:] == seen[:-1]).any():  # a circle, in which pages would multiply
                raise Odd
            found += [rows[rows["block"] == block] for _, rows in parts]
        raise Odd

    def _below(self, pages: Ints, block: int) -> tuple[Ints, Rows]:
        """Give the pages below interior pages, in order, and the rows between them."""
        data, places, counts = self.cells(pages, _INTERIOR)
        rows, ends = _decode(data, places), counts.cumsum()
        last = _read_at(data, np.arange(len(pages)) * self._page_bytes + 8, ">u4")
        children = np.insert(_read_at(data, places - 4, ">u4").astype(np.int64), ends, last)
        highest = np.insert(rows["block"], ends, _LAST)
        lowest = np.insert(rows["block"], ends - counts, _FIRST)
        return children[(lowest <= block) & (block <= highest)], rows

    def cells(self, pages: Ints, kind: int) -> tuple[Bytes, Ints, Ints]:
        """Read pages: their bytes, where rows begin in them, and how many are in each page."""
        data = self._read(pages)
        counts = data[:, 3].astype(np.int64) << 8 | data[:, 4]
        head, skipped = (8, 0) if kind == _LEAF else (12, 4)
        if (data[:, 0] != kind).any() or (head + 2 * counts > self._page_bytes).any():
            raise Odd
        bases, firsts = np.arange(len(pages)) * self._page_bytes, counts.cumsum() - counts
        pointers = 2 * np.arange(counts.sum()) + np.repeat(bases + head - 2 * firsts, counts)
        flat = np.concatenate([data.ravel(), np.zeros(_SPARE_BYTES, dtype=np.uint8)])
        offsets = _read_at(flat, pointers, ">u2").astype(np.int64) + skipped
        if (offsets >= self._page_bytes).any():
            raise Odd
        return flat, offsets + np.repeat(bases, counts), counts

    def _read(self, pages: Ints) -> Bytes:
        """Read pages, neighbours at once."""
        size = self._page_bytes
        runs = np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1)
        parts = [(len(run) * size, (int(run[0]) - 1) * size) for run in runs if len(run)]
        with self._locked():
            if os.pread(self._file, _HEADER_BYTES, 0) != self._header:  # it counts commits
                raise Odd
            data = b"".join(os.pread(self._file, n, place) for n, place in parts)
        if len(data) != len(pages) * size:
            raise Odd
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Keep writers out; give the root of the tree, for to read it takes the lock."""
        try:
            self._db.execute("BEGIN")
            try:
                found = self._db.execute(_ROOT).fetchone()
                if found is None:
                    raise Odd
                yield int(found[0])
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Odd from error


def _last_rank(rows: Rows, block: int) -> int:
    """Return the rank of a block up to which some rows go."""
    if not len(rows) or rows["block"][-1] < block:
        return _FIRST
    return int(rows["rank"][-1]) if rows["block"][-1] == block else _LAST


def _merged(rows: Rows, between: Rows, block: int) -> Rows:
    """Put the done rows of a block in order."""
    is_wanted = (rows["block"] == block) & (rows["status"] == DONE)
    rows = rows if is_wanted.all() else rows[is_wanted]
    between = between[between["status"] == DONE]
    return np.insert(rows, rows["rank"].searchsorted(between["rank"]), between)


def _decode(data: Bytes, places: Ints) -> Rows:
    """Decode the rows that begin at some places, those of one layout at once."""
    is_long = data[places] >= _LONG  # the length of the row, a number of up to three bytes
    places = places + 1 + is_long + (is_long & (data[places + 1] >= _LONG))
    layouts = _read_at(data, places, "<u8") & _LAYOUT
    rows, left = np.empty(len(places), _ROW), np.arange(len(places))
    while len(left):
        is_alike = layouts[left] == layouts[left[0]]
        chosen = left[is_alike]
        _decode_alike(
            data, places[chosen], int(layouts[left[0]]).to_bytes(8, "little"), rows, chosen
        )
        left = left[~is_alike]
    return rows


def _decode_alike(data: Bytes, places: Ints, header: bytes, rows: Rows, chosen: Ints) -> None:
    """Decode rows that have the same header: its length, and the types of the columns."""
    if header[0] >= _LONG:
        raise Odd
    starts = places + header[0]
    for name, kind in zip(_NAMES, header[1:], strict=False):
        if kind >= len(_TYPES) or (kind == 0 and name not in _NULLS):
            raise Odd
        if kind == _REAL and name != "energy":
            raise Odd
        if _TYPES[kind]:
            rows[name][chosen] = _numbers(data, starts, _TYPES[kind])
        else:
            rows[name][chosen] = _CONSTANTS[kind] if kind else _NULLS[name]
        starts = starts + sum(int(part[2]) for part in _TYPES[kind])


def _numbers(data: Bytes, places: Ints, parts: Sequence[str]) -> NDArray[Any]:
    """Read numbers; those of an odd number of bytes in two parts."""
    numbers = _read_at(data, places, parts[0])
    for before, part in pairwise(parts):
        lower = _read_at(data, places + int(before[2]), part)
        numbers = numbers.astype(np.int64) << 8 * int(part[2])
        numbers |= lower
    return numbers


def _read_at(data: Bytes, places: Ints, kind: str) -> NDArray[Any]:
    """Read what is at some places, which need not be aligned."""
    size = np.dtype(kind).itemsize
    found: NDArray[Any] = np.ndarray((len(data) - size + 1,), kind, data, strides=(1,))[places]
    return found
