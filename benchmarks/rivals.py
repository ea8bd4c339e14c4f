#!/usr/bin/env python3
"""What qcmb_mpi is measured against: stock QCManyBody, a plain pool, other packages, serial copies.

Each command is one whole program, as a user would write it; ``farm.py`` starts it and takes the
time from outside. The last line of standard output is JSON, with ``aside_s`` where some of that
time is not to count. ``fragment`` and ``fork`` need an environment of their own, whose Python runs
this file: the first has Fragme∩t and PySCF (``pip install fragment-qc pyscf``), the second the
parallel fork of QCManyBody 0.5, PySCF, and what qcmb_mpi needs besides QCManyBody.

Rules of this file
------------------
1. No use of qcmb_mpi but ``import qcmb_mpi``, which registers the PySCF harness with QCEngine.
2. Written as well as an ordinary user would: no tricks for, and none against, the rival.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
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


def fragment(path: Path) -> dict[str, Any]:
    """Run Fragme∩t over Ray, which takes all cores; setting up its project does not count.

    It hands what it reads, in angstrom, to PySCF as bohr (atomdriver-qc 0.1.4), so that it has to
    be given bohr. Its own default is five tasks at once; one is sooner here.
    """
    import yaml

    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    specification = document["specification"]
    chosen = specification["specification"]["model"]
    procedure = {"method": chosen["method"].upper(), "basis": chosen["basis"]}
    driver = {"type": "PySCF", "options": {"batch_size": 1, "procedure": procedure}}
    strategy = {
        "systems": [{"name": "cluster", "source": "cluster.xyz"}],
        "drivers": [{"name": "program", **driver}],
        "fragmenters": [
            {"name": "water", "type": "WaterFragmenter"},
            {"name": "mbe", "type": "FullFragmenter"},
        ],
        "calculations": [
            {
                "name": "all",
                "systems": ["cluster"],
                "steps": ["water", f"mbe({specification['keywords']['max_nbody']})", "program"],
            }
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        _write_xyz(document["molecule"], Path(folder) / "cluster.xyz")
        (Path(folder) / "strategy.yaml").write_text(yaml.safe_dump(strategy), encoding="utf-8")
        began = time.perf_counter()
        _fragment(folder, "init", "strategy.yaml")
        aside_s = time.perf_counter() - began
        _fragment(folder, "-r", "calc", "run", "cluster--all")
        with closing(sqlite3.connect(Path(folder) / "fragment.db")) as database:
            [(text,)] = database.execute(
                "SELECT r.properties FROM record r JOIN calculation_record c ON c.record_id = r.id"
            ).fetchall()
    return {"value": json.loads(text)["total_energy"], "aside_s": aside_s}


def _write_xyz(molecule: dict[str, Any], path: Path) -> None:
    """Write a geometry in its own unit."""
    numbers = molecule["geometry"]
    rows = [str(len(molecule["symbols"])), "bohr"]
    for i, symbol in enumerate(molecule["symbols"]):
        rows.append(" ".join([symbol, *map(repr, numbers[3 * i : 3 * i + 3])]))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _fragment(folder: str, *words: str) -> None:
    """Run one of its commands; it exits with 0 whatever happens."""
    command = [str(Path(sys.executable).parent / "fragment"), *words]
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    subprocess.run(command, cwd=folder, env=environ, stdout=sys.stderr, check=True)


def fork(path: Path, n_workers: int) -> dict[str, Any]:
    """Run the earlier parallel fork of QCManyBody over its processes.

    Its workers look for the program's name in the model, and run Psi4 where it is not there.
    """
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import yaml
    from qcmanybody.models import ManyBodyInput
    from qcmanybody.parallel import ParallelManyBodyComputer

    import qcmb_mpi  # noqa: F401

    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    specification = document["specification"]["specification"]
    specification["model"]["program"] = specification["program"]
    document["specification"]["specification"] = {"(auto)": specification}
    given = {name: document[name] for name in ("molecule", "specification")}
    result = ParallelManyBodyComputer.from_manybodyinput(
        ManyBodyInput(**given), parallel=True, n_workers=n_workers
    )
    return {"value": float(result.return_result)}


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
    parser.add_argument("rival", choices=("sequential", "naive", "fragment", "fork", "copy"))
    parser.add_argument("input", type=Path)
    parser.add_argument("-n", type=int, default=1, help="workers of the pool; tasks of a copy")
    options = parser.parse_args(argv)
    run = {
        "sequential": sequential,
        "naive": partial(naive, n_workers=options.n),
        "fragment": fragment,
        "fork": partial(fork, n_workers=options.n),
        "copy": partial(copy, n_tasks=options.n),
    }[options.rival]
    print(json.dumps(run(options.input)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
