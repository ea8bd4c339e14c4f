#!/usr/bin/env python3
"""Build the sdist and the wheel, look into them, and use the wheel on every Python there is.

``make packages`` and the CI run this. A Python that the classifiers name is looked for on PATH and
in pyenv; what is not here is said.

Rules of this file
------------------
1. The wheel is made from the sdist, and is used in empty folders: nothing of the clone is seen.
2. Every Python gives the same answer to the same input.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "helium-dimer.yaml"
TOLERANCE_HARTREE = 1e-10
_BIN = Path(sys.executable).parent
# Where the clone, or who started this, would shine through.
_OURS = ("PYTHON", "COV", "VIRTUAL_ENV", "MAKE")

_USE = """
import sys, pathlib, qcmb_mpi
from qcmb_mpi import ParallelManyBodyComputer
home = pathlib.Path(qcmb_mpi.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert (home / "py.typed").exists()
assert qcmb_mpi.__version__ == sys.argv[1], qcmb_mpi.__version__
"""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; return what it prints, or end with what it says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    line = [str(word) for word in words]
    done = subprocess.run(line, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: {' '.join(line)}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, str]:
    """Build both packages into a folder, check them, and return the wheel and its version."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    run(_BIN / "check-wheel-contents", wheel)
    missing = files_of_the_package() - set(zipfile.ZipFile(wheel).namelist())
    if missing:
        raise SystemExit(f"FAILED: not in the wheel: {', '.join(sorted(missing))}")
    return wheel, wheel.name.split("-")[1]


def files_of_the_package() -> set[str]:
    """Return what belongs into a wheel: all modules, and templates, marker and page beside them."""
    found = (ROOT / "qcmb_mpi").rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.is_file() and path.parent.name != "__pycache__"
    }


def versions() -> list[str]:
    """Return the Pythons that the classifiers promise, as 3.x."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def pythons() -> dict[str, Path]:
    """Return the interpreters that are here."""
    return {version: found for version in versions() if (found := interpreter(version))}


def interpreter(version: str) -> Path | None:
    """Return a Python of this version that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for path in filter(None, candidates):
        told = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
        if told.stdout.strip() == version:
            return Path(path)
    return None


def use(python: Path, wheel: Path, version: str) -> float:
    """Install the wheel for a Python, use it as people do, and return an interaction energy."""
    with tempfile.TemporaryDirectory() as name:
        folder, venv = Path(name), Path(name, "venv")
        run(python, "-m", "venv", venv, cwd=folder)
        run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        program = venv / "bin" / "qcmb-mpi"
        told = run(program, "--version", cwd=folder).split()
        if told != ["qcmb_mpi", version]:
            raise SystemExit(f"FAILED: --version says {told}")
        run(venv / "bin" / "python", "-c", _USE, version, cwd=folder)
        source = shutil.copy(EXAMPLE, folder / "in.yaml")
        run(program, "run", source, "--workers", "2", "--threads", "1", cwd=folder)
        run(program, "report", "in.result.json", cwd=folder)
        run(program, "jobscript", "slurm", source, cwd=folder)
        return float(json.loads((folder / "in.result.json").read_text())["return_result"])


def main() -> int:
    """Build, check, and use on every Python, several at a time."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, version = build(Path(folder))
        print(f"built, checked: {wheel.name} and its sdist")
        found = pythons()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            energies = list(pool.map(lambda python: use(python, wheel, version), found.values()))
    for name in versions():
        print(
            f"Python {name}: {f'used ({found[name]})' if name in found else 'not to be had here'}"
        )
    if not energies or max(energies) - min(energies) > TOLERANCE_HARTREE:
        raise SystemExit(f"FAILED: no Python, or other answers: {energies}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
