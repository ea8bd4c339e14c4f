"""All that a store knows of each task, for tables and pictures.

Rules of this file
------------------
1. Pages, by task id: a read lock is held for milliseconds, and memory grows with what is asked for.
2. An energy is checked against its checksum before anyone sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.plan import Block
from qcmb_mpi.store.codec import Floats, decode_rows
from qcmb_mpi.store.overview import Row, Timeline
from qcmb_mpi.store.tables import DONE, damaged, guarded

if TYPE_CHECKING:
    from qcmb_mpi.store.values import SpaceView

_TIMES = "start_s, seconds, cpu_s, peak_bytes, origin, status, attempts"
_TIME_TYPES = ("i8", "f8", "f8", "f8", "i8", "i8", "i8", "i8")
_ORIGIN_TYPES = ("i8", "U", "i8", "i8", "i8", "U", "U")
_FROM = " FROM component WHERE block = ? AND rank > ?"
_PAGE = " ORDER BY rank LIMIT ?"


@dataclass(frozen=True, slots=True, eq=False)
class TaskPage:
    """Some tasks of one block, done or failed, by ascending id.

    Parameters
    ----------
    block : Block
    energies_hartree : float64[m]
        NaN where there is none.
    times : Timeline
        Ids, times and places.
    error_type, message, remedy : list of (str or None)
    """

    block: Block
    energies_hartree: Floats
    times: Timeline
    error_type: list[str | None]
    message: list[str | None]
    remedy: list[str | None]


def timeline(view: SpaceView, *, stride: int = 1) -> Timeline:
    """Collect when and where tasks ran; see :meth:`Store.rows`."""
    sql = f"SELECT rank, {_TIMES}{_FROM} AND rank % {int(stride)} = 0{_PAGE}"
    pages = []
    for block in view.space.blocks:
        for rows in view.pages(sql, block):
            with guarded(view.path):
                rank, *others = _columns(rows, _TIME_TYPES)
            pages.append((rank + block.start, *others))
    pages = pages or [tuple(_columns([], _TIME_TYPES))]
    columns = [np.concatenate(parts) for parts in zip(*pages, strict=True)]
    return _timeline(view, columns, _origins(view))


def task_pages(view: SpaceView) -> Iterator[TaskPage]:
    """Read all that is known of the tasks of a space, a few thousand at a time.

    Parameters
    ----------
    view : SpaceView
        Of :meth:`Store.values`.

    Yields
    ------
    TaskPage
        By task id; memory does not grow with the store.

    Raises
    ------
    StoreError
        If something is damaged.
    """
    remedy = "remedy" if view.has_tally else "NULL"
    texts = f"error_type, message, {remedy}"
    sql = f"SELECT rank, energy, kinds, checksum, {texts}, {_TIMES}{_FROM}{_PAGE}"
    origins: list[NDArray[Any]] | None = None
    for block in view.space.blocks:
        for rows in view.pages(sql, block):
            energies = _energies(view, block, rows)
            with guarded(view.path):
                columns = _columns([(row[0], *row[7:]) for row in rows], _TIME_TYPES)
                columns[0] += block.start
                error_type, message, remedies = (
                    list(c) for c in zip(*(r[4:7] for r in rows), strict=True)
                )
            if origins is None or not np.isin(columns[5], origins[0]).all():
                origins = _origins(view)  # more may have come meanwhile
            times = _timeline(view, columns, origins)
            yield TaskPage(block, energies, times, error_type, message, remedies)


def _energies(view: SpaceView, block: Block, rows: Sequence[Row]) -> Floats:
    """Take the energies of done rows, and see that they are what was written."""
    energies = np.full(len(rows), np.nan)
    with guarded(view.path):
        is_done = np.array([row[12] == DONE for row in rows])
        done = [row[:4] for row in rows if row[12] == DONE]
        if done:
            _, energies[is_done], _, is_whole = decode_rows(view.keys[block], done)
            if not is_whole.all():
                raise damaged(view.path, f"{int((~is_whole).sum())} results fail their checksum")
    return energies


def _timeline(
    view: SpaceView, columns: Sequence[NDArray[Any]], origins: Sequence[NDArray[Any]]
) -> Timeline:
    tasks, start_s, seconds, cpu_s, peak_bytes, origin, status, attempts = columns
    known, *places = origins
    if not np.isin(origin, known).all():
        raise damaged(view.path, "where some tasks ran is lost")
    where = np.searchsorted(known, origin)
    host, rank, slot, n_threads, program, version = (place[where] for place in places)
    return Timeline(
        tasks=tasks,
        start_s=start_s,
        seconds=seconds,
        cpu_s=cpu_s,
        peak_bytes=peak_bytes,
        rank=rank,
        slot=slot,
        n_threads=n_threads,
        host=host,
        program=program,
        version=version,
        is_done=status == DONE,
        attempts=attempts,
    )


def _origins(view: SpaceView) -> list[NDArray[Any]]:
    """Read where tasks may have run, by number, column by column."""
    sql = "SELECT id, host, mpi_rank, slot, n_threads, program, version FROM origin ORDER BY id"
    rows = view.query(sql, ())
    with guarded(view.path):
        return _columns(rows, _ORIGIN_TYPES)


def _columns(rows: Sequence[Row], types: Sequence[str]) -> list[NDArray[Any]]:
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return [np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)]
