"""Slots and threads of every agent, chosen for the work that is left.

Rules of this file
------------------
1. One number of threads for all agents, so that numbers do not depend on where a task ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qcmb_mpi.execution.wire import AgentInfo, TaskIds
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout, choose_layout

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig


def choose_layouts(
    infos: Sequence[AgentInfo],
    classes: Sequence[TaskClass],
    config: ExecutorConfig,
    *,
    done: TaskIds | None = None,
    thread_limit: int | None = None,
) -> Callable[[AgentInfo], Layout]:
    """Return the function that gives each agent its layout.

    Parameters
    ----------
    infos : sequence of AgentInfo
        All agents.
    classes : sequence of TaskClass
    config : ExecutorConfig
        What the user fixed.
    done : ndarray of int64, optional
        Ids that need not be run, ascending.
    thread_limit : int, optional
        Threads that the programs can use.
    """
    left = classes if done is None else work_left(classes, done)
    computing = [info for info in infos if info.n_cores] or list(infos)
    smallest = min(computing, key=_size)

    def layout(info: AgentInfo, n_threads: int | None) -> Layout:
        return choose_layout(
            left,
            max(1, info.n_cores),
            info.memory_bytes,
            n_workers=config.n_workers,
            n_threads=n_threads,
            thread_limit=thread_limit,
            n_agents=len(computing),
        )

    first = layout(smallest, config.n_threads)

    def of(info: AgentInfo) -> Layout:
        if not info.n_cores and len(infos) > 1:
            return Layout(0, first.n_threads, 0, "no slots because the master is dedicated")
        if _size(info) == _size(smallest):
            return first
        return replace(layout(info, first.n_threads), reason=first.reason)

    return of


def _size(info: AgentInfo) -> tuple[int, int]:
    return info.n_cores, info.memory_bytes


def work_left(classes: Sequence[TaskClass], done: TaskIds) -> list[TaskClass]:
    """Return `classes` with as many tasks as are not in `done` (only the counts are right)."""
    left = []
    for each in classes:
        if isinstance(each.ids, range):
            low, high = np.searchsorted(done, (each.ids.start, each.ids.stop))
            n_done = int(high - low)
        else:
            n_done = int(np.isin(each.ids, done).sum())
        left.append(replace(each, ids=range(each.n_tasks - n_done)))
    return left
