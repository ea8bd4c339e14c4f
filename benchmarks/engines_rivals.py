"""The engines that ``engines.py`` sets ours beside, each used as its documentation shows.

A rival is a context manager that starts a pool of so many workers and gives a function from
arguments to results, in any order; on ranks that only serve it gives None, when all is over.

Rules of this file
------------------
1. Written as well as an ordinary user would: no tricks for, and none against, the rival.
2. A rival is imported when it is started: none need be installed for the others.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from engines_work import Work, argument, compute, compute_all

Given = dict[str, Any]
Results = Callable[[list[Given]], Iterable[Given]]


class Rival:
    """Batches of tasks on one warm pool.

    Parameters
    ----------
    results : callable
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    def prepare(self, work: Work, n_tasks: int) -> Callable[[], Callable[[], int]]:
        """Make the arguments; return what runs the batch and then gives what counts its tasks."""
        given = [argument(work, task) for task in range(n_tasks)]

        def run() -> Callable[[], int]:
            tasks = [result["task"] for result in self._results(given)]
            return lambda: len(set(tasks))

        return run


def _submitted(pool: Executor, given: list[Given]) -> Iterator[Given]:
    """Submit task by task; let go of a result when it has been looked at."""
    for future in as_completed([pool.submit(compute, each) for each in given]):
        yield future.result()


@contextlib.contextmanager
def _pool(n_workers: int, _folder: Path, *, chunk: int) -> Iterator[Results]:
    with multiprocessing.Pool(n_workers) as pool:
        yield lambda given: pool.imap_unordered(compute, given, chunksize=chunk)


@contextlib.contextmanager
def _divided(n_workers: int, _folder: Path) -> Iterator[Results]:
    """Give each process an equal share at once: no engine, the ceiling of the machine."""
    with multiprocessing.Pool(n_workers) as pool:

        def results(given: list[Given]) -> Iterator[Given]:
            for many in pool.imap_unordered(
                compute_all, [given[i::n_workers] for i in range(n_workers)]
            ):
                yield from many

        yield results


@contextlib.contextmanager
def _futures(n_workers: int, _folder: Path) -> Iterator[Results]:
    with ProcessPoolExecutor(n_workers) as pool:
        yield partial(_submitted, pool)


@contextlib.contextmanager
def _loky(n_workers: int, _folder: Path) -> Iterator[Results]:
    import loky

    with loky.ProcessPoolExecutor(n_workers) as pool:
        yield partial(_submitted, pool)


@contextlib.contextmanager
def _executorlib(n_workers: int, _folder: Path) -> Iterator[Results]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=n_workers, block_allocation=True) as pool:
        yield partial(_submitted, pool)


@contextlib.contextmanager
def _dask(n_workers: int, folder: Path) -> Iterator[Results]:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(folder),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield lambda given: client.gather(client.map(compute, given, pure=False))


@contextlib.contextmanager
def _parsl(n_workers: int, folder: Path) -> Iterator[Results]:
    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="htex",
        address="127.0.0.1",
        max_workers_per_node=n_workers,
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = parsl.Config(
        executors=[executor],
        run_dir=str(folder / "parsl"),
        initialize_logging=False,
        usage_tracking=0,
    )
    with parsl.load(config):
        app = parsl.python_app(compute)
        yield lambda given: (f.result() for f in as_completed([app(each) for each in given]))


@contextlib.contextmanager
def _mpi4py_futures(n_workers: int, _folder: Path, *, chunk: int) -> Iterator[Results]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor(max_workers=n_workers) as pool:
        yield lambda given: pool.map(compute, given, chunksize=chunk, unordered=True)


@contextlib.contextmanager
def _schwimmbad(_n_workers: int, _folder: Path) -> Iterator[Results | None]:
    from schwimmbad import MPIPool

    with MPIPool(use_dill=False) as pool:
        if pool.is_master():
            yield partial(pool.map, compute)
        else:
            pool.wait()
            yield None


@contextlib.contextmanager
def _hand_written(_n_workers: int, _folder: Path) -> Iterator[Results | None]:
    """Send and receive, blocking, a task ahead: forty lines, the limit of what MPI gives."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank:
        while (given := comm.recv(source=0)) is not None:
            comm.send(compute(given), dest=0)
        yield None
        return
    workers = range(1, comm.size)
    yield partial(_mastered, comm, workers)
    for worker in workers:
        comm.send(None, dest=worker)


def _mastered(comm: Any, workers: Sequence[int], given: list[Given]) -> Iterator[Given]:
    from mpi4py import MPI

    waiting, status = deque(given), MPI.Status()
    for worker in (*workers, *workers):
        if waiting:
            comm.send(waiting.popleft(), dest=worker)
    for _ in given:
        result = comm.recv(source=MPI.ANY_SOURCE, status=status)
        if waiting:
            comm.send(waiting.popleft(), dest=status.source)
        yield result


RIVALS: dict[str, Callable[[int, Path], AbstractContextManager[Results | None]]] = {
    "pool-1": partial(_pool, chunk=1),
    "pool-16": partial(_pool, chunk=16),
    "futures": _futures,
    "loky": _loky,
    "mpi4py-1": partial(_mpi4py_futures, chunk=1),
    "mpi4py-16": partial(_mpi4py_futures, chunk=16),
    "dask": _dask,
    "parsl": _parsl,
    "executorlib": _executorlib,
    "schwimmbad": _schwimmbad,
    "hand-written": _hand_written,
    "divided": _divided,
}


def measured(name: str, n_workers: int, folder: Path, measure: Callable[[Rival], Any]) -> Any:
    """Measure a rival; return None where this process only served it."""
    os.chdir(folder)  # some leave files where they are
    with RIVALS[name](n_workers, folder) as results:
        return None if results is None else measure(Rival(results))
