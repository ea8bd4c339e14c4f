"""Loops that do nothing but calculate: what an hour of work with a program's own interface gives.

    python benchmarks/bare.py tblite|qcengine TASKS.json [--part I/N]

``native.py`` starts them, waits for ``ready``, and writes a line to have them begin. TASKS.json has
atomic numbers, positions, the atoms of each task, and the keyword ``accuracy``. The last line of
standard output is JSON.

Rules of this file
------------------
1. The plain loop that anyone would write; objects of QCSchema are made before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

METHOD = "GFN2-xTB"


def tblite_loop(tasks: dict[str, Any]) -> Callable[[], list[float]]:
    """Loop over ``tblite.interface.Calculator``."""
    from tblite.interface import Calculator

    numbers, positions = np.array(tasks["numbers"]), np.array(tasks["positions_bohr"])

    def energy(atoms: list[int]) -> float:
        calculator = Calculator(METHOD, numbers[atoms], positions[atoms])
        calculator.set("verbosity", 0)
        calculator.set("accuracy", tasks["accuracy"])
        return float(calculator.singlepoint().get("energy"))

    return lambda: [energy(atoms) for atoms in tasks["atoms"]]


def qcengine_loop(tasks: dict[str, Any]) -> Callable[[], list[float]]:
    """Loop over ``qcengine.compute`` with inputs that are ready."""
    import qcengine
    from qcelemental import periodictable
    from qcelemental.models.v2 import AtomicInput, Molecule

    import qcmb_mpi  # noqa: F401  registers the harness

    symbols = np.array([periodictable.to_E(int(number)) for number in tasks["numbers"]])
    positions = np.array(tasks["positions_bohr"])
    specification = {
        "driver": "energy",
        "model": {"method": METHOD, "basis": None},
        "keywords": {"accuracy": tasks["accuracy"]},
    }
    inputs = [
        AtomicInput(
            molecule=Molecule(
                symbols=symbols[atoms], geometry=positions[atoms], fix_com=True, validate=False
            ),
            specification=specification,
        )
        for atoms in tasks["atoms"]
    ]
    config = {"ncores": 1, "nnodes": 1, "memory": 1.0}

    def energy(inp: Any) -> float:
        result = qcengine.compute(inp, "tblite", raise_error=True, task_config=config)
        return float(result.properties.return_energy)

    energy(inputs[0])  # QCEngine looks at the processor
    return lambda: [energy(inp) for inp in inputs]


LOOPS = {"tblite": tblite_loop, "qcengine": qcengine_loop}


def main(argv: list[str] | None = None) -> int:
    """Run one loop when told to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("loop", choices=tuple(LOOPS))
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every Nth task from the Ith")
    options = parser.parse_args(argv)
    tasks = json.loads(options.tasks.read_text(encoding="utf-8"))
    part, n_parts = map(int, options.part.split("/"))
    tasks["atoms"] = tasks["atoms"][part::n_parts]
    loop = LOOPS[options.loop](tasks)
    LOOPS[options.loop]({**tasks, "atoms": tasks["atoms"][-1:]})()
    print("ready", flush=True)
    sys.stdin.readline()
    began_s, used_s = time.perf_counter(), time.process_time()
    energies = loop()
    found = {"seconds": time.perf_counter() - began_s, "cpu_s": time.process_time() - used_s}
    print(json.dumps({**found, "n_tasks": len(energies), "sum": math.fsum(energies)}), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
