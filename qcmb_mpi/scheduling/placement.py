"""How many tasks at once, and how wide each: slots times threads.

Rules of this file
------------------
1. Never more threads than cores unless the user's own numbers say so.
2. Memory first: a layout whose slots could not all hold the largest task is not considered.
3. Every layout says why, in one sentence for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.scheduling.messages import TaskClass

Times = NDArray[np.float64]
Number = TypeVar("Number", float, NDArray[np.float64])

_MOST_DEALT_OUT = 128  # classes; fewer, at least the second number, on thousands of slots
_FEWEST_DEALT_OUT = 8
_N_AT_ONCE = 2**17
_NEARLY = 1e-9
# What is predicted to end within this share of the soonest goes to more slots: predictions of two
# layouts are off by more against each other, and narrow tasks waste nothing.
_TIE = 0.05
_TINY_S = 1e-9
_TOLD_SHARE = 0.01
_SERIAL_S = 0.1  # of every calculation: what a program does before and after the heavy part

# Part of a calculation that threads speed up, by families of scheduling.cost: what threads gain
# where a task is large enough that one would give it many. Those of correlated methods are PySCF's
# at 2 to 5 s, where seconds outside of parallel regions grow with the task.
PARALLEL_FRACTIONS = {
    "dispersion": 0.0,
    "semiempirical": 0.5,
    "scf": 0.9,
    "dft": 0.9,
    "mp2": 0.75,
    "ccsd": 0.65,
    "ccsd(t)": 0.7,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How an agent's cores are divided.

    Parameters
    ----------
    n_slots : int
        Tasks at once.
    n_threads : int
        Threads of each.
    memory_per_slot_bytes : int
        What a task may be told that it has; 0 when no limit is known.
    reason : str
        Why this layout.
    memory_per_agent_bytes : int
        What a task that has the agent's cores for itself may be told; 0 for all that the agent has.
    """

    n_slots: int
    n_threads: int
    memory_per_slot_bytes: int
    reason: str
    memory_per_agent_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Tasks in numbers.

    Parameters
    ----------
    sizes : ndarray, shape (n_classes, 3)
        Of each class the number of tasks, the seconds of one on one thread, and the part of them
        that threads speed up.
    n_tasks : int
    total_s, longest_s : float
    largest_bytes : int
    """

    sizes: Times
    n_tasks: int
    total_s: float
    longest_s: float
    largest_bytes: int

    @classmethod
    def of(cls, classes: Sequence[TaskClass], parallel_fraction: float = 0.85) -> Work:
        """Sum classes up; `parallel_fraction` is for those of which it is unknown."""
        filled = [each for each in classes if each.n_tasks]
        sizes = np.array(
            [(each.n_tasks, each.cost_s, fraction_of(each, parallel_fraction)) for each in filled]
        ).reshape(-1, 3)
        n_tasks, cost_s = sizes[:, 0], np.maximum(sizes[:, 1], _TINY_S)
        sizes[:, 1] = cost_s
        return cls(
            sizes,
            int(n_tasks.sum()),
            float((n_tasks * cost_s).sum()),
            float(cost_s.max(initial=0.0)),
            max((each.memory_bytes for each in filled), default=0),
        )

    def end_s(self, starts_s: Times, n_threads: int) -> float:
        """Predict the end of list scheduling on slots that become free at `starts_s`."""
        n_tasks, cost_s, part = self.sizes.T
        sizes = np.column_stack([n_tasks, seconds_on(n_threads, cost_s, part)])
        return float(dealt(starts_s, sizes).max(initial=0.0))


def fraction_of(each: TaskClass, default: float) -> float:
    """Return the part of a class's tasks that threads speed up."""
    return default if each.parallel_fraction is None else each.parallel_fraction


def dealt(starts_s: Times, sizes: ArrayLike) -> Times:
    """Deal tasks to slots, longest first, and return when each slot ends.

    Parameters
    ----------
    starts_s : ndarray, shape (n_slots,)
        When each becomes free.
    sizes : array_like, shape (n_classes, 2)
        Number of tasks and seconds of each; beyond the longest few kinds they count as sand, which
        fills what is left.

    Returns
    -------
    ndarray, shape (n_slots,)
        In ascending order.
    """
    ends_s = np.sort(starts_s)
    if not len(ends_s):
        return ends_s
    kinds = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
    kinds = kinds[kinds[:, 0] > 0]
    kinds = kinds[np.argsort(-kinds[:, 1], kind="stable")]
    n_kinds = max(_FEWEST_DEALT_OUT, min(_MOST_DEALT_OUT, _N_AT_ONCE // len(ends_s)))
    for n, cost_s in kinds[:n_kinds].tolist():
        ends_s = _with_equal(ends_s, int(n), cost_s)
    rest_s = float(kinds[n_kinds:].prod(axis=1).sum())
    return np.maximum(ends_s, _level(ends_s, rest_s)) if rest_s else ends_s


def _with_equal(ends_s: Times, n: int, cost_s: float) -> Times:
    """Deal `n` equal tasks, each to the slot that is free first, without a step for each of them.

    What starts a whole task below the level to which they would fill the slots as sand does so
    surely; of the rest every slot gets one more at most.
    """
    room = np.maximum(_level(ends_s, n * cost_s) - ends_s, 0.0)
    n_of = np.floor(room / cost_s + _NEARLY)
    ends_s = np.sort(ends_s + n_of * cost_s)
    ends_s[: max(0, n - int(n_of.sum()))] += cost_s
    return np.sort(ends_s)


def _level(ends_s: Times, work_s: float) -> float:
    """Return up to where work that can be divided at will fills slots, the shortest first."""
    levels = (np.cumsum(ends_s) + work_s) / np.arange(1, len(ends_s) + 1)
    is_filled = levels[:-1] <= ends_s[1:]
    return float(levels[int(is_filled.argmax()) if is_filled.any() else -1])


def choose_layout(
    classes: Sequence[TaskClass],
    n_cores: int,
    memory_bytes: int | None = None,
    *,
    n_workers: int | None = None,
    n_threads: int | None = None,
    thread_limit: int | None = None,
    n_agents: int = 1,
    parallel_fraction: float = 0.85,
) -> Layout:
    """Choose slots and threads for one agent.

    Parameters
    ----------
    classes : sequence of TaskClass
        The work that is left, of all agents together.
    n_cores : int
        Cores of this agent.
    memory_bytes : int, optional
        Memory of this agent; None or 0 for no known limit.
    n_workers, n_threads : int, optional
        The user's own numbers; what is given is not changed.
    thread_limit : int, optional
        Threads that the programs can use; 1 for one that does not thread.
    n_agents : int
        Equal agents that share the work.
    parallel_fraction : float
        Part of a task that threads speed up (Amdahl's law), where its class does not say.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        A number below 1.
    """
    _check(
        n_cores=n_cores,
        n_workers=n_workers,
        n_threads=n_threads,
        thread_limit=thread_limit,
        n_agents=n_agents,
    )
    work = Work.of(classes, parallel_fraction)
    limit = memory_bytes or 0
    if n_workers is not None:
        return _as_asked(work, n_workers, n_threads, n_cores, limit, thread_limit)
    if n_threads is not None:
        asked = "was" if n_threads == 1 else "were"
        why = f"{counted(n_threads, 'thread')} per task {asked} asked for"
        return with_threads(work, n_threads, n_cores, limit, why)
    if work.n_tasks == 0:
        return _layout(most_slots(work, n_cores, limit), 1, limit, "there is nothing to do")
    widest = min(n_cores, thread_limit or n_cores)
    options = divisions(n_cores, most_slots(work, n_cores, limit), widest)
    times = [work.end_s(np.zeros(n * n_agents), t) for n, t in options]
    end_s, (n_slots, threads) = next(
        each for each in zip(times, options, strict=True) if each[0] <= min(times) * (1 + _TIE)
    )
    why = _why(work, n_slots, threads, n_cores, n_agents)
    if threads == 1 and end_s > min(times):
        why = f"more threads would save less than {_TIE:.0%}"
    return _layout(n_slots, threads, limit, _with_memory(why, work, n_cores, limit))


def with_threads(work: Work, n_threads: int, n_cores: int, limit: int, why: str) -> Layout:
    """Return the layout with as many slots of `n_threads` as cores and memory (0: any) allow."""
    n_slots = min(most_slots(work, n_cores, limit), max(1, n_cores // n_threads))
    return _layout(n_slots, n_threads, limit, _with_memory(why, work, n_cores, limit))


def divisions(n_cores: int, most: int, widest: int) -> list[tuple[int, int]]:
    """Return slots and threads that leave fewest cores idle, up to `most` of up to `widest`.

    The most slots first.
    """
    threads_of = {min(most, n_cores // n_threads): n_threads for n_threads in range(1, widest + 1)}
    return sorted(threads_of.items(), reverse=True)


def speedup(n_threads: int, parallel_fraction: Number) -> Number:
    """Return how much faster a task is on ``n_threads`` (Amdahl's law)."""
    return 1 / (1 - parallel_fraction + parallel_fraction / n_threads)


def seconds_on(n_threads: int, cost_s: Number, parallel_fraction: Number) -> Number:
    """Return the seconds of a task on ``n_threads``; of a short one threads speed up less."""
    return cost_s / speedup(n_threads, parallel_fraction * cost_s / (cost_s + _SERIAL_S))


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def most_slots(work: Work, n_cores: int, limit: int) -> int:
    """Return how many slots there may be by cores and memory (0: any)."""
    if not limit or not work.largest_bytes:
        return n_cores
    return min(n_cores, max(1, limit // work.largest_bytes))


def _as_asked(
    work: Work,
    n_workers: int,
    n_threads: int | None,
    n_cores: int,
    limit: int,
    thread_limit: int | None,
) -> Layout:
    """Return the user's slots; where each has too little memory, fewer run at once."""
    why = "both numbers were asked for"
    if n_threads is None:
        n_threads = max(1, min(n_cores // n_workers, thread_limit or n_cores))
        why = f"{counted(n_workers, 'slot')} {'was' if n_workers == 1 else 'were'} asked for"
    told = max(limit // n_workers, min(work.largest_bytes, limit))
    return replace(_layout(n_workers, n_threads, limit, why), memory_per_slot_bytes=told)


def _why(work: Work, n_slots: int, n_threads: int, n_cores: int, n_agents: int) -> str:
    """Say why the slots and cores of equal agents are divided so."""
    n_all, share = n_slots * n_agents, work.longest_s / work.total_s
    tasks = counted(work.n_tasks, "task")
    if n_threads > 1:
        longest = f", the longest being {share:.0%} of all work," if share >= _TOLD_SHARE else ""
        return f"{tasks}{longest} are done soonest that wide"
    alone = "a rank has 1 core" if n_cores == 1 < n_agents else ""
    if share * n_all > 1 + _TIE and share >= _TOLD_SHARE and work.n_tasks > n_all:
        waits = f"the longest of {tasks} is {share:.0%} of all work: other cores wait for it"
        return f"{alone}; {waits}" if alone else waits
    if alone:
        return alone
    if work.n_tasks >= 4 * n_all:
        return f"{tasks} >= 4 x {n_all} slots: one core each wastes nothing"
    return f"{tasks} on {n_cores * n_agents} cores are done soonest one core each"


def _with_memory(why: str, work: Work, n_cores: int, limit: int) -> str:
    if most_slots(work, n_cores, limit) == n_cores:
        return why
    return f"{why}; no more slots because a task may need {in_gb(work.largest_bytes)}"


def counted(n: int, word: str) -> str:
    """Return ``1 slot`` or ``2 slots``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def plain(value: float, n_digits: int = 2) -> str:
    """Write a number with so many figures, and never with an exponent."""
    rounded = float(f"{value:.{n_digits}g}")
    return f"{rounded:.12f}".rstrip("0").rstrip(".")


def in_gb(n_bytes: float, n_digits: int = 2) -> str:
    """Write an amount of memory for people: ``130 GB``, ``1.5 GB``, ``12 MB``."""
    if n_bytes >= 1e8:
        return f"{plain(n_bytes / 1e9, n_digits)} GB"
    return f"{plain(n_bytes / 1e6, n_digits)} MB"


def _layout(n_slots: int, n_threads: int, limit: int, why: str) -> Layout:
    size = f"{counted(n_slots, 'slot')} x {counted(n_threads, 'thread')}"
    return Layout(n_slots, n_threads, limit // n_slots, f"{size} because {why}")
