"""Explicit tasks through the scheduler, their results in a list.

Rules of this file
------------------
1. No store: results are the caller's.
2. Every task has the threads of a slot: what a program in a list gains by more is not known.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.layout import place
from qcmb_mpi.execution.observer import Observer
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.tasks import ParallelTask, TaskListRecipe, TaskResult, TaskStatus
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.programs.profiles import profile
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import SchedulerOptions

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import Executor


def run_tasks(
    executor: Executor,
    tasks: Sequence[ParallelTask],
    progress_callback: Callable[[int, int], None] | None = None,
) -> list[TaskResult]:
    """Run explicit tasks and return their results in the same order."""
    config = executor.config
    collected = _Collected(tasks, progress_callback)
    dispatcher = Dispatcher(
        executor.transport,
        executor.n_ranks,
        collected,
        options=SchedulerOptions(n_retries=config.max_retries),
        observer=collected,
        timeout_s=config.timeout_per_task,
        scratch=None if config.scratch_dir is None else os.fspath(config.scratch_dir),
        grant=executor.grant,
    )
    recipe = TaskListRecipe(tuple(tasks), config.imports, config.is_remedied)
    job = Job(executor.next_space(), recipe, _classes(tasks))
    try:
        limit = None if any(profile(each.program).is_threaded for each in tasks) else 1
        dispatcher.open(
            job, lambda infos: place(_narrow(infos), job.classes, config, thread_limit=limit)
        )
        dispatcher.run()
    finally:
        dispatcher.close(job)
    return collected.results()


def _narrow(infos: Sequence[AgentInfo]) -> tuple[AgentInfo, ...]:
    return tuple(replace(info, can_widen=False) for info in infos)


def _classes(tasks: Sequence[ParallelTask]) -> tuple[m.TaskClass, ...]:
    """Group tasks by their estimated cost; stages are n-body levels."""
    groups: dict[tuple[int, float], list[int]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault((task.nbody, task.estimated_cost), []).append(index)
    return tuple(
        m.TaskClass(stage=nbody, ids=m.as_ids(ids), cost_s=cost, key=(nbody, cost))
        for (nbody, cost), ids in groups.items()
    )


class _Collected(Observer):
    """A sink that keeps the outcomes of explicit tasks as results."""

    def __init__(
        self,
        tasks: Sequence[ParallelTask],
        progress_callback: Callable[[int, int], None] | None,
    ) -> None:
        self._tasks = tasks
        self._tell = progress_callback or (lambda _ended, _all: None)
        self._results: dict[int, TaskResult] = {}
        self._n_attempts: Counter[int] = Counter()
        self._last_s: dict[int, float] = {}

    def append(self, outcomes: Sequence[Outcome]) -> None:
        from qcelemental.models.v2 import AtomicResult

        for outcome in outcomes:
            self._n_attempts[outcome.task] += 1
            self._last_s[outcome.task] = outcome.seconds
            if outcome.failure is None and outcome.record is not None:
                self._settle(
                    outcome.task,
                    TaskResult(
                        self._tasks[outcome.task].task_id,
                        TaskStatus.COMPLETED,
                        AtomicResult.model_validate_json(outcome.record),
                        execution_time=outcome.seconds,
                        attempts=self._n_attempts[outcome.task],
                    ),
                )

    def commit_if_due(self) -> None:
        """Do nothing: results are kept in memory."""

    def flush(self) -> None:
        """Do nothing either."""

    def quarantined(self, space: int, task: int, failure: Failure, n_attempts: int) -> None:
        is_late = failure.error_class in (ErrorClass.TIMEOUT, ErrorClass.HUNG)
        self._settle(
            task,
            TaskResult(
                self._tasks[task].task_id,
                TaskStatus.TIMEOUT if is_late else TaskStatus.FAILED,
                error_type=failure.error_type,
                error_message=failure.message,
                execution_time=self._last_s.get(task, 0.0),
                attempts=n_attempts,
            ),
        )

    def _settle(self, task: int, result: TaskResult) -> None:
        self._results[task] = result
        self._tell(len(self._results), len(self._tasks))

    def results(self) -> list[TaskResult]:
        pending = TaskStatus.PENDING
        return [
            self._results.get(index) or TaskResult(task.task_id, pending, attempts=0)
            for index, task in enumerate(self._tasks)
        ]
