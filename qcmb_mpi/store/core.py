"""The result store: checkpoint, cache and database of a run in one SQLite file.

Rules of this file
------------------
1. A task is done if and only if its row is committed; nothing done is ever undone or overwritten
   by a failure.
2. Rows are keyed by content (model chemistry with its molecule, fragments), never by run, rank,
   label or task id: whatever run computed a component, every later one reuses it.
3. One writer. A transaction lasts milliseconds, holds everything that waited, and is repeated
   as a whole if it could not be made.
4. The clock only decides when to commit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store import tables as schema
from qcmb_mpi.store.codec import Encoded, Ints
from qcmb_mpi.store.columns import Columns
from qcmb_mpi.store.connection import Connection, open_reader, open_temporary, open_writer
from qcmb_mpi.store.listing import timeline
from qcmb_mpi.store.lock import LEASE_S
from qcmb_mpi.store.overview import BlockCount, Timeline, count_blocks
from qcmb_mpi.store.spaces import AttachedSpace, attached_space, encode_all
from qcmb_mpi.store.values import SpaceView
from qcmb_mpi.store.write import Chemistries, Transaction

__all__ = ["BlockCount", "Store", "Timeline"]

_LOG = logging.getLogger(__name__)
_FLUSH_PATIENCE_S = 20.0  # less than what makes other ranks take the master for dead
_NOTE_S = 10.0
_MANY = 8192  # rows, a few tens of milliseconds: the master is to be back soon
_WAITING_SHARE = 0.8  # of the commit interval; the rest is for the caller's loop and the disk


class Store:
    """Results of all tasks of any number of task spaces; made by :meth:`open`.

    Every method raises :class:`~qcmb_mpi.errors.StoreError` if the file is damaged or the file
    system fails. After such an error everything that was committed is safe, and what was not is
    kept in memory and written with the next commit that succeeds.

    Parameters
    ----------
    connection : Connection
        Open database.
    commit_interval_s : float
        See :meth:`open`.
    clock : callable
        See :meth:`open`.
    """

    def __init__(
        self, connection: Connection, *, commit_interval_s: float, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._commit_interval_s = commit_interval_s
        self._clock = clock
        self._next_commit_s = self._rested_s = clock()
        self._spaces: dict[int, AttachedSpace] = {}
        self._chemistries: Chemistries = {}
        self._outcomes: list[Encoded | Columns] = []
        self._n_waiting = 0
        self._meta: dict[str, str] = {}
        self._has_failed = False
        self._next_note_s = -math.inf

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None,
        *,
        is_read_only: bool = False,
        commit_interval_s: float = 1.0,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> Store:
        """Open a store, or make one where there is none.

        Parameters
        ----------
        path : path-like, optional
            The file; None for a private temporary one that is gone when closed.
        is_read_only : bool
            Only read. Any number of readers may, also while a writer writes.
        commit_interval_s : float
            An outcome is on the disk at most so long after it was there to be taken, given that
            :meth:`append` or :meth:`commit_if_due` is called every tenth of that: a commit begins
            0.8 of it after the last one began. The first outcome after a pause does not wait.
        lease_s : float
            How long to watch the lock of a writer on another host, of which nothing else can be
            known, before it is taken over.
        clock : callable
            Seconds, monotonic.

        Returns
        -------
        Store

        Raises
        ------
        StoreError
            If the file is foreign, newer, damaged, cannot be written, or has another writer.
        """
        if path is None:
            connection = open_temporary()
        elif is_read_only:
            connection = open_reader(Path(path).resolve(), lease_s=lease_s)
        else:
            connection = open_writer(Path(path).resolve(), lease_s=lease_s)
        return cls(connection, commit_interval_s=commit_interval_s, clock=clock)

    @property
    def path(self) -> Path | None:
        """The file; None if it is a temporary one."""
        return self._connection.path

    def attach(self, space_id: int, space: TaskSpace) -> None:
        """Make a task space known under a number; nothing is written.

        Parameters
        ----------
        space_id : int
            Its number on the wire.
        space : TaskSpace
            The space.
        """
        self._spaces[space_id] = AttachedSpace.of(space)
        for chemistry in space.expansion.model_chemistries:
            self._chemistries[chemistry.fingerprint] = chemistry, space.expansion.system

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes, done or failed, and commit if that is due.

        A failure counts as an attempt and never replaces a result; a result replaces a failure.
        A second result of a task is dropped unless it has more (a record) than the first.

        Parameters
        ----------
        outcomes : sequence of Outcome
            Of tasks in attached spaces.

        Raises
        ------
        StoreError
            If one is unfit to be stored (the others are taken), or the file cannot be written.
        """
        encoded, unfit = encode_all(self._spaces, outcomes)
        self._outcomes += encoded
        self._n_waiting += sum(len(each.rows) for each in encoded)
        self.commit_if_due()
        if unfit is not None:
            raise unfit

    def commit_if_due(self) -> None:
        """Commit what has waited for the commit interval, or is much; call it from any loop."""
        if self._clock() >= (self._rested_s if self._n_waiting >= _MANY else self._next_commit_s):
            self._commit(patience_s=0.0)

    def flush(self) -> None:
        """Commit all that waits, now."""
        self._commit(patience_s=_FLUSH_PATIENCE_S)

    def close(self) -> None:
        """Commit, close the file and let the next writer in.

        What could not be committed before is tried once more, silently: that was told already.
        """
        if self._connection.is_open:
            try:
                if self._has_failed:
                    with contextlib.suppress(StoreError):
                        self._commit(patience_s=0.0)
                else:
                    self.flush()
            finally:
                self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def done(self, space_id: int, *, with_records: bool = False) -> Ints:
        """Find the tasks of a space that need not be computed.

        Parameters
        ----------
        space_id : int
            An attached space.
        with_records : bool
            Only those whose whole ``AtomicResult`` was kept.

        Returns
        -------
        int64[m]
            Task ids, ascending.
        """
        return self._view(space_id).done(with_records=with_records)

    def remedied(self, space_id: int, *, with_records: bool = False) -> Counter[str]:
        """Count the done tasks of a space that converged only by a remedy, by remedy.

        Parameters
        ----------
        space_id : int
            An attached space.
        with_records : bool
            See :meth:`done`.

        Returns
        -------
        Counter
            Tasks by :attr:`~qcmb_mpi.execution.outcome.Outcome.remedy`.
        """
        return self._view(space_id).remedied(with_records=with_records)

    def values(self, space_id: int) -> SpaceView:
        """Give the results of a space to assembly.

        Parameters
        ----------
        space_id : int
            An attached space.

        Returns
        -------
        SpaceView
            What assembly reads. Reads from this store when asked; raises StoreError for what is
            missing or damaged.
        """
        return self._view(space_id)

    def records(self, space_id: int) -> Iterator[tuple[int, bytes]]:
        """Read the whole results that were kept.

        Parameters
        ----------
        space_id : int
            An attached space.

        Yields
        ------
        task : int
            Task id, ascending.
        record : bytes
            ``AtomicResult`` as JSON.
        """
        return self._view(space_id).records()

    def failures(self, space_id: int) -> list[tuple[int, Failure, int]]:
        """List the tasks of a space that failed when last tried.

        Parameters
        ----------
        space_id : int
            An attached space.

        Returns
        -------
        list of (task id, Failure, attempts)
            Ascending; attempts over all runs.
        """
        return self._view(space_id).failures()

    def rows(self, space_id: int, *, stride: int = 1) -> Timeline:
        """Collect when and where the tasks of a space ran.

        Parameters
        ----------
        space_id : int
            An attached space.
        stride : int, optional
            Only one task in so many.

        Returns
        -------
        Timeline
        """
        return timeline(self._view(space_id), stride=stride)

    def n_done(self) -> int:
        """Return how many results there are, whatever they belong to, without looking at them."""
        self.flush()
        return int(self._connection.query("SELECT total(n_done) FROM block", ())[0][0])

    def counts(self) -> list[BlockCount]:
        """Count what is in the store by specification, basis and real fragments."""
        self.flush()
        return count_blocks(self._connection.query)

    def forget(self, space_id: int) -> None:
        """Delete what the store has of the blocks of a space (``--fresh``), and nothing else.

        Parameters
        ----------
        space_id : int
            An attached space.
        """
        view = self._view(space_id)
        found = {view.block_id(block) for block in view.space.blocks}

        def delete(transaction: Transaction) -> None:
            for block in found:
                if block is not None:
                    transaction.forget(block)

        self._connection.write(delete, patience_s=_FLUSH_PATIENCE_S)

    def meta(self, key: str) -> Any:
        """Read what was noted under a key.

        Parameters
        ----------
        key : str
            Name.

        Returns
        -------
        object
            JSON value; None if there is none.
        """
        text = self._meta.get(key)
        if text is None:
            rows = self._connection.query("SELECT value FROM meta WHERE key = ?", (key,))
            text = rows[0][0] if rows else "null"
        with schema.guarded(self._connection.name):
            return json.loads(text)

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Note facts about the run, for ``status``; they wait like outcomes for the next commit.

        Parameters
        ----------
        values : mapping
            JSON values by name.
        """
        self._meta.update({key: json.dumps(value) for key, value in values.items()})
        self.commit_if_due()

    def _commit(self, *, patience_s: float) -> None:
        began_s, outcomes, meta = self._clock(), tuple(self._outcomes), dict(self._meta)
        if not outcomes and not meta:
            return

        def write(transaction: Transaction) -> None:
            transaction.write_outcomes(outcomes, self._chemistries)
            transaction.write_meta(meta)

        try:
            is_written = self._connection.write(write, patience_s=patience_s)
        except StoreError as error:
            self._has_failed = True
            raise StoreError(f"{error} ({self._n_waiting} results are not in it)") from error
        ended_s, interval_s = self._clock(), self._commit_interval_s
        # A disk that is slower than the interval must not keep the master from the run.
        self._rested_s = ended_s + min(ended_s - began_s, interval_s)
        self._next_commit_s = max(began_s + _WAITING_SHARE * interval_s, self._rested_s)
        if is_written:
            self._outcomes.clear()
            self._n_waiting = 0
            self._meta.clear()
        elif ended_s >= self._next_note_s:
            self._next_note_s = ended_s + _NOTE_S
            _LOG.warning("%s: a reader is in the way; %d results wait", self.path, self._n_waiting)

    def _view(self, space_id: int) -> SpaceView:
        self.flush()
        attached = attached_space(self._spaces, space_id)
        file = self._connection
        return SpaceView(
            file.query,
            file.name,
            attached.space,
            attached.keys,
            has_tally=file.has_tally,
            pages=file.pages,
        )
