#!/usr/bin/env python3
"""Measure our task farm beside other engines: the same tasks, no chemistry, interleaved.

    python benchmarks/engines.py                             # all engines: some 25 min a repeat
    python benchmarks/engines.py --part rate --engine ours-mpi --engine mpi4py-16 --repeat 5
    python benchmarks/engines.py --smoke                     # a minute: does it still run?

``pip install 'qcmb_mpi[bench]'`` brings the others; what is not installed is left out and said so.
Ours is the whole stack: scheduler, agents, slots and the store on a disk. Every engine has a worker
less than there are cores, under MPI beside a master that computes nothing; tasks that sleep have a
worker a core. Each figure is of a program of its own; within a repeat the engines follow each other
part by part, so that a slow minute of the machine hits all, and every other repeat runs backwards.

Parts: start (launch to first result), rate (tasks that do nothing), efficiency (tasks that spin for
1, 5 and 50 ms), foreign (the rate while others keep every core busy), memory (of the master, for a
queued task), tail (uneven tasks over the bound), sleep (of 0.3 s), master (its share of a core
while tasks of 1 s run), brief (efficiency in batches of a second), and, of ours and only if asked
for, profile (what the master does for a task that does nothing). A table and the limits go to
standard output, all figures to ``benchmarks/results/``.

Rules of this file
------------------
1. Engines are compared within a repeat only; ``divided`` shows what the machine gave meanwhile.
2. The exit code is 1 if a limit is broken; one that lacks an engine to compare with is not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import farm
import psutil
from engines_figures import (
    ENGINES,
    OF_ALL,
    ON_ALL_CORES,
    PARTS,
    Found,
    Run,
    closing,
    limits,
    profiles,
    table,
)

TIMEOUT_S = 600.0
GRACE_S = 10.0
SMOKE = ("ours-processes", "ours-mpi", "pool-1")
PACKAGES = ("cloudpickle", "dask", "distributed", "executorlib", "loky", "parsl", "schwimmbad")


# ---- running -------------------------------------------------------------------------------------


def command_line(name: str, parts: Sequence[str], n_workers: int, options: list[str]) -> list[str]:
    """Return the command that measures parts of an engine."""
    engine = ENGINES[name]
    is_dedicated = bool(engine.launcher) and not (
        engine.kind == "ours" and set(parts) <= set(ON_ALL_CORES)
    )
    program = [str(farm.HERE / "engines_run.py"), name, "--workers", str(n_workers), *options]
    if is_dedicated:
        program.append("--dedicated")
    for part in parts:
        program += ["--part", part]
    if not engine.launcher:
        return [sys.executable, *program]
    module = ["-m", "mpi4py.futures"] if engine.launcher == "futures" else []
    n_ranks = n_workers + is_dedicated
    is_more = n_ranks > farm.mpiexec.n_cores()
    command = [sys.executable, *module, *program]
    return farm.mpiexec.command_line(n_ranks, command, is_oversubscribed=is_more)


def run(command: list[str]) -> tuple[dict[str, dict[str, float]] | None, str]:
    """Run a program; return its figures, or None and why there are none."""
    paths = [str(farm.HERE), str(farm.ROOT), os.environ.get("PYTHONPATH", "")]
    environment = farm.mpiexec.environment() | farm.ONE_THREAD
    program = subprocess.Popen(
        [*command, "--began", repr(time.monotonic())],
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = program.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, f"no end within {TIMEOUT_S:g} s"
    finally:
        end(program)
    lines = [line for line in output.splitlines() if line.startswith('{"start"')]
    if program.returncode or not lines:
        return None, f"exit code {program.returncode}: {errors[-2000:].strip()}"
    return json.loads(lines[-1]), ""


def end(program: subprocess.Popen[str]) -> None:
    """End a program with all that it started; mpiexec needs a moment for its ranks."""
    program.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def measure_one(name: str, parts: Sequence[str], n_workers: int, options: list[str]) -> Run:
    """Measure parts of an engine in one program; note how busy the machine was just before."""
    n_busy = psutil.cpu_percent(interval=0.3) * (os.cpu_count() or 1) / 100
    is_ours = ENGINES[name].kind == "ours"
    is_start = list(parts) == ["start"]
    real = ["--programs"] if is_ours and not is_start else []
    figures, fault = run(command_line(name, parts, n_workers, [*options, *real]))
    if figures is not None and is_ours and is_start:
        again, fault = run(command_line(name, parts, n_workers, [*options, "--programs"]))
        if again is not None:
            figures["start"]["with_programs_s"] = again["start"]["first_s"]
    if fault and is_ours:
        raise SystemExit(f"{name} could not be measured: {fault}")
    return {"engine": name, "n_busy_before": n_busy, "figures": figures, "fault": fault}


def measure(
    names: Sequence[str], groups: Sequence[Sequence[str]], n_cores: int, repeat: int, small: bool
) -> list[Run]:
    """Measure all engines once, one group of parts after the other."""
    runs = []
    for parts in groups:
        n_workers = n_cores if set(parts) <= set(ON_ALL_CORES) else n_cores - 1
        for name in names[:: -1 if repeat % 2 else 1]:
            able = [part for part in parts if part in ENGINES[name].parts]
            if able:
                each = measure_one(name, able, n_workers, ["--small"] if small else [])
                runs.append({"repeat": repeat, "n_workers": n_workers, "parts": able, **each})
                farm.note(f"{repeat + 1} {name} {', '.join(able)}: {told(runs[-1])}")
    return runs


def told(each: Run) -> str:
    """Write a run's figures in a line."""
    if each["figures"] is None:
        return str(each["fault"])
    parts = [part for part in each["parts"] if part != "profile"]
    figures = {k: v for part in parts for k, v in each["figures"][part].items()}
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


# ---- the program ---------------------------------------------------------------------------------


def installed(names: Sequence[str]) -> list[str]:
    """Leave out what is not installed."""
    missing = [n for n in names if ENGINES[n].needs and not _is_there(ENGINES[n].needs)]
    if missing:
        farm.note(f"not installed (pip install 'qcmb_mpi[bench]'): {', '.join(missing)}")
    return [name for name in names if name not in missing]


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def versions() -> dict[str, str]:
    """Return the versions of the engines."""
    found = {each.name: each.version for each in metadata.distributions()}
    return {name: found.get(name, "absent") for name in PACKAGES}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), help="repeatable")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--cores", type=int, default=max(2, farm.mpiexec.n_cores()), metavar="N")
    parser.add_argument("--smoke", action="store_true", help="few tasks, once, no limits")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-engines.json")
    options = parser.parse_args(argv)
    names, groups = options.engine or list(ENGINES), [[part] for part in options.part or OF_ALL]
    if options.smoke:
        names, options.repeat, options.cores = options.engine or list(SMOKE), 1, 3
        groups = [[part for group in groups for part in group]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = farm.about()
    report["versions"] |= versions()
    names = installed(names)
    runs: list[Run] = []
    for repeat in range(options.repeat):
        runs += measure(names, groups, options.cores, repeat, options.smoke)
    found = Found(runs)
    judged = [] if options.smoke else limits(found, options.cores)
    told = table(found), profiles(found), closing(found, runs), *judged
    print(*filter(None, told), sep="\n\n", flush=True)
    told_limits = [{"text": str(each), "is_broken": each.is_broken} for each in judged]
    farm.keep("engines", options.output, {**report, "runs": runs, "limits": told_limits})
    return int(any(each.is_broken for each in judged))


if __name__ == "__main__":
    raise SystemExit(main())
