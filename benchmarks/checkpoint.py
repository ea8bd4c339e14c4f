#!/usr/bin/env python3
"""Measure what keeping every result on disk costs a run of many short tasks.

    python benchmarks/checkpoint.py                         # 10,011 gradients of 5 ms, four pairs
    python benchmarks/checkpoint.py --smoke                 # seconds: does it still run?

Runs with the store and with ``--no-store`` alternate in pairs, each a whole program from process
start to exit, so that a slow minute of the machine hits both; every second pair begins with the
other kind, so that a steady drift hits both too (an even number of pairs cancels it). All cores
compute and the master shares them, as in a run of a user: with a core of its own (``--cores`` one
less) the processor time of the store would not show. The processor time of all processes is given
beside the wall time, because other load on the machine hardly changes it. A table goes to standard
output, everything measured to ``benchmarks/results/``.

Rules of this file
------------------
1. Times are compared within one pair only; nothing here knows an absolute number.
2. Both must give the same energy, else the run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import farm

KINDS = {"store": [], "no store": ["--no-store"]}


def helium(n: int) -> dict[str, Any]:
    """Make the input of `n` helium atoms: n + n (n - 1) / 2 gradients, nocp, through 2-body."""
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": ["He"] * n,
            "geometry": [[3.0 * (i % 12), 3.0 * (i // 12), 0.01 * i] for i in range(n)],
            "fragments": [[i] for i in range(n)],
        },
        "specification": {
            "driver": "gradient",
            "keywords": {"bsse_type": ["nocp"], "max_nbody": 2, "return_total_data": True},
            "specification": {
                "(auto)": {"program": "spin", "driver": "gradient", "model": {"method": "any"}}
            },
        },
    }


def children_s() -> float:
    """Return the processor time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(path: Path, kind: str, n_cores: int) -> farm.Run:
    """Run one kind in a folder of its own, beside its input."""
    began_s = children_s()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder) / "spin.result.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "-o", str(result)]
        command += ["--executor", "multiprocessing", "--workers", str(n_cores), "--threads", "1"]
        command += ["--import", "spin", "--no-progress", "--quiet", *KINDS[kind]]
        paths = [str(farm.HERE), str(farm.ROOT), os.environ.get("PYTHONPATH", "")]
        wall_s, _ = farm.timed(command, {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
        cpu_s = children_s() - began_s
        summary = json.loads((Path(folder) / "spin.run.json").read_text(encoding="utf-8"))
        document = json.loads(result.read_text(encoding="utf-8"))
    value = document["properties"]["return_energy"]
    return farm.Run(wall_s, float(value), summary | {"cpu_s": cpu_s})


def fsync_ms(folder: Path, n: int = 50) -> float:
    """Measure a write of a page that waits for the disk, median in milliseconds."""
    times = []
    with (folder / "page").open("wb", buffering=0) as file:
        for _ in range(n):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def measure(folder: Path, n_fragments: int, n_cores: int, n_pairs: int) -> dict[str, Any]:
    """Measure pairs, the other kind first every second time, after a short run to warm up."""
    path, short = folder / "spin.json", folder / "short.json"
    path.write_text(json.dumps(helium(n_fragments)), encoding="utf-8")
    short.write_text(json.dumps(helium(6)), encoding="utf-8")
    run(short, "store", n_cores)
    runs: dict[str, list[farm.Run]] = {kind: [] for kind in KINDS}
    for pair in range(n_pairs):
        for kind in list(KINDS)[:: -1 if pair % 2 else 1]:
            runs[kind].append(run(path, kind, n_cores))
            farm.note(f"{pair + 1}/{n_pairs}: {kind} {runs[kind][-1].wall_s:.2f} s")
    farm.check_values(runs)
    pairs = list(zip(runs["store"], runs["no store"], strict=True))
    return {
        "n_cores": n_cores,
        "n_tasks": runs["store"][0].summary["n_tasks"],
        "fsync_ms": fsync_ms(folder),
        "ratios": [kept.wall_s / other.wall_s for kept, other in pairs],
        "cpu_ratios": [a.summary["cpu_s"] / b.summary["cpu_s"] for a, b in pairs],
        "contenders": {
            kind: {
                "wall_s": [each.wall_s for each in many],
                "cpu_s": [each.summary["cpu_s"] for each in many],
                "efficiency": [each.summary["efficiency"] for each in many],
                "value": many[0].value,
                "summary": many[-1].summary,
            }
            for kind, many in runs.items()
        },
    }


def table(measured: dict[str, Any]) -> str:
    """Write median times, and the medians of the ratios of the pairs."""
    ratios = measured["ratios"]
    lines = [
        f"{measured['n_tasks']} tasks, {measured['n_cores']} cores, {len(ratios)} pairs; a page to "
        f"the disk takes {measured['fsync_ms']:.2f} ms",
        "",
        "| run | wall s | ratio, median of pairs (from, to) | CPU s | ratio | efficiency |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, data in measured["contenders"].items():
        wall = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})"
        cpu = f"{statistics.median(measured['cpu_ratios']):.3f}"
        if kind != "store":
            wall = cpu = "1"
        names = ("wall_s", "cpu_s", "efficiency")
        wall_s, cpu_s, share = (statistics.median(data[name]) for name in names)
        lines.append(f"| {kind} | {wall_s:.2f} | {wall} | {cpu_s:.2f} | {cpu} | {share:.3f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--fragments", type=int, default=141, help="141 make 10,011 tasks")
    parser.add_argument("--repeat", type=int, default=4, metavar="N", help="pairs")
    parser.add_argument("--cores", type=int, default=farm.mpiexec.n_cores(), metavar="N")
    parser.add_argument("--folder", type=Path, help="where to put the store (which disk?)")
    parser.add_argument("--smoke", action="store_true", help="a tiny input, one pair, two cores")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-checkpoint.json")
    options = parser.parse_args(argv)
    if options.smoke:
        options.fragments, options.repeat, options.cores = 6, 1, 2
    report = farm.about()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report["checkpoint"] = measure(
            Path(folder), options.fragments, options.cores, options.repeat
        )
    print(table(report["checkpoint"]), flush=True)
    farm.keep("checkpoint", options.output, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
