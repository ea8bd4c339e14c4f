"""Our own farm for ``engines.py``: real scheduler, agents and slots, and the store on a disk.

Rules of this file
------------------
1. As a run drives them: executor, dispatcher, job and store; nothing below those.
2. A batch is planned, run, and safe on the disk before its time is taken.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from engines_recipe import IdleRecipe
from engines_work import Work

from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
from qcmb_mpi.execution.forkserver import ForkServer
from qcmb_mpi.execution.layout import place
from qcmb_mpi.expansion.levels import Bsse, Expansion, Levels
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.expansion.system import ModelChemistry, System
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.store import Store

GUESS_S = 0.01  # of every task: nobody is told how long tasks take


def expansion(n_tasks: int, name: str) -> Expansion:
    """Return a two-body expansion of helium atoms with at least so many tasks."""
    n = max(2, math.ceil((math.sqrt(8 * n_tasks + 1) - 1) / 2))
    system = System(
        symbols=("He",) * n,
        atomic_numbers=np.full(n, 2),
        masses=np.full(n, 4.00260325413),
        mass_numbers=np.full(n, 4),
        geometry_bohr=np.arange(3.0 * n).reshape(n, 3),
        fragment_sizes=(1,) * n,
        fragment_charges=(0.0,) * n,
        fragment_multiplicities=(1,) * n,
    )
    return Expansion(
        system=system,
        levels=Levels.from_mapping({1: "idle", 2: "idle"}),
        bsse=(Bsse.nocp,),
        return_total_data=True,
        supersystem_ie_only=False,
        driver="gradient",
        model_chemistries=(ModelChemistry("idle", "idle", "gradient", {}, name),),
    )


class Ours:
    """Batches of tasks on one warm pool.

    Parameters
    ----------
    executor : Executor
    store : Store
    """

    def __init__(self, executor: Executor, store: Store) -> None:
        self._executor = executor
        self._store = store

    def prepare(self, work: Work, n_tasks: int) -> Callable[[], Callable[[], int]]:
        """Return what runs a batch, its planning included, as no argument is ever made."""
        return lambda: self._run(work, n_tasks)

    def _run(self, work: Work, n_tasks: int) -> Callable[[], int]:
        """Run a batch; return what counts the tasks that are in the store."""
        number = self._executor.next_space()
        space = TaskSpace(expansion(n_tasks, f"batch {number}"))
        self._store.attach(number, space)
        classes = tuple(
            TaskClass(stage=space.blocks[each.block].n_real, ids=each.ids, cost_s=GUESS_S, key=i)
            for i, each in enumerate(space.classes())
        )
        surplus = np.arange(n_tasks, space.n_tasks)
        job = Job(number, IdleRecipe(work), classes, surplus)
        transport, n_ranks = self._executor.transport, self._executor.n_ranks
        dispatcher = Dispatcher(transport, n_ranks, self._store)
        dispatcher.open(job, lambda infos: place(infos, classes, self._executor.config))
        dispatcher.run()
        dispatcher.close(job)
        self._store.flush()
        return lambda: len(self._store.done(number))


@contextlib.contextmanager
def _opened(executor: Executor, folder: Path) -> Iterator[Ours]:
    with Store.open(folder / "engines.store.sqlite") as store:
        yield Ours(executor, store)


def on_processes(
    n_workers: int, folder: Path, measure: Callable[[Ours], Any], server: ForkServer | None
) -> Any:
    """Measure on local processes."""
    from qcmb_mpi.execution.executors.local import MultiprocessingExecutor

    config = ExecutorConfig(n_workers=n_workers, n_threads=1)
    with (
        MultiprocessingExecutor(config, server=server) as executor,
        _opened(executor, folder) as ours,
    ):
        return measure(ours)


def on_ranks(
    folder: Path, measure: Callable[[Ours], Any], server: ForkServer | None, *, is_dedicated: bool
) -> Any:
    """Measure under mpiexec, a slot a rank; return None but on rank 0."""
    from qcmb_mpi.execution.executors.mpi import MPIExecutor

    config = ExecutorConfig(n_workers=1, n_threads=1)
    executor = MPIExecutor(config, server=server, is_master_dedicated=is_dedicated)

    def on_master() -> Any:
        with _opened(executor, folder) as ours:
            return measure(ours)

    with executor:
        measured = executor.share(on_master)
        return measured if executor.is_master else None
