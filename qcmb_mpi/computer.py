"""The drop-in Python interface: QCManyBody's ``ManyBodyComputer``, in parallel.

Rules of this file
------------------
1. Thin faces on the driver and the executors; under MPI every rank makes the same calls and
   gets the same results.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor as Pool
from pathlib import Path
from typing import Any

from qcmb_mpi import schema
from qcmb_mpi.driver import RunOptions, run_expansion
from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig, innermost
from qcmb_mpi.execution.executors.local import (
    FuturesExecutor,
    MultiprocessingExecutor,
    SequentialExecutor,
    ThreadExecutor,
)
from qcmb_mpi.execution.tasks import ParallelTask
from qcmb_mpi.expansion.graph import parse_label
from qcmb_mpi.machine import launcher
from qcmb_mpi.report.progress import make_progress

_CACHE_NAME = "qcmb_mpi.store.sqlite"


class ParallelMode(str, enum.Enum):
    """Which executor runs the tasks."""

    SERIAL = "serial"
    MULTIPROCESSING = "multiprocessing"
    THREAD = "thread"
    MPI = "mpi"


class ParallelManyBodyComputer:
    """A many-body expansion, run in parallel.

    Parameters
    ----------
    input_data : ManyBodyInput or dict
        QCSchema, version 1 or 2.
    parallel_mode : ParallelMode or str, optional
        Default MPI when started by an MPI launcher with several ranks, else MULTIPROCESSING.
    max_workers : int, optional
        Slots of this node (of each rank under MPI).
    parallel_config : mapping, optional
        Further fields of :class:`ExecutorConfig`.
    executor : Executor or concurrent.futures.Executor, optional
        A pool of one's own, which stays warm; instead of the three above. Where none of the four
        is given, that of the innermost open ``with`` block, if there is one.

    Raises
    ------
    InputError
        The input or an option is not acceptable.
    """

    def __init__(
        self,
        input_data: Any,
        *,
        parallel_mode: ParallelMode | str | None = None,
        max_workers: int | None = None,
        parallel_config: Mapping[str, Any] | None = None,
        executor: Executor | Pool | None = None,
    ) -> None:
        self.input_data = input_data
        is_open_to_any = not parallel_mode and max_workers is None and not parallel_config
        if executor is None and is_open_to_any:
            executor = innermost()
        if executor is None:
            config = _config(max_workers, parallel_config or {})
            self._executor = _make_executor(_mode(parallel_mode), config)
        elif max_workers is not None or parallel_mode is not None or parallel_config:
            raise InputError("executor", "has its own options: give them to it, not here")
        else:
            self._executor = executor_of(executor)
        self._is_owned = self._executor is not executor

    @classmethod
    def from_manybodyinput(
        cls,
        input_model: Any,
        parallel: bool = True,
        n_workers: int | None = None,
        executor: Executor | Pool | None = None,
        build_tasks: bool = True,
        **config: Any,
    ) -> Any:
        """Run an expansion and return its result, as QCManyBody's method of this name does.

        Parameters
        ----------
        input_model : ManyBodyInput or dict
            QCSchema, version 1 or 2.
        parallel : bool
            False runs one task after the other in this process.
        n_workers : int, optional
            Slots of this node (of each rank under MPI).
        executor : Executor or concurrent.futures.Executor, optional
        build_tasks : bool
            As QCManyBody's: False runs nothing and returns stock's own computer.
        **config
            Further fields of :class:`ExecutorConfig`.

        Returns
        -------
        ManyBodyResult
            Of the version of the input.

        Raises
        ------
        InputError
            The input or an option is not acceptable; nothing was run.
        TasksFailed
            Some tasks failed for good.
        Interrupted
            A signal stopped the run.
        """
        if not build_tasks:
            return schema.stock_computer(input_model)
        mode = None if parallel else ParallelMode.SERIAL
        computer = cls(
            input_model,
            parallel_mode=mode,
            max_workers=n_workers,
            parallel_config=config,
            executor=executor,
        )
        return computer.compute()

    def compute(self, *, progress: bool = False) -> Any:
        """Run the expansion and return its ``ManyBodyResult``.

        Parameters
        ----------
        progress : bool
            Show how far it is: in a notebook and on a terminal in place, elsewhere by lines on
            standard error.
        """
        try:
            return self._executor.share(lambda: self._on_master(progress))
        finally:
            if self._is_owned:
                self._executor.shutdown()

    def _on_master(self, is_shown: bool) -> Any:
        loaded = schema.load_input(self.input_data)
        options = RunOptions(store=store_of(self._executor.config))
        shown = make_progress(is_enabled=is_shown)
        end = run_expansion(loaded, self._executor, options, progress=shown)
        end.raise_if_unfinished()
        return end.result


ManyBodyComputer = ParallelManyBodyComputer  # so that a script of QCManyBody changes one import


def executor_of(given: Executor | Pool | None) -> Executor:
    """Return an executor for what somebody gave: itself, one over a futures pool, or a new one.

    Raises
    ------
    InputError
        It is neither.
    """
    if given is None:
        return _make_executor(_mode(None), ExecutorConfig())
    if isinstance(given, Executor):
        return given
    if callable(getattr(given, "submit", None)):
        return FuturesExecutor(given)
    accepted = "an Executor of qcmb_mpi or of concurrent.futures"
    raise InputError("executor", "is none", value=given, accepted=accepted)


def _mode(wanted: ParallelMode | str | None) -> ParallelMode:
    if wanted is None:
        is_mpi = launcher.wants_mpi(os.environ)
        return ParallelMode.MPI if is_mpi else ParallelMode.MULTIPROCESSING
    try:
        return ParallelMode(wanted)
    except ValueError:
        names = ", ".join(mode.value for mode in ParallelMode)
        raise InputError("parallel_mode", "unknown", value=wanted, accepted=names) from None


def _config(max_workers: int | None, fields: Mapping[str, Any]) -> ExecutorConfig:
    known = ExecutorConfig.__dataclass_fields__
    for name in fields:
        if name not in known:
            raise InputError(
                "parallel_config", f"unknown field {name!r}", accepted=", ".join(known)
            )
    return ExecutorConfig(**{"n_workers": max_workers, **fields})


def _make_executor(mode: ParallelMode, config: ExecutorConfig) -> Executor:
    if mode is ParallelMode.MPI:
        from qcmb_mpi.execution.executors.mpi import MPIExecutor

        return MPIExecutor(config)
    kinds: dict[ParallelMode, type[Executor]] = {
        ParallelMode.SERIAL: SequentialExecutor,
        ParallelMode.MULTIPROCESSING: MultiprocessingExecutor,
        ParallelMode.THREAD: ThreadExecutor,
    }
    return kinds[mode](config)


def store_of(config: ExecutorConfig) -> Path | None:
    """Return the store that a configuration names, if it names one."""
    if config.checkpoint_file is not None:
        return Path(config.checkpoint_file)
    return None if config.cache_dir is None else Path(config.cache_dir) / _CACHE_NAME


def iterate_molecules_by_level(core: Any) -> Iterator[tuple[int, str, str, Any]]:
    """Yield what ``core.iterate_molecules()`` yields, lowest n-body level first.

    Parameters
    ----------
    core : qcmanybody.ManyBodyCore

    Yields
    ------
    tuple
        n-body level (number of real fragments), model chemistry, label, molecule.
    """
    rows = [
        (len(parse_label(label)[1]), chemistry, label, molecule)
        for chemistry, label, molecule in core.iterate_molecules()
    ]
    yield from sorted(rows, key=lambda row: row[0])


def prepare_parallel_tasks(
    core: Any, specifications: Mapping[str, Mapping[str, Any]]
) -> list[ParallelTask]:
    """Turn the molecules of a ``ManyBodyCore`` into tasks for :meth:`Executor.execute`.

    Parameters
    ----------
    core : qcmanybody.ManyBodyCore
    specifications : mapping
        For each model chemistry its ``program`` and ``specification`` (a QCSchema
        ``AtomicSpecification`` as plain data).

    Returns
    -------
    list of ParallelTask
        Named by QCManyBody's labels, lowest n-body level first.
    """
    return [
        ParallelTask(
            task_id=label,
            program=specifications[chemistry]["program"],
            atomic_input={
                "molecule": molecule.model_dump(),
                "specification": dict(specifications[chemistry]["specification"]),
            },
            estimated_cost=float(len(molecule.symbols)) ** 3,
            nbody=nbody,
        )
        for nbody, chemistry, label, molecule in iterate_molecules_by_level(core)
    ]
