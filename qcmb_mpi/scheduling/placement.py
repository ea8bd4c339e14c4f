"""How many tasks at once, and how wide each: slots times threads.

Rules of this file
------------------
1. Never more threads than cores unless the user fixed both numbers.
2. Memory first: a layout whose slots could not all hold the largest task is not considered.
3. Every layout says why, in one sentence for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcmb_mpi.scheduling.cost import LoadBalancer
from qcmb_mpi.scheduling.messages import TaskClass

_N_DEALT_OUT = 256


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
    """

    n_slots: int
    n_threads: int
    memory_per_slot_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Work:
    """The work in numbers."""

    classes: tuple[tuple[int, float], ...]
    n_agents: int
    n_tasks: int
    total_s: float
    longest_s: float
    largest_bytes: int

    @classmethod
    def of(cls, classes: Sequence[TaskClass], n_agents: int) -> _Work:
        sizes = tuple((c.n_tasks, max(c.cost_s, 1e-9)) for c in classes if c.n_tasks)
        return cls(
            sizes,
            n_agents,
            sum(n for n, _ in sizes),
            sum(n * cost for n, cost in sizes),
            max((cost for _, cost in sizes), default=0.0),
            max((c.memory_bytes for c in classes if c.n_tasks), default=0),
        )

    def makespan_s(self, n_slots: int) -> float:
        """Predict the end on one thread each: exactly while tasks are few, else by its bound."""
        n_workers = n_slots * self.n_agents
        if self.n_tasks > _N_DEALT_OUT:
            return max(self.longest_s, self.total_s / n_workers)
        costs = [cost for n, cost in self.classes for _ in range(n)]
        return LoadBalancer().distribute_work(costs, n_workers).makespan_s


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
        Part of a task that threads speed up (Amdahl's law).

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
    work = _Work.of(classes, n_agents)
    limit = memory_bytes or 0
    if n_workers is not None:
        return _as_asked(n_workers, n_threads, n_cores, limit, thread_limit)
    most, is_memory_bound = _most_slots(work, n_cores, limit)
    if n_threads is not None:
        n_slots = min(most, max(1, n_cores // n_threads))
        why = f"{n_threads} threads per task were asked for"
        return _layout(n_slots, n_threads, limit, _with_memory(why, is_memory_bound, work))
    if work.n_tasks == 0:
        return _layout(most, 1, limit, "there is nothing to do")
    widest = min(n_cores, thread_limit or n_cores)
    options = [(n, min(widest, n_cores // n)) for n in range(1, most + 1)]
    times = [work.makespan_s(n) / speedup(t, parallel_fraction) for n, t in options]
    # A tie goes to more slots: predictions are rough, and narrow tasks waste nothing.
    best = min(range(len(options)), key=lambda i: (round(times[i] / min(times), 3), -options[i][0]))
    n_slots, threads = options[best]
    why = _why(work, n_slots, threads, n_cores)
    return _layout(n_slots, threads, limit, _with_memory(why, is_memory_bound, work))


def speedup(n_threads: int, parallel_fraction: float) -> float:
    """Return how much faster a task is on ``n_threads`` (Amdahl's law)."""
    return 1 / (1 - parallel_fraction + parallel_fraction / n_threads)


def _check(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _most_slots(work: _Work, n_cores: int, limit: int) -> tuple[int, bool]:
    """Return how many slots there may be, and whether memory is what limits them."""
    if not limit or not work.largest_bytes:
        return n_cores, False
    fitting = max(1, limit // work.largest_bytes)
    return min(n_cores, fitting), fitting < n_cores


def _as_asked(
    n_workers: int, n_threads: int | None, n_cores: int, limit: int, thread_limit: int | None
) -> Layout:
    if n_threads is not None:
        return _layout(n_workers, n_threads, limit, "both numbers were asked for")
    threads = max(1, min(n_cores // n_workers, thread_limit or n_cores))
    return _layout(n_workers, threads, limit, f"{n_workers} slots were asked for")


def _why(work: _Work, n_slots: int, n_threads: int, n_cores: int) -> str:
    tasks = f"{work.n_tasks} task{'s' if work.n_tasks != 1 else ''}"
    if n_threads == 1 and work.n_tasks >= 4 * n_slots:
        return f"{tasks} >= 4 x {n_slots} slots: one core each wastes nothing"
    if n_threads == 1:
        return f"{tasks} on {n_cores} cores are done soonest one core each"
    share = work.longest_s / work.total_s
    return f"{tasks}, the longest being {share:.0%} of all work, are done soonest that wide"


def _with_memory(why: str, is_memory_bound: bool, work: _Work) -> str:
    if not is_memory_bound:
        return why
    return f"{why}; no more slots because a task may need {work.largest_bytes / 1e9:.2g} GB"


def _layout(n_slots: int, n_threads: int, limit: int, why: str) -> Layout:
    slots = f"{n_slots} slot{'s' if n_slots != 1 else ''}"
    threads = f"{n_threads} thread{'s' if n_threads != 1 else ''}"
    return Layout(n_slots, n_threads, limit // n_slots, f"{slots} x {threads} because {why}")
