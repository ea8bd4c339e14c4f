"""The one interface of all executors.

Rules of this file
------------------
1. An executor only starts agents; what to run, in which order, is the scheduler's.
2. Its pool stays warm between :meth:`Executor.execute` calls, until :meth:`Executor.shutdown`.
3. One run at a time: threads of the caller wait for each other in :meth:`Executor.turn`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.layout import Grant

if TYPE_CHECKING:
    from qcmb_mpi.execution.tasks import ParallelTask, TaskResult
    from qcmb_mpi.execution.wire import Transport

T = TypeVar("T")

# Field -> kind of number, whether 0 is one, what is accepted.
_NUMBERS: dict[str, tuple[type, bool, str]] = {
    "n_workers": (Integral, False, "a whole number, 1 or more"),
    "n_threads": (Integral, False, "a whole number, 1 or more"),
    "memory_bytes": (Integral, False, "a whole number, 1 or more"),
    "max_retries": (Integral, True, "a whole number, 0 or more"),
    "timeout_per_task": (Real, False, "seconds, more than 0"),
    "checkpoint_interval": (Real, True, "seconds, 0 or more"),
    "heartbeat_s": (Real, False, "seconds, more than 0"),
}
_OPTIONAL = ("n_workers", "n_threads", "memory_bytes")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


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
    log_level : str, optional
        Level of the ``qcmb_mpi`` logger, set when the pool starts; default as it is.
    scratch_dir : str, optional
        Scratch for programs.
    n_threads : int, optional
        Threads of one calculation; default from the machine and the tasks.
    memory_bytes : int, optional
        Limit of a node; default 80 % of what is granted.
    imports : tuple of str
        Modules to import in every slot (your own QCEngine harness).
    heartbeat_s : float
        Seconds of silence after which a rank counts as lost (MPI only).
    is_remedied : bool
        Whether a calculation that does not converge is repeated with the program's own remedies.
    is_pinned : bool
        Whether each slot is bound to cores of its own; else it runs on all that are granted.

    Raises
    ------
    InputError
        A value is not acceptable.
    """

    n_workers: int | None = None
    timeout_per_task: float = 3600.0
    max_retries: int = 2
    checkpoint_interval: float = 1.0
    checkpoint_file: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    log_level: str | None = None
    scratch_dir: str | os.PathLike[str] | None = None
    n_threads: int | None = None
    memory_bytes: int | None = None
    imports: tuple[str, ...] = ()
    heartbeat_s: float = 30.0
    is_remedied: bool = False
    is_pinned: bool = True

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                _check_number(name, value)
        level = self.log_level
        if level is not None and str(level).upper() not in _LEVELS:
            raise InputError("log_level", "is not known", value=level, accepted=", ".join(_LEVELS))
        imports: object = self.imports
        if not isinstance(imports, list | tuple) or not all(isinstance(m, str) for m in imports):
            raise InputError("imports", "must be a list of names of modules", value=imports)
        object.__setattr__(self, "imports", tuple(imports))

    def likely_slots(self, n_cores: int) -> int:
        """Return how many slots an agent with so many cores will have, if tasks are narrow."""
        return min(n_cores, self.n_workers or n_cores // (self.n_threads or 1))


def _check_number(name: str, value: Any) -> None:
    kind, is_zero_fine, accepted = _NUMBERS[name]
    is_one = isinstance(value, kind) and not isinstance(value, bool)
    if not is_one or not (value > 0 or (is_zero_fine and value == 0)):
        raise InputError(name, "is not acceptable", value=value, accepted=accepted)


_open: list[tuple[int, int, Executor]] = []


def innermost() -> Executor | None:
    """Return the executor of the innermost ``with`` block open in this process, if there is one.

    Of this thread, else of the main one: another thread may close its own at any moment.
    """
    for thread in (threading.get_ident(), threading.main_thread().ident):
        for pid, opener, executor in reversed(_open):
            if (pid, opener) == (os.getpid(), thread):
                return executor
    return None


@contextlib.contextmanager
def opened(executor: Executor) -> Iterator[None]:
    """Have an executor be the one that is meant in this thread where none is named."""
    entry = (os.getpid(), threading.get_ident(), executor)
    _open.append(entry)
    try:
        yield
    finally:
        _open.remove(entry)


class Executor(ABC):
    """Runs tasks; a context manager.

    Parameters
    ----------
    config : ExecutorConfig, optional

    Attributes
    ----------
    learnt : mapping
        What its runs have learnt about costs, for those after them.
    grant : Grant
        What its runs may use of each node; see :meth:`granting`.
    """

    name: ClassVar[str]

    def __init__(self, config: ExecutorConfig | None = None) -> None:
        self.config = config or ExecutorConfig()
        self.learnt: Mapping[str, Any] = {}
        self.grant = Grant()
        self._transport: Transport | None = None
        self._n_spaces = 0
        self._turn = threading.RLock()
        self._block = contextlib.ExitStack()

    @abstractmethod
    def _start(self) -> Transport:
        """Start the agents."""

    @property
    def transport(self) -> Transport:
        """The way to the agents, started if need be."""
        if self._transport is None:
            if self.config.log_level is not None:
                logging.getLogger("qcmb_mpi").setLevel(self.config.log_level.upper())
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
        """Run `work` on the master; every rank returns its value or raises its exception.

        `work` may share in its turn: a whole optimisation may be shared, as each of its steps is.
        Under MPI no other threads may, for which `work` would wait.
        """
        with opened(self):
            return work()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have no other thread's run begin meanwhile."""
        with self._turn:
            yield

    @contextlib.contextmanager
    def granting(self, grant: Grant) -> Iterator[None]:
        """Have runs use no more of each node meanwhile than `grant` says."""
        with self._turn:
            before, self.grant = self.grant, grant
            try:
                yield
            finally:
                self.grant = before

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
        from qcmb_mpi.execution.task_runs import run_tasks

        def in_turn() -> list[TaskResult]:
            with self.turn():
                return run_tasks(self, tasks, progress_callback)

        return self.share(in_turn)

    def shutdown(self, wait: bool = True) -> None:
        """End the pool; with `wait` idle slots leave by themselves, else all are killed."""
        with self._turn:  # what runs in another thread ends first
            if self._transport is not None:
                self._transport.close(wait=wait)
                self._transport = None

    def leave(self, code: int) -> None:  # noqa: B027 (most executors need not)
        """End this process with `code` here and now, if it cannot end in the ordinary way."""

    def __enter__(self) -> Executor:
        self.initialize()
        self._block.enter_context(opened(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.close()
        self.shutdown()
