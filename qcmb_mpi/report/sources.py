"""Out of the store of a run: its task space, and when and where its tasks ran.

Rules of this file
------------------
1. Labels need the expansion, the expansion needs the input: it comes from the result or the store.
2. Whatever cannot be had is left out with a word in the log; a report is made all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcmb_mpi.errors import InputError, QcmbError
from qcmb_mpi.report.answer import describe
from qcmb_mpi.report.files import find_files, read_json
from qcmb_mpi.report.parts import Parts, parts_of
from qcmb_mpi.report.timeline import TaskRows, write_trace

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

MAX_ROWS = 400_000  # what a picture or a trace viewer can use; half a gigabyte of memory
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a report takes from a store.

    Parameters
    ----------
    rows : TaskRows
        When and where tasks ran.
    labels : list of str
        Of each row.
    parts : Parts, optional
        Where the interaction comes from.
    chemistries : mapping
        Each model chemistry in words, by its label.
    """

    rows: TaskRows
    labels: list[str]
    parts: Parts | None = None
    chemistries: Mapping[str, str] = field(default_factory=dict)

    def since(self, moment: datetime) -> Material:
        """Keep the tasks that began then or later."""
        kept = np.flatnonzero(self.rows.start_s >= moment.timestamp())
        labels = [self.labels[row] for row in kept.tolist()] if self.labels else []
        return replace(self, rows=self.rows.take(kept), labels=labels)


def read_material(path: Path, document: Mapping[str, Any] | None = None) -> Material | None:
    """Read what a report shows of single tasks.

    Parameters
    ----------
    path : Path
        The store.
    document : mapping, optional
        The ``ManyBodyInput``; default what the store's ``input`` note says.

    Returns
    -------
    Material or None
        None if the input is not known or not readable any more.
    """
    try:
        with open_store(path, document) as (store, space):
            return material_of(store, space)
    except QcmbError as error:
        _LOG.warning("no timeline in the report: %s", error)
        return None


def material_of(store: Store, space: TaskSpace, *, space_id: int = 0) -> Material:
    """Take from an open store what a report shows of single tasks.

    Parameters
    ----------
    store : Store
    space : TaskSpace
        Attached as `space_id`.
    space_id : int, optional

    Returns
    -------
    Material

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    rows, labels = rows_of(store, space, space_id=space_id)
    chemistries = {
        each.label: describe({"program": each.program, **each.specification})
        for each in space.expansion.model_chemistries
    }
    return Material(rows, labels, parts_of(space, store.values(space_id)), chemistries)


@contextmanager
def open_run(run: Path | str) -> Iterator[tuple[Store, TaskSpace]]:
    """Open the store of a run to read, with its task space attached as 0.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary.

    Yields
    ------
    Store, TaskSpace

    Raises
    ------
    InputError
        If there is none, or nothing says of which input it is.
    StoreError
        If the store cannot be read.
    """
    files = find_files(run)
    if files.store is None:
        raise InputError(
            str(run), "has no store beside it, which alone knows of single tasks; give the STORE"
        )
    result = read_json(files.result) if files.result else {}
    with open_store(files.store, result.get("input_data")) as opened:
        yield opened


@contextmanager
def open_store(
    path: Path, document: Mapping[str, Any] | None = None
) -> Iterator[tuple[Store, TaskSpace]]:
    """Open a store to read, with its task space attached as 0; see :func:`open_run`."""
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

    with Store.open(path, is_read_only=True) as store:
        found = document or store.meta("input")
        if not found:
            raise InputError(str(path), "does not say of which input it is; give the RESULT")
        space = TaskSpace(schema.load_input(found).expansion)
        store.attach(0, space)
        yield store, space


def write_trace_of(run: Path | str, path: Path | str) -> int:
    """Write the trace of a run that has ended; see :func:`~.timeline.write_trace`.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary.
    path : path-like

    Returns
    -------
    int
        Tasks written: of very many, one in so many.

    Raises
    ------
    InputError
        If there is no such run.
    StoreError
        If the store cannot be read.
    OSError
        If the file cannot be written.
    """
    with open_run(run) as (store, space):
        rows, labels = rows_of(store, space)
    write_trace(path, rows, labels)
    return len(rows)


def rows_of(
    store: Store, space: TaskSpace, *, space_id: int = 0, max_rows: int = MAX_ROWS
) -> tuple[TaskRows, list[str]]:
    """Take the timeline of a space from an open store.

    Parameters
    ----------
    store : Store
    space : TaskSpace
        Attached as `space_id`.
    space_id : int, optional
    max_rows : int, optional
        Of a larger space every second, third ... task is taken.

    Returns
    -------
    rows : TaskRows
        Done tasks with known times, of the last session.
    labels : list of str
        Of each row.
    """
    stride = max(1, -(-space.n_tasks // max_rows))
    if stride > 1:
        _LOG.warning("of %d tasks only one in %d is in the timeline", space.n_tasks, stride)
    times = store.rows(space_id, stride=stride)
    real = np.array([block.n_real for block in space.blocks], np.int64)
    columns = {
        "task": times.tasks,
        "start_s": times.start_s,
        "seconds": times.seconds,
        "rank": times.rank,
        "slot": times.slot,
        "host": times.host,
        "level": real[space.block_of(times.tasks)] if len(real) else np.zeros(0, np.int64),
        "peak_bytes": times.peak_bytes,
        "attempts": times.attempts,
    }
    is_shown = times.is_done & np.isfinite(times.start_s) & np.isfinite(times.seconds)
    rows = replace(TaskRows.from_columns(columns), stride=stride).take(is_shown).last_session()
    return rows, space.labels(rows.task)
