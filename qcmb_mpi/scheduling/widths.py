"""Hybrid parallelism: which few tasks have an agent to themselves, while the others run narrow.

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

import numpy as np

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import (
    Layout,
    Work,
    choose_layout,
    counted,
    dealt,
    divisions,
    fraction_of,
    in_gb,
    most_slots,
    seconds_on,
    with_threads,
)

_MOST_WIDE = 256
_ALL_TRIED = 16
_GROWTH = 1.25
_MARGIN = 0.1  # by which wide tasks must be sooner than narrow ones alone
_TOLERANCE = 0.05  # by which they may be later if others are narrower then, and waste less
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
        With wide tasks only if that is predicted to be sooner by a tenth than one core each, or
        to leave memory for more slots; never later by 5 % than any one number of slots and threads
        for all.

    Raises
    ------
    ValueError
        A number below 1.
    """
    plain = choose_layout(
        classes,
        n_cores,
        memory_bytes,
        thread_limit=thread_limit,
        n_agents=n_agents,
        parallel_fraction=parallel_fraction,
    )
    cores = _Cores(n_agents, n_cores, min(n_cores, thread_limit or n_cores), memory_bytes or 0)
    everything = Work.of(classes, parallel_fraction)
    best, best_s = Widths(plain, tuple(classes)), math.inf
    if not everything.n_tasks or not (cores.width > 1 or cores.are_short_of_memory(everything)):
        return best
    plain_s = everything.end_s(np.zeros(plain.n_slots * n_agents), plain.n_threads)
    soonest_s, narrow_s = cores.fixed_s(everything)
    for parts in cores.parts(classes, everything, parallel_fraction):
        split = _split(classes, parts, cores.width, parallel_fraction)
        narrow = Work.of([each for each in split if not each.n_threads], parallel_fraction)
        end_s, n_threads = cores.end_s(split, narrow)
        is_narrower = n_threads < plain.n_threads
        limit_s = soonest_s * (1 + _TOLERANCE) if is_narrower else plain_s * (1 - _MARGIN)
        if cores.n_slots(narrow) == cores.n_slots(everything):
            limit_s = min(limit_s, narrow_s * (1 - _MARGIN))
        if end_s < min(limit_s, _WORTH_MORE * best_s):
            why = cores.why(everything, narrow, split, narrow_s / end_s)
            layout = with_threads(narrow, n_threads, n_cores, cores.limit_bytes, why)
            layout = replace(layout, reason=f"{_first(split)} first, then {layout.reason}")
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

    def are_short_of_memory(self, narrow: Work) -> bool:
        return self.n_slots(narrow) < self.n_cores

    def fixed_s(self, everything: Work) -> tuple[float, float]:
        """Predict the ends of the soonest layout for all, and of the one with most slots."""
        ends_s = [
            everything.end_s(np.zeros(n_slots * self.n_agents), n_threads)
            for n_slots, n_threads in divisions(self.n_cores, self.n_slots(everything), self.width)
        ]
        return min(ends_s), ends_s[0]

    def end_s(self, split: Sequence[TaskClass], narrow: Work) -> tuple[float, int]:
        """Predict the end, and the threads of the others with which it is soonest.

        Cores are left over by the most slots only where memory is short.
        """
        if not narrow.n_tasks:
            return math.inf, 1
        wide = [(each.n_tasks, each.cost_s + _SETTLING_S) for each in split if each.n_threads]
        starts_s = dealt(np.zeros(self.n_agents), wide)
        options = divisions(self.n_cores, self.n_slots(narrow), self.width)
        ends = [
            (narrow.end_s(np.repeat(starts_s, n_slots), n_threads), -n_slots, n_threads)
            for n_slots, n_threads in options[: 2 if self.are_short_of_memory(narrow) else 1]
        ]
        end_s, _, n_threads = min(ends)
        return end_s, n_threads

    def parts(
        self, classes: Sequence[TaskClass], everything: Work, fraction: float
    ) -> Iterator[dict[int, int]]:
        """Yield how many tasks of each class are wide, for some choices of few.

        They are the dearest that thread, or, where memory is short, the largest.
        """
        threading = [i for i, each in enumerate(classes) if fraction_of(each, fraction) > 0]
        if self.width > 1:
            yield from _fews(classes, sorted(threading, key=lambda i: -classes[i].cost_s))
        if self.are_short_of_memory(everything):
            largest = sorted(range(len(classes)), key=lambda i: -classes[i].memory_bytes)
            yield from _fews(classes, largest)

    def why(self, everything: Work, narrow: Work, split: Sequence[TaskClass], ratio: float) -> str:
        """Say in one sentence for people why some tasks are wide."""
        n_wide = sum(each.n_tasks for each in split if each.n_threads)
        they = "it" if n_wide == 1 else "they"
        n_slots, n_threads = self.n_slots(everything), self.n_threads(everything)
        if n_slots < self.n_slots(narrow):
            size = in_gb(everything.largest_bytes)
            room = f"{counted(n_slots, 'slot')} x {counted(n_threads, 'thread')}"
            return f"{they} may need {size}, which would leave {room} for all"
        share = 1 - narrow.total_s / everything.total_s
        return (
            f"{they} {'is' if n_wide == 1 else 'are'} {share:.0%} of all work: "
            f"{counted(n_threads, 'thread')} each would take {ratio:.1f} times as long"
        )


def _first(split: Sequence[TaskClass]) -> str:
    wide = [each for each in split if each.n_threads]
    tasks = counted(sum(each.n_tasks for each in wide), "task")
    n_threads = max(each.n_threads for each in wide)
    return f"{tasks} x {counted(n_threads, 'thread')}" if n_threads > 1 else f"{tasks} alone"


def _fews(classes: Sequence[TaskClass], order: Sequence[int]) -> Iterator[dict[int, int]]:
    """Yield the first few tasks in an order of classes, for some fews, as numbers by class."""
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
            part = fraction_of(each, fraction)
            n_threads = width if part > 0 else 1
            cost_s, key = seconds_on(n_threads, each.cost_s, part), (each.key, n_threads)
            wide = replace(each, ids=each.ids[:n], cost_s=cost_s, key=key, n_threads=n_threads)
            split.append(wide)
        if n < each.n_tasks or not each.n_tasks:
            split.append(replace(each, ids=each.ids[n:]) if n else each)
    return tuple(split)


def end_s(classes: Sequence[TaskClass], layout: Layout, n_agents: int = 1) -> float:
    """Predict when equal agents are through with tasks, the wide ones first, in seconds."""
    wide = [(each.n_tasks, each.cost_s) for each in classes if each.n_threads]
    starts_s = np.repeat(dealt(np.zeros(n_agents), wide), layout.n_slots)
    return Work.of([each for each in classes if not each.n_threads]).end_s(
        starts_s, layout.n_threads
    )
