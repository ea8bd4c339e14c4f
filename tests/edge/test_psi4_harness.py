"""Psi4 of both kinds: what old ones read, and newer ones in this process, by a stand-in module."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from qcelemental.models.v2 import AtomicResult
from qcengine.config import get_config
from qcengine.exceptions import InputError, RandomError, ResourceError, UnknownError
from qcengine.programs.psi4 import Psi4Harness as StockHarness

from qcmb_mpi.programs import psi4
from qcmb_mpi.programs.psi4 import Psi4Harness, old_document
from tests.edge.harness_cases import AMIDOGEN, WATER_GHOST, atomic_input

CONFIG = get_config(task_config={"ncores": 3, "memory": 2.0, "scratch_directory": "/some/where"})


def test_what_old_versions_read() -> None:
    found = old_document(atomic_input(WATER_GHOST, "mp2", "6-31g", n_ghosts=1), CONFIG)
    assert (found["schema_name"], found["schema_version"]) == ("qcschema_input", 1)
    assert found["model"] == {"method": "mp2", "basis": "6-31g"}
    assert (found["nthreads"], found["memory"]) == (3, int(2 * 2**30 * 0.95))
    assert found["molecule"]["real"] == [True, True, True, False]
    assert found["molecule"]["fix_com"] is True
    assert found["molecule"]["fix_orientation"] is True
    assert found["keywords"] == {}


def test_open_shells_are_unrestricted_unless_said() -> None:
    radical = old_document(atomic_input(AMIDOGEN, "hf", multiplicity=2), CONFIG)
    assert radical["keywords"] == {"reference": "uhf"}
    own = atomic_input(AMIDOGEN, "hf", multiplicity=2, keywords={"REFERENCE": "rohf"})
    assert old_document(own, CONFIG)["keywords"] == {"REFERENCE": "rohf"}


def test_old_versions_know_no_embedding_charges() -> None:
    charges = {"function_kwargs": {"external_potentials": [[0.1, [0.0, 0.0, 9.0]]]}}
    with pytest.raises(InputError, match=r"Psi4 1\.4 or newer"):
        old_document(atomic_input(AMIDOGEN, "hf", multiplicity=2, keywords=charges), CONFIG)


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("Traceback\n  x\nMissingMethodError: no such\n", InputError, "no such"),
        ("Traceback\n  x\nSCFConvergenceError: Could not converge SCF\n", UnknownError, "Could"),
        ("PSIO Error: scratch directory is full", ResourceError, "full"),
        ("PSIO Error: bad read", RandomError, "bad read"),
        ("psi4 ended by SIGSEGV", RandomError, "SIGSEGV"),
        ("segmentation fault (core dumped)", RandomError, "segmentation"),
        ("", UnknownError, "without a word"),
    ],
)
def test_errors(message: str, kind: type[Exception], said: str) -> None:
    error = psi4._error(message, "its output")
    assert type(error) is kind
    assert said in str(error)


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module ``psi4`` 1.9 that can be imported; return what it was told."""
    told: list[str] = []
    paths = ["/psi4's own"]

    def set_default_path(path: str) -> None:
        told.append(f"files in {path}")
        paths.append(path)

    files = SimpleNamespace(get_default_path=lambda: paths[-1], set_default_path=set_default_path)
    module: Any = ModuleType("psi4")
    module.core = SimpleNamespace(
        IOManager=SimpleNamespace(shared_object=lambda: files),
        clean=lambda: told.append(f"clean {Path(paths[-1]).is_dir()}"),
    )
    monkeypatch.setitem(sys.modules, "psi4", module)
    monkeypatch.setattr(psi4, "which_import", lambda _name, **_: True)
    monkeypatch.setattr(Psi4Harness, "found", staticmethod(lambda raise_error=False: True))
    monkeypatch.setattr(psi4, "which", lambda _name: None)

    def compute(_self: Any, inp: Any, _config: Any) -> AtomicResult:
        told.append(f"compute {inp.specification.extras}")
        return AtomicResult(
            input_data=inp,
            molecule=inp.molecule,
            properties={"return_energy": -1.0},
            return_result=-1.0,
            provenance={"creator": "Psi4"},
            success=True,
        )

    monkeypatch.setattr(StockHarness, "compute", compute)
    return told


@pytest.mark.parametrize("given_by", ["--scratch", "PSI_SCRATCH"])
def test_newer_versions_run_in_this_process(
    given_by: str, modern: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path if given_by == "--scratch" else None
    monkeypatch.setenv("PSI_SCRATCH", str(tmp_path))
    config = CONFIG.model_copy(update={"scratch_directory": scratch and str(scratch)})
    inp = atomic_input(WATER_GHOST, "hf", n_ghosts=1)
    folders = []
    for _ in range(2):
        result = Psi4Harness().compute(inp, config)
        assert modern[1:] == ["compute {'psiapi': True}", "clean True", "files in /psi4's own"]
        folders.append(Path(modern[0].removeprefix("files in ")))
        modern.clear()
    assert folders[0] != folders[1]
    assert [folder.parent for folder in folders] == [tmp_path] * 2
    assert list(tmp_path.iterdir()) == []
    assert result.input_data is inp
    assert inp.specification.extras == {}


def test_a_failure_leaves_nothing(
    modern: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(StockHarness, "compute", lambda *_: 1 / 0)
    config = CONFIG.model_copy(update={"scratch_directory": str(tmp_path)})
    with pytest.raises(ZeroDivisionError):
        Psi4Harness().compute(atomic_input(WATER_GHOST, "hf", n_ghosts=1), config)
    assert modern[1:] == ["clean True", "files in /psi4's own"]
    assert list(tmp_path.iterdir()) == []


def test_newer_versions_without_a_module_are_started(
    modern: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psi4, "which_import", lambda _name, **_: False)
    Psi4Harness().compute(atomic_input(WATER_GHOST, "hf", n_ghosts=1), CONFIG)
    assert modern == ["compute {}"]


@pytest.mark.parametrize(
    ("version", "is_old"), [("1.3.2", True), ("1.2", True), ("1.4", False), ("1.9.1", False)]
)
def test_an_executable_is_asked_once_and_elsewhere(
    version: str, is_old: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "psi4"
    script.write_text(f'#!/bin/sh\necho x >timer.dat; echo x >>"$0.asked"; echo {version}\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(psi4, "which", lambda _name: str(script))
    monkeypatch.setattr(StockHarness, "found", staticmethod(lambda raise_error=False: False))
    monkeypatch.setattr(StockHarness, "get_version", lambda _self: "theirs")
    assert [Psi4Harness.found() for _ in range(3)] == [is_old] * 3
    assert Psi4Harness().get_version() == (version if is_old else "theirs")
    assert (tmp_path / "psi4.asked").read_text() == "x\n"
    assert not (tmp_path / "timer.dat").exists()
