"""The scripts and the notebook in examples/ run, and say what their pages say they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.project.test_frame import ROOT
from tools import mpiexec

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("optimize_*.py"))
pytestmark = [pytest.mark.qc, pytest.mark.launch]


def energy_hartree(output: str) -> float:
    """Return the energy in the last line."""
    number, unit = re.findall(r"(-\d+\.\d+) (hartree|eV)", output.splitlines()[-1])[0]
    return float(number) / (1.0 if unit == "hartree" else 27.211386)


def run(line: list[str], folder: Path) -> str:
    """Run a command in a folder of its own and return what it prints."""
    with mpiexec.own_temporary(mpiexec.environment(200)) as environ:
        environ["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            line, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_the_minimum(name: str, tmp_path: Path) -> None:
    output = run([sys.executable, str(EXAMPLES / name)], tmp_path)
    assert energy_hartree(output) == pytest.approx(-151.98, abs=0.01)


def test_a_script_does_under_mpiexec_what_it_does_without(tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLES / "optimize_geometric.py")]
    line = mpiexec.command_line(2, words, is_oversubscribed=True, timeout_s=200)
    output = run(line, tmp_path)
    [told] = [line for line in output.splitlines() if line.endswith(" hartree")]
    assert energy_hartree(told) == pytest.approx(-151.98, abs=0.01)


def test_the_notebook_runs_and_shows_progress_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path[:1])]))
    notebook = nbformat.read(EXAMPLES / "live.ipynb", as_version=4)
    context = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=200, resources=context).execute()
    for name in ("run", "optimise"):
        [cell] = [cell for cell in notebook.cells if cell["id"] == name]
        pages = [out for out in cell["outputs"] if out["output_type"] == "display_data"]
        assert len(pages) == 1
        assert "100 %" in pages[0]["data"]["text/plain"]
        assert pages[0]["data"]["text/html"].startswith("<pre")
        assert not [out for out in cell["outputs"] if out.get("name") == "stderr"]
