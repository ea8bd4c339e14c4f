"""All tasks of a run as a table: CSV, Parquet, or a frame of pandas.

Rules of this file
------------------
1. One list of columns, whatever the format; what is unknown is empty, not zero.
2. Files are written page by page and put in place when they are whole: memory does not grow with
   the number of tasks.
3. pandas and pyarrow are extras: what is missing is said, with how to install it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.report.answer import KCAL_PER_HARTREE
from qcmb_mpi.report.files import part_of
from qcmb_mpi.report.parts import parts_of
from qcmb_mpi.report.sources import open_run
from qcmb_mpi.store.listing import TaskPage, task_pages

if TYPE_CHECKING:
    import pandas as pd

    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

MAX_FRAME_TASKS = 2_000_000
_ROW_GROUP = 65_536
COLUMNS = {
    "task": "int64",
    "model_chemistry": "string",
    "n_real": "int64",
    "n_basis": "int64",
    "real": "string",
    "basis": "string",
    "status": "string",
    "energy_hartree": "float64",
    "start_s": "float64",
    "seconds": "float64",
    "cpu_s": "float64",
    "peak_bytes": "int64",
    "host": "string",
    "rank": "int64",
    "slot": "int64",
    "threads": "int64",
    "program": "string",
    "version": "string",
    "attempts": "int64",
    "error_type": "string",
    "message": "string",
    "remedy": "string",
}
_RECURRING = (
    *("model_chemistry", "real", "basis", "status", "host", "program", "version"),
    *("error_type", "remedy"),
)

Page = dict[str, list[Any]]


def tasks_frame(run: Path | str, *, max_tasks: int | None = MAX_FRAME_TASKS) -> pd.DataFrame:
    """Read all tasks of a run that have ended into a frame.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary; the others are found beside it.
    max_tasks : int or None, optional
        Refuse larger runs; None for whatever there is.

    Returns
    -------
    pandas.DataFrame
        One row a task, by task id, with the columns of :data:`COLUMNS`: ``energy_hartree`` in
        E_h, ``start_s`` in seconds since 1970, ``seconds`` and ``cpu_s`` in seconds,
        ``peak_bytes`` in bytes; ``real`` and ``basis`` are fragments counted from 1, joined by
        blanks. Words that recur are categories.

    Raises
    ------
    InputError
        If there is no such run or no pandas, or the run has more than `max_tasks` tasks.
    StoreError
        If the store cannot be read.
    """
    pandas = _extra("pandas", "tasks_frame")
    with open_run(run) as (store, space):
        if max_tasks is not None and space.n_tasks > max_tasks:
            raise InputError(
                "run",
                f"has {space.n_tasks:,} tasks, too many for a frame by mistake: write them with "
                "`qcmb-mpi report --parquet FILE` and read the columns you need, or say "
                "max_tasks=None",
            )
        frames = [pandas.DataFrame(page) for page in pages(store, space)]
    whole = pandas.concat(frames or [pandas.DataFrame(columns=list(COLUMNS))], ignore_index=True)
    kinds = {name: kind for name, kind in COLUMNS.items() if kind != "string"}
    kinds |= {"peak_bytes": "Int64", "message": "string"} | dict.fromkeys(_RECURRING, "category")
    return whole.astype(kinds)


def contributions_frame(run: Path | str, nbody: int = 2) -> pd.DataFrame:
    """Read what every pair (or trimer, ...) of fragments adds to the interaction energy.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary; the others are found beside it.
    nbody : int, optional
        Fragments in a cluster, 2 for pairs.

    Returns
    -------
    pandas.DataFrame
        One row a cluster: ``fragments`` counted from 1, joined by blanks; ``distance_angstrom``
        between the two centres of mass that are farthest apart; a column of E_h for each treatment
        (``cp_hartree``), NaN where an energy is missing.

    Raises
    ------
    InputError
        If there is no such run or no pandas, or the run did not expand that order, or it has too
        many clusters of it.
    StoreError
        If the store cannot be read.
    """
    pandas = _extra("pandas", "contributions_frame")
    with open_run(run) as (store, space):
        parts = parts_of(space, store.values(0))
    order = next((each for each in parts.orders if each.nbody == nbody), None) if parts else None
    if order is None:
        orders = ", ".join(str(each.nbody) for each in parts.orders) if parts else "none"
        raise InputError("nbody", "has no contributions here", value=nbody, accepted=orders)
    values = {
        f"{name}_hartree": kcal / KCAL_PER_HARTREE for name, kcal in order.values_kcal.items()
    }
    fragments = _words(order.members(np.arange(len(order.main))))
    return pandas.DataFrame(
        {"fragments": fragments, "distance_angstrom": order.distances_angstrom, **values}
    )


def write_csv(run: Path | str, path: Path | str) -> int:
    """Write all tasks of a run that have ended as comma-separated values.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary.
    path : path-like
        Replaced as a whole. The columns are those of :func:`tasks_frame`.

    Returns
    -------
    int
        Tasks written.

    Raises
    ------
    InputError
        If there is no such run.
    StoreError
        If the store cannot be read.
    OSError
        If the file cannot be written.
    """
    n_tasks = 0
    with (
        open_run(run) as (store, space),
        part_of(path) as part,
        part.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for page in pages(store, space):
            writer.writerows(zip(*page.values(), strict=True))
            n_tasks += len(page["task"])
    return n_tasks


def write_parquet(run: Path | str, path: Path | str) -> int:
    """Write all tasks of a run that have ended as Parquet, compressed.

    Parameters
    ----------
    run : path-like
        RESULT, STORE or summary.
    path : path-like
        Replaced as a whole. The columns are those of :func:`tasks_frame`.

    Returns
    -------
    int
        Tasks written.

    Raises
    ------
    InputError
        If there is no such run or no pyarrow.
    StoreError
        If the store cannot be read.
    OSError
        If the file cannot be written.
    """
    arrow, parquet = (_extra(name, "--parquet") for name in ("pyarrow", "pyarrow.parquet"))
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    n_tasks = 0
    with (
        open_run(run) as (store, space),
        part_of(path) as part,
        parquet.ParquetWriter(part, schema, compression="zstd") as writer,
    ):
        for page in _joined(pages(store, space)):
            writer.write_table(arrow.Table.from_pydict(page, schema=schema))
            n_tasks += len(page["task"])
    return n_tasks


def _joined(parts: Iterator[Page]) -> Iterator[Page]:
    """Put pages together to what is worth a row group of a Parquet file."""
    gathered: Page = {name: [] for name in COLUMNS}
    for page in parts:
        for name, values in page.items():
            gathered[name] += values
        if len(gathered["task"]) >= _ROW_GROUP:
            yield gathered
            gathered = {name: [] for name in COLUMNS}
    if gathered["task"]:
        yield gathered


def pages(store: Store, space: TaskSpace) -> Iterator[Page]:
    """Yield the columns of the table, a few thousand tasks at a time, by task id.

    Parameters
    ----------
    store : Store
    space : TaskSpace
        Attached as 0.

    Yields
    ------
    dict of str to list
        By :data:`COLUMNS`; None for what is unknown.
    """
    for page in task_pages(store.values(0)):
        yield _columns(space, page)


def _columns(space: TaskSpace, page: TaskPage) -> Page:
    block, times = page.block, page.times
    real, basis = space.fragments(block, times.tasks - block.start)
    n_rows = len(times.tasks)
    label = space.expansion.levels.model_chemistries[block.model_chemistry]
    found: Mapping[str, list[Any]] = {
        "task": times.tasks.tolist(),
        "model_chemistry": [label] * n_rows,
        "n_real": [block.n_real] * n_rows,
        "n_basis": [block.n_basis] * n_rows,
        "real": _words(real),
        "basis": _words(basis),
        "status": np.where(times.is_done, "done", "failed").tolist(),
        "energy_hartree": _known(page.energies_hartree),
        "start_s": _known(times.start_s),
        "seconds": _known(times.seconds),
        "cpu_s": _known(times.cpu_s),
        "peak_bytes": [n_bytes or None for n_bytes in times.peak_bytes.tolist()],
        "host": times.host.tolist(),
        "rank": times.rank.tolist(),
        "slot": times.slot.tolist(),
        "threads": times.n_threads.tolist(),
        "program": times.program.tolist(),
        "version": times.version.tolist(),
        "attempts": times.attempts.tolist(),
        "error_type": page.error_type,
        "message": page.message,
        "remedy": page.remedy,
    }
    return {name: found[name] for name in COLUMNS}


def _words(rows: Any) -> list[str]:
    """Write rows of fragments, counted from 1."""
    if len(rows) > 1 and (rows[0] == rows[-1]).all() and not np.asarray(rows).strides[0]:
        return [" ".join(map(str, (rows[0] + 1).tolist()))] * len(rows)
    return [" ".join(map(str, row)) for row in (rows + 1).tolist()]


def _known(numbers: Any) -> list[float | None]:
    return [None if value != value else value for value in numbers.tolist()]


def _extra(name: str, user: str) -> Any:
    """Import an optional package."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            user, f"needs {package}, which is not installed: pip install 'qcmb_mpi[pandas]'"
        ) from error


WRITERS: dict[str, Callable[[Path | str, Path | str], int]] = {
    "csv": write_csv,
    "parquet": write_parquet,
}
