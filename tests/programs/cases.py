"""Programs that can be installed here, what they compute, and sequential QCManyBody beside them.

Rules of this file
------------------
1. Both sides are told the same: one thread, one GiB, the same registered harness.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qcengine
from qcengine.programs.base import programs

from qcmb_mpi.programs import register
from tests.launch.jobs import ROOT, command, environment, read, run

Json = dict[str, Any]

TOLERANCE = 1e-12
# One GiB and one thread for each of two slots; QCEngine is told the same.
LAYOUT = ("--workers", "2", "--threads", "1", "--memory", "2GiB")
TOLD = {"QCENGINE_NCORES": "1", "QCENGINE_MEMORY": "1.0"}
# What each test finds, and what a whole run of them has found for the documentation.
RECORDS = ROOT / "build" / "programs"
KEPT = ROOT / "docs" / "programs" / "runs.json"


@dataclass(frozen=True)
class Program:
    """A program and a small model of it.

    Parameters
    ----------
    name : str
        QCEngine's.
    model, keywords : dict
        As in a specification.
    has_ghosts : bool
        Whether it can do cp.
    """

    name: str
    model: Json
    keywords: Json = field(default_factory=dict)
    has_ghosts: bool = False

    def __str__(self) -> str:
        return self.name

    def specification(self, driver: str, **changes: Any) -> Json:
        """Return an atomic specification."""
        made = {"program": self.name, "driver": driver, "model": self.model}
        return made | {"keywords": self.keywords} | changes


_HF = {"method": "hf", "basis": "sto-3g"}
_TIGHT = {"e_convergence": 1e-11, "d_convergence": 1e-10}
PROGRAMS = {
    each.name: each
    for each in (
        Program("pyscf", _HF, has_ghosts=True),
        Program("nwchem", _HF, has_ghosts=True),
        Program("psi4", _HF, _TIGHT, has_ghosts=True),
        Program("tblite", {"method": "GFN2-xTB"}),
        Program("xtb", {"method": "GFN2-xTB"}),
        Program("xtb-cli", {"method": "GFN2-xTB"}),
        Program("mopac", {"method": "PM7"}),
        Program("dftd4", {"method": "pbe"}),
        Program("s-dftd3", {"method": "pbe-d3bj"}),
    )
}

# Cannot be installed from a package registry: only what we tell them is looked at.
ONLY_CONFIGURED = ("cfour", "gamess", "qchem", "molpro", "terachem", "turbomole")

_WATERS = json.loads((ROOT / "geometries" / "water-3.json").read_text())
WATERS = {name: _WATERS[name] for name in ("symbols", "geometry", "fragments")}
# A cation and a radical.
IONS = {
    "symbols": ["O", "H", "H", "H", "N", "H", "H"],
    "geometry": [
        *(0.0, 0.0, 0.0, 1.75, 0.0, 0.55, -0.87, 1.52, 0.55, -0.87, -1.52, 0.55),
        *(0.2, 0.3, -5.5, 0.3, 1.8, -6.6, 2.0, -0.3, -6.1),
    ],
    "fragments": [[0, 1, 2, 3], [4, 5, 6]],
    "fragment_charges": [1.0, 0.0],
    "fragment_multiplicities": [1, 2],
}


def document(molecule: Json, driver: str, specification: Json, **keywords: Any) -> dict[str, Any]:
    """Return a many-body input; `specification` is one, or several by label."""
    labelled = specification if "program" not in specification else {"(auto)": specification}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": molecule,
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp"], **keywords},
            "specification": labelled,
        },
    }


def computed(
    folder: Path,
    inp: Json,
    *words: str,
    layout: tuple[str, ...] = LAYOUT,
    n_ranks: int = 0,
    env: Mapping[str, str] | None = None,
) -> tuple[Json, Json]:
    """Run the command on an input; return its result and its summary."""
    (folder / "in.json").write_text(json.dumps(inp))
    line = command("run", folder / "in.json", *layout, *words, n_ranks=n_ranks)
    job = run(line, cwd=folder, env=environment(**(env or {})))
    assert job.returncode == 0, job.stderr
    return read(folder / "in.result.json"), read(folder / "in.run.json")


def sequential(inp: Json, **told: str) -> Any:
    """Return what QCManyBody and QCEngine make of it, one calculation after the other."""
    import qcmanybody.models.v2 as models
    import qcmanybody.v2 as stock

    register()
    compute = qcengine.compute

    def compute_completely(*args: Any, **kwargs: Any) -> Any:
        return completed(compute(*args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qcengine, "compute", compute_completely)
        for name, value in (TOLD | told).items():
            patch.setenv(name, value)
        return stock.ManyBodyComputer.from_manybodyinput(models.ManyBodyInput(**inp))


def completed(result: Any) -> Any:
    """Write a gradient among the properties: stock QCManyBody looks nowhere else for it.

    The harnesses of xtb, MOPAC, dftd4 and s-dftd3 give it as the result alone.
    """
    if result.success and result.input_data.specification.driver == "gradient":
        known = result.properties.model_copy(update={"return_gradient": result.return_result})
        return result.model_copy(update={"properties": known})
    return result


def difference(found: Json, expected: Any) -> float:
    """Return the largest difference of all numbers that both have, hartree and bohr."""
    pairs = [(found["return_result"], expected.return_result)]
    ours, theirs = found["properties"], expected.properties.model_dump()
    names = {name for name, value in theirs.items() if isinstance(value, (float, np.ndarray))}
    assert names, "the expected result is empty"
    assert names <= ours.keys()
    pairs += [(ours[name], theirs[name]) for name in names]
    return max(float(np.abs(np.ravel(a) - np.ravel(b)).max()) for a, b in pairs)


def keep(program: str, case: str, *, difference: float, n_tasks: int) -> None:
    """Write what was found: ``tools/program_table.py --run`` makes a table of it."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    version = str(programs[program].get_version())
    content = {"case": case, "version": version, "n_tasks": n_tasks, "difference": difference}
    (RECORDS / f"{program}.{case}.json").write_text(json.dumps(content) + "\n")


def spies(folder: Path, *names: str) -> Mapping[str, str]:
    """Put executables before the real ones that note how they are started; return variables."""
    import shutil

    home = folder / "spies"
    home.mkdir()
    for name in names:
        real = shutil.which(name)
        assert real is not None, f"{name} is missing"
        script = home / name
        script.write_text(
            f'#!/bin/sh\n{{ echo "== $0 $*"; pwd; env; }} >>"{folder}/notes.$$"\nexec {real} "$@"\n'
        )
        script.chmod(0o755)
    return {"PATH": f"{home}:{os.environ['PATH']}"}


def notes(folder: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Return command line, folder and environment of every start that a spy noted."""
    found = []
    for path in sorted(folder.glob("notes.*")):
        for text in path.read_text().split("== ")[1:]:
            line, where, *rest = text.splitlines()
            pairs = (each.split("=", 1) for each in rest if "=" in each)
            found.append((line, where, dict(pairs)))
    return found
