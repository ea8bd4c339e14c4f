#!/usr/bin/env python3
"""Measure the automatic layout beside fixed ones: so many workers times so many threads.

    python benchmarks/hybrid.py                              # beside three that use all cores
    python benchmarks/hybrid.py --layouts all                # beside every one that fits
    python benchmarks/hybrid.py --input tail --repeat 9
    python benchmarks/hybrid.py --smoke                      # does it still run?

Every run is a whole program on the cores of this machine, timed by its own summary, after one that
only warms the machine up. In each repeat all contenders run one after the other, in an order that
alternates. A fixed layout that takes more than 1.3 times as long as the best in the first repeat is
not repeated; it is ended as soon as that is clear. A table goes to standard output, all figures to
``benchmarks/results/``.

Rules of this file
------------------
1. Times are compared within one run only; nothing here knows an absolute number.
2. All contenders must give the same energy to 1e-8 hartree, else the run fails.
3. Where the automatic layout is one of the fixed ones, by what its runs say that they did, all runs
   of that layout are taken together: noise is no difference. How far apart the two are is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from farm import ROOT, TOLERANCE_HARTREE, about, keep, note

AUTOMATIC = "automatic"
FEWEST_REPEATS = 2
HOPELESS = 1.3
CUT_OFF = 1.35
# What is asked of the ratios of wall times.
MOST_OVER_BEST = 1.05
MOST_OVER_NARROW = 1.02
LEAST_GAIN = 1.20
WITH_TAIL = ("tail",)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to divide the cores; no numbers for the automatic one."""

    n_workers: int = 0
    n_threads: int = 0

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.n_workers} x {self.n_threads}" if self.n_workers else AUTOMATIC

    @property
    def options(self) -> list[str]:
        """What the command line is told."""
        numbers = ["--workers", str(self.n_workers), "--threads", str(self.n_threads)]
        return numbers if self.n_workers else []


def model(method: str, basis: str) -> dict[str, Any]:
    """Return one model chemistry."""
    chosen = {"method": method, "basis": basis}
    return {"program": "pyscf", "driver": "energy", "model": chosen, "keywords": {}}


# What is computed of the waters of examples/supersystem.yaml, how many of them, why.
SMOKE = "tiny"
INPUTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    SMOKE: (3, {"bsse_type": ["nocp"], "levels": {2: "low"}}, {"low": model("hf", "sto-3g")}),
    "small": (  # many small tasks: nothing to gain, must cost nothing
        8,
        {"bsse_type": ["nocp"], "levels": {3: "low"}},
        {"low": model("hf", "6-31g*")},
    ),
    "large": (  # few large tasks, more than one round of cores
        4,
        {"bsse_type": ["nocp"], "levels": {2: "high"}},
        {"high": model("ccsd", "6-311+g*")},
    ),
    "cp": (  # monomers and dimers, all with the functions of all: more than one round of cores
        3,
        {"bsse_type": ["cp"], "levels": {2: "low"}},
        {"low": model("hf", "6-311++g**")},
    ),
    "cp-long": (  # the same, long enough for start-up not to count
        4,
        {"bsse_type": ["cp"], "levels": {2: "low"}},
        {"low": model("hf", "6-311++g**")},
    ),
    "mixed": (  # MP2 of the pairs, HF of all together
        7,
        {"bsse_type": ["nocp"], "levels": {2: "high", "supersystem": "low"}},
        {"high": model("mp2", "6-31+g*"), "low": model("hf", "6-31g*")},
    ),
    "tail": (  # one supersystem that is most of the work
        8,
        {"bsse_type": ["nocp"], "levels": {2: "low", "supersystem": "high"}},
        {"low": model("hf", "6-31g"), "high": model("hf", "6-31g*")},
    ),
}


def fixed_layouts(n_cores: int, *, is_complete: bool) -> list[Contender]:
    """Return fixed layouts within the cores, those first that leave no core idle.

    Parameters
    ----------
    n_cores : int
    is_complete : bool
        All that fit; else those of 1 thread, half the cores and all of them.
    """
    if not is_complete:
        widths = sorted({1, max(1, n_cores // 2), n_cores})
        return [Contender(n_cores // width, width) for width in widths]
    every = [
        Contender(n_workers, n_threads)
        for n_threads in range(1, n_cores + 1)
        for n_workers in range(1, n_cores // n_threads + 1)
    ]
    return sorted(every, key=lambda each: (-each.n_workers * each.n_threads, each.n_threads))


def write_input(name: str, path: Path) -> None:
    """Write one of the inputs."""
    n_waters, keywords, specification = INPUTS[name]
    source = ROOT / "examples" / "supersystem.yaml"
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    molecule = document["molecule"]
    for field in ("fragments", "fragment_charges", "fragment_multiplicities"):
        molecule[field] = molecule[field][:n_waters]
    molecule["symbols"] = molecule["symbols"][: 3 * n_waters]
    molecule["geometry"] = molecule["geometry"][: 9 * n_waters]
    document["specification"]["keywords"] = {**keywords, "return_total_data": True}
    document["specification"]["specification"] = specification
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def run(path: Path, contender: Contender, limit_s: float | None) -> dict[str, Any]:
    """Run an input once; return its summary with the energy."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "out.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "--no-store"]
        command += ["--executor", "multiprocessing", "--no-progress", "-o", str(result)]
        command += contender.options
        began_s = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        process_s = time.perf_counter() - began_s
        if done.returncode:
            raise SystemExit(f"{path.stem}, {contender.name}: {done.stderr}")
        summary = json.loads((Path(folder) / "out.run.json").read_text(encoding="utf-8"))
        value = json.loads(result.read_text(encoding="utf-8"))["return_result"]
    return {**summary, "value": value, "process_s": process_s}


Runner = Callable[[Path, Contender, float | None], dict[str, Any]]


def measure(
    name: str, fixed: Sequence[Contender], n_repeats: int, runner: Runner = run
) -> dict[str, Any]:
    """Run all contenders on one input, the order turned round in every other repeat."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        write_input(name, path)
        runs, dropped = _first_repeat(path, fixed, runner)
        left = [each for each in (Contender(), *fixed) if each.name not in dropped]
        for repeat in range(1, n_repeats):
            for contender in left[:: 1 if repeat % 2 == 0 else -1]:
                runs[contender.name].append(runner(path, contender, None))
                wall_s = runs[contender.name][-1]["wall_s"]
                note(f"{name} {repeat + 1}/{n_repeats}: {contender.name} {wall_s:.2f} s")
    values = [each["value"] for many in runs.values() for each in many]
    if max(values) - min(values) > TOLERANCE_HARTREE:
        raise SystemExit(f"{name}: the contenders do not agree: {values}")
    return {
        "input": name,
        "n_tasks": runs[AUTOMATIC][0]["n_tasks"],
        "layout": runs[AUTOMATIC][0]["layout"],
        "twin": twin_of(runs),
        "narrow": fixed[0].name,
        "wall_s": {each: [one["wall_s"] for one in many] for each, many in runs.items()},
        "dropped": dropped,
    }


def twin_of(runs: Mapping[str, Sequence[dict[str, Any]]]) -> str | None:
    """Return the fixed contender that did the same as the automatic one in every run, if any."""
    done = {_done(each) for each in runs[AUTOMATIC]}
    same = (
        name for name in runs if name != AUTOMATIC and done == {_done(each) for each in runs[name]}
    )
    return next(same, None)


def _done(summary: dict[str, Any]) -> tuple[Any, ...]:
    """Return slots and threads of a run, and whether some of its tasks had all cores."""
    slots = [(each["slots"], each["threads"]) for each in summary["agents"]]
    is_wide = summary["slot_s"] > 1.001 * summary["busy_s"]
    return (*slots, is_wide or " first, then " in summary["layout"])


def _first_repeat(
    path: Path, fixed: Sequence[Contender], runner: Runner
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Run each once; return the runs, and of those not to be repeated the ratio to the best.

    A ratio of a run that was ended is the least that it can be; one thread on every core stays.
    """
    keeps = (AUTOMATIC, fixed[0].name)
    runs: dict[str, list[dict[str, Any]]] = {}
    dropped: dict[str, float] = {}
    limit_s: float | None = None
    for contender in (Contender(), *fixed):
        try:
            done = runner(path, contender, None if contender.name in keeps else limit_s)
        except subprocess.TimeoutExpired:
            dropped[contender.name] = CUT_OFF
            note(f"{path.stem} 1: {contender.name} ended, it is hopeless")
            continue
        runs[contender.name] = [done]
        note(f"{path.stem} 1: {contender.name} {done['wall_s']:.2f} s")
        limit_s = CUT_OFF * min(many[0]["process_s"] for many in runs.values())
    best_s = min(many[0]["wall_s"] for many in runs.values())
    took = {name: many[0]["wall_s"] / best_s for name, many in runs.items()}
    return runs, dropped | {
        name: ratio for name, ratio in took.items() if ratio > HOPELESS and name not in keeps
    }


def times(measured: dict[str, Any], name: str) -> list[float]:
    """Return the wall times of a contender, with those of the one that did the same."""
    same = {AUTOMATIC, measured["twin"]}
    names = same & measured["wall_s"].keys() if name in same else {name}
    return [wall_s for each in sorted(names) for wall_s in measured["wall_s"][each]]


def best_fixed(measured: dict[str, Any]) -> str:
    """Return the fixed layout with the least median, of those that were repeated."""
    names = [each for each in measured["wall_s"] if each != AUTOMATIC]
    left = [each for each in names if each not in measured["dropped"]]
    return min(left, key=lambda name: statistics.median(times(measured, name)))


def ratio(measured: dict[str, Any], this: str, other: str) -> float:
    """Return the ratio of the median wall times of two contenders; 1 if they did the same."""
    medians = (statistics.median(times(measured, each)) for each in (this, other))
    return float(next(medians) / next(medians))


def verdicts(measured: dict[str, Any]) -> dict[str, bool]:
    """Return what is asked of an input, and whether it holds."""
    over_best = ratio(measured, AUTOMATIC, best_fixed(measured))
    over_narrow = ratio(measured, AUTOMATIC, measured["narrow"])
    asked = {
        f"automatic <= {MOST_OVER_BEST} x best fixed": over_best <= MOST_OVER_BEST,
        f"automatic <= {MOST_OVER_NARROW} x one thread": over_narrow <= MOST_OVER_NARROW,
    }
    if measured["input"] in WITH_TAIL:
        asked[f"one thread > {LEAST_GAIN:.2f} x automatic"] = 1 / over_narrow > LEAST_GAIN
    return asked


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Write the ratios of medians, what is asked of them, what was chosen and what was dropped."""
    lines = [
        "| input | tasks | automatic, s | best fixed | its s | one thread each, s | "
        "automatic / best fixed | one thread / automatic |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    lines += [_row(each) for each in measured]
    for each in measured:
        lines += ["", f"{each['input']}: {each['layout']}", *_twin_lines(each)]
        lines += [f"  {'holds' if ok else 'FAILS'}: {text}" for text, ok in verdicts(each).items()]
        if each["dropped"]:
            ratios = sorted(each["dropped"].items(), key=lambda item: item[1])
            names = ", ".join(
                f"{name} ({'' if name in each['wall_s'] else '> '}{times_best:.2f})"
                for name, times_best in ratios
            )
            lines.append(f"  not repeated, times the best of the first repeat: {names}")
    return "\n".join(lines)


def _row(each: dict[str, Any]) -> str:
    best, narrow = best_fixed(each), each["narrow"]
    cells = [each["input"], str(each["n_tasks"]), _spread(times(each, AUTOMATIC)), best]
    cells += [_spread(times(each, best)), _spread(times(each, narrow))]
    cells += [f"{ratio(each, AUTOMATIC, best):.3f}", f"{ratio(each, narrow, AUTOMATIC):.3f}"]
    return "| " + " | ".join(cells) + " |"


def _spread(walls_s: Sequence[float]) -> str:
    middle_s = statistics.median(walls_s)
    return f"{middle_s:.2f} ({min(walls_s):.2f} to {max(walls_s):.2f}, n={len(walls_s)})"


def _twin_lines(each: dict[str, Any]) -> list[str]:
    """Say how far apart the runs of one layout are, and whether that can be chance."""
    if each["twin"] is None:
        return []
    ours, theirs = each["wall_s"][AUTOMATIC], each["wall_s"][each["twin"]]
    lines = [
        f"  the automatic layout is {each['twin']}, their runs count together; "
        f"alone: {_spread(ours)} and {_spread(theirs)}"
    ]
    if min(ours) > max(theirs):
        lines.append("  LOOK: every automatic run took longer than every run of the fixed one")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if what is asked does not hold here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", action="append", choices=tuple(INPUTS), help="repeatable")
    parser.add_argument("--layouts", choices=("few", "all"), default="few", help="fixed ones")
    parser.add_argument("--repeat", type=int, metavar="N", help="default: 5, of all layouts 3")
    parser.add_argument("--smoke", action="store_true", help="a tiny input, once")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-hybrid.json")
    options = parser.parse_args(argv)
    report = about()
    fixed = fixed_layouts(report["machine"]["n_cores"], is_complete=options.layouts == "all")
    n_repeats = options.repeat or (3 if options.layouts == "all" else 5)
    if options.smoke:
        n_repeats, options.input = 1, [SMOKE]
    elif n_repeats < FEWEST_REPEATS:
        parser.error(f"--repeat: at least {FEWEST_REPEATS}, for the order to be turned")
    names = options.input or [name for name in INPUTS if name != SMOKE]
    measure(SMOKE, fixed[:1], 1)  # caches of the file system
    measured = [measure(name, fixed, n_repeats) for name in names]
    keep("hybrid", options.output, {**report, "measured": measured})
    print(table(measured))
    is_met = all(ok for each in measured for ok in verdicts(each).values())
    return 0 if is_met or options.smoke else 1


if __name__ == "__main__":
    raise SystemExit(main())
