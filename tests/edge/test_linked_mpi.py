"""The launcher that belongs to a program: found beside the MPI library that it is linked to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.machine.linked_mpi import linked_mpiexec

YIELDING = "--bind-to none --oversubscribe --mca mpi_yield_when_idle 1 -n {total_ranks}"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def saying(text: str) -> Callable[..., Any]:
    return lambda words, **_: subprocess.CompletedProcess(words, 0, text, "")


@pytest.mark.parametrize(
    ("library", "launcher", "options"),
    [
        ("libmpi.so.40", "mpirun", YIELDING),
        ("libmpi.so.40", "mpirun.openmpi", YIELDING),
        ("libmpich.so.12", "mpiexec.hydra", "-bind-to none -n {total_ranks}"),
        ("libmpi.so.12", "mpiexec.hydra", "-bind-to none -n {total_ranks}"),
        ("libmpich.so.12", "mpiexec", "-bind-to none -n {total_ranks}"),
    ],
)
def test_the_launcher_beside_the_library(
    library: str, launcher: str, options: str, tmp_path: Path
) -> None:
    program = executable(tmp_path / "bin" / "program")
    home = tmp_path / "mpi"
    executable(home / "bin" / launcher)
    (home / "lib" / "x86_64").mkdir(parents=True)
    run = saying(f"\t{library} => {home}/lib/x86_64/{library} (0x00007f)\n")
    environ = {"PATH": str(program.parent)}
    assert linked_mpiexec("program", environ, run) == f"{home}/bin/{launcher} {options}"


@pytest.mark.parametrize(
    "libraries",
    ["", "\tnot a dynamic executable\n", "\tlibmpi.so.40 => not found\n", "\tlibc.so.6 => /c.so\n"],
)
def test_what_is_not_certain_is_none(libraries: str, tmp_path: Path) -> None:
    program = executable(tmp_path / "program")
    environ = {"PATH": str(program.parent)}
    assert linked_mpiexec("program", environ, saying(libraries)) is None
    assert linked_mpiexec("another", environ, saying(libraries)) is None


def test_ldd_that_fails_is_none(tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("ldd", 1)

    executable(tmp_path / "program")
    assert linked_mpiexec("program", {"PATH": str(tmp_path)}, fail) is None


def test_the_library_path_of_our_launcher_is_not_the_programs(tmp_path: Path) -> None:
    seen = {}

    def note(words: Any, *, env: dict[str, str], **_: Any) -> Any:
        seen.update(env)
        return subprocess.CompletedProcess(words, 0, "", "")

    executable(tmp_path / "program")
    ours = {"OPAL_PREFIX": "/v", "LD_LIBRARY_PATH": "/v/lib", "PATH": str(tmp_path)}
    linked_mpiexec("program", ours, note)
    assert seen == {"PATH": str(tmp_path)}
