"""Timings and labels for the report, out of a store.

Rules of this file
------------------
1. Labels need the expansion, the expansion needs the input: it comes from the result or the store.
2. Whatever cannot be had is left out with a word in the log; a report is made all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.report.timeline import TaskRows

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

_LOG = logging.getLogger(__name__)


def read_rows(
    path: Path, document: Mapping[str, Any] | None = None
) -> tuple[TaskRows | None, list[str]]:
    """Read when and where the tasks of a run ran.

    Parameters
    ----------
    path : Path
        The store.
    document : mapping, optional
        The ``ManyBodyInput``; default what the store's ``input`` note says.

    Returns
    -------
    rows : TaskRows or None
        None if the input is not known or not readable any more.
    labels : list of str
        Of each row.
    """
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

    try:
        with Store.open(path, is_read_only=True) as store:
            found = store.meta("input") if document is None else document
            if found is None:
                return None, []
            space = TaskSpace(schema.load_input(found).expansion)
            store.attach(0, space)
            return rows_of(store, space)
    except QcmbError as error:
        _LOG.warning("no timeline in the report: %s", error)
        return None, []


def rows_of(store: Store, space: TaskSpace, *, space_id: int = 0) -> tuple[TaskRows, list[str]]:
    """Take the timeline of a space from an open store.

    Parameters
    ----------
    store : Store
    space : TaskSpace
        Attached as `space_id`.
    space_id : int, optional

    Returns
    -------
    rows : TaskRows
        Done tasks with known times, of the last session.
    labels : list of str
        Of each row.
    """
    times = store.rows(space_id)
    real = np.array([block.n_real for block in space.blocks], np.int64)
    columns = {
        "task": times.tasks,
        "start_s": times.start_s,
        "seconds": times.seconds,
        "rank": times.rank,
        "slot": times.slot,
        "host": times.host,
        "level": real[space.block_of(times.tasks)] if len(real) else np.zeros(0, np.int64),
    }
    is_shown = times.is_done & np.isfinite(times.start_s) & np.isfinite(times.seconds)
    rows = TaskRows.from_columns(columns).take(is_shown).last_session()
    return rows, space.labels(rows.task)
