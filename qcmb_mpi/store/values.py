"""What is in a store, block by block: results, records and failures.

Rules of this file
------------------
1. Everything comes in canonical order, by block and rank, in pages: a read lock is held for
   milliseconds and memory stays bounded whatever the size of the store.
2. Each number is checked against its checksum before anyone sees it.
3. Whoever reads all of a block is told if rows of it are out of sight.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Failure
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.sums import Arrays
from qcmb_mpi.store import dense, tally
from qcmb_mpi.store.codec import (
    KINDS,
    BlockKey,
    Floats,
    Ints,
    decode_array,
    decode_failure,
    decode_rows,
    payload_checksum,
    row_checksums,
)
from qcmb_mpi.store.overview import Query, Row
from qcmb_mpi.store.pages import PageFile
from qcmb_mpi.store.tables import DONE, FAILED, RECORD, damaged, guarded

DoneRows = tuple[Ints, Floats, Ints, Ints]  # ranks, energies, kinds, checksums
_FIELDS = ("rank", "kinds", "energy", "checksum")

_PAGE_ROWS = 4096
_PAGE_BYTES = 8 * 2**20
_PAGE_BLOBS = 4096

_DONE = (
    "SELECT rank, energy, kinds, checksum FROM component "
    f"WHERE block = ? AND status = {DONE} AND rank > ? ORDER BY rank LIMIT ?"
)
_BLOBS = (
    "SELECT p.rank, p.data, p.checksum, c.checksum FROM payload p "
    "JOIN component c ON c.block = p.block AND c.rank = p.rank "
    "WHERE p.block = ? AND p.kind = {kind} AND p.rank > ? ORDER BY p.rank LIMIT ?"
)
_RANKS = 2**32  # ranks are summed modulo this
_PAYLOADS = f"SELECT count(*), sum(rank & {_RANKS - 1}) FROM payload WHERE block = ? AND kind = ?"
_REMEDIED = (
    "SELECT remedy, count(*) FROM component INDEXED BY remedied WHERE block = ? AND "
    f"remedy IS NOT NULL AND status = {DONE} AND kinds & ?2 = ?2 GROUP BY remedy"
)
_FAILED = (
    "SELECT rank, error_class, error_type, message, output_tail, attempts FROM component "
    f"WHERE block = ? AND status = {FAILED} AND rank > ? ORDER BY rank LIMIT ?"
)


class SpaceView:
    """The rows of one task space.

    Parameters
    ----------
    query : callable
        Runs a statement, returns all its rows.
    path : str
        The file, for messages.
    space : TaskSpace
        The space.
    keys : sequence of BlockKey
        Of its blocks.
    has_tally : bool
        Whether the file has what came with format version 2.
    pages : PageFile, optional
        The file itself, if it can be read.
    """

    def __init__(
        self,
        query: Query,
        path: str,
        space: TaskSpace,
        keys: Sequence[BlockKey],
        *,
        has_tally: bool = True,
        pages: PageFile | None = None,
    ) -> None:
        self._pages = pages
        self.query = query
        self.has_tally = has_tally
        self.path = path
        self.space = space
        self.keys = dict(zip(space.blocks, keys, strict=True))

    def done(self, *, with_records: bool) -> Ints:
        """Find the tasks that are done, ascending; see :meth:`Store.done`."""
        parts = [np.empty(0, dtype=np.int64)]
        for block in self.space.blocks:
            listed, expected = self._listed(block), dict.fromkeys(KINDS, (0, 0))
            for ranks, _, kinds in self._done_rows(block):
                for name, kind in KINDS.items():
                    n, total = expected[name]
                    wanted = ranks[(kinds & kind) == kind] % _RANKS
                    expected[name] = n + len(wanted), total + int(wanted.sum())
                has_record = (kinds & RECORD) == RECORD
                parts.append(block.start + (ranks[has_record] if with_records else ranks))
            self._check_payloads(block, listed, expected)
        return np.concatenate(parts)

    def remedied(self, *, with_records: bool) -> Counter[str]:
        """Count done tasks by their remedy; see :meth:`Store.remedied`."""
        found: Counter[str] = Counter()
        for block in self.space.blocks if self.has_tally else ():
            rows = self.query(_REMEDIED, (self.block_id(block), RECORD * with_records))
            with guarded(self.path):
                found.update({str(remedy): int(count) for remedy, count in rows})
        return found

    @property
    def properties(self) -> frozenset[str]:
        """Those of energy, gradient and hessian that every task has."""
        names = ("energy", "gradient", "hessian") if self.space.n_tasks else ("energy",)
        found = self._all_listed()
        blocks = [(block, found.get(self._address(block))) for block in self.space.blocks]
        return frozenset(n for n in names if all(self._have(*each, n) for each in blocks))

    def energies(self, block: Block, *, allow_missing: bool = False) -> Floats:
        """Read the energies of a block, by rank.

        Parameters
        ----------
        block : Block
            A block of the space.
        allow_missing : bool
            Give NaN for what is missing.

        Returns
        -------
        float64[block.n_tasks]
            E_h.

        Raises
        ------
        StoreError
            If one is damaged, or missing and that is not allowed.
        """
        energies = np.full(block.n_tasks, np.nan)
        for ranks, values, _ in self._done_rows(block):
            energies[ranks] = values
        n_missing = int(np.isnan(energies).sum())
        if n_missing and not allow_missing:
            raise self._incomplete(block, n_missing)
        return energies

    def arrays(self, block: Block, name: str) -> Iterator[tuple[Ints, Arrays]]:
        """Read the gradients or Hessians of a block.

        Parameters
        ----------
        block : Block
            A block of the space.
        name : str
            ``gradient`` or ``hessian``.

        Yields
        ------
        ranks : int64[m]
            Ascending; all of them together are ``range(block.n_tasks)``.
        arrays : list of ndarray, or one ndarray
            Of natural size: ``(nat, 3)``, E_h/a0, or ``(3 nat, 3 nat)``, E_h/a0^2; where all of a
            page are of one size, in one array along a first axis.

        Raises
        ------
        StoreError
            If one is missing or damaged.
        """
        n_read, kind = 0, KINDS[name]
        for rows in self._blobs(block, kind):
            with guarded(self.path):
                ranks = np.array([row[0] for row in rows], dtype=np.int64)
                stack = dense.decode_stack(kind, [row[1] for row in rows])
                arrays = [decode_array(kind, row[1]) for row in rows] if stack is None else stack
            if not np.array_equal(ranks, np.arange(n_read, n_read + len(ranks))):
                break
            n_read += len(ranks)
            yield ranks, arrays
        if n_read < block.n_tasks:
            if self._have(block, self._listed(block), name):
                raise damaged(self.path, f"some {name}s are out of sight")
            raise self._incomplete(block, block.n_tasks - n_read)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Read the whole results that were kept, by task id; see :meth:`Store.records`."""
        for block in self.space.blocks:
            for rows in self._blobs(block, RECORD):
                for rank, data, *_ in rows:
                    with guarded(self.path):
                        record = zlib.decompress(data)
                    yield block.start + rank, record

    def failures(self) -> list[tuple[int, Failure, int]]:
        """List what failed last time it was tried; see :meth:`Store.failures`."""
        found = []
        for block in self.space.blocks:
            for rows in self.pages(_FAILED, block):
                with guarded(self.path):
                    found += [
                        (block.start + int(rank), decode_failure(*texts), int(attempts))
                        for rank, *texts, attempts in rows
                    ]
        return found

    def block_id(self, block: Block) -> int | None:
        """Find the number of a block in the file; None if nothing of it was ever written."""
        listed = self._listed(block)
        return None if listed is None else listed.id

    def _listed(self, block: Block) -> tally.Listed | None:
        return self._all_listed().get(self._address(block))

    def _all_listed(self) -> dict[tuple[Any, ...], tally.Listed]:
        return tally.blocks(self.query, self.path, has_tally=self.has_tally)

    def _address(self, block: Block) -> tuple[Any, ...]:
        key = self.keys[block]
        return key.fingerprint, key.n_real, key.n_basis

    def _have(self, block: Block, listed: tally.Listed | None, name: str) -> bool:
        """Tell whether all tasks of a block are done with a property."""
        chemistries = self.space.expansion.model_chemistries
        if listed is None or (listed.tally and listed.tally.n_done < block.n_tasks):
            return block.n_tasks == 0
        if listed.tally and chemistries[block.model_chemistry].driver == name:
            return True  # nothing is done without it
        condition = "energy IS NOT NULL" if name == "energy" else f"kinds & {KINDS[name]}"
        sql = f"SELECT count(*) FROM component WHERE block = ? AND status = {DONE} AND {condition}"
        rows = self.query(sql, (listed.id,))
        return bool(rows[0][0] == block.n_tasks)

    def _done_rows(self, block: Block) -> Iterator[tuple[Ints, Floats, Ints]]:
        """Yield ranks, energies and kinds of done rows; refuse if one is not whole, or missing."""
        listed, seen, last = self._listed(block), tally.Tally(0, 0), -1
        for ranks, energies, kinds, checksums in self._fast_rows(block, listed):
            seen, last = seen.plus(checksums), int(ranks[-1])
            yield ranks, energies, kinds
        for rows in self.pages(_DONE, block, last=last):
            with guarded(self.path):
                ranks, energies, kinds, is_whole = decode_rows(self.keys[block], rows)
                seen = seen.plus([row[3] for row in rows])
            n_bad = int((~is_whole).sum())
            if n_bad or ranks[-1] >= block.n_tasks or not (np.diff(ranks) > 0).all():
                raise damaged(self.path, f"{n_bad} results fail their checksum or are misplaced")
            yield ranks, energies, kinds
        if listed is not None and listed.tally not in (None, seen):
            self._refuse(block, listed, f"{seen.n_done} results are in sight, not all of them")

    def _fast_rows(self, block: Block, listed: tally.Listed | None) -> Iterator[DoneRows]:
        """Yield done rows with their checksums from the first one on, until one is odd."""
        if listed is None or listed.tally is None or not listed.tally.n_done:
            return
        if self._pages is None:
            if listed.tally.n_done == block.n_tasks:
                yield from self._dense_rows(block, listed.id)
            return
        last = -1
        for rows in self._pages.done_rows(listed.id):
            if len(rows):
                ranks, kinds, energies, checksums = (rows[name] for name in _FIELDS)
                sums = row_checksums(self.keys[block], ranks, energies, kinds)
                is_whole = (
                    (sums == checksums) & (kinds >> 3 == 0) & (np.diff(ranks, prepend=last) > 0)
                )
                last = int(ranks[-1])
                if not is_whole.all() or last >= block.n_tasks:
                    return
                yield ranks, energies, kinds, checksums

    def _dense_rows(self, block: Block, identity: int) -> Iterator[DoneRows]:
        """Yield ranks, energies, kinds and checksums from the first row on, until one is odd."""
        for start in range(0, block.n_tasks, dense.PAGE_ROWS):
            ranks = np.arange(start, min(start + dense.PAGE_ROWS, block.n_tasks))
            rows = self.query(dense.ROWS, (identity, start, start + len(ranks)))
            found = dense.decode_run(self.keys[block], ranks, rows)
            if found is None:
                return
            yield ranks, *found

    def _check_payloads(
        self, block: Block, listed: tally.Listed | None, expected: Mapping[str, tuple[int, int]]
    ) -> None:
        """Refuse if an array or record of a done row is out of sight."""
        if listed is None or listed.tally is None:
            return
        for name, (n, total) in expected.items():
            if n and self.query(_PAYLOADS, (listed.id, KINDS[name]))[0] != (n, total):
                self._refuse(block, listed, f"not every {name} is in sight")

    def _refuse(self, block: Block, listed: tally.Listed, what: str) -> None:
        """Call the file damaged, unless a writer committed since its tally was read."""
        if self._listed(block) == listed:
            raise damaged(self.path, what)

    def _blobs(self, block: Block, kind: int) -> Iterator[list[Row]]:
        """Yield pages of whole payloads of about equal size in memory."""
        identity = self.block_id(block)
        sql = (
            f"SELECT max(length(data)) FROM payload WHERE block = ? AND kind = {kind} AND rank < ?"
        )
        largest = self.query(sql, (identity, _PAGE_BLOBS))[0][0] or 1
        n_rows = max(1, min(_PAGE_BLOBS, _PAGE_BYTES // largest))
        for rows in self.pages(_BLOBS.format(kind=kind), block, n_rows):
            with guarded(self.path):
                is_whole = all(payload_checksum(row[3], kind, row[1]) == row[2] for row in rows)
            if not is_whole:
                raise damaged(self.path, "an array or record fails its checksum")
            yield rows

    def pages(
        self, sql: str, block: Block, n_rows: int | None = None, *, last: int = -1
    ) -> Iterator[list[Row]]:
        """Yield the rows of a block by ascending rank after `last`, ``n_rows`` at a time.

        Parameters
        ----------
        sql : str
            Gives ranks first; its parameters are block, `last` and a number of rows.
        block : Block
        n_rows : int, optional
        last : int, optional

        Yields
        ------
        list of tuple
            At least one row.
        """
        n_rows = n_rows or _PAGE_ROWS
        identity = self.block_id(block)
        while identity is not None:
            rows = self.query(sql, (identity, last, n_rows))
            if rows:
                yield rows
            if len(rows) < n_rows:
                return
            with guarded(self.path):
                if int(rows[-1][0]) <= last:
                    raise damaged(self.path, "rows are out of order")
                last = int(rows[-1][0])

    def _incomplete(self, block: Block, n_missing: int) -> StoreError:
        label = self.space.expansion.model_chemistries[block.model_chemistry].label
        return StoreError(
            f"{self.path}: {n_missing} of {block.n_tasks} results of {label} with {block.n_real} "
            f"real and {block.n_basis} basis fragments are missing; run the same command again"
        )
