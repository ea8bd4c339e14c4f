#!/usr/bin/env python3
"""Measure what watching a run costs, and what fixing threads costs, in processor time.

    python benchmarks/monitoring.py                          # 16 waters, 696 tasks
    python benchmarks/monitoring.py --input my.yaml
    python benchmarks/monitoring.py --smoke                  # does it still run?

A real run goes on all cores, and beside it a usage monitor, a memory guard far from its limit, and
one so near that it has to look closely, each once a second or oftener, as in a run. Their own
processor seconds are divided by the seconds that the run took, as if one core had to do it all.
Below that, the medians of everything that a calculation's threads are fixed with. The command fails
if watching takes 1 % or more, or fixing threads 10 ms or more.

Rules of this file
------------------
1. Processor time only: other load on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import farm

sys.path.insert(0, str(farm.ROOT))

from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.guard import MemoryGuard
from qcmb_mpi.execution.slot import settle
from qcmb_mpi.machine.processes import children, proportional_bytes
from qcmb_mpi.machine.usage import UsageMonitor
from qcmb_mpi.programs.thread_manager import QCThreadManager
from qcmb_mpi.programs.threads import limited_threads

MOST_SHARE = 0.01
MOST_MS = 10.0
PAUSE_S = 0.1
PROGRAMS = ("psi4", "nwchem", "cfour", "pyscf", "tblite", "mopac", "gamess", "orca")


def slots_of(pid: int) -> list[int]:
    """Return the slots of a run: children of the server, child of its warden."""
    return [
        slot for warden in children(pid) for server in children(warden) for slot in children(server)
    ]


def watched(path: Path) -> dict[str, Any]:
    """Run an input and watch it; return what both took."""
    far, near = MemoryGuard(), MemoryGuard()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "out.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "-o", str(result)]
        options = ["--executor", "multiprocessing", "--no-store", "--no-progress", "--quiet"]
        began_s = time.monotonic()
        with subprocess.Popen([*command, *options]) as job, UsageMonitor(job.pid) as usage:
            while job.poll() is None:
                if slots := slots_of(job.pid):
                    far.check(slots, [], 2**60)
                    near.check(slots, [], sum(map(proportional_bytes, slots)) + 2**20)
                time.sleep(PAUSE_S)
            wall_s, stats = time.monotonic() - began_s, usage.stats()
        if job.returncode:
            raise SystemExit(f"{path} ended with exit code {job.returncode}")
        summary = json.loads((Path(folder) / "out.run.json").read_text(encoding="utf-8"))
    spent_s = {
        "usage monitor": stats.monitor_s,
        "memory guard": far.spent_s,
        "memory guard, near its limit": near.spent_s,
    }
    return {
        "input": path.name,
        "wall_s": wall_s,
        "n_slots": summary["n_slots"],
        "n_looks": {"memory guard": far.n_looks, "memory guard, near its limit": near.n_looks},
        "spent_s": spent_s,
        "shares": {name: each / wall_s for name, each in spent_s.items()},
    }


def cpu_ms(work: Callable[[], object], n_repeats: int) -> float:
    """Return the median processor time of some work in ms, after a first one that loads."""
    work()
    times = []
    for _ in range(n_repeats):
        began_s = time.process_time()
        work()
        times.append(1000 * (time.process_time() - began_s))
    return statistics.median(times)


def fixing(n_repeats: int) -> dict[str, float]:
    """Return what fixing threads takes, in ms."""
    manager = QCThreadManager()
    n_cores = manager.n_cores
    resources = [SlotResources(n_threads=n) for n in (n_cores, 1)]

    def switch() -> None:
        with limited_threads(n_cores, 1):
            pass

    return {
        "read the machine": cpu_ms(QCThreadManager, n_repeats),
        "divide the cores": cpu_ms(
            lambda: manager.allocate_thread_resources(costs=[9.0] * 500 + [1.0] * 500), n_repeats
        ),
        "configure one of 8 programs": max(
            cpu_ms(lambda name=name: manager.configure_qc_threads(name, 2), n_repeats)
            for name in PROGRAMS
        ),
        "make a slot wide and narrow again": cpu_ms(
            lambda: [settle(each) for each in resources], n_repeats
        ),
        "around a calculation in the slot": cpu_ms(switch, n_repeats),
    }


def table(run: dict[str, Any], fixed_ms: dict[str, float]) -> str:
    """Write both."""
    lines = [
        f"{run['input']}: {run['wall_s']:.1f} s on {run['n_slots']} slots",
        "",
        "| watching | processor time, ms | share of the run |",
        "|---|---:|---:|",
    ]
    for name, share in run["shares"].items():
        lines.append(f"| {name} | {1000 * run['spent_s'][name]:.1f} | {share:.3%} |")
    lines += ["", "| fixing threads | ms |", "|---|---:|"]
    lines += [f"| {name} | {each:.2f} |" for name, each in fixed_ms.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, default=farm.ROOT / "examples" / "water-16.yaml")
    parser.add_argument("--repeat", type=int, default=50, metavar="N", help="of fixing threads")
    parser.add_argument("--smoke", action="store_true", help="a small input; nothing fails")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-monitoring.json")
    options = parser.parse_args(argv)
    if options.smoke:
        options.input, options.repeat = farm.ROOT / "examples" / "water-hexamer.yaml", 5
    report = farm.about()
    run, fixed_ms = watched(options.input), fixing(options.repeat)
    farm.keep("monitoring", options.output, {**report, "run": run, "fixed_ms": fixed_ms})
    print(table(run, fixed_ms))
    if options.smoke:
        return 0
    return int(max(run["shares"].values()) >= MOST_SHARE or max(fixed_ms.values()) >= MOST_MS)


if __name__ == "__main__":
    raise SystemExit(main())
