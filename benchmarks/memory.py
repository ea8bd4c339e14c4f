#!/usr/bin/env python3
"""Measure whether a run keeps inside a memory limit that its tasks together exceed.

    python benchmarks/memory.py                              # a test program, then PySCF CCSD(T)
    python benchmarks/memory.py --smoke                      # the test program alone
    python benchmarks/memory.py --group /sys/fs/cgroup/mine  # groups may be made there

Every run is a whole program in a control group of its own, whose limit two tasks at once keep to
and all of them exceed; the kernel kills who goes beyond it, and counts. By itself, and on four
slots, a run must end well with nobody killed. ``--memory 1TB`` says that there is more than there
is, and all tasks start at once: then some must be lost to the kernel, or the limit proves nothing.
What can never fit must be refused with exit code 2 and one line before anything runs. The command
fails if any of that is not so.

Needs Linux and the right to make such a group: root, or ``--group``.

Rules of this file
------------------
1. The kernel's counters decide, nothing that the run says of itself.
2. The limit follows from what ``plan`` predicts, so that it fits whatever is predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import farm
import hungry
import yaml
from memory_group import MemoryGroup

HUNGRY, PYSCF = "test program", "CCSD(T) gradients"
N_TASKS, HOLD_S = 6, 1.5
N_SLOTS = 4
GRANTED = 0.8  # of a limit, what a run counts on
AT_ONCE = 2.2  # tasks of the predicted size that the limit is made for
SELF_BYTES = 150_000_000  # a slot before it has a task
NEVER_BYTES = 400_000_000
TRUSTING = ["--workers", str(N_TASKS), "--memory", "1TB"]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run, and how it has to end.

    Parameters
    ----------
    name : str
    options : list of str
    is_killed : bool
        Whether the kernel is to kill something.
    code : int, optional
        The exit code; any if not given.
    """

    name: str
    options: list[str]
    is_killed: bool = False
    code: int | None = 0


CASES = (
    Case("automatic", []),
    Case(f"{N_SLOTS} slots", ["--workers", str(N_SLOTS)]),
    Case(f"{N_TASKS} slots, no limit", TRUSTING, is_killed=True, code=None),
    Case(f"{N_TASKS} slots, no limit, no retry", [*TRUSTING, "--retries", "0"], True, 1),
)


def waters(n: int, basis: str) -> dict[str, Any]:
    """Return CCSD(T) gradients of single waters: memory that PySCF cannot do without."""
    source = farm.ROOT / "examples" / "supersystem.yaml"
    document: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    molecule = document["molecule"]
    for field in ("fragments", "fragment_charges", "fragment_multiplicities"):
        molecule[field] = molecule[field][:n]
    molecule["symbols"] = molecule["symbols"][: 3 * n]
    molecule["geometry"] = molecule["geometry"][: 9 * n]
    model = {"method": "ccsd(t)", "basis": basis}
    chosen = {"program": "pyscf", "driver": "gradient", "model": model, "keywords": {}}
    keywords = {"bsse_type": ["nocp"], "max_nbody": 1, "return_total_data": True}
    document["specification"] = {
        "driver": "gradient",
        "keywords": keywords,
        "specification": {"(auto)": chosen},
    }
    return document


def command(name: str, path: Path, *options: str) -> list[str]:
    """Return a command line of the package."""
    return [sys.executable, "-m", "qcmb_mpi", name, str(path), "--import", "hungry", *options]


def environment() -> dict[str, str]:
    """Let the package and the test program be found."""
    paths = [str(farm.ROOT), str(farm.HERE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def predicted_bytes(path: Path) -> int:
    """Ask what the largest task will need."""
    words = command("plan", path, "--json", "--workers", str(N_SLOTS))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(json.loads(done.stdout)["memory_bytes"])


def run(path: Path, limit_bytes: int, options: list[str], parent: Path | None) -> dict[str, Any]:
    """Run an input in a group of its own; return what became of it."""
    with tempfile.TemporaryDirectory() as folder, MemoryGroup(limit_bytes, parent) as group:
        result = Path(folder) / "out.json"
        words = command("run", path, "--no-store", "--no-progress", "-o", str(result), *options)
        done = subprocess.run(
            group.around(words), env=environment(), capture_output=True, text=True, check=False
        )
        summary = Path(folder) / "out.run.json"
        told = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    return {
        "exit_code": done.returncode,
        "stderr": done.stderr,
        "limit_bytes": limit_bytes,
        "peak_bytes": group.peak_bytes,
        "n_kills": group.n_kills,
        "n_full": group.n_full,
        "summary": told,
    }


def measure(name: str, document: dict[str, Any], parent: Path | None) -> dict[str, Any]:
    """Run one input in every way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        need_bytes = predicted_bytes(path)
        if name == HUNGRY:
            document = hungry.document(N_TASKS, need_bytes - SELF_BYTES, HOLD_S)
            path.write_text(json.dumps(document), encoding="utf-8")
        limit_bytes = int(AT_ONCE * need_bytes / GRANTED)
        runs = {}
        for case in CASES:
            runs[case.name] = run(path, limit_bytes, case.options, parent)
            farm.note(f"{name}: {case.name}: exit code {runs[case.name]['exit_code']}")
    return {"input": name, "predicted_bytes": need_bytes, "runs": runs}


def refused(parent: Path | None) -> dict[str, Any]:
    """Run what cannot fit into its group."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.json"
        path.write_text(json.dumps(waters(2, "cc-pvqz")), encoding="utf-8")
        return run(path, NEVER_BYTES, [], parent)


def complaints(measured: list[dict[str, Any]], never: dict[str, Any]) -> list[str]:
    """Say what is not as it has to be."""
    found = []
    for each in measured:
        for case in CASES:
            done = each["runs"][case.name]
            if case.code not in (None, done["exit_code"]) or case.is_killed != (
                done["n_kills"] > 0
            ):
                text = f"exit code {done['exit_code']}, {done['n_kills']} killed"
                found.append(f"{each['input']}, {case.name}: {text}\n{done['stderr']}")
    lines = never["stderr"].splitlines()
    if (never["exit_code"], len(lines), never["n_kills"]) != (2, 1, 0) or "GB" not in lines[0]:
        found.append(f"what never fits: exit code {never['exit_code']}\n{never['stderr']}")
    return found


def table(measured: list[dict[str, Any]], never: dict[str, Any]) -> str:
    """Write what became of every run."""
    lines = [
        "| input | run | limit, GB | peak, GB | killed by the kernel | failed | repeated | code "
        "| wall, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in measured:
        for name, done in each["runs"].items():
            told = done["summary"]
            lines.append(
                f"| {each['input']} | {name} | {done['limit_bytes'] / 1e9:.2f} "
                f"| {done['peak_bytes'] / 1e9:.2f} | {done['n_kills']} | {told['n_failed']} "
                f"| {told['n_retries']} | {done['exit_code']} | {told['wall_s']:.1f} |"
            )
    lines += [
        f"| too large | automatic | {never['limit_bytes'] / 1e9:.2f} "
        f"| {never['peak_bytes'] / 1e9:.2f} | {never['n_kills']} | | | {never['exit_code']} | |",
        "",
        never["stderr"].strip(),
    ]
    for each in measured:
        peak = max(a["peak_bytes"] for a in each["runs"]["automatic"]["summary"]["agents"])
        lines.append(
            f"{each['input']}: a task is predicted to need {each['predicted_bytes'] / 1e9:.2f} GB "
            f"and takes {peak / 1e9:.2f} GB"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--group", type=Path, metavar="FOLDER", help="where to make control groups")
    parser.add_argument("--smoke", action="store_true", help="the test program alone")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-memory.json")
    options = parser.parse_args(argv)
    inputs = {HUNGRY: hungry.document(N_TASKS, 0, HOLD_S)}
    if not options.smoke:
        inputs[PYSCF] = waters(N_TASKS, "aug-cc-pvdz")
    try:
        MemoryGroup(2**30, options.group).__exit__(None, None, None)
    except OSError as error:
        parser.error(f"{error}; --group names a folder of control groups that is yours")
    report = farm.about()
    measured = [measure(name, each, options.group) for name, each in inputs.items()]
    never = refused(options.group)
    farm.keep("memory", options.output, {**report, "measured": measured, "never": never})
    print(table(measured, never))
    wrong = complaints(measured, never)
    for each in wrong:
        farm.note(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
