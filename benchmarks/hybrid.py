#!/usr/bin/env python3
"""Measure hybrid parallelism: automatic widths beside fixed numbers of threads for every task.

    python benchmarks/hybrid.py                              # all inputs, five pairs each
    python benchmarks/hybrid.py --input tail --repeat 9
    python benchmarks/hybrid.py --smoke                      # does it still run?

Every run is a whole program on all cores of this machine, timed by its own summary. In each repeat
all contenders run one after the other, in an order that alternates; what counts is the median of
the ratios within a repeat. A table goes to standard output, all figures to ``benchmarks/results/``.

Rules of this file
------------------
1. Times are compared within one repeat only; nothing here knows an absolute number.
2. All contenders must give the same energy to 1e-8 hartree, else the run fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from farm import ROOT, TOLERANCE_HARTREE, commit, machine, note, versions

AUTOMATIC, NARROW = "automatic", "--threads 1"


def model(method: str, basis: str) -> dict[str, Any]:
    """Return one model chemistry."""
    chosen = {"method": method, "basis": basis}
    return {"program": "pyscf", "driver": "energy", "model": chosen, "keywords": {}}


# What is computed of the waters of examples/supersystem.yaml, how many of them, why.
INPUTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "tail": (  # one supersystem that is most of the work
        8,
        {"bsse_type": ["nocp"], "levels": {2: "low", "supersystem": "high"}},
        {"low": model("hf", "6-31g"), "high": model("hf", "6-31g")},
    ),
    "cp": (  # every task has all functions: few dear ones, more than one round of cores
        5,
        {"bsse_type": ["cp"], "max_nbody": 1, "levels": {1: "low"}},
        {"low": model("hf", "aug-cc-pvdz")},
    ),
    "correlated": (  # few large tasks of another method over many small ones
        6,
        {"bsse_type": ["nocp"], "levels": {1: "high", 2: "low", "supersystem": "top"}},
        {"high": model("mp2", "6-31g*"), "low": model("hf", "6-31g"), "top": model("mp2", "6-31g")},
    ),
    "narrow": (  # nothing to gain: must cost nothing
        8,
        {"bsse_type": ["nocp"], "levels": {3: "low"}},
        {"low": model("hf", "6-31g")},
    ),
}


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


def run(path: Path, threads: str) -> dict[str, Any]:
    """Run an input once; return its summary with the energy."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "out.json"
        command = [sys.executable, "-m", "qcmb_mpi", "run", str(path), "--no-store"]
        options = ["--executor", "multiprocessing", "--no-progress", "--threads", threads]
        done = subprocess.run(
            [*command, *options, "-o", str(result)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{path.stem}, threads {threads}: {done.stderr}")
        summary = json.loads((Path(folder) / "out.run.json").read_text(encoding="utf-8"))
        value = json.loads(result.read_text(encoding="utf-8"))["return_result"]
    return {**summary, "value": value}


def measure(name: str, contenders: dict[str, str], n_repeats: int) -> dict[str, Any]:
    """Run all contenders on one input, the order turned round in every other repeat."""
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        write_input(name, path)
        for repeat in range(n_repeats):
            order = list(contenders)[:: 1 if repeat % 2 == 0 else -1]
            for contender in order:
                runs[contender].append(run(path, contenders[contender]))
                wall_s = runs[contender][-1]["wall_s"]
                note(f"{name} {repeat + 1}/{n_repeats}: {contender} {wall_s:.2f} s")
    values = [each["value"] for many in runs.values() for each in many]
    if max(values) - min(values) > TOLERANCE_HARTREE:
        raise SystemExit(f"{name}: the contenders do not agree: {values}")
    return {
        "input": name,
        "layout": runs[AUTOMATIC][0]["layout"],
        "wall_s": {
            contender: [each["wall_s"] for each in many] for contender, many in runs.items()
        },
    }


def ratios(measured: dict[str, Any], contender: str) -> list[float]:
    """Return, of each repeat, a contender's wall time over the automatic one's."""
    pairs = zip(measured["wall_s"][contender], measured["wall_s"][AUTOMATIC], strict=True)
    return [other_s / ours_s for other_s, ours_s in pairs]


def table(measured: list[dict[str, Any]]) -> str:
    """Write the medians of the ratios: above 1 the automatic choice is sooner."""
    others = [each for each in measured[0]["wall_s"] if each != AUTOMATIC]
    lines = [
        "| input | automatic, s | " + " | ".join(f"{each} / automatic" for each in others) + " |",
        "|---|---:|" + "---:|" * len(others),
    ]
    for each in measured:
        cells = [
            f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            for found in (ratios(each, other) for other in others)
        ]
        wall_s = statistics.median(each["wall_s"][AUTOMATIC])
        lines.append(f"| {each['input']} | {wall_s:.2f} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{each['input']}: {each['layout']}" for each in measured)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", action="append", choices=tuple(INPUTS), help="repeatable")
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--smoke", action="store_true", help="one input, once")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-hybrid.json")
    options = parser.parse_args(argv)
    about = machine()
    counts = sorted({1, max(1, about["n_cores"] // 2), about["n_cores"]})
    contenders = {AUTOMATIC: "auto", **{f"--threads {n}": str(n) for n in counts}}
    if options.smoke:
        options.repeat, options.input = 1, ["tail"]
        contenders = {AUTOMATIC: "auto", NARROW: "1"}
    names = options.input or list(INPUTS)
    measured = [measure(name, contenders, options.repeat) for name in names]
    now = datetime.datetime.now().astimezone()
    report = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": about,
        "versions": versions(),
        "measured": measured,
    }
    path = options.output or ROOT / "benchmarks" / "results" / f"{now:%Y%m%d-%H%M%S}-hybrid.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
