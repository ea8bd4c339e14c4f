#!/usr/bin/env python3
"""Measure what qcmb_mpi itself costs a run, and where that time goes.

    python benchmarks/overhead.py                            # every input, processes and mpiexec
    python benchmarks/overhead.py --input short --repeat 3
    python benchmarks/overhead.py --smoke                    # does it still run?

Overhead is 1 - efficiency of the run summary: how much longer the program ran, from process start
to its end, than max(longest task, busy time / slots). Slots stand still before the first task, in
gaps between two tasks, at the tail while others finish, and at the end while the answer is put
together; the store's timeline tells these apart. A table goes to standard output, all figures to
``benchmarks/results/``.

Rules of this file
------------------
1. All figures are shares of a run's own wall time; nothing here knows an absolute number.
2. All runs of an input must give the same energy to 1e-8 hartree, else the benchmark fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import farm
import numpy as np
import yaml

EXECUTORS = ("processes", "mpiexec")
OURS = ("-m", "qcmb_mpi", "run")
PARTS = ("before", "gaps", "tail", "end")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """An input, and the overhead that is too much for it; None where it is only told."""

    make: Callable[[], Document]
    limit: float | None = None


def expansion(molecule: Document, model: Document, max_nbody: int = 3) -> Document:
    """Put an input together."""
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": molecule,
        "specification": {
            "driver": "energy",
            "keywords": {"bsse_type": ["nocp"], "max_nbody": max_nbody, "return_total_data": True},
            "specification": {"(auto)": {"driver": "energy", **model}},
        },
    }


def helium(sizes: Sequence[int], spin_s: float, power: float, *, max_nbody: int = 3) -> Document:
    """Make fragments of so many helium atoms, whose tasks take ``spin_s atoms**power``."""
    edges = np.cumsum([0, *sizes]).tolist()
    n_atoms = edges[-1]
    molecule = {
        "symbols": ["He"] * n_atoms,
        "geometry": [[3.0 * (i % 12), 3.0 * (i // 12), 0.01 * i] for i in range(n_atoms)],
        "fragments": [list(range(*pair)) for pair in itertools.pairwise(edges)],
    }
    keywords = {"spin_s": spin_s, "power": power}
    model = {"program": "spin", "model": {"method": "any"}, "keywords": keywords}
    return expansion(molecule, model, max_nbody)


def waters(sizes: Sequence[int], basis: str) -> Document:
    """Make fragments of so many waters each, through PySCF."""
    n_waters = sum(sizes)
    source = farm.ROOT / "examples" / "water-16.yaml"
    molecule = yaml.safe_load(source.read_text(encoding="utf-8"))["molecule"]
    edges = np.cumsum([0, *sizes])
    fragments = [list(range(3 * a, 3 * b)) for a, b in itertools.pairwise(edges)]
    molecule = {
        "symbols": molecule["symbols"][: 3 * n_waters],
        "geometry": molecule["geometry"][: 9 * n_waters],
        "fragments": fragments,
        "fragment_charges": [0.0] * len(sizes),
        "fragment_multiplicities": [1] * len(sizes),
    }
    model = {"method": "hf", "basis": basis}
    return expansion(molecule, {"program": "pyscf", "model": model})


MIXED = (4, 1, 3, 2, 1, 4, 2, 3, 1, 2, 1)
CASES: dict[str, Case] = {
    "mixed": Case(lambda: helium(MIXED, 0.1, 1.52), 0.02),  # 231 tasks of 0.1 to 3.8 s
    "short": Case(lambda: helium([1] * 31, 0.05, 0.0), 0.05),  # 4,991 tasks of 50 ms
    "pyscf": Case(lambda: waters((3, 2, 2, 2, 1, 1, 1, 2, 1), "6-31g")),  # real, as it comes
}
TINY = {"mixed": Case(lambda: helium((2, 1, 1, 1), 0.02, 1.0))}


# ---- a run -----------------------------------------------------------------------------------


def children_s() -> float:
    """Return the processor time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command_line(
    path: Path, executor: str, n_cores: int, program: Sequence[str] = OURS
) -> list[str]:
    """Return the command of a run, one thread a task."""
    options = ["--threads", "1", "--import", "spin", "--no-progress", "--quiet"]
    command = [sys.executable, *program, str(path), *options]
    if executor == "processes":
        return [*command, "--executor", "multiprocessing", "--workers", str(n_cores)]
    is_more = n_cores > farm.mpiexec.n_cores()
    return farm.mpiexec.command_line(n_cores, command, is_oversubscribed=is_more)


def environment() -> dict[str, str]:
    """Return what has slots find ``spin``."""
    paths = [str(farm.HERE), str(farm.ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(path: Path, command: list[str]) -> dict[str, Any]:
    """Run once in a folder of its own; return the summary with where its time went."""
    began_s = children_s()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = Path(folder) / "out.result.json"
        farm.timed([*command, "-o", str(result)], environment())
        cpu_s = children_s() - began_s
        summary = json.loads((Path(folder) / "out.run.json").read_text(encoding="utf-8"))
        value = json.loads(result.read_text(encoding="utf-8"))["properties"]["return_energy"]
        rows = timeline(Path(folder) / "out.store.sqlite", path)
    return {
        **summary,
        "value": float(value),
        "overhead": 1.0 - summary["efficiency"],
        **parts(rows, summary),
        "cpu_outside": (cpu_s - float(rows.cpu_s.sum())) / (summary["n_slots"] * summary["wall_s"]),
    }


def timeline(store: Path, source: Path) -> Any:
    """Read when and where the tasks ran."""
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

    with Store.open(store, is_read_only=True) as opened:
        opened.attach(0, TaskSpace(schema.read_input(str(source)).expansion))
        return opened.rows(0)


def parts(rows: Any, summary: dict[str, Any]) -> dict[str, Any]:
    """Divide the time in which slots stood still, in shares of all slots' time.

    What is before the first task of a slot, between its tasks, after its last one while others
    work, and after the last of all; ``gap_ms`` and ``span_s``: a median gap, first start to last
    end.
    """
    first_s = float(rows.start_s.min())
    end_s = rows.start_s + rows.seconds
    last_s = float(end_s.max())
    before_s, tail_s, gaps = 0.0, 0.0, []
    lanes = sorted(set(zip(rows.rank.tolist(), rows.slot.tolist(), strict=True)))
    for rank, slot in lanes:
        ours = np.flatnonzero((rows.rank == rank) & (rows.slot == slot))
        ours = ours[np.argsort(rows.start_s[ours])]
        before_s += float(rows.start_s[ours[0]]) - first_s
        tail_s += last_s - float(end_s[ours[-1]])
        gaps.append(rows.start_s[ours[1:]] - end_s[ours[:-1]])
    every = np.concatenate(gaps) if gaps else np.zeros(0)
    n_slots, wall_s, setup_s = summary["n_slots"], summary["wall_s"], summary["setup_s"]
    span_s = last_s - first_s
    n_idle = n_slots - len(lanes)  # slots that never got a task
    lost = {
        "before": n_slots * setup_s + before_s,
        "gaps": float(every.sum()),
        "tail": tail_s + n_idle * span_s,
        "end": n_slots * (wall_s - setup_s - span_s),
    }
    shares = {name: seconds / (n_slots * wall_s) for name, seconds in lost.items()}
    gap_ms = 1000 * float(np.median(every)) if len(every) else 0.0
    return shares | {"gap_ms": gap_ms, "span_s": span_s}


# ---- all runs --------------------------------------------------------------------------------


def measure(
    name: str, case: Case, executors: Sequence[str], n_cores: int, n_repeats: int
) -> list[dict[str, Any]]:
    """Run an input with each executor, the order turned round in every other repeat."""
    runs: dict[str, list[dict[str, Any]]] = {executor: [] for executor in executors}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.json"
        path.write_text(json.dumps(case.make()), encoding="utf-8")
        for repeat in range(n_repeats):
            for executor in executors[:: -1 if repeat % 2 else 1]:
                found = run(path, command_line(path, executor, n_cores))
                runs[executor].append(found)
                shares = ", ".join(f"{part} {found[part]:.2%}" for part in PARTS)
                farm.note(
                    f"{name} {repeat + 1}/{n_repeats}: {executor} {found['wall_s']:.1f} s, "
                    f"overhead {found['overhead']:.2%} ({shares})"
                )
    values = [each["value"] for many in runs.values() for each in many]
    if max(values) - min(values) > farm.TOLERANCE_HARTREE:
        raise SystemExit(f"{name}: the runs do not agree: {values}")
    return [
        {"input": name, "executor": executor, "limit": case.limit, "runs": many}
        for executor, many in runs.items()
    ]


def median(measured: dict[str, Any], name: str) -> float:
    """Return the median of a figure over the runs of an input and executor."""
    return float(statistics.median(each[name] for each in measured["runs"]))


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Write medians over repeats."""
    lines = [
        "| input | executor | tasks | wall s | overhead | limit | before | gaps | tail | end "
        "| gap ms | CPU outside tasks |",
        "|---|---|" + "---:|" * 10,
    ]
    for each in measured:
        limit = "" if each["limit"] is None else f"{each['limit']:.0%}"
        shares = " | ".join(f"{median(each, name):.2%}" for name in PARTS)
        lines.append(
            f"| {each['input']} | {each['executor']} | {each['runs'][0]['n_tasks']} "
            f"| {median(each, 'wall_s'):.1f} | {median(each, 'overhead'):.2%} | {limit} "
            f"| {shares} | {median(each, 'gap_ms'):.2f} | {median(each, 'cpu_outside'):.2%} |"
        )
    return "\n".join(lines)


def is_met(measured: Sequence[dict[str, Any]]) -> bool:
    """Tell whether every median is within its limit."""
    return all(
        each["limit"] is None or median(each, "overhead") < each["limit"] for each in measured
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if an overhead is beyond its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", action="append", choices=tuple(CASES), help="repeatable")
    parser.add_argument("--executor", action="append", choices=EXECUTORS, help="repeatable")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--cores", type=int, default=farm.mpiexec.n_cores(), metavar="N")
    parser.add_argument("--smoke", action="store_true", help="a tiny input, once, two cores")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-overhead.json")
    options = parser.parse_args(argv)
    cases = {name: CASES[name] for name in options.input or CASES}
    if options.smoke:
        cases, options.repeat, options.cores = TINY, 1, 2
    executors = options.executor or EXECUTORS
    report = farm.about()
    measured = [
        each
        for name, case in cases.items()
        for each in measure(name, case, executors, options.cores, options.repeat)
    ]
    print(table(measured), flush=True)
    farm.keep("overhead", options.output, {**report, "measured": measured})
    return 0 if is_met(measured) else 1


if __name__ == "__main__":
    raise SystemExit(main())
