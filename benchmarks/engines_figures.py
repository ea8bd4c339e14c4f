"""The engines of ``engines.py``, what was found of them, and what must hold of ours.

Rules of this file
------------------
1. Engines are compared within a repeat only; what is told is the median of such ratios.
2. Nothing is judged that was not measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PARTS = (
    *("start", "rate", "efficiency", "brief", "foreign", "memory", "tail", "sleep", "master"),
    "profile",
)
OF_ALL = PARTS[:-1]
ON_ALL_CORES = ("sleep", "master")
N_FUNCTIONS = 12
FUNCTION = "function: "


@dataclass(frozen=True, slots=True)
class Engine:
    """What is measured.

    Parameters
    ----------
    how : str
        For the table.
    needs : str
        The module without which it cannot be.
    launcher : str
        ``mpiexec``, ``futures`` for ``mpiexec python -m mpi4py.futures``, or nothing.
    kind : str
        ``ours``; ``one`` for engines with futures that give out task by task; ``chunks`` for those
        that are told to give out 16 at once; nothing for what has no limit to set.
    parts : tuple of str
        What can be measured of it.
    """

    how: str
    needs: str = ""
    launcher: str = ""
    kind: str = ""
    parts: tuple[str, ...] = OF_ALL


ENGINES = {
    "ours-processes": Engine("qcmb_mpi, MultiprocessingExecutor", kind="ours", parts=PARTS),
    "ours-mpi": Engine("qcmb_mpi, MPIExecutor", "mpi4py", "mpiexec", "ours", PARTS),
    "pool-1": Engine("multiprocessing.Pool, chunksize 1", kind="one"),
    "pool-16": Engine("multiprocessing.Pool, chunksize 16", kind="chunks"),
    "futures": Engine("concurrent.futures.ProcessPoolExecutor", kind="one"),
    "loky": Engine("loky", "loky", kind="one"),
    "mpi4py-1": Engine("mpi4py.futures, chunksize 1", "mpi4py", "futures", "one"),
    "mpi4py-16": Engine("mpi4py.futures, chunksize 16", "mpi4py", "futures", "chunks"),
    "dask": Engine("Dask distributed, LocalCluster", "distributed", kind="one"),
    "parsl": Engine("Parsl HighThroughputExecutor", "parsl", kind="one"),
    "executorlib": Engine("executorlib SingleNodeExecutor", "executorlib", kind="one"),
    "schwimmbad": Engine("schwimmbad MPIPool", "schwimmbad", "mpiexec"),
    "hand-written": Engine("send and recv, blocking, a task ahead", "mpi4py", "mpiexec"),
    "divided": Engine("no engine: an equal share for each at once", parts=("efficiency", "brief")),
}
# Without these, nobody knows what the best of a kind is.
NEEDED = {"one": ("pool-1", "mpi4py-1"), "chunks": ("pool-16", "mpi4py-16")}

Run = dict[str, Any]


class Found:
    """The figures of all runs.

    Parameters
    ----------
    runs : sequence of dict
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self.names = [name for name in ENGINES if any(each["engine"] == name for each in runs)]

    def each(self, name: str, part: str, figure: str) -> dict[int, float]:
        """Return a figure of an engine by repeat."""
        return {
            run["repeat"]: run["figures"][part][figure]
            for run in self._runs
            if run["engine"] == name and run["figures"] is not None and part in run["parts"]
            if figure in run["figures"].get(part, {})
        }

    def figures(self, name: str, part: str) -> dict[str, float]:
        """Return all figures of a part of an engine: medians over repeats, 0 where one has none."""
        found = [
            run["figures"][part]
            for run in self._runs
            if run["engine"] == name and run["figures"] is not None and part in run["parts"]
        ]
        keys = dict.fromkeys(key for each in found for key in each)
        return {key: statistics.median(each.get(key, 0.0) for each in found) for key in keys}

    def median(self, name: str, part: str, figure: str) -> float | None:
        """Return the median over repeats; None if there is nothing."""
        values = self.each(name, part, figure).values()
        return statistics.median(values) if values else None

    def ratio(self, name: str, kind: str, part: str, figure: str) -> float | None:
        """Return the median over repeats of a figure over the best of a kind in that repeat."""
        others = [other for other in self.names if ENGINES[other].kind == kind]
        best: dict[int, float] = {}
        for other in others:
            for repeat, value in self.each(other, part, figure).items():
                best[repeat] = max(value, best.get(repeat, 0.0))
        ratios = [v / best[k] for k, v in self.each(name, part, figure).items() if k in best]
        return statistics.median(ratios) if ratios else None


COLUMNS = (
    ("tasks/s", "rate", "per_s", ",.0f"),
    ("master us/task", "rate", "master_us", ".1f"),
    ("1 ms", "efficiency", "at_1_ms", ".3f"),
    ("5 ms", "efficiency", "at_5_ms", ".3f"),
    ("50 ms", "efficiency", "at_50_ms", ".3f"),
    ("1 ms, for 1 s", "brief", "at_1_ms", ".3f"),
    ("5 ms, for 1 s", "brief", "at_5_ms", ".3f"),
    ("50 ms, for 1 s", "brief", "at_50_ms", ".3f"),
    ("foreign: slower", "foreign", "slowdown", ".2f"),
    ("start s", "start", "first_s", ".2f"),
    ("KB/task", "memory", "kb", ".2f"),
    ("tail", "tail", "over_bound", ".3f"),
    ("0.3 s: workers used", "sleep", "n_used", ".2f"),
    ("1 s: master", "master", "share", ".2%"),
)


def table(found: Found) -> str:
    """Write the medians over repeats, and ratios within them."""
    columns = [c for c in COLUMNS if any(found.each(name, *c[1:3]) for name in found.names)]
    heads = [column[0] for column in columns]
    if "tasks/s" in heads:
        heads.insert(1, "/ best one by one")
    lines = [f"| engine | how | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for name in found.names:
        cells = []
        for head, part, figure, form in columns:
            cells.append(written(found.median(name, part, figure), form))
            if head == "tasks/s":
                cells.append(written(found.ratio(name, "one", part, figure), ".2f"))
        lines.append(f"| {name} | {ENGINES[name].how} | {' | '.join(cells)} |")
    return "\n".join(lines)


def profiles(found: Found) -> str:
    """Write what our masters do with their time, and the functions that take most; may be empty."""
    told = []
    for name in found.names:
        figures = found.figures(name, "profile")
        layers = layers_of(figures)
        functions = [key for key in figures if key.startswith(FUNCTION)]
        functions.sort(key=lambda key: -figures[key])
        if figures:
            told += ["", f"| {name}, us of the master for a task | |", "|---|---:|"]
            told += [f"| {key} | {value:.2f} |" for key, value in layers.items()]
            told += [f"| together | {sum(layers.values()):.2f} |"]
            told += [f"| {key} | {figures[key]:.2f} |" for key in functions[:N_FUNCTIONS]]
    return "\n".join(told).strip()


def layers_of(profile: dict[str, float]) -> dict[str, float]:
    """Return the layers of a profile that take time, without its functions."""
    return {k: v for k, v in profile.items() if v and not k.startswith(FUNCTION)}


def written(value: float | None, form: str) -> str:
    """Write a figure, or nothing."""
    return "" if value is None else format(value, form)


@dataclass(frozen=True, slots=True)
class Limit:
    """What must hold of one of ours.

    Parameters
    ----------
    text : str
    value : float, optional
        None if it could not be measured.
    bound : float
    is_most : bool
        Whether `bound` is the most rather than the least.
    """

    text: str
    value: float | None
    bound: float
    is_most: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether it was measured and does not hold."""
        if self.value is None:
            return False
        return self.value > self.bound if self.is_most else self.value < self.bound

    def __str__(self) -> str:
        sign = "<=" if self.is_most else ">="
        if self.value is None:
            return f"not judged: {self.text} {sign} {self.bound:g}"
        word = "BROKEN" if self.is_broken else "holds"
        return f"{word}: {self.text} {self.value:.3g}, must be {sign} {self.bound:g}"


def limits(found: Found, n_cores: int) -> list[Limit]:
    """Return what must hold of ours, of the parts that were measured."""
    return [
        limit
        for name in found.names
        if ENGINES[name].kind == "ours"
        for limit in (
            *rate_limits(found, name),
            *efficiency_limits(found, name),
            *own_limits(found, name, n_cores),
        )
    ]


def rate_limits(found: Found, name: str) -> list[Limit]:
    """Return what must hold beside others."""
    if not found.each(name, "rate", "per_s"):
        return []
    one, chunks = (
        found.ratio(name, kind, "rate", "per_s") if _has_all(found, needed) else None
        for kind, needed in NEEDED.items()
    )
    return [
        Limit(f"{name}: rate over the best that gives out task by task", one, 4.0),
        Limit(f"{name}: rate over the best that is told to give out 16 at once", chunks, 1.0),
        Limit(
            f"{name}: processor time of the master for a task in us",
            found.median(name, "rate", "master_us"),
            10.0,
            is_most=True,
        ),
    ]


def _has_all(found: Found, names: Sequence[str]) -> bool:
    return all(found.each(name, "rate", "per_s") for name in names)


def own_limits(found: Found, name: str, n_cores: int) -> list[Limit]:
    """Return what must hold of one of ours by itself."""
    start_s = 2.0 if ENGINES[name].launcher else 0.7
    wanted = (
        ("times slower among foreign work", "foreign", "slowdown", 2.0, True),
        (
            "seconds from launch to first result, QC programs aside",
            "start",
            "first_s",
            start_s,
            True,
        ),
        ("KB of the master for a queued task", "memory", "kb", 0.2, True),
        ("workers used by tasks of 0.3 s", "sleep", "n_used", 0.975 * n_cores, False),
        ("share of a core for the master, tasks of 1 s", "master", "share", 0.02, True),
    )
    return [
        Limit(f"{name}: {text}", found.median(name, part, figure), bound, is_most)
        for text, part, figure, bound, is_most in wanted
        if found.each(name, part, figure)
    ]


def efficiency_limits(found: Found, name: str) -> list[Limit]:
    """Return what must hold of the workers' time; beside it, what the machine gave."""
    judged = []
    for ms, bound in ((1, 0.90), (5, 0.97), (50, 0.99)):
        value = found.median(name, "efficiency", f"at_{ms}_ms")
        if value is not None:
            given = written(found.median("divided", "efficiency", f"at_{ms}_ms"), ".3f")
            text = f"{name}: efficiency at {ms} ms (without an engine {given or 'not measured'})"
            judged.append(Limit(text, value, bound))
    return judged


def closing(found: Found, runs: Sequence[Run]) -> str:
    """Write what the figures were taken beside: other load, what failed, slots with QCEngine."""
    busy = sorted(each["n_busy_before"] for each in runs)
    lines = [
        f"Cores busy with other things just before each run: median {statistics.median(busy):.1f}, "
        f"most {busy[-1]:.1f}."
    ]
    for name in found.names:
        real = found.median(name, "start", "with_programs_s")
        if real is not None:
            lines.append(f"{name}: first result after {real:.2f} s where slots import QCEngine.")
    faults = {each["engine"]: each["fault"] for each in runs if each["fault"]}
    return "\n".join(lines + [f"{name} failed: {fault}" for name, fault in faults.items()])
