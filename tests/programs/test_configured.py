"""Programs that cannot be installed here: QCEngine's harnesses write their input from what we say.

No program is run: what is looked at is the input, the command and the environment. How they behave
is not known from here, and the documentation says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qcengine.config import get_config
from qcengine.programs.base import programs

from qcmb_mpi.programs import register
from qcmb_mpi.programs.thread_config import calculation_environment, configure_program
from tests.edge.harness_cases import AMIDOGEN, WATER_GHOST, atomic_input
from tests.programs.cases import ONLY_CONFIGURED

GIB = 2**30
EXECUTABLES = {"cfour": "xcfour", "gamess": "rungms", "turbomole": "define"}


@pytest.fixture
def absent_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put executables that do nothing on PATH."""
    register()
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ONLY_CONFIGURED:
        path = folder / EXECUTABLES.get(name, name)
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    (tmp_path / "basis").mkdir()
    (tmp_path / "basis" / "GENBAS").write_text("a basis\n")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    for name in ("molpro", "qchem"):
        monkeypatch.setattr(type(programs[name]), "get_version", lambda _self: "2022.1")


def written(program: str, atoms: Any, tmp_path: Path, **asked: Any) -> tuple[str, list[str], Any]:
    """Return the input, the command and what else the harness made for 3 cores and 6 GiB."""
    made = configure_program(program, 3, 6 * GIB, environ={})
    config = get_config(
        task_config={**made.qcengine_task_config, "scratch_directory": str(tmp_path)}
    )
    inp = atomic_input(atoms, asked.pop("method", "hf"), "cc-pvdz", **asked)
    job = programs[program].build_input(inp, config)
    texts = [text for name, text in job["infiles"].items() if name != "GENBAS"]
    return "\n".join(texts), job.get("command") or job["commands"], job


@pytest.mark.usefixtures("absent_programs")
def test_cfour_with_ghosts(tmp_path: Path) -> None:
    text, command, job = written("cfour", WATER_GHOST, tmp_path, n_ghosts=1, driver="gradient")
    assert command[0].endswith("/xcfour")
    assert job["scratch_directory"] == str(tmp_path)
    assert f"MEMORY_SIZE={6 * GIB // 8}" in text.replace(" ", "")
    assert "GH" in text
    assert "HE:CC-PVDZ" in text
    assert "DERIV_LEVEL=FIRST" in text


@pytest.mark.usefixtures("absent_programs")
def test_gamess(tmp_path: Path) -> None:
    text, command, _ = written("gamess", AMIDOGEN, tmp_path, multiplicity=2)
    assert command[0].endswith("/rungms")
    assert command[-1] == "3"
    assert "mult=2" in text.lower().replace(" ", "")
    assert "mwords=268 " in text  # of each process, millions of words


@pytest.mark.usefixtures("absent_programs")
def test_qchem(tmp_path: Path) -> None:
    text, command, job = written("qchem", AMIDOGEN, tmp_path, multiplicity=2, method="b3lyp")
    assert command[1:] == ["-nt", "3", "dispatch.in", "dispatch.out"]
    assert job["scratch_directory"] == str(tmp_path)
    assert "MEM_TOTAL             6144" in text
    assert "\n0 2\n" in text


@pytest.mark.usefixtures("absent_programs")
def test_molpro_with_ghosts(tmp_path: Path) -> None:
    text, command, _ = written("molpro", WATER_GHOST, tmp_path, n_ghosts=1, driver="gradient")
    assert command[-2:] == ["-n", "3"]
    assert f"memory,{int(6 * GIB / 8e6 / 3)},M" in text
    assert "dummy" in text.lower()
    assert "{force}" in text
    assert calculation_environment("molpro", 3)["OMP_NUM_THREADS"] == "1"


@pytest.mark.usefixtures("absent_programs")
def test_terachem(tmp_path: Path) -> None:
    text, command, job = written("terachem", AMIDOGEN, tmp_path, multiplicity=2, charge=0)
    assert command == ["terachem", "tc.in"]
    assert job["scratch_directory"] == str(tmp_path)
    assert "spinmult 2" in text
    assert "units bohr" in text


def test_turbomole_is_given_one_core() -> None:
    """Its harness asks ``define``, the program, before it has an input: no more can be seen."""
    made = configure_program("turbomole", 3, 6 * GIB, environ={})
    assert made.threads_per_calculation == 1
    assert made.environment_variables["OMP_NUM_THREADS"] == "1"
