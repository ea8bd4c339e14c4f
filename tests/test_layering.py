"""The three rings: a module imports its own ring or an inner one, and strangers where they belong.

Imports inside functions and under ``TYPE_CHECKING`` count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = ("expansion", "scheduling", "errors")
EDGE = ("machine", "programs", "execution", "store", "inputs", "schema", "results", "report")
PURE_MAY_IMPORT = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "numpy", "re", "typing", "qcmb_mpi"),
}
PURE_MAY_NOT_CALL = {"open", "print", "input", "exec", "eval", "default_rng", "seed"}
AT_HOME = {
    "qcmanybody": ("schema",),
    "mpi4py": ("execution.executors.mpi",),
    "qcengine": ("programs", "execution.engine", "execution.preload"),
    "qcelemental": (
        *("schema", "programs", "execution.engine", "execution.acceptance", "execution.slicer"),
        *("execution.preload", "execution.tasks", "execution.task_runs", "execution.attempts"),
    ),
    "pandas": ("report.tables",),
    "psutil": ("machine", "report.status"),
    "pyscf": ("programs",),
    "tblite": ("programs",),
    "ase": ("ase",),
    "geometric": ("geometric",),
}


def modules() -> dict[str, ast.Module]:
    """Return every module of the package, by its name inside the package."""
    package = ROOT / "qcmb_mpi"
    return {
        ".".join(path.relative_to(package).with_suffix("").parts)
        .removesuffix("__init__")
        .strip("."): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
    }


MODULES = modules()


def imports(name: str) -> set[str]:
    """Return the full names that a module imports; the package's own are found modules."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_in(name: str, homes: tuple[str, ...]) -> bool:
    """Tell whether a module is, or is inside, one of `homes`."""
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def ring(name: str) -> int:
    """Return 0 for the pure core, 1 for the edge, 2 for the shell."""
    return 0 if is_in(name, PURE) else 1 if is_in(name, EDGE) else 2


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_its_own_ring_or_an_inner_one(name: str) -> None:
    ours = {each for each in imports(name) if each.split(".")[0] == "qcmb_mpi"}
    inside = {each.partition(".")[2] for each in ours} - {"__version__"}
    assert {each for each in inside if ring(each) > ring(name)} == set()


@pytest.mark.parametrize("name", [name for name in MODULES if ring(name) == 0])
def test_the_pure_core_knows_numpy_and_mathematics_only(name: str) -> None:
    assert {each.split(".")[0] for each in imports(name)} <= PURE_MAY_IMPORT
    calls = [node.func for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)]
    names = {getattr(func, "id", getattr(func, "attr", "")) for func in calls}
    assert names & PURE_MAY_NOT_CALL == set()


@pytest.mark.parametrize("stranger", AT_HOME)
def test_strangers_are_imported_at_home_only(stranger: str) -> None:
    importers = {
        name for name in MODULES if any(f.split(".")[0] == stranger for f in imports(name))
    }
    assert {name for name in importers if not is_in(name, AT_HOME[stranger])} == set()
    assert all(any(is_in(name, (home,)) for name in importers) for home in AT_HOME[stranger])


def test_every_module_is_in_a_ring_that_exists() -> None:
    assert all(any(is_in(name, (room,)) for name in MODULES) for room in (*PURE, *EDGE))


def imported_by(*words: str) -> set[str]:
    """Return the modules that a fresh Python, started with `words`, imports."""
    job = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    return {line.rpartition("|")[2].strip() for line in job.stderr.splitlines()}


def test_import_brings_no_mpi_and_no_program() -> None:
    found = imported_by("-c", "import qcmb_mpi")
    assert "qcengine" in found
    assert found & {"mpi4py", "mpi4py.MPI", "pyscf", "tblite", "psi4"} == set()


def test_every_public_name_is_there_and_brings_no_mpi() -> None:
    found = imported_by("-c", "import qcmb_mpi; [getattr(qcmb_mpi, n) for n in qcmb_mpi.__all__]")
    assert "qcmb_mpi.execution.agent" in found
    assert found & {"mpi4py", "mpi4py.MPI", "pyscf", "tblite"} == set()


def test_help_answers_without_slow_imports() -> None:
    found = imported_by("-m", "qcmb_mpi", "--help")
    assert "qcmb_mpi.options" in found
    assert found & {"numpy", "qcelemental", "qcengine", "qcmanybody", "mpi4py"} == set()
