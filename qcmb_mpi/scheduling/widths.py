"""Hybrid parallelism: which few tasks run on all cores of an agent, while the others run narrow.

Rules of this file
------------------
1. The whole plan, the size and number of agents and the options decide, never a measured time nor
   what is left after a resume: other threads give other last bits.
2. Predictions are rough: tasks run wide only where that is predicted to win clearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import (
    Layout,
    Work,
    choose_layout,
    counted,
    dealt,
    fraction_of,
    most_slots,
    seconds_on,
    with_threads,
)

_MOST_WIDE = 256
_ALL_TRIED = 16
_GROWTH = 1.25
_MARGIN = 0.1
_MARGIN_OF_WIDER = -0.1  # all on several threads: narrow ones waste nothing, that is sure
_WORTH_MORE = 0.99
_SETTLING_S = 0.1  # emptying an agent, and giving a slot other threads twice


@dataclass(frozen=True, slots=True)
class Widths:
    """How an agent's cores are divided, and the tasks that get all of them.

    Parameters
    ----------
    layout : Layout
        Slots of the narrow tasks.
    classes : tuple of TaskClass
        All tasks; the wide ones are classes of their own with ``n_threads``.
    """

    layout: Layout
    classes: tuple[TaskClass, ...]

    @property
    def narrow(self) -> tuple[TaskClass, ...]:
        """The classes that run in ordinary slots."""
        return tuple(each for each in self.classes if not each.n_threads)


def choose_widths(
    classes: Sequence[TaskClass],
    n_cores: int,
    memory_bytes: int | None = None,
    *,
    thread_limit: int | None = None,
    n_agents: int = 1,
    parallel_fraction: float = 0.85,
) -> Widths:
    """Choose slots, threads, and the dearest tasks to run first on all cores of an agent.

    Parameters
    ----------
    classes : sequence of TaskClass
        The whole plan, as predicted before anything was measured.
    n_cores : int
        Cores of the smallest agent.
    memory_bytes : int, optional
        Memory of that agent; None or 0 for no known limit.
    thread_limit : int, optional
        Threads that the programs can use.
    n_agents : int
        Agents that share the work.
    parallel_fraction : float
        Part of a task that threads speed up, where its class does not say.

    Returns
    -------
    Widths
        With wide tasks only if that is predicted to be sooner by a tenth than one core each, and
        about as soon as any one number of threads for all.

    Raises
    ------
    ValueError
        A number below 1.
    """
    layout = choose_layout(
        classes,
        n_cores,
        memory_bytes,
        thread_limit=thread_limit,
        n_agents=n_agents,
        parallel_fraction=parallel_fraction,
    )
    plain = Widths(layout, tuple(classes))
    cores = _Cores(n_agents, n_cores, min(n_cores, thread_limit or n_cores), memory_bytes or 0)
    everything = Work.of(classes, parallel_fraction)
    if cores.width == 1 or not everything.n_tasks:
        return plain
    plain_s = everything.end_s([0.0] * layout.n_slots * n_agents, layout.n_threads)
    is_narrow = layout.n_threads == cores.n_threads(everything)
    best, best_s = plain, plain_s * (1 - (_MARGIN if is_narrow else _MARGIN_OF_WIDER)) / _WORTH_MORE
    for parts in _parts(classes, parallel_fraction):
        split = _split(classes, parts, cores.width, parallel_fraction)
        work = Work.of([each for each in split if not each.n_threads], parallel_fraction)
        end_s = cores.end_s(split, work)
        if end_s < _WORTH_MORE * best_s:
            layout = cores.layout(everything, work, sum(parts.values()), end_s)
            best, best_s = Widths(layout, split), end_s
    return best


@dataclass(frozen=True, slots=True)
class _Cores:
    """Equal agents, of which a wide task has `width` cores."""

    n_agents: int
    n_cores: int
    width: int
    limit_bytes: int

    def n_slots(self, narrow: Work) -> int:
        return most_slots(narrow, self.n_cores, self.limit_bytes)

    def n_threads(self, narrow: Work) -> int:
        return min(self.width, self.n_cores // self.n_slots(narrow))

    def end_s(self, split: Sequence[TaskClass], narrow: Work) -> float:
        """Predict the end; infinite if the others are as wide."""
        n_slots, n_threads = self.n_slots(narrow), self.n_threads(narrow)
        if not narrow.n_tasks or n_threads == self.width:
            return math.inf
        wide = [(each.n_tasks, each.cost_s + _SETTLING_S) for each in split if each.n_threads]
        starts_s = [at_s for at_s in dealt([0.0] * self.n_agents, wide) for _ in range(n_slots)]
        return narrow.end_s(starts_s, n_threads)

    def layout(self, everything: Work, narrow: Work, n_wide: int, end_s: float) -> Layout:
        """Return the slots of the others, and why, in one sentence."""
        share = 1 - narrow.total_s / everything.total_s
        n_threads = self.n_threads(everything)
        narrow_s = everything.end_s([0.0] * self.n_slots(everything) * self.n_agents, n_threads)
        why = (
            f"{'it is' if n_wide == 1 else 'they are'} {share:.0%} of all work: "
            f"{counted(n_threads, 'thread')} each would take {narrow_s / end_s:.1f} times as long"
        )
        n_threads = self.n_threads(narrow)
        layout = with_threads(narrow, n_threads, self.n_cores, self.limit_bytes, why)
        first = f"{counted(n_wide, 'task')} x {counted(self.width, 'thread')} first, then "
        return replace(layout, reason=first + layout.reason)


def _parts(classes: Sequence[TaskClass], fraction: float) -> Iterator[dict[int, int]]:
    """Yield how many tasks of each class are among the few dearest that thread, for some fews."""
    order = sorted(
        (index for index, each in enumerate(classes) if fraction_of(each, fraction) > 0),
        key=lambda index: -classes[index].cost_s,
    )
    parts: dict[int, int] = {}
    n_wide, next_tried = 0, 1
    for index in order:
        for n_of_class in range(1, classes[index].n_tasks + 1):
            parts[index] = n_of_class
            n_wide += 1
            if n_wide == next_tried:
                yield dict(parts)
                next_tried += max(1, int((_GROWTH - 1) * n_wide)) if n_wide >= _ALL_TRIED else 1
            if n_wide == _MOST_WIDE:
                return


def _split(
    classes: Sequence[TaskClass], parts: dict[int, int], width: int, fraction: float
) -> tuple[TaskClass, ...]:
    """Return the classes with the first few tasks of some made wide."""
    split: list[TaskClass] = []
    for index, each in enumerate(classes):
        n = parts.get(index, 0)
        if n:
            cost_s = seconds_on(width, each.cost_s, fraction_of(each, fraction))
            key = (each.key, width)
            wide = replace(each, ids=each.ids[:n], cost_s=cost_s, key=key, n_threads=width)
            split.append(wide)
        if n < each.n_tasks or not each.n_tasks:
            split.append(replace(each, ids=each.ids[n:]) if n else each)
    return tuple(split)


def end_s(classes: Sequence[TaskClass], layout: Layout, n_agents: int = 1) -> float:
    """Predict when equal agents are through with tasks, the wide ones first, in seconds."""
    wide = [(each.n_tasks, each.cost_s) for each in classes if each.n_threads]
    starts_s = dealt([0.0] * n_agents, wide)
    work = Work.of([each for each in classes if not each.n_threads])
    return work.end_s([s for s in starts_s for _ in range(layout.n_slots)], layout.n_threads)
