"""Fragments in parallel and threads inside each: one place to ask, for scripts of one's own.

A run needs none of this: it chooses its layout, sets threads and pins slots by itself, from the
same rooms. Here are they under the names that users of parallel QCManyBody know.

Rules of this file
------------------
1. Thin faces: machine/ measures, scheduling/placement.py decides, thread_config.py knows programs.
2. Never more threads than cores: what was asked for beyond that is cut, and the reason says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.host import HostShare, host_share
from qcmb_mpi.machine import affinity
from qcmb_mpi.machine.affinity import Pinning
from qcmb_mpi.machine.usage import ThreadUsageStats, UsageMonitor
from qcmb_mpi.programs.thread_config import QCThreadConfig, can_use_cores, configure_program
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout, choose_layout

Strategy = Literal["balanced", "adaptive", "memory_aware"]

ParallelConfig = ExecutorConfig
"""The name of :class:`ExecutorConfig` in the documents of parallel QCManyBody."""


@dataclass(frozen=True, slots=True)
class HybridParallelConfig(ExecutorConfig):
    """Fragments in parallel, each on several threads; any executor takes it.

    Parameters
    ----------
    qc_threads_per_fragment : int, optional
        Threads of one calculation, the same as ``n_threads``; default by the strategy.
    enable_thread_affinity : bool
        Whether each worker gets cores of its own; False is the same as ``is_pinned=False``.
    thread_allocation_strategy : {"memory_aware", "adaptive", "balanced"}
        *balanced*: the same threads for everyone, one unless said otherwise. *adaptive*: by the
        predicted work. *memory_aware*: by the work, and no more workers than memory allows; a run
        by an executor always looks at memory.
    max_total_threads : int, optional
        Workers times threads on this node (of each rank under MPI); default all its cores. In an
        executor a limit below the cores fixes the layout: as many workers as it leaves room for.

    Raises
    ------
    InputError
        A value is not acceptable, or two fields say different things.
    """

    qc_threads_per_fragment: int | None = None
    enable_thread_affinity: bool = True
    thread_allocation_strategy: Strategy = "memory_aware"
    max_total_threads: int | None = None

    def __post_init__(self) -> None:
        ExecutorConfig.__post_init__(self)
        for name in ("qc_threads_per_fragment", "max_total_threads"):
            _check_count(name, getattr(self, name))
        _check_strategy(self.thread_allocation_strategy)
        self._fix("is_pinned", self.is_pinned and self.enable_thread_affinity)
        threads, most = self.qc_threads_per_fragment, self.max_total_threads
        if threads is not None and self.n_threads not in (None, threads):
            raise InputError(
                "qc_threads_per_fragment", f"but n_threads is {self.n_threads}", value=threads
            )
        if threads is None:
            is_balanced = self.thread_allocation_strategy == "balanced"
            threads = self.n_threads or (1 if is_balanced else None)
        if threads is not None and most is not None and threads > most:
            raise InputError("max_total_threads", f"is less than {threads} threads", value=most)
        self._fix("n_threads", threads)
        self._fix_workers()

    def _fix_workers(self) -> None:
        most = self.max_total_threads
        if most is None or self.n_workers is not None or most >= host_share().info.n_cores:
            return
        self._fix("n_threads", self.n_threads or 1)
        self._fix("n_workers", most // (self.n_threads or 1))

    def _fix(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class ThreadAllocation:
    """Who gets which cores of this node.

    Parameters
    ----------
    fragment_workers : int
        Calculations at once.
    qc_threads_per_worker : int
        Threads of each.
    total_threads_used : int
        Their product.
    cpu_affinity_map : dict of int to list of int
        CPUs of each worker, counted from 0; empty where workers are not to be pinned.
    memory_per_worker_bytes : int
        Memory of each calculation; 0 if no limit is known.
    reason : str
        Why this layout, in one sentence for people.
    """

    fragment_workers: int
    qc_threads_per_worker: int
    total_threads_used: int
    cpu_affinity_map: dict[int, list[int]] = field(default_factory=dict)
    memory_per_worker_bytes: int = 0
    reason: str = ""


class QCThreadManager:
    """Configures threads of programs, divides cores among workers, pins them and measures them.

    Parameters
    ----------
    config : HybridParallelConfig, optional
        Defaults for what a call leaves open.
    share : HostShare, optional
        Cores and memory to divide; default all that is granted on this node.
    """

    def __init__(
        self, config: HybridParallelConfig | None = None, *, share: HostShare | None = None
    ) -> None:
        self.config = config or HybridParallelConfig()
        self._share = share or host_share(memory_bytes=self.config.memory_bytes)
        most = self.config.max_total_threads or self.n_cores_granted
        self.n_cores = min(self.n_cores_granted, most)
        self._allocation: ThreadAllocation | None = None
        self._usage = UsageMonitor(n_cores=self.n_cores)

    @property
    def n_cores_granted(self) -> int:
        """Cores that this process may use."""
        return self._share.info.n_cores

    def configure_qc_threads(
        self,
        qc_program: str,
        threads_per_calc: int | None = None,
        total_workers: int = 1,
        *,
        memory_bytes: int | None = None,
        mpiexec_command: str | None = None,
    ) -> QCThreadConfig:
        """Tell what one calculation of a program is to be given.

        Parameters
        ----------
        qc_program : str
            QCEngine's name.
        threads_per_calc : int, optional
            Cores of one calculation; default an equal share of all.
        total_workers : int
            Calculations that run at once on this node.
        memory_bytes : int, optional
            Memory of one calculation; default an equal share of the limit.
        mpiexec_command : str, optional
            For programs that are parallel by MPI alone, as for
            :func:`~qcmb_mpi.programs.thread_config.configure_program`.

        Returns
        -------
        QCThreadConfig
            Never with more threads than the workers' share of the cores.

        Raises
        ------
        InputError
            A number is below 1.
        """
        _check_count("total_workers", total_workers)
        _check_count("threads_per_calc", threads_per_calc)
        _check_count("memory_bytes", memory_bytes)
        share = max(1, self.n_cores // total_workers)
        asked = threads_per_calc or self.config.n_threads or share
        made = configure_program(
            qc_program,
            min(asked, share),
            memory_bytes or self._share.info.memory_bytes // total_workers,
            mpiexec_command=mpiexec_command,
        )
        if asked <= share or made.threads_per_calculation < share:
            return made
        cut = f"{asked} threads for each of {total_workers} are more than {self.n_cores} cores"
        return replace(made, reason=f"{made.reason}; {cut}")

    def allocate_thread_resources(
        self,
        fragment_workers: int | None = None,
        qc_threads_per_worker: int | None = None,
        *,
        costs: Sequence[float] = (),
        task_memory_bytes: int = 0,
        programs: Sequence[str] = (),
        strategy: Strategy | None = None,
    ) -> ThreadAllocation:
        """Divide the cores among workers.

        Parameters
        ----------
        fragment_workers, qc_threads_per_worker : int, optional
            What is fixed; default by the configuration, then by the strategy.
        costs : sequence of float, optional
            Predicted seconds of each task on one core, or anything proportional to it.
        task_memory_bytes : int, optional
            Predicted peak of the largest task.
        programs : sequence of str, optional
            The tasks' programs; if none of them can use several cores, workers get one each.
        strategy : {"balanced", "adaptive", "memory_aware"}, optional
            Default that of the configuration.

        Returns
        -------
        ThreadAllocation

        Raises
        ------
        InputError
            A number is below 1, or the strategy is not known.
        """
        _check_count("fragment_workers", fragment_workers)
        _check_count("qc_threads_per_worker", qc_threads_per_worker)
        strategy = strategy or self.config.thread_allocation_strategy
        _check_strategy(strategy)
        limit, equal = None, ""
        workers, threads, cut = self._within_cores(
            fragment_workers or self.config.n_workers,
            qc_threads_per_worker or self.config.n_threads,
        )
        if programs and not any(can_use_cores(program) for program in programs):
            threads, limit = None, 1
            cut += f"; {', '.join(programs)}: one core for each calculation"
        memory = self._share.info.memory_bytes if strategy == "memory_aware" else 0
        if memory and task_memory_bytes and workers:
            workers = max(1, min(workers, memory // task_memory_bytes))
        if strategy == "balanced" and workers is None and threads is None:
            workers = min(self.n_cores, len(costs) or self.n_cores)
            equal = f"{self.n_cores} cores are shared equally"
        layout = choose_layout(
            _classes(costs, task_memory_bytes),
            self.n_cores,
            memory or None,
            n_workers=workers,
            n_threads=threads,
            thread_limit=limit,
        )
        if equal:
            layout = replace(
                layout, reason=f"{layout.reason.partition(' because ')[0]} because {equal}"
            )
        self._allocation = self._allocated(layout, cut)
        return self._allocation

    def set_thread_affinity(
        self, worker_id: int, thread_ids: Sequence[int] | None = None, *, pid: int = 0
    ) -> Pinning:
        """Bind a worker to its CPUs, or to those of them that the job may use.

        Parameters
        ----------
        worker_id : int
            The worker, counted from 0.
        thread_ids : sequence of int, optional
            CPUs; default its part of the last allocation.
        pid : int, optional
            The worker's process with all its threads; default the calling thread and what it
            starts.

        Returns
        -------
        Pinning
            Where it may run now, and why that differs; a refusal is no error.

        Raises
        ------
        InputError
            No CPUs are given and the last allocation has none for this worker.
        """
        if thread_ids is None:
            cpus = self._allocation.cpu_affinity_map if self._allocation else {}
            if worker_id not in cpus:
                raise InputError(
                    "worker_id", "has no CPUs: allocate first, or give thread_ids", value=worker_id
                )
            thread_ids = cpus[worker_id]
        return affinity.pin_process(thread_ids, pid)

    def monitor_thread_usage(self) -> ThreadUsageStats:
        """Tell what this process and its descendants used since the last call.

        Returns
        -------
        ThreadUsageStats
            Since the manager was made, at the first call.
        """
        found = self._usage.stats()
        self._usage.restart()
        return found

    def monitoring(
        self, pid: int | None = None, *, n_cores: int | None = None, interval_s: float = 0.5
    ) -> UsageMonitor:
        """Measure while a block runs: ``with manager.monitoring() as usage: ...; usage.stats()``.

        Parameters
        ----------
        pid : int, optional
            Root of the process tree; default this process.
        n_cores : int, optional
            Cores that are there for it; default those of the manager.
        interval_s : float, optional
            Seconds between two looks at least.

        Returns
        -------
        UsageMonitor
        """
        return UsageMonitor(pid, n_cores=n_cores or self.n_cores, interval_s=interval_s)

    def _within_cores(
        self, workers: int | None, threads: int | None
    ) -> tuple[int | None, int | None, str]:
        """Cut what was asked for down to the cores; say so."""
        most_workers = workers and min(workers, self.n_cores)
        most_threads = threads and min(threads, self.n_cores // (most_workers or 1))
        if (most_workers, most_threads) == (workers, threads):
            return workers, threads, ""
        asked = " x ".join(str(number) for number in (workers, threads) if number)
        return most_workers, most_threads, f"; {asked} would be more than {self.n_cores} cores"

    def _allocated(self, layout: Layout, cut: str) -> ThreadAllocation:
        n_slots, n_threads = layout.n_slots, layout.n_threads
        cpus: list[tuple[int, ...]] = []
        if self.config.is_pinned and self._share.cpus:
            ours = self._share.cpus[: self.n_cores] if self._is_capped else self._share.cpus
            cpus = affinity.divide(ours, self._share.topology, n_slots)
        return ThreadAllocation(
            fragment_workers=n_slots,
            qc_threads_per_worker=n_threads,
            total_threads_used=n_slots * n_threads,
            cpu_affinity_map={worker: list(part) for worker, part in enumerate(cpus)},
            memory_per_worker_bytes=self._share.info.memory_bytes // n_slots,
            reason=layout.reason + cut,
        )

    @property
    def _is_capped(self) -> bool:
        """Whether the configuration leaves some granted cores unused."""
        return self.n_cores < self.n_cores_granted


def _classes(costs: Sequence[float], memory_bytes: int) -> list[TaskClass]:
    classes, first = [], 0
    for cost_s, n_tasks in sorted(Counter(costs).items(), reverse=True):
        ids = range(first, first + n_tasks)
        classes.append(TaskClass(stage=0, ids=ids, cost_s=cost_s, memory_bytes=memory_bytes))
        first = ids.stop
    return classes


def _check_count(name: str, value: Any) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is not None and not is_count:
        accepted = "a whole number, 1 or more"
        raise InputError(name, "is not acceptable", value=value, accepted=accepted)


def _check_strategy(strategy: str) -> None:
    known = get_args(Strategy)
    if strategy not in known:
        accepted = ", ".join(known)
        name = "thread_allocation_strategy"
        raise InputError(name, "is not known", value=strategy, accepted=accepted)
