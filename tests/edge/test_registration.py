"""Our names in QCEngine: there after ``import qcmb_mpi``, never on top of another's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import qcengine
from qcengine.config import get_config
from qcengine.procedures.base import get_procedure, procedures
from qcengine.programs.base import programs
from qcengine.programs.mopac import MopacHarness

from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.execution.executors.local import SequentialExecutor
from qcmb_mpi.execution.layout import Grant
from qcmb_mpi.programs import register
from qcmb_mpi.programs.names import preload_modules
from qcmb_mpi.programs.procedure import ManyBodyProcedure
from qcmb_mpi.programs.pyscf import PySCFHarness

ROOT = Path(__file__).parents[2]
NAMES = ("pyscf", "tblite", "psi4", "xtb-cli", "qcmb_mpi")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_registers_and_starts_nothing() -> None:
    code = (
        "import sys, qcmb_mpi, qcengine\n"
        "assert {'pyscf', 'tblite'} <= qcengine.list_all_programs()\n"
        "assert 'qcmb_mpi' in qcengine.list_all_procedures()\n"
        "print([m for m in ('pyscf', 'tblite', 'mpi4py') if m in sys.modules])\n"
    )
    assert run(code) == "[]"


def test_registering_twice_changes_nothing() -> None:
    first = register()
    harness = programs["pyscf"]
    assert register() == first == dict.fromkeys(NAMES, True)
    assert programs["pyscf"] is harness


def test_a_name_already_taken_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    theirs = MopacHarness(name="pyscf")
    monkeypatch.setitem(programs, "pyscf", theirs)
    assert register()["pyscf"] is False
    assert programs["pyscf"] is theirs


def test_missing_program_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    module = "qcmb_mpi.programs.pyscf.which_import"

    def absent(name: str, *, raise_error: bool, raise_msg: str, **_: Any) -> bool:
        if raise_error:
            raise ModuleNotFoundError(raise_msg)
        return False

    monkeypatch.setattr(module, absent)
    assert PySCFHarness().found() is False
    with pytest.raises(ModuleNotFoundError, match="pip install pyscf"):
        PySCFHarness().found(raise_error=True)


@pytest.mark.parametrize(
    ("told", "grant"),
    [({}, Grant()), ({"ncores": 77, "memory": 1.5}, Grant(77, 3 * 2**29))],
)
def test_procedure_hands_the_input_to_the_computer_and_keeps_to_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], grant: Grant
) -> None:
    class Computer:
        @staticmethod
        def from_manybodyinput(model: Any, executor: Executor) -> str:
            assert executor.grant == grant
            return f"result of {model}"

    pool = SequentialExecutor()
    monkeypatch.setattr("qcmb_mpi.computer.ParallelManyBodyComputer", Computer)
    monkeypatch.setattr("qcmb_mpi.warm.warm_executor", lambda: pool)
    register()
    procedure = get_procedure("QCMB_MPI")
    assert isinstance(procedure, ManyBodyProcedure)
    assert procedure.found()
    assert procedure.get_version() == qcengine.get_procedure("qcmanybody").get_version()
    assert procedure.compute("input", get_config(task_config=told)) == "result of input"
    assert pool.grant == Grant()
    assert procedures["qcmanybody"].name == "QCManyBody"


def test_modules_to_preload() -> None:
    modules = preload_modules(["PySCF", "mopac"])
    assert "pyscf.scf" in modules
    assert not any(name.startswith("tblite") for name in modules)
