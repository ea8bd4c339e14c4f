"""The one interface of all executors.

Rules of this file
------------------
1. An executor only starts agents; what to run, in which order, is the scheduler's.
2. Its pool stays warm between :meth:`Executor.execute` calls, until :meth:`Executor.shutdown`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, TypeVar

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.task_runs import run_tasks
from qcmb_mpi.execution.tasks import ParallelTask, TaskResult
from qcmb_mpi.execution.wire import Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """How an executor runs tasks.

    Parameters
    ----------
    n_workers : int, optional
        Slots of this node (of each rank under MPI); default from the machine.
    timeout_per_task : float
        Wall seconds of one task, then it is killed with its programs.
    max_retries : int
        Further attempts for errors that can pass.
    checkpoint_interval : float
        Seconds after which finished results are on disk at the latest.
    checkpoint_file : str, optional
        The result store; default none for the Python interface.
    cache_dir : str, optional
        A directory with one store for everything that is computed; used when
        `checkpoint_file` is not given.
    log_level : str
        Level of the ``qcmb_mpi`` logger.
    scratch_dir : str, optional
        Scratch for programs.
    n_threads : int, optional
        Threads of one calculation; default from the machine and the tasks.
    memory_bytes : int, optional
        Limit of a node; default 80 % of what is granted.
    imports : tuple of str
        Modules to import in every slot (your own QCEngine harness).
    """

    n_workers: int | None = None
    timeout_per_task: float = 3600.0
    max_retries: int = 2
    checkpoint_interval: float = 1.0
    checkpoint_file: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    log_level: str = "WARNING"
    scratch_dir: str | os.PathLike[str] | None = None
    n_threads: int | None = None
    memory_bytes: int | None = None
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_workers", "n_threads", "memory_bytes", "timeout_per_task"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(name, "must be positive", value=value)
        if self.max_retries < 0:
            raise InputError("max_retries", "must not be negative", value=self.max_retries)


class Executor(ABC):
    """Runs tasks; a context manager.

    Parameters
    ----------
    config : ExecutorConfig, optional
    """

    name: ClassVar[str]

    def __init__(self, config: ExecutorConfig | None = None) -> None:
        self.config = config or ExecutorConfig()
        self._transport: Transport | None = None
        self._n_spaces = 0

    @abstractmethod
    def _start(self) -> Transport:
        """Start the agents."""

    @property
    def transport(self) -> Transport:
        """The way to the agents, started if need be."""
        if self._transport is None:
            self._transport = self._start()
        return self._transport

    @property
    def n_ranks(self) -> int:
        """How many ranks take part."""
        return 1

    @property
    def is_master(self) -> bool:
        """Whether this process decides; the others only serve it."""
        return True

    def next_space(self) -> int:
        """Return a number for a task space that this pool has not had before."""
        self._n_spaces += 1
        return self._n_spaces - 1

    def initialize(self) -> None:
        """Start the pool; a second call does nothing."""
        _ = self.transport

    def share(self, work: Callable[[], T]) -> T:
        """Run `work` on the master; every rank returns its value or raises its exception."""
        return work()

    def execute(
        self,
        tasks: Sequence[ParallelTask],
        progress_callback: Callable[[int, int], None] | None = None,
    ) -> list[TaskResult]:
        """Run `tasks` and return their results in the same order.

        Parameters
        ----------
        tasks : sequence of ParallelTask
        progress_callback : callable, optional
            Called with (tasks ended, tasks in all) as they end.

        Returns
        -------
        list of TaskResult
            One for each task; a failed task is a result too.
        """
        return self.share(lambda: run_tasks(self, tasks, progress_callback))

    def shutdown(self, wait: bool = True) -> None:
        """End the pool; with `wait` false what runs is killed without a last look."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def __enter__(self) -> Executor:
        self.initialize()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
