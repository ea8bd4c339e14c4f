#!/usr/bin/env python3
"""Measure qcmb_mpi beside sequential QCManyBody, the naive pool and the machine's ceiling.

    python benchmarks/farm.py                               # 6 and 16 waters, 6-31G and cc-pVDZ
    python benchmarks/farm.py --input my.yaml --repeat 3
    python benchmarks/farm.py --fragment VENV --fork VENV   # other packages, from environments
    python benchmarks/farm.py --smoke                       # a minute: does it still run?

Every contender is a whole program, timed from process start to exit, imports included. Repeats are
interleaved, every other one backwards, so that a slow minute of the machine hits all contenders.
What each environment needs is told in ``rivals.py``. A table goes to standard output, everything
measured to ``benchmarks/results/``.

Rules of this file
------------------
1. Times are compared within one run only; nothing here knows an absolute number.
2. All contenders must give the same energy, else the run fails.
3. The exit code is 1 if ours is not ahead of every other program on every input.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tools"))

import mpiexec

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_THREAD = dict.fromkeys((*THREAD_VARIABLES, "QCENGINE_NCORES"), "1")
TOLERANCE_HARTREE = 1e-8
OURS = "qcmb_mpi, "
BASES = ("6-31g", "cc-pvdz")
PACKAGES = ("qcmb_mpi", "qcmanybody", "qcengine", "qcelemental", "pyscf", "mpi4py", "numpy")


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run of one contender."""

    wall_s: float
    value: float
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that computes the whole input.

    Parameters
    ----------
    name, note : str
        For the table.
    run : callable
        From (input file, number of cores, scratch directory) to :class:`Run`.
    """

    name: str
    note: str
    run: Callable[[Path, int, Path], Run]


def timed(command: list[str], environ: dict[str, str] | None = None) -> tuple[float, str]:
    """Run a command to its end; return wall seconds and standard output."""
    with mpiexec.own_temporary({**mpiexec.environment(), **(environ or {})}) as variables:
        began = time.perf_counter()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        wall_s = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr}"
        )
    return wall_s, done.stdout


def run_ours(
    path: Path,
    scratch: Path,
    launcher: list[str],
    options: list[str],
    environ: dict[str, str] | None = None,
) -> Run:
    """Run the command line of qcmb_mpi with a new store."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        result = Path(folder) / "farm.result.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "-o", str(result), *options]
        wall_s, _ = timed(launcher + command, environ)
        summary = json.loads((Path(folder) / "farm.run.json").read_text(encoding="utf-8"))
        value = json.loads(result.read_text(encoding="utf-8"))["return_result"]
    return Run(wall_s, float(value), summary)


def run_processes(path: Path, n_cores: int, scratch: Path) -> Run:
    """Run qcmb_mpi over local processes."""
    options = ["--executor", "multiprocessing", "--workers", str(n_cores), "--no-progress"]
    return run_ours(path, scratch, [], options)


def run_mpi(path: Path, n_cores: int, scratch: Path) -> Run:
    """Run qcmb_mpi under mpiexec, one rank per core."""
    is_more = n_cores > mpiexec.n_cores()
    launcher = mpiexec.command_line(n_cores, [], is_oversubscribed=is_more)
    return run_ours(path, scratch, launcher, ["--no-progress"])


def run_rival(
    rival: str, environ: dict[str, str], python: str = sys.executable
) -> Callable[[Path, int, Path], Run]:
    """Make the runner of a program in ``rivals.py``."""

    def run(path: Path, n_cores: int, scratch: Path) -> Run:
        del scratch
        command = [python, str(HERE / "rivals.py"), rival, str(path), "-n", str(n_cores)]
        wall_s, output = timed(command, environ)
        answer = json.loads(output.splitlines()[-1])
        return Run(wall_s - answer.get("aside_s", 0.0), float(answer["value"]))

    return run


CONTENDERS = (
    Contender("qcmb_mpi, processes", "--executor multiprocessing", run_processes),
    Contender("qcmb_mpi, mpiexec", "one rank per core", run_mpi),
    Contender("naive pool", "ProcessPoolExecutor, 1 thread a task", run_rival("naive", ONE_THREAD)),
    Contender("QCManyBody", "sequential, 1 thread", run_rival("sequential", ONE_THREAD)),
    Contender("QCManyBody, default", "sequential, all cores a task", run_rival("sequential", {})),
)


def others(fragment: Path | None, fork: Path | None) -> tuple[Contender, ...]:
    """Return the contenders that need an environment of their own, of those that there are."""
    found = []
    for rival, name, how, venv in (
        ("fragment", "Fragme∩t", "over Ray", fragment),
        ("fork", "parallel fork", "of QCManyBody 0.5, its processes", fork),
    ):
        if venv is not None:
            run = run_rival(rival, ONE_THREAD, str(venv / "bin" / "python"))
            found.append(Contender(name, how, run))
    return tuple(found)


def start_copy(path: Path, n_tasks: int) -> subprocess.Popen[str]:
    """Start one serial copy and wait until it is warm."""
    copy = subprocess.Popen(
        [sys.executable, str(HERE / "rivals.py"), "copy", str(path), "-n", str(n_tasks)],
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if copy.stdout is None or copy.stdout.readline().strip() != "ready":
        raise SystemExit("a serial copy did not start")
    return copy


def throughput(path: Path, n_copies: int, n_tasks: int) -> float:
    """Run copies at once; return their tasks per second, summed."""
    copies = [start_copy(path, n_tasks) for _ in range(n_copies)]
    for copy in copies:
        assert copy.stdin is not None
        copy.stdin.write("go\n")
        copy.stdin.flush()
    answers = [json.loads(copy.communicate()[0].splitlines()[-1]) for copy in copies]
    return float(sum(answer["n_tasks"] / answer["seconds"] for answer in answers))


def ceiling(path: Path, n_cores: int, n_tasks: int) -> float:
    """Measure how many times one copy's throughput the machine gives to a copy per core."""
    before = throughput(path, 1, n_tasks)
    together = throughput(path, n_cores, n_tasks)
    return 2 * together / (before + throughput(path, 1, n_tasks))


def measure(
    path: Path, contenders: tuple[Contender, ...], n_cores: int, n_repeats: int, n_sample: int
) -> dict[str, Any]:
    """Measure all contenders and the ceiling on one input, interleaved."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    ceilings: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(1, n_repeats + 1):
            for contender in contenders[:: 1 if repeat % 2 else -1]:
                run = contender.run(path, n_cores, Path(folder))
                runs[contender.name].append(run)
                note(f"{path.stem} {repeat}/{n_repeats}: {contender.name} {run.wall_s:.2f} s")
            ceilings.append(ceiling(path, n_cores, n_sample))
            note(f"{path.stem} {repeat}/{n_repeats}: ceiling {ceilings[-1]:.2f} of {n_cores}")
    check_values(runs)
    return {
        "input": path.name,
        "n_cores": n_cores,
        "ceiling": ceilings,
        "contenders": {
            each.name: {
                "note": each.note,
                "wall_s": [run.wall_s for run in runs[each.name]],
                "value": runs[each.name][0].value,
                "summary": runs[each.name][-1].summary,
            }
            for each in contenders
        },
    }


def check_values(runs: dict[str, list[Run]]) -> None:
    """Refuse to compare programs that do not compute the same thing."""
    values = [run.value for many in runs.values() for run in many]
    if max(values) - min(values) > TOLERANCE_HARTREE:
        answers = {name: [run.value for run in many] for name, many in runs.items()}
        raise SystemExit(f"the contenders do not agree: {answers}")


def table(measured: dict[str, Any]) -> str:
    """Write one input's table: median wall time, ratios within this run, efficiency."""
    contenders = measured["contenders"]
    wall = {name: statistics.median(data["wall_s"]) for name, data in contenders.items()}
    top = statistics.median(measured["ceiling"])
    n_tasks = next(iter(contenders.values()))["summary"].get("n_tasks", "?")
    lines = [
        f"{measured['input']}: {n_tasks} tasks, {measured['n_cores']} cores, "
        f"median of {len(measured['ceiling'])}",
        "",
        "| program | how | wall s | speed-up over QCManyBody | naive pool / this | efficiency |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, seconds in wall.items():
        efficiency = contenders[name]["summary"].get("efficiency")
        lines.append(
            f"| {name} | {contenders[name]['note']} | {seconds:.2f} "
            f"| {wall['QCManyBody'] / seconds:.2f} | {wall['naive pool'] / seconds:.2f} "
            f"| {'' if efficiency is None else f'{efficiency:.2f}'} |"
        )
    best_s = wall["QCManyBody"] / top
    lines.append(
        f"| *ceiling* | {measured['n_cores']} serial copies over one, in throughput "
        f"| {best_s:.2f} | {top:.2f} | {wall['naive pool'] / best_s:.2f} | |"
    )
    return "\n".join(lines)


def leads(measured: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Return how many times as long as each of ours each other program took: median of repeats."""
    walls = {name: data["wall_s"] for name, data in measured["contenders"].items()}
    return {
        (ours, other): statistics.median(b / a for a, b in zip(walls[ours], many, strict=True))
        for ours in walls
        for other, many in walls.items()
        if ours.startswith(OURS) and not other.startswith(OURS)
    }


def is_ahead(measured: dict[str, Any]) -> bool:
    """Tell whether ours are ahead of every other; say of which not."""
    behind = {pair: lead for pair, lead in leads(measured).items() if lead <= 1.0}
    for (ours, other), lead in behind.items():
        print(f"BROKEN: {measured['input']}: {other} took {lead:.2f} times as long as {ours}\n")
    return not behind


def machine() -> dict[str, Any]:
    """Describe where and with what this was measured."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "n_cores": mpiexec.n_cores(),
        "n_cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def commit() -> str:
    """Name the commit that was measured, with ``-dirty`` if the tree differs from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, and of the MPI launcher."""
    found = {distribution.name: distribution.version for distribution in metadata.distributions()}
    answer = subprocess.run(
        [mpiexec.find_mpiexec(), "--version"], capture_output=True, text=True, check=False
    )
    launcher = answer.stdout.splitlines()
    return {name: found.get(name, "absent") for name in PACKAGES} | {
        "mpiexec": launcher[0] if launcher else "unknown"
    }


def about() -> dict[str, Any]:
    """Describe what is going to be measured; to be asked before, as the load counts."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def keep(name: str, output: Path | None, report: dict[str, Any]) -> None:
    """Write what `about` told and what was measured, by default to ``results/DATE-NAME.json``.

    And a plot of it beside, if matplotlib is there.
    """
    date = report["date"][:19].replace(":", "").replace("T", "-")
    path = output or HERE / "results" / f"{date}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"benchmark": name, **report}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    note(f"written: {path}")
    if importlib.util.find_spec("matplotlib"):
        import plots

        plots.draw(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".svg"))


def note(text: str) -> None:
    """Tell the person at the terminal how far it is."""
    print(text, file=sys.stderr, flush=True)


def write_inputs(folder: Path) -> list[Path]:
    """Write 6 and 16 waters, three-body, HF in every basis."""
    paths = []
    for stem in ("water-hexamer", "water-16"):
        document = yaml.safe_load((ROOT / "examples" / f"{stem}.yaml").read_text(encoding="utf-8"))
        for basis in BASES:
            document["specification"]["specification"]["model"]["basis"] = basis
            paths.append(folder / f"{stem}-{basis}.yaml")
            paths[-1].write_text(yaml.safe_dump(document), encoding="utf-8")
    return paths


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if ours is not ahead."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, action="append", help="ManyBodyInput, repeatable")
    parser.add_argument("--repeat", type=int, default=2, metavar="N")
    parser.add_argument("--cores", type=int, default=mpiexec.n_cores(), metavar="N")
    parser.add_argument("--sample", type=int, default=24, help="tasks of one copy for the ceiling")
    parser.add_argument("--no-default", action="store_true", help="leave the slowest contender out")
    parser.add_argument("--fragment", type=Path, metavar="VENV", help="measure Fragme∩t, too")
    parser.add_argument("--fork", type=Path, metavar="VENV", help="the earlier parallel fork, too")
    parser.add_argument("--smoke", action="store_true", help="a tiny input, once, two cores")
    parser.add_argument(
        "-o", "--output", type=Path, help="default: benchmarks/results/DATE-farm.json"
    )
    options = parser.parse_args(argv)
    if options.smoke:
        options.input = [ROOT / "examples" / "helium-dimer.yaml"]
        options.repeat, options.cores, options.sample = 1, 2, 3
    contenders = CONTENDERS[:-1] if options.no_default else CONTENDERS
    contenders += others(options.fragment, options.fork)
    report, are_ahead = about(), []
    measured = report["measured"] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in options.input or write_inputs(Path(folder)):
            measured.append(
                measure(path, contenders, options.cores, options.repeat, options.sample)
            )
            print(table(measured[-1]), end="\n\n", flush=True)
            are_ahead.append(options.smoke or is_ahead(measured[-1]))
    keep("farm", options.output, report)
    return 0 if all(are_ahead) else 1


if __name__ == "__main__":
    raise SystemExit(main())
