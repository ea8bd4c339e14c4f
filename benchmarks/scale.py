#!/usr/bin/env python3
"""Measure planning, start and assembly of very many tasks: 10,667,000, and 64 waters beside stock.

    python benchmarks/scale.py                    # some fifteen minutes, 2 GB of disk
    python benchmarks/scale.py --smoke            # under a minute: does it still run?

Everything is three-body, nocp, and no task has any work (``spin.py``). Each figure is of a process
of its own: planning and assembly from ``scale_parts.py`` or the command line, runs with a signal
after the first results, or resumed where nearly everything is in the store. Ours and stock
QCManyBody alternate, with the same numbers; stock's planning of 64 waters (three minutes) is
measured once. A table goes to standard output, everything measured to ``benchmarks/results/``.

Rules of this file
------------------
1. Seconds of planning and assembly are processor time: they have one thread, and other load hardly
   changes it. From launch to the first task it is wall time, the better of two: other load makes
   it longer and never shorter.
2. The exit code is 1 if a limit is broken, or ours and stock differ. Of small inputs only the
   numbers are judged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import farm
from scale_inputs import document

PYTHONPATH = os.pathsep.join(
    filter(None, [str(farm.HERE), str(farm.ROOT), os.environ.get("PYTHONPATH", "")])
)
ENVIRON = {"PYTHONPATH": PYTHONPATH}
EXECUTORS = ("multiprocessing", "mpiexec")
TOLERANCE = 1e-12
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured."""

    n_large: int = 400
    n_small: int = 60
    n_waters: int = 64
    n_hessian: int = 16  # what stock has memory for
    n_repeats: int = 3
    n_starts: int = 2
    n_left: int = 1000
    hold_s: float = 5.0
    kinds: tuple[str, ...] = ("waters", "mixed")


FULL = Sizes()
SMOKE = Sizes(
    n_large=60,
    n_small=30,
    n_waters=8,
    n_hessian=4,
    n_repeats=1,
    n_starts=1,
    n_left=100,
    hold_s=0.5,
    kinds=("mixed",),  # waters are the small input
)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure and its limit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    is_least: bool = False
    is_number: bool = False
    note: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the figure is within its limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.is_least else self.value <= self.limit


def part(name: str, n_fragments: int, folder: Path, **options: Any) -> dict[str, Any]:
    """Run one part of ``scale_parts.py`` in a process of its own."""
    command = [sys.executable, str(farm.HERE / "scale_parts.py"), name]
    command += ["--fragments", str(n_fragments), "--folder", str(folder)]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    _, output = farm.timed(command, ENVIRON | farm.ONE_THREAD)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    farm.note(
        f"{name} {n_fragments} {' '.join(map(str, options.values()))}: {found['cpu_s']:.3f} s"
    )
    return found


def write_input(path: Path, n_fragments: int, kind: str) -> Path:
    """Write an input file."""
    path.write_text(json.dumps(document(n_fragments, kind=kind)), encoding="utf-8")
    return path


def planned(path: Path) -> dict[str, Any]:
    """Run ``qcmb_mpi plan``, the whole program."""
    command = [sys.executable, "-m", "qcmb_mpi", "plan", str(path), "--json", "--import", "spin"]
    began_s = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, env={**os.environ, **ENVIRON})
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
        n_tasks = json.loads(output.read())["n_tasks"]
    cpu_s, peak_bytes = used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss
    farm.note(f"plan {path.stem}: {cpu_s:.2f} s, {peak_bytes / 1e6:.0f} MB")
    return {"n_tasks": n_tasks, "cpu_s": cpu_s, "wall_s": wall_s, "peak_bytes": peak_bytes}


@contextlib.contextmanager
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """Look into a store that is being written."""
    db = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        yield db
    finally:
        db.close()


def master_of(store: Path) -> int | None:
    """Return the process id of the master, once it says so."""
    with contextlib.suppress(sqlite3.Error), reading(store) as db:
        rows = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('pid', 'status')"))
        if json.loads(rows.get("status", "null")) == "running":
            return int(rows["pid"])
    return None


def first_start_s(store: Path) -> float | None:
    """Return when the first of the tasks that are done began."""
    with contextlib.suppress(sqlite3.Error), reading(store) as db:
        found = db.execute("SELECT min(start_s) FROM component").fetchone()[0]
        return None if found is None else float(found)
    return None


def peak_of(pid: int) -> int:
    """Return the highest resident memory of a process so far; 0 when it has gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM:")), 0)
    return 0


def run(path: Path, executor: str, folder: Path, hold_s: float | None = None) -> dict[str, Any]:
    """Run an expansion in `folder`; end it `hold_s` after its first results, if that is given."""
    store, result = folder / "scale.store.sqlite", folder / "scale.result.json"
    command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "-o", str(result), "--quiet"]
    command += ["--store", str(store), "--import", "spin", "--no-progress"]
    if executor == "mpiexec":
        n_cores = farm.mpiexec.n_cores()
        command = farm.mpiexec.command_line(n_cores, command, is_oversubscribed=True)
    else:
        command += ["--executor", executor]
    environ = {**farm.mpiexec.environment(), **ENVIRON}
    launched_s = time.time()
    process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)
    try:
        own = process.pid if executor != "mpiexec" else None
        seen = watch(process, store, hold_s, own)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode not in (0, 75) or not seen["peak_bytes"]:
        raise SystemExit(f"{' '.join(command)}\nended with exit code {process.returncode}")
    summary = json.loads((folder / "scale.run.json").read_text(encoding="utf-8"))
    if hold_s is not None:
        seen["first_s"] = seen.pop("first_start_s") - launched_s
    names = ("n_tasks", "n_computed", "n_reused", "setup_s", "assembly_s", "wall_s", "status")
    seen |= {name: summary[name] for name in names}
    if result.exists():
        seen["energy"] = json.loads(result.read_text(encoding="utf-8"))["return_result"]
    farm.note(f"run {path.stem} {executor}: {seen}")
    return seen


def begun(path: Path, executor: str, root: Path, sizes: Sizes) -> dict[str, Any]:
    """Begin a run and end it soon, a few times; return the earliest start and the highest peak."""
    found = []
    for _ in range(sizes.n_starts):
        with tempfile.TemporaryDirectory(dir=root) as folder:
            found.append(run(path, executor, Path(folder), sizes.hold_s))
    best = min(found, key=lambda each: float(each["first_s"]))
    return best | {"peak_bytes": max(each["peak_bytes"] for each in found), "all": found}


def watch(
    process: subprocess.Popen[bytes], store: Path, hold_s: float | None, pid: int | None
) -> dict[str, Any]:
    """Look at a run until it ends; send SIGTERM `hold_s` after its first results.

    The process of the master is `pid`, or else as the store says once there is one.
    """
    first, peak_bytes, stop_s = None, 0, float("inf")
    give_up_s = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < give_up_s:
        pid = pid or master_of(store)
        peak_bytes = max(peak_bytes, peak_of(pid) if pid else 0)
        if pid and hold_s is not None and first is None:
            first = first_start_s(store)
            stop_s = stop_s if first is None else time.monotonic() + hold_s
        if time.monotonic() >= stop_s:
            stop_s = float("inf")
            if running := master_of(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running, signal.SIGTERM)
        time.sleep(0.05)
    if hold_s is not None and first is None:  # it was through before anyone looked
        first = first_start_s(store)
    return {"peak_bytes": peak_bytes, "first_start_s": first}


def differences(folder: Path, other: str) -> float:
    """Return the largest difference between what two parts left, NaN counting as infinite."""
    code = "import sys, numpy as np; a, b = (np.load(f'{n}.npz') for n in sys.argv[1:]); "
    code += "print(max(float(abs(a[k] - b[k]).max()) for k in a) if set(a) == set(b) else 'inf')"
    paths = [str(folder / name) for name in ("ours", other)]
    value = float(farm.timed([sys.executable, "-c", code, *paths])[1])
    return value if value == value else float("inf")


def pairs(n_fragments: int, driver: str, folder: Path, n_repeats: int) -> dict[str, Any]:
    """Assemble with ours and stock in turn, the other first every second time."""
    found: dict[str, Any] = {"ours": [], "stock": []}
    for repeat in range(n_repeats):
        for name in list(found)[:: -1 if repeat % 2 else 1]:
            found[name].append(part(f"assemble-{name}", n_fragments, folder, driver=driver))
    both = list(zip(found["stock"], found["ours"], strict=True))
    found["ratios"] = [stock["cpu_s"] / ours["cpu_s"] for stock, ours in both]
    found["memory_ratios"] = [grown(stock) / grown(ours) for stock, ours in both]
    found["difference"] = differences(folder, "stock")
    return found


def grown(measured: dict[str, Any]) -> int:
    """Return by how much memory grew, at least a page."""
    return max(4096, int(measured["peak_bytes"] - measured["before_bytes"]))


def from_store(n_fragments: int, driver: str, root: Path) -> dict[str, Any]:
    """Fill a store with all results, then assemble from it."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        filled = part("fill", n_fragments, folder, driver=driver)
        return {"fill": filled, **part("assemble-store", n_fragments, folder, driver=driver)}


def measure_planning(sizes: Sizes, root: Path) -> dict[str, Any]:
    """Measure plans and starts of the large system, and plans of waters beside stock."""
    plans, runs = {}, {}
    path = write_input(root / "small.json", sizes.n_small, "waters")
    small = {each: begun(path, each, root, sizes) for each in EXECUTORS}
    for kind in sizes.kinds:
        path = write_input(root / f"{kind}.json", sizes.n_large, kind)
        plans[kind] = planned(path)
        for executor in EXECUTORS:
            runs[f"{kind}, {executor}"] = begun(path, executor, root, sizes)
    before = [part("plan-ours", sizes.n_waters, root) for _ in range(sizes.n_repeats)]
    stock = part("plan-stock", sizes.n_waters, root)
    after = [part("plan-ours", sizes.n_waters, root) for _ in range(sizes.n_repeats)]
    ours_s = statistics.median(each["cpu_s"] for each in before + after)
    slices = part("slices", sizes.n_waters, root)
    beside = {"ours": before + after, "stock": stock, "slices": slices}
    ratio = stock["cpu_s"] / ours_s
    return {"plans": plans, "small": small, "runs": runs, **beside, "ratio": ratio}


def measure_all_done(sizes: Sizes, root: Path) -> dict[str, Any]:
    """Resume a large run that lacks little, to its result; then assemble from its store."""
    path = write_input(root / "waters.json", sizes.n_large, "waters")
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        filled = part("fill", sizes.n_large, folder, missing=sizes.n_left)
        resumed = run(path, "multiprocessing", folder)
        again = part("assemble-store", sizes.n_large, folder)
    return {"fill": filled, "resumed": resumed, "again": again}


def measure_assembly(sizes: Sizes, root: Path) -> dict[str, Any]:
    """Measure assembly in memory, from stores and beside stock."""
    repeats = range(sizes.n_repeats)
    energies = [part("assemble-ours", sizes.n_large, root) for _ in repeats]
    return {
        "energies": energies,
        "all_done": measure_all_done(sizes, root),
        "gradients": pairs(sizes.n_waters, "gradient", root, sizes.n_repeats),
        "gradients_stored": from_store(sizes.n_waters, "gradient", root),
        "hessians": pairs(sizes.n_hessian, "hessian", root, 1),
        "hessians_stored": from_store(sizes.n_waters, "hessian", root),
    }


def rows(sizes: Sizes, planning: dict[str, Any], assembly: dict[str, Any]) -> list[Row]:
    """Put figures and limits side by side; of small inputs only the numbers are judged."""
    found = [*rows_of_planning(sizes, planning), *rows_of_assembly(sizes, assembly)]
    if sizes.n_large >= FULL.n_large:
        return found
    return [each if each.is_number else replace(each, limit=None) for each in found]


def rows_of_planning(sizes: Sizes, planning: dict[str, Any]) -> list[Row]:
    """Put plans and starts beside their limits."""
    large, found = f"{sizes.n_large} fragments", []
    for kind, each in planning["plans"].items():
        name = f"plan {large} ({kind}, {each['n_tasks']} tasks)"
        found.append(Row(f"{name}: CPU", each["cpu_s"], "s", 5, note=wall(each)))
        found.append(Row(f"{name}: memory", each["peak_bytes"] / 1e6, "MB", 500))
    for name, each in planning["runs"].items():
        small_s = planning["small"][name.split(", ")[1]]["first_s"]
        note = f"{sizes.n_small} fragments: {small_s:.2f} s"
        found.append(Row(f"run {large} ({name}): first task", each["first_s"], "s", 10, note=note))
        found.append(Row(f"run {large} ({name}): master", each["peak_bytes"] / 1e6, "MB", 1000))
    slices_s, stock_s = planning["slices"]["cpu_s"], planning["stock"]["cpu_s"]
    note = f"stock {stock_s:.3g} s, once; the molecules, which slots make: {slices_s:.2f} s"
    name = f"plan {sizes.n_waters} waters: stock/ours"
    return [*found, Row(name, planning["ratio"], "", 500, is_least=True, note=note)]


def rows_of_assembly(sizes: Sizes, assembly: dict[str, Any]) -> list[Row]:
    """Put assembly beside its limits."""
    large, waters = f"{sizes.n_large} fragments", f"{sizes.n_waters} waters"
    done, gradients, hessians = (assembly[n] for n in ("all_done", "gradients", "hessians"))
    again, resumed = done["again"], done["resumed"]
    best = min(assembly["energies"], key=lambda each: float(each["cpu_s"]))
    stored, tensors = assembly["gradients_stored"], assembly["hessians_stored"]
    stock_s = statistics.median(each["cpu_s"] for each in gradients["stock"])
    ratio, memory_ratio = (
        statistics.median(gradients[name]) for name in ("ratios", "memory_ratios")
    )
    name, tensor_name = f"gradients of {waters}", f"Hessians of {sizes.n_hessian} waters"
    note = f"{tensors['cpu_s']:.2f} s CPU"
    assembly_note = f"its assembly: {resumed['assembly_s']:.2f} s"
    master_mb = resumed["peak_bytes"] / 1e6
    return [
        Row(f"assemble {large}: CPU", best["cpu_s"], "s", 10, note=wall(best)),
        Row(f"assemble {large} from the store: CPU", again["cpu_s"], "s", 10, note=wall(again)),
        Row(f"run {large}, nearly all stored: master", master_mb, "MB", 1000, note=assembly_note),
        number("the same energy from its store", abs(resumed["energy"] - again["energy"]), 0),
        Row(f"{name}: stock/ours", ratio, "", 50, is_least=True, note=f"stock {stock_s:.2f} s"),
        Row(f"{name}: memory, stock/ours", memory_ratio, "", 10, is_least=True),
        number(f"{name}: difference", gradients["difference"], TOLERANCE),
        Row(f"{name}: stock in memory/ours from the store", stock_s / stored["cpu_s"], ""),
        Row(f"Hessians of {waters}: memory", tensors["peak_bytes"] / 1e6, "MB", 4000, note=note),
        number(f"{tensor_name}: difference", hessians["difference"], TOLERANCE),
    ]


def number(name: str, difference: float, limit: float) -> Row:
    """Return the row of a difference between numbers."""
    return Row(name, difference, "a.u.", limit, is_number=True)


def wall(measured: dict[str, Any]) -> str:
    """Tell the wall time beside the processor time."""
    return f"wall {measured['wall_s']:.2f} s"


def table(found: list[Row]) -> str:
    """Write figures and limits."""
    lines = ["| what | measured | limit | |", "|---|---:|---:|---|"]
    for row in found:
        sign = "" if row.limit is None else "at least " if row.is_least else "at most "
        limit = "" if row.limit is None else f"{sign}{row.limit:g}"
        note = row.note if row.is_kept else f"**broken** {row.note}"
        lines.append(f"| {row.name} | {row.value:.4g} {row.unit} | {limit} | {note} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="where to put stores (2 GB)")
    parser.add_argument("--repeat", type=int, metavar="N", help="pairs with stock's assembly")
    parser.add_argument("--smoke", action="store_true", help="small inputs, ratios not judged")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-scale.json")
    options = parser.parse_args(argv)
    sizes = SMOKE if options.smoke else Sizes(n_repeats=options.repeat or FULL.n_repeats)
    report = farm.about()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        planning = measure_planning(sizes, Path(name))
        assembly = measure_assembly(sizes, Path(name))
    found = rows(sizes, planning, assembly)
    measured = {
        "planning": planning,
        "assembly": assembly,
        "rows": [asdict(each) for each in found],
    }
    farm.keep("scale", options.output, {**report, "sizes": asdict(sizes), **measured})
    print(table(found), flush=True)
    return 0 if all(each.is_kept for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
