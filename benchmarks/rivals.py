#!/usr/bin/env python3
"""What qcmb_mpi is measured against: stock QCManyBody, a plain process pool, bare serial copies.

Each command is one whole program, as a user would write it; ``farm.py`` starts it and takes the
time from outside. The last line of standard output is JSON.

Rules of this file
------------------
1. No use of qcmb_mpi but ``import qcmb_mpi``, which registers the PySCF harness with QCEngine.
2. Written as well as an ordinary user would: no tricks for, and none against, the rival.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ONE_CORE = {"ncores": 1, "nnodes": 1}


def read(path: Path) -> Any:
    """Read the input into QCManyBody's model."""
    import yaml
    from qcmanybody.models.v2 import ManyBodyInput

    return ManyBodyInput(**yaml.safe_load(path.read_text(encoding="utf-8")))


def sequential(path: Path) -> dict[str, Any]:
    """Run QCManyBody's own loop over QCEngine, one task after the other."""
    import qcmanybody.v2

    import qcmb_mpi  # noqa: F401

    result = qcmanybody.v2.ManyBodyComputer.from_manybodyinput(read(path))
    return {"value": float(result.return_result)}


def naive(path: Path, n_workers: int) -> dict[str, Any]:
    """Run the pool that anyone would write: one process per core, one task per call."""
    core, jobs = _plan(path)
    with ProcessPoolExecutor(n_workers) as pool:
        components = dict(pool.map(_compute, jobs))
    numbers = core.analyze(components)
    return {"value": float(numbers["ret_energy"]), "n_tasks": len(jobs)}


def copy(path: Path, n_tasks: int) -> dict[str, Any]:
    """Run a fixed sample of tasks serially, from the moment a line arrives on standard input."""
    _, jobs = _plan(path)
    sample = jobs[:: max(1, len(jobs) // n_tasks)][:n_tasks]
    _compute(jobs[-1])  # warm: imports and QCEngine's look at the processor are not throughput
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for job in sample:
        _compute(job)
    return {"seconds": time.perf_counter() - began, "n_tasks": len(sample)}


def _plan(path: Path) -> tuple[Any, list[tuple[str, str, Any]]]:
    """Let QCManyBody list the tasks; return its core and (label, program, input) of each."""
    from qcelemental.models.v2 import AtomicInput
    from qcmanybody.v2 import ManyBodyComputer

    model = read(path)
    core = ManyBodyComputer.from_manybodyinput(model, build_tasks=False).qcmb_core
    specifications = {}
    for level, specification in model.specification.specification.items():
        fields = specification.model_dump()
        fields["driver"] = model.specification.driver
        specifications[level] = fields.pop("program"), fields
    jobs = []
    for level, label, molecule in core.iterate_molecules():
        program, fields = specifications[level]
        jobs.append((label, program, AtomicInput(molecule=molecule, specification=fields)))
    return core, jobs


def _compute(job: tuple[str, str, Any]) -> tuple[str, dict[str, float]]:
    import qcengine

    import qcmb_mpi  # noqa: F401

    label, program, atomic_input = job
    result = qcengine.compute(atomic_input, program, raise_error=True, task_config=ONE_CORE)
    return label, {"energy": float(result.properties.return_energy)}


def main(argv: list[str] | None = None) -> int:
    """Run one rival and print its answer as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rival", choices=("sequential", "naive", "copy"))
    parser.add_argument("input", type=Path)
    parser.add_argument("-n", type=int, default=1, help="workers of the pool; tasks of a copy")
    options = parser.parse_args(argv)
    run = {
        "sequential": sequential,
        "naive": partial(naive, n_workers=options.n),
        "copy": partial(copy, n_tasks=options.n),
    }[options.rival]
    print(json.dumps(run(options.input)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
