"""Explicit tasks: a list of molecules and programs instead of an expansion.

Rules of this file
------------------
1. The public names of the parallel interface: ``ParallelTask``, ``TaskResult``, ``TaskStatus``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcmb_mpi.execution.engine import AtomicRunner, SlotResources, prepare
from qcmb_mpi.execution.outcome import Outcome


class TaskStatus(str, enum.Enum):
    """Where a task stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class ParallelTask:
    """One calculation.

    Parameters
    ----------
    task_id : str
        A name, unique in its list; the label for tasks of an expansion.
    program : str
        QCEngine's name of the program.
    atomic_input : mapping
        A QCSchema ``AtomicInput`` (version 2) as plain data.
    estimated_cost : float
        Predicted seconds; only the order matters.
    nbody : int
        The n-body level, for reports.
    metadata : mapping
        Carried along untouched.
    """

    task_id: str
    program: str
    atomic_input: Mapping[str, Any]
    estimated_cost: float = 1.0
    nbody: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What became of one :class:`ParallelTask`.

    Parameters
    ----------
    task_id : str
    status : TaskStatus
        COMPLETED, FAILED or TIMEOUT.
    atomic_result : AtomicResult, optional
        QCSchema version 2; None unless completed.
    error_type, error_message : str
        Empty when completed.
    execution_time : float
        Wall seconds of the last attempt.
    attempts : int
    """

    task_id: str
    status: TaskStatus
    atomic_result: Any = None
    error_type: str = ""
    error_message: str = ""
    execution_time: float = 0.0
    attempts: int = 1

    @property
    def success(self) -> bool:
        """Whether the calculation gave a result."""
        return self.status is TaskStatus.COMPLETED


@dataclass(frozen=True, slots=True)
class TaskListRecipe:
    """How a slot runs explicit tasks; ids are positions in the list.

    Parameters
    ----------
    tasks : sequence of ParallelTask
    imports : tuple of str
    is_remedied : bool
        Whether what does not converge is tried again with other keywords.
    """

    tasks: Sequence[ParallelTask]
    imports: tuple[str, ...] = ()
    is_remedied: bool = False

    def build(self, resources: SlotResources) -> TaskListEngine:
        """Return the engine of one slot."""
        prepare(self.imports)
        runner = AtomicRunner(resources, wants_records=True, is_remedied=self.is_remedied)
        return TaskListEngine(self.tasks, runner)


class TaskListEngine:
    """Explicit tasks through QCEngine; whole results are kept.

    Parameters
    ----------
    tasks : sequence of ParallelTask
    runner : AtomicRunner
    """

    def __init__(self, tasks: Sequence[ParallelTask], runner: AtomicRunner) -> None:
        self._tasks = tasks
        self._runner = runner

    def compute(self, task: int) -> Outcome:
        """Run the task at position `task`."""
        from qcelemental.models.v2 import AtomicInput

        chosen = self._tasks[task]
        return self._runner.run(task, chosen.program, lambda: AtomicInput(**chosen.atomic_input))
