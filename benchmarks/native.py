#!/usr/bin/env python3
"""Measure runs of many short GFN2-xTB tasks beside bare loops over the same geometries.

    python benchmarks/native.py                             # 16, 32 and 64 waters, three-body
    python benchmarks/native.py --waters 16 --repeat 4
    python benchmarks/native.py --smoke                     # does it still run?

A bare loop is one process that does nothing but calculate (``bare.py``), by ``tblite.interface`` or
by ``qcengine.compute``; the ceiling is as many of them at once as there are cores, which divide the
tasks. Loops rest before they begin, as the cores of a run do: that is when cores are slow. Beside
them the task phase of a whole run on all cores, first start to last end: natively, and with
QCEngine calling the same harness (``tblite_by_qcengine.py``). Beside 16 waters, and once beside 32,
sequential QCManyBody, end to end.
In every other repeat the order is turned round. A table goes to standard output, all figures to
``benchmarks/results/``.

Rules of this file
------------------
1. Rates are compared within one repeat only; nothing here knows an absolute number.
2. Same accuracy and energies everywhere, to 1e-8 hartree in the sum over the tasks, else it fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import farm
import numpy as np
import overhead

ACCURACY = 0.01
LIMIT = 0.9
REST_S = 0.3  # as long as a run reads and plans
WAYS = {"tblite": "native", "qcengine": "through QCEngine"}
OPTIONS = {"tblite": (), "qcengine": ("--import", "tblite_by_qcengine")}
SEQUENTIAL = {32: 1, 64: 0}  # how often, by waters: it takes a minute, and ten
Figures = dict[str, float]


def document(n_waters: int, max_nbody: int) -> dict[str, Any]:
    """Make the input."""
    path = farm.ROOT / "geometries" / f"water-{n_waters}.json"
    molecule = json.loads(path.read_text(encoding="utf-8"))
    molecule.pop("comment", None)
    model = {
        "program": "tblite",
        "model": {"method": "GFN2-xTB", "basis": None},
        "keywords": {"accuracy": ACCURACY},
    }
    return overhead.expansion(molecule, model, max_nbody)


def sample(path: Path, n_most: int) -> tuple[dict[str, Any], list[int]]:
    """Return tasks for the bare loops, evenly out of all sizes, and their ids."""
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace

    space = TaskSpace(schema.read_input(str(path)).expansion)
    system = space.expansion.system
    ids = np.arange(0, space.n_tasks, max(1, space.n_tasks // n_most))
    slices = system.fragment_slices
    atoms = [
        [atom for fragment in basis for atom in range(*slices[fragment - 1].indices(10**9))]
        for basis in space.clusters(ids).basis
    ]
    tasks = {
        "numbers": np.asarray(system.atomic_numbers).tolist(),
        "positions_bohr": system.geometry_bohr.tolist(),
        "atoms": atoms,
        "accuracy": ACCURACY,
    }
    return tasks, ids.tolist()


def loops(loop: str, tasks: Path, n_copies: int) -> Figures:
    """Have copies of a bare loop divide the tasks; return tasks per second, summed."""
    command = [sys.executable, str(farm.HERE / "bare.py"), loop, str(tasks), "--part"]
    environ = {**os.environ, **farm.ONE_THREAD, **overhead.environment()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    copies = [
        subprocess.Popen([*command, f"{part}/{n_copies}"], env=environ, **pipes)
        for part in range(n_copies)
    ]
    for copy in copies:
        if copy.stdout.readline().strip() != "ready":
            raise SystemExit("a bare loop did not start")
    time.sleep(REST_S)
    for copy in copies:
        copy.stdin.write("go\n")
        copy.stdin.flush()
    found = [json.loads(copy.communicate()[0].splitlines()[-1]) for copy in copies]
    n_tasks = sum(each["n_tasks"] for each in found)
    return {
        "rate": sum(each["n_tasks"] / each["seconds"] for each in found),
        "cpu_ms": 1000 * sum(each["cpu_s"] for each in found) / n_tasks,
        "sum": math.fsum(each["sum"] for each in found),
    }


def run(path: Path, n_cores: int, ids: list[int], options: tuple[str, ...]) -> Figures:
    """Run all tasks; return those per second of the task phase, and the sum over the sample."""
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

    began_s = overhead.children_s()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder) / "out.result.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "-o", str(result), *options]
        command += ["--executor", "multiprocessing", "--workers", str(n_cores), "--threads", "1"]
        wall_s, _ = farm.timed([*command, "--no-progress", "--quiet"], overhead.environment())
        cpu_s = overhead.children_s() - began_s
        value = json.loads(result.read_text(encoding="utf-8"))["properties"]["return_energy"]
        space = TaskSpace(schema.read_input(str(path)).expansion)
        with Store.open(Path(folder) / "out.store.sqlite", is_read_only=True) as store:
            store.attach(0, space)
            rows, values = store.rows(0), store.values(0)
            energies = np.concatenate([values.energies(block) for block in space.blocks])
    phase_s = float((rows.start_s + rows.seconds).max() - rows.start_s.min())
    return {
        "rate": space.n_tasks / phase_s,
        "cpu_ms": 1000 * float(rows.cpu_s.sum()) / space.n_tasks,
        "cpu_all_ms": 1000 * cpu_s / space.n_tasks,
        "wall_s": wall_s,
        "busy": float(rows.seconds.sum()) / (n_cores * phase_s),
        "n_tasks": space.n_tasks,
        "sum": math.fsum(energies[ids].tolist()),
        "value": value,
    }


def sequential(path: Path) -> Figures:
    """Run QCManyBody from start to exit."""
    command = [sys.executable, str(farm.HERE / "rivals.py"), "sequential", str(path)]
    wall_s, output = farm.timed(command, farm.ONE_THREAD)
    return {"wall_s": wall_s, "value": float(json.loads(output.splitlines()[-1])["value"])}


# ---- all runs --------------------------------------------------------------------------------


def measure(n_waters: int, max_nbody: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one cluster."""
    runs: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, tasks = Path(folder) / "waters.json", Path(folder) / "tasks.json"
        path.write_text(json.dumps(document(n_waters, max_nbody)), encoding="utf-8")
        chosen, ids = sample(path, options.sample)
        tasks.write_text(json.dumps(chosen), encoding="utf-8")
        jobs: dict[str, Callable[[], Figures]] = {}
        for loop, way in WAYS.items():
            jobs[f"{loop} loop"] = lambda loop=loop: loops(loop, tasks, 1)
            jobs[way] = lambda loop=loop: run(path, options.cores, ids, OPTIONS[loop])
            jobs[f"{loop} loops"] = lambda loop=loop: loops(loop, tasks, options.cores)
        for repeat in range(options.repeat):
            if repeat < SEQUENTIAL.get(n_waters, options.repeat):
                jobs["QCManyBody"] = lambda: sequential(path)
            else:
                jobs.pop("QCManyBody", None)
            for name in list(jobs)[:: -1 if repeat % 2 else 1]:
                found = jobs[name]()
                runs.setdefault(name, []).append(found)
                figures = ", ".join(f"{key} {value:.6g}" for key, value in found.items())
                farm.note(f"{n_waters} waters {repeat + 1}/{options.repeat}: {name}: {figures}")
    check(runs)
    measured = {"waters": n_waters, "n_cores": options.cores, "sample": len(ids), "runs": runs}
    return measured | {"ratios": ratios(runs, options.cores)}


def check(runs: dict[str, list[Figures]]) -> None:
    """Refuse to compare what did not compute the same."""
    for key in ("sum", "value"):
        found = {name: [run[key] for run in many if key in run] for name, many in runs.items()}
        every = [value for values in found.values() for value in values]
        if max(every) - min(every) > farm.TOLERANCE_HARTREE:
            raise SystemExit(f"the {key}s do not agree: {found}")
    ours = {run["value"] for way in WAYS.values() for run in runs[way]}
    if len(ours) != 1:
        raise SystemExit(f"natively and through QCEngine the numbers differ: {ours}")


def ratios(runs: dict[str, list[Figures]], n_cores: int) -> dict[str, list[float]]:
    """Relate the figures of each repeat."""
    found: dict[str, list[float]] = {}
    for loop, way in WAYS.items():
        for one, ours, many in zip(
            runs[f"{loop} loop"], runs[way], runs[f"{loop} loops"], strict=True
        ):
            bare = n_cores * one["rate"]
            found.setdefault(f"{way} / cores x bare", []).append(ours["rate"] / bare)
            found.setdefault(f"{way} / ceiling", []).append(ours["rate"] / many["rate"])
            found.setdefault(f"{loop} ceiling / cores x bare", []).append(many["rate"] / bare)
    for theirs, *ours in zip(
        runs.get("QCManyBody", []), *(runs[way] for way in WAYS.values()), strict=False
    ):
        for way, each in zip(WAYS.values(), ours, strict=True):
            name = f"QCManyBody / {way}, end to end"
            found.setdefault(name, []).append(theirs["wall_s"] / each["wall_s"])
    return found


def limits(n_cores: int) -> dict[str, float]:
    """Return what the medians of ratios must reach."""
    by_way = {f"{way} / cores x bare": LIMIT for way in WAYS.values()}
    return by_way | {f"QCManyBody / {WAYS['qcengine']}, end to end": float(n_cores)}


def table(measured: dict[str, Any]) -> str:
    """Write medians of one cluster."""
    runs = measured["runs"]
    lines = [
        f"{measured['waters']} waters, {runs['native'][0]['n_tasks']} tasks, "
        f"{measured['n_cores']} cores, {len(runs['native'])} repeats, bare loops over "
        f"{measured['sample']} tasks",
        "",
        "| what | tasks/s | CPU ms a task | CPU ms, all processes | busy | wall s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, many in runs.items():
        keys = ("rate", "cpu_ms", "cpu_all_ms", "busy", "wall_s")
        middle = {
            key: statistics.median(run[key] for run in many) for key in keys if key in many[0]
        }
        cells = [f"{middle[key]:.4g}" if key in middle else "" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio | median (from, to) | limit |", "|---|---:|---:|"]
    wanted = limits(measured["n_cores"])
    for name, many in measured["ratios"].items():
        middle = f"{statistics.median(many):.3f} ({min(many):.3f}, {max(many):.3f})"
        lines.append(f"| {name} | {middle} | {wanted.get(name, '')} |")
    return "\n".join(lines)


def is_met(measured: dict[str, Any]) -> bool:
    """Tell whether every median reaches its limit."""
    found = measured["ratios"]
    return all(
        statistics.median(found[name]) >= limit
        for name, limit in limits(measured["n_cores"]).items()
        if name in found
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if a ratio is below its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--waters", type=int, action="append", choices=(16, 32, 64))
    parser.add_argument("--repeat", type=int, default=4, metavar="N")
    parser.add_argument("--cores", type=int, default=farm.mpiexec.n_cores(), metavar="N")
    parser.add_argument("--sample", type=int, default=2000, help="most tasks of a bare loop")
    parser.add_argument("--smoke", action="store_true", help="three waters, once, two cores")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-native.json")
    options = parser.parse_args(argv)
    clusters, max_nbody = options.waters or [16, 32, 64], 3
    if options.smoke:
        clusters, max_nbody, options.repeat, options.cores = [3], 2, 1, 2
    report = farm.about()
    measured = []
    for n_waters in clusters:
        measured.append(measure(n_waters, max_nbody, options))
        print(table(measured[-1]), end="\n\n", flush=True)
    farm.keep("native", options.output, {**report, "measured": measured})
    return 0 if options.smoke or all(map(is_met, measured)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
