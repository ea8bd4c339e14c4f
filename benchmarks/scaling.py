#!/usr/bin/env python3
"""Measure how much sooner a run is through on 2, 4, ... cores than on one.

    python benchmarks/scaling.py                             # 16 waters, HF/6-31G; some ten minutes
    python benchmarks/scaling.py --input my.yaml --repeat 4
    python benchmarks/scaling.py --smoke                     # a minute: does it still run?

Every run is a whole program, start-up included, that may use so many cores and is not told how
many: it has to see that. Beside its speed-up over itself on one core stand the ideal and the
ceiling, the throughput of as many independent serial copies over that of one, on the same cores.
Then 1,350 tasks that sleep for 0.3 s each, on all cores: how many are used on average, when no core
is shared and nothing can be slowed down. Tables go to standard output, all figures to
``benchmarks/results/``.

Rules of this file
------------------
1. Times are compared within a repeat only; every other repeat goes from all cores to one.
2. A run that did not use as many slots as there were cores is no run on so many cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import farm
import overhead

EXECUTORS = ("processes", "mpiexec")
SLEEP_S = 0.3
LEAST_USED = 0.975  # 3.9 of 4
N_FRAGMENTS = 20  # 1,350 tasks: start-up is 1 % of the run, the last round little
Row = dict[str, Any]


def sizes(n_cores: int) -> list[int]:
    """Return 1, 2, 4, ... and all cores."""
    return sorted({n for k in range(n_cores.bit_length()) if (n := 2**k) < n_cores} | {n_cores})


@contextlib.contextmanager
def on_cores(n_cores: int) -> Iterator[None]:
    """Allow this process, and all that it starts meanwhile, so many physical cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, farm.mpiexec.cpus()[:n_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run(path: Path, executor: str, n_cores: int, scratch: Path) -> farm.Run:
    """Run an input once on so many cores."""
    options = ["--no-progress", "--quiet", "--import", "spin"]
    launcher = []
    if executor == "processes":
        options += ["--executor", "multiprocessing"]
    else:
        launcher = farm.mpiexec.command_line(n_cores, [])
    with on_cores(n_cores):
        done = farm.run_ours(path, scratch, launcher, options, overhead.environment())
    if done.summary["n_slots"] != n_cores:
        raise SystemExit(f"{executor}: {done.summary['n_slots']} slots on {n_cores} cores")
    return done


# ---- real chemistry ------------------------------------------------------------------------------


def scaled(path: Path, cores: Sequence[int], n_repeats: int, n_sample: int) -> Row:
    """Run an input on every number of cores, and serial copies beside."""
    rows = [
        {"executor": executor, "n_cores": n, "wall_s": [], "efficiency": []}
        for n in cores
        for executor in EXECUTORS
    ]
    ceilings: dict[int, list[float]] = {n: [] for n in cores}
    runs: dict[str, list[farm.Run]] = {executor: [] for executor in EXECUTORS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(n_repeats):
            for row in rows[:: -1 if repeat % 2 else 1]:
                done = run(path, row["executor"], row["n_cores"], Path(folder))
                runs[row["executor"]].append(done)
                row["wall_s"].append(done.wall_s)
                row["efficiency"].append(done.summary["efficiency"])
                farm.note(f"{repeat + 1}: {row['n_cores']} {row['executor']} {done.wall_s:.2f} s")
            for n, many in ceilings.items():
                with on_cores(n):
                    many.append(farm.ceiling(path, n, n_sample) if n > 1 else 1.0)
    farm.check_values(runs)
    n_tasks = runs[EXECUTORS[0]][0].summary["n_tasks"]
    return {
        "input": path.name,
        "n_tasks": n_tasks,
        "rows": [related(r, rows, ceilings) for r in rows],
    }


def related(row: Row, rows: Sequence[Row], ceilings: dict[int, list[float]]) -> Row:
    """Relate a row to one core in the same repeats, and to the ceiling."""
    alone = next(r for r in rows if r["executor"] == row["executor"] and r["n_cores"] == 1)
    ratios = [one / many for one, many in zip(alone["wall_s"], row["wall_s"], strict=True)]
    ceiling = ceilings[row["n_cores"]]
    return {**row, "speed_up": statistics.median(ratios), "ceiling": statistics.median(ceiling)}


def table(measured: Row) -> str:
    """Write speed-ups beside the ideal and the ceiling."""
    rows = measured["rows"]
    lines = [
        f"{measured['input']}: {measured['n_tasks']} tasks, median of {len(rows[0]['wall_s'])}",
        "",
        "| executor | cores = ideal | wall s | speed-up | ceiling | speed-up / ceiling "
        "| efficiency |",
        "|---|" + "---:|" * 6,
    ]
    lines += [
        f"| {row['executor']} | {row['n_cores']} | {statistics.median(row['wall_s']):.2f} "
        f"| {row['speed_up']:.2f} | {row['ceiling']:.2f} | {row['speed_up'] / row['ceiling']:.2f} "
        f"| {statistics.median(row['efficiency']):.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


# ---- tasks that sleep ----------------------------------------------------------------------------


def sleepers(n_fragments: int) -> dict[str, Any]:
    """Make a three-body input of tasks that sleep."""
    document = overhead.helium([1] * n_fragments, 0.0, 0.0)
    [model] = document["specification"]["specification"].values()
    model["keywords"] = {"spin_s": 0.0, "sleep_s": SLEEP_S}
    return document


def slept(n_fragments: int, n_cores: int, n_repeats: int) -> list[Row]:
    """Run tasks that sleep on all cores; tell how many they kept busy in whole programs.

    A task is what a slot is at: QCEngine adds to the 0.3 s, in sequential QCManyBody as well.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sleep.json"
        path.write_text(json.dumps(sleepers(n_fragments)), encoding="utf-8")
        for executor in EXECUTORS:
            runs = [run(path, executor, n_cores, Path(folder)) for _ in range(n_repeats)]
            n_tasks = runs[0].summary["n_tasks"]
            row = {"executor": executor, "n_cores": n_cores, "n_tasks": n_tasks}
            row |= {"wall_s": [each.wall_s for each in runs]}
            row |= {name: [each.summary[name] for each in runs] for name in ("setup_s", "busy_s")}
            busy_s, wall_s, setup_s = (
                statistics.median(row[name]) for name in ("busy_s", "wall_s", "setup_s")
            )
            row |= {"used": busy_s / wall_s, "used_after_setup": busy_s / (wall_s - setup_s)}
            found.append(row)
            farm.note(f"sleep: {executor} {found[-1]['used']:.3f} of {n_cores}")
    return found


def slept_table(rows: Sequence[Row]) -> str:
    """Write how many cores were used, of the whole program and after its start-up."""
    lines = [
        "| executor | tasks of 0.3 s | wall s | start-up s | a task, ms | cores used "
        "| after start-up | of |",
        "|---|" + "---:|" * 7,
    ]
    lines += [
        f"| {row['executor']} | {row['n_tasks']} | {statistics.median(row['wall_s']):.2f} "
        f"| {statistics.median(row['setup_s']):.2f} "
        f"| {1000 * statistics.median(row['busy_s']) / row['n_tasks']:.1f} | {row['used']:.3f} "
        f"| {row['used_after_setup']:.3f} | {row['n_cores']} |"
        for row in rows
    ]
    return "\n".join(lines)


def is_met(rows: Sequence[Row]) -> bool:
    """Tell whether sleeping tasks use nearly all slots."""
    return all(row["used"] >= LEAST_USED * row["n_cores"] for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if tasks that sleep leave slots unused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, default=farm.ROOT / "examples" / "water-16.yaml")
    parser.add_argument("--cores", type=int, default=farm.mpiexec.n_cores(), metavar="N")
    parser.add_argument("--repeat", type=int, default=2, metavar="N")
    parser.add_argument("--sample", type=int, default=24, help="tasks of a copy for the ceiling")
    parser.add_argument("--smoke", action="store_true", help="three tasks, once, no limits")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-scaling.json")
    options = parser.parse_args(argv)
    n_fragments = N_FRAGMENTS
    if options.smoke:
        options.input = farm.ROOT / "examples" / "helium-dimer.yaml"
        options.repeat, options.cores, options.sample = 1, min(2, options.cores), 3
        n_fragments = 3
    report = farm.about()
    measured = scaled(options.input, sizes(options.cores), options.repeat, options.sample)
    print(table(measured), end="\n\n", flush=True)
    sleeping = slept(n_fragments, options.cores, options.repeat)
    print(slept_table(sleeping), flush=True)
    farm.keep("scaling", options.output, {**report, "measured": measured, "sleep": sleeping})
    return 0 if options.smoke or is_met(sleeping) else 1


if __name__ == "__main__":
    raise SystemExit(main())
