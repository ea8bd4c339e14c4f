"""Slots and threads of every agent, and the few tasks that get all its cores.

Rules of this file
------------------
1. One number of threads for all agents, so that numbers do not depend on where a task ran.
2. All is chosen for the whole plan: what a resumed run still has to do gets the same threads, and
   is told the same memory, as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout, choose_layout
from qcmb_mpi.scheduling.widths import Widths, choose_widths

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tasks run.

    Parameters
    ----------
    layout_of : callable
        Gives an agent its layout.
    classes : tuple of TaskClass
        The tasks, with their threads.
    reason : str
        Why so, in one sentence for people.
    """

    layout_of: Callable[[AgentInfo], Layout]
    classes: tuple[TaskClass, ...]
    reason: str


def place(
    infos: Sequence[AgentInfo],
    classes: Sequence[TaskClass],
    config: ExecutorConfig,
    *,
    thread_limit: int | None = None,
) -> Placement:
    """Choose slots and threads.

    Parameters
    ----------
    infos : sequence of AgentInfo
        All agents.
    classes : sequence of TaskClass
        All tasks, also those that are done, as predicted before anything was measured.
    config : ExecutorConfig
        What the user fixed.
    thread_limit : int, optional
        Threads that the programs can use.

    Returns
    -------
    Placement
    """
    computing = [info for info in infos if info.n_cores] or list(infos)
    smallest = min(computing, key=_size)

    def layout(info: AgentInfo, of: Sequence[TaskClass], n_threads: int | None) -> Layout:
        return choose_layout(
            of,
            max(1, info.n_cores),
            info.memory_bytes,
            n_workers=config.n_workers,
            n_threads=n_threads,
            thread_limit=thread_limit,
            n_agents=len(computing),
        )

    if config.n_workers or config.n_threads or not all(each.can_widen for each in computing):
        widths = Widths(layout(smallest, classes, config.n_threads), tuple(classes))
    else:
        widths = choose_widths(
            classes,
            max(1, smallest.n_cores),
            smallest.memory_bytes,
            thread_limit=thread_limit,
            n_agents=len(computing),
        )
    first = widths.layout

    def layout_of(info: AgentInfo) -> Layout:
        if not info.n_cores and len(infos) > 1:
            return Layout(0, first.n_threads, 0, "no slots because the master is dedicated")
        if _size(info) == _size(smallest):
            return first
        return replace(layout(info, widths.narrow, first.n_threads), reason=first.reason)

    return Placement(layout_of, widths.classes, first.reason)


def _size(info: AgentInfo) -> tuple[int, int]:
    return info.n_cores, info.memory_bytes
