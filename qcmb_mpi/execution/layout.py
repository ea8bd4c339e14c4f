"""Slots and threads of every agent, and the few tasks that get all its cores.

Rules of this file
------------------
1. One number of threads for all agents, and one memory that tasks are told of, so that numbers do
   not depend on where a task ran.
2. All is chosen for the whole plan: what a resumed run still has to do gets the same threads, and
   is told the same memory, as if it had never stopped.
3. More than one thread must be worth it: programs' own threads give other last bits every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout, choose_layout, counted, plain
from qcmb_mpi.scheduling.widths import Widths, choose_widths, end_s

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig

_WORTH_S = 0.25  # more threads must save more than two runs of one layout differ by


@dataclass(frozen=True, slots=True)
class Grant:
    """What a run may use of each node, where its pool has more.

    Parameters
    ----------
    n_cores, memory_bytes : int, optional
        Default what the pool has.
    """

    n_cores: int | None = None
    memory_bytes: int | None = None

    def of(self, infos: Mapping[int, AgentInfo]) -> dict[int, AgentInfo]:
        """Return the agents as if they had no more; those of a node share it equally."""
        n_here = Counter(info.host for info in infos.values() if info.n_cores)
        return {agent: self._share(info, n_here[info.host]) for agent, info in infos.items()}

    def _share(self, info: AgentInfo, n_sharing: int) -> AgentInfo:
        if not info.n_cores:
            return info
        if self.n_cores:
            info = replace(info, n_cores=min(info.n_cores, max(1, self.n_cores // n_sharing)))
        if not self.memory_bytes:
            return info
        return replace(
            info,
            memory_bytes=_least((info.memory_bytes, self.memory_bytes // n_sharing)),
            node_memory_bytes=_least((info.node_memory_bytes, self.memory_bytes)),
        )


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

    def crowded(self, infos: Sequence[AgentInfo]) -> list[str]:
        """Say where slots share cores; each such line once."""
        layouts = ((self.layout_of(info), max(1, info.n_cores)) for info in infos)
        found = (
            crowding(size_of(each), each.n_slots * each.n_threads, n_cores)
            for each, n_cores in layouts
        )
        return list(dict.fromkeys(filter(None, found)))


def crowding(what: str, n_threads: int, n_cores: int) -> str:
    """Say that threads share cores, if there are more of them; else nothing."""
    if n_threads <= n_cores:
        return ""
    times = plain(n_threads / n_cores)
    return (
        f"{what} share {counted(n_cores, 'core')}: each task is predicted to take {times} times as "
        "long as with cores of its own, so nothing is gained, and more memory is needed"
    )


def size_of(layout: Layout) -> str:
    """Return ``4 slots x 1 thread``."""
    return f"{counted(layout.n_slots, 'slot')} x {counted(layout.n_threads, 'thread')}"


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

    def chosen() -> Widths:
        if not all(each.can_widen for each in computing):
            return Widths(layout(smallest, classes, None), tuple(classes))
        return choose_widths(
            classes,
            max(1, smallest.n_cores),
            smallest.memory_bytes,
            thread_limit=thread_limit,
            n_agents=len(computing),
        )

    is_fixed = config.n_workers or config.n_threads
    n_threads = config.n_threads if is_fixed else 1
    widths = Widths(layout(smallest, classes, n_threads), tuple(classes))
    if not is_fixed:
        widths = _worth_it(chosen(), widths, len(computing))
    first = widths.layout

    unlike = {_size(each): each for each in computing}
    layouts = {
        size: layout(each, widths.narrow, first.n_threads) for size, each in unlike.items()
    } | {_size(smallest): first}
    has_larger = any(each.n_slots > first.n_slots for each in layouts.values())
    reason = first.reason + has_larger * "; more slots where there are more cores"
    told = {
        "memory_per_slot_bytes": _least(x.memory_per_slot_bytes for x in layouts.values()),
        "memory_per_agent_bytes": _least(x.memory_bytes for x in computing),
    }

    def layout_of(info: AgentInfo) -> Layout:
        if not info.n_cores and len(infos) > 1:
            return Layout(0, first.n_threads, 0, "no slots because the master is dedicated")
        return replace(layouts[_size(info)], reason=reason, **told)

    return Placement(layout_of, widths.classes, reason)


def _worth_it(chosen: Widths, narrow: Widths, n_agents: int) -> Widths:
    """Return what was chosen if its threads are predicted to be worth it, else one thread each."""
    if max(chosen.layout.n_threads, *(each.n_threads for each in chosen.classes), 1) == 1:
        return chosen
    saved_s = end_s(narrow.classes, narrow.layout, n_agents) - end_s(
        chosen.classes, chosen.layout, n_agents
    )
    if saved_s >= _WORTH_S:
        return chosen
    slots = counted(narrow.layout.n_slots, "slot")
    reason = f"{slots} x 1 thread because more threads would save less than {_WORTH_S:g} s"
    return replace(narrow, layout=replace(narrow.layout, reason=reason))


def _least(limits: Iterable[int]) -> int:
    """Return the least of some limits, 0 if there is none."""
    return min(filter(None, limits), default=0)


def _size(info: AgentInfo) -> tuple[int, int]:
    return info.n_cores, info.memory_bytes
