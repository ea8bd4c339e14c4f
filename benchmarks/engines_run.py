"""The program that ``engines.py`` starts: one engine, some parts, figures as JSON in a line.

Rules of this file
------------------
1. All that is measured of an engine is measured here, by the same lines for every engine.
2. Every batch is counted by the numbers of its tasks; a result that is missing ends the program.
"""

from __future__ import annotations

import time

_IMPORTED_S = time.monotonic()

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engines_work import Work, bound_s

Figures = dict[str, float]
_SPIN = (
    "import os, sys; print(flush=True); parent = os.getppid()\n"
    "while os.getppid() == parent: sum(range(100_000))"
)


class Farm(Protocol):
    """What is measured."""

    def prepare(self, work: Work, n_tasks: int) -> Callable[[], Callable[[], int]]:
        """Return what runs a batch and then gives what counts the tasks that are done."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Parameters
    ----------
    batch_s : float
        How long a batch of tasks that do nothing should last.
    n_spins, n_brief : tuple of int
        Tasks of 1, 5 and 50 ms: for at least 12 s on three workers, and for one.
    n_sleeps, n_seconds : int
        Tasks of 0.3 s and of 1 s, a worker.
    n_uneven : int
        Tasks for the tail.
    n_queued : tuple of int
        Tasks of two batches for the memory.
    """

    batch_s: float = 1.0
    n_spins: tuple[int, int, int] = (36_000, 7_200, 1_440)
    n_brief: tuple[int, int, int] = (3_000, 600, 60)
    n_sleeps: int = 13
    n_seconds: int = 5
    n_uneven: int = 300
    n_queued: tuple[int, int] = (10_000, 30_000)


SMALL = Sizes(0.05, (50, 10, 4), (50, 10, 4), 1, 1, 10, (200, 500))
_QUEUED = dict.fromkeys(("ours-processes", "ours-mpi"), (80_000, 240_000)) | dict.fromkeys(
    # Some only where cores are short.
    ("dask", "executorlib", "hand-written", "parsl", "schwimmbad"),
    (1_000, 3_000),
)
_SPINS_MS = (1, 5, 50)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was run: its tasks, its wall time and the master's processor time."""

    n_tasks: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Tasks in a second."""
        return self.n_tasks / self.wall_s


def timed(farm: Farm, work: Work, n_tasks: int) -> Batch:
    """Run a batch and make sure that every task of it was done."""
    run = farm.prepare(work, n_tasks)
    cpu_s, began_s = time.process_time(), time.perf_counter()
    count = run()
    batch = Batch(n_tasks, time.perf_counter() - began_s, time.process_time() - cpu_s)
    if (n_done := count()) != n_tasks:
        raise SystemExit(f"{n_done} of {n_tasks} tasks were done")
    return batch


def idle(farm: Farm, batch_s: float, most: int = 100_000) -> Batch:
    """Find out how many tasks that do nothing last about as long as `batch_s`; run them."""
    n_tasks = min(200, most)
    while (batch := timed(farm, Work(), n_tasks)).wall_s < 0.5 * batch_s and n_tasks < most:
        n_tasks = min(most, int(n_tasks * min(10.0, 1.0 + batch_s / batch.wall_s)))
    return timed(farm, Work(), n_tasks)


# ---- parts -----------------------------------------------------------------------------------


def start(_farm: Farm, _sizes: Sizes, _n_workers: int) -> Figures:
    """Measure nothing more: the first result is always timed."""
    return {}


def rate(farm: Farm, sizes: Sizes, _n_workers: int) -> Figures:
    """Measure how many tasks that do nothing an engine gets done in a second."""
    batch = idle(farm, sizes.batch_s)
    return {
        "per_s": batch.per_s,
        "n_tasks": batch.n_tasks,
        "master_us": 1e6 * batch.cpu_s / batch.n_tasks,
    }


def profile(farm: Farm, sizes: Sizes, _n_workers: int) -> Figures:
    """Measure what the master's processor time for a task that does nothing goes into, in us."""
    import engines_profile

    n_tasks = idle(farm, sizes.batch_s).n_tasks
    run = farm.prepare(Work(), n_tasks)
    with engines_profile.sampled() as seconds:
        run()
    return {name: 1e6 * each_s / n_tasks for name, each_s in seconds.items()}


def efficiency(farm: Farm, sizes: Sizes, n_workers: int) -> Figures:
    """Measure the share of the workers' time that goes into tasks of 1, 5 and 50 ms."""
    return _shares(farm, sizes.n_spins, n_workers)


def brief(farm: Farm, sizes: Sizes, n_workers: int) -> Figures:
    """Measure the same in batches of a second, which are mostly beginning and end."""
    return _shares(farm, sizes.n_brief, n_workers)


def _shares(farm: Farm, n_spins: tuple[int, int, int], n_workers: int) -> Figures:
    timed(farm, Work("spin", 0.001), 10 * n_workers)
    found = {}
    for ms, n_tasks in zip(_SPINS_MS, n_spins, strict=True):
        work = Work("spin", 0.001 * ms)
        batch = timed(farm, work, n_tasks)
        found[f"at_{ms}_ms"] = n_tasks * work.seconds / (n_workers * batch.wall_s)
    return found


def foreign(farm: Farm, sizes: Sizes, _n_workers: int) -> Figures:
    """Measure how much slower it is when every core is kept busy by others."""
    before = idle(farm, sizes.batch_s)
    with spinners(os.cpu_count() or 1):
        # As large a batch as before, unless that takes too long: each has a fixed cost.
        among = idle(farm, 8 * sizes.batch_s, before.n_tasks)
    after = timed(farm, Work(), before.n_tasks)
    quiet = 0.5 * (before.per_s + after.per_s)
    return {
        "per_s_quiet": quiet,
        "per_s_among": among.per_s,
        "n_tasks_among": among.n_tasks,
        "slowdown": quiet / among.per_s,
    }


def memory(farm: Farm, sizes: Sizes, _n_workers: int) -> Figures:
    """Measure by how much the master grows for a queued task, arguments made beforehand aside.

    Tasks spin for a millisecond: of those that do nothing, ours would have more results on their
    way to the disk, a second's, than its queue is large. The first batch is large enough for what
    has a fixed size to be full: ours has 64 MB of pages of the store.
    """
    work = Work("spin", 0.001)
    batches = [(n_tasks, farm.prepare(work, n_tasks)) for n_tasks in sizes.n_queued]
    peaks = []
    for n_tasks, run in batches:
        if (n_done := run()()) != n_tasks:
            raise SystemExit(f"{n_done} of {n_tasks} tasks were done")
        peaks.append(peak_bytes())
    (less, _), (more, _) = batches
    return {"kb": (peaks[1] - peaks[0]) / (more - less) / 1024, "peak_mb": peaks[1] / 1e6}


def tail(farm: Farm, sizes: Sizes, n_workers: int) -> Figures:
    """Measure how much longer than need be uneven tasks take, of which nobody knows how long."""
    work = Work("sleep", 0.02, 1.0)
    timed(farm, Work(), 10 * n_workers)
    batch = timed(farm, work, sizes.n_uneven)
    return {"over_bound": batch.wall_s / bound_s(work, sizes.n_uneven, n_workers)}


def sleep(farm: Farm, sizes: Sizes, n_workers: int) -> Figures:
    """Measure how many workers are used on average by tasks that sleep for 0.3 s."""
    work, n_tasks = Work("sleep", 0.3), sizes.n_sleeps * n_workers
    timed(farm, Work(), 10 * n_workers)
    return {"n_used": n_tasks * work.seconds / timed(farm, work, n_tasks).wall_s}


def master(farm: Farm, sizes: Sizes, n_workers: int) -> Figures:
    """Measure the share of a core that the master takes while tasks of a second run."""
    timed(farm, Work(), 10 * n_workers)
    batch = timed(farm, Work("sleep", 1.0), sizes.n_seconds * n_workers)
    return {"share": batch.cpu_s / batch.wall_s}


PARTS: dict[str, Callable[[Farm, Sizes, int], Figures]] = {
    "start": start,
    "rate": rate,
    "profile": profile,
    "efficiency": efficiency,
    "brief": brief,
    "foreign": foreign,
    "memory": memory,
    "tail": tail,
    "sleep": sleep,
    "master": master,
}


def peak_bytes() -> int:
    """Return the most memory that this process has had; getrusage counts who started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextlib.contextmanager
def spinners(n_cores: int) -> Iterator[None]:
    """Keep every core busy; should this process be killed, they end by themselves."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SPIN],
            stdout=subprocess.PIPE,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, range(n_cores)),
        )
        for _ in range(n_cores)
    ]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


# ---- the program -----------------------------------------------------------------------------


def measure(options: argparse.Namespace, farm: Farm) -> dict[str, Figures]:
    """Have the first result, then measure every part."""
    timed(farm, Work(), 1)
    found = {"start": {"first_s": time.monotonic() - options.began}}
    n_queued = _QUEUED.get(options.engine, Sizes().n_queued)
    sizes = SMALL if options.small else Sizes(n_queued=n_queued)
    for name in options.part:
        found[name] = found.get(name, {}) | PARTS[name](farm, sizes, options.workers)
    return found


def on_engine(options: argparse.Namespace, folder: Path) -> Any:
    """Start the engine and measure it; return None where this process only served."""
    measuring = functools.partial(measure, options)
    if options.engine.startswith("ours"):
        # As in our own command, QCEngine is left to the slots: ``import qcmb_mpi`` by a user's
        # script registers programs with it, which takes a second.
        sys.orig_argv[:] = [sys.executable, "-m", "qcmb_mpi"]
        import engines_server

        is_mpi = options.engine == "ours-mpi"
        server = engines_server.started(is_mpi=is_mpi, has_programs=options.programs)
        import engines_ours

        if is_mpi:
            return engines_ours.on_ranks(folder, measuring, server, is_dedicated=options.dedicated)
        return engines_ours.on_processes(options.workers, folder, measuring, server)
    import engines_rivals

    return engines_rivals.measured(options.engine, options.workers, folder, measuring)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("engine")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), required=True)
    parser.add_argument("--workers", type=int, required=True, metavar="N")
    parser.add_argument("--dedicated", action="store_true", help="ours: rank 0 computes nothing")
    parser.add_argument("--programs", action="store_true", help="ours: slots import QCEngine")
    parser.add_argument("--began", type=float, default=_IMPORTED_S, help="on the monotonic clock")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = on_engine(options, Path(folder))
    if found is not None:
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
