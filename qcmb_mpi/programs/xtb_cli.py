"""QCEngine harness for the executable ``xtb`` (https://xtb-docs.readthedocs.io): ``xtb-cli``.

QCEngine's own ``xtb`` is the Python module, which Debian's package and a plain build of xtb have
not; this one starts the executable.

Rules of this file
------------------
1. What it may be asked for is in :mod:`~qcmb_mpi.programs.xtb_words`.
2. Numbers are read where xtb writes most digits of them: the energy from its output, the gradient
   from the file ``gradient``.
3. xtb is given the molecule turned, and its gradient is turned back: up to 6.7.1 the gradient is
   wrong where two atoms have a coordinate in common (its issue 986).
4. An energy for which xtb has read beyond its arrays is none.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcelemental.util import safe_version, which
from qcengine.config import TaskConfig
from qcengine.exceptions import ConvergenceError, InputError, RandomError, UnknownError
from qcengine.programs.model import ProgramHarness
from qcengine.util import execute

from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import Array, Atoms
from qcmb_mpi.programs.xtb_words import arguments

_ENERGY = re.compile(r"TOTAL ENERGY +(-?\d+\.\d+) Eh")
_VERSION = re.compile(r"xtb version (\S+)")
# A trace, the last line of which is what went wrong first.
_SAID = re.compile(r"^-\d+- (\S.*?)\s*$", re.M)
_NOT_CONVERGED = "did not converge"
_COUNTS = re.compile(r"# atomic orbitals +(\d+) .*?# electrons +(\d+) ", re.S)
_FULL = (
    "xtb's energy of a molecule without an empty orbital is random (6.5.1: by 3600 hartree); use "
    "the program tblite, or GFN2-xTB"
)
_INPUT_FAULTS = ("is not parametrized", "No parameters", "not parametrised")


def _rotation(a: int, b: int, c: int, d: int) -> Array:
    """Return the rotation of a quaternion; of whole numbers it is the same on every machine."""
    rows = (
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d),
    )
    return np.array(rows) / (a * a + b * b + c * c + d * d)


_TURN = _rotation(131, 71, 47, 17)  # along no axis, and no plane that molecules have


def turned(vectors: Array, rotation: Array) -> Array:
    """Turn vectors; no library of matrix products, whose last bits depend on the processor."""
    return np.asarray(sum(vectors[:, [each]] * rotation[:, each] for each in range(3)))


class XtbExecutableHarness(ProgramHarness):  # type: ignore[misc]
    """The executable xtb as a QCEngine program."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "xtb-cli",
        "scratch": True,
        "thread_safe": True,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": False,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Say whether there is an executable."""
        return bool(
            which(
                "xtb",
                return_bool=True,
                raise_error=raise_error,
                raise_msg="Please install the executable: apt install xtb",
            )
        )

    def get_version(self) -> str:
        """Return the version."""
        self.found(raise_error=True)
        return _version(which("xtb"))

    def compute(self, input_model: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Run one calculation, in a folder of its own below the scratch directory.

        Parameters
        ----------
        input_model : qcelemental.models.v2.AtomicInput
        config : qcengine.config.TaskConfig
            Threads (``ncores``) and scratch directory are honoured; xtb knows no limit of memory.

        Returns
        -------
        qcelemental.models.v2.AtomicResult

        Raises
        ------
        qcengine.exceptions.InputError
            Method, basis set, keyword, driver or molecule that xtb cannot take.
        qcengine.exceptions.ConvergenceError, RandomError, UnknownError
            Charges did not converge; xtb was killed or crashed; all other failures.
        """
        self.found(raise_error=True)
        atoms, executable = Atoms.of(input_model.molecule), which("xtb")
        try:
            words = arguments(input_model.specification, atoms)
        except RequestError as error:
            raise InputError(str(error)) from error
        _, output = execute(
            [executable, "coord", *words, "--parallel", str(config.ncores)],
            {"coord": coordinates(atoms)},
            ["gradient"],
            scratch_directory=config.scratch_directory,
            scratch_suffix="_xtb_scratch",
            scratch_messy=config.scratch_messy,
            environment=_environment(executable),
        )
        energy = _ENERGY.search(output["stdout"])
        if output["proc"].returncode or energy is None:
            raise _error(output["proc"].returncode, output["stdout"], output["stderr"])
        if is_full(output["stdout"], atoms):
            raise InputError(_FULL, extras={"stdout": output["stdout"]})
        properties: dict[str, Any] = {
            "calcinfo_natom": len(atoms.numbers),
            "return_energy": float(energy[1]),
        }
        if "--grad" in words:
            properties["return_gradient"] = gradient(output["outfiles"]["gradient"], atoms)
        return AtomicResult(
            input_data=input_model,
            molecule=input_model.molecule,
            properties=properties,
            return_result=properties[f"return_{input_model.specification.driver.value}"],
            stdout=output["stdout"],
            stderr=output["stderr"] or None,
            success=True,
            provenance={
                "creator": "xtb",
                "version": _version(executable),
                "routine": " ".join(["xtb", *words]),
                "nthreads": config.ncores,
            },
        )


@lru_cache(maxsize=4)
def _version(executable: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [executable, "--version"], cwd=folder, capture_output=True, text=True, check=False
        )
    said = _VERSION.search(done.stdout)
    return str(safe_version(said[1])) if said else ""


def _environment(executable: str) -> dict[str, str]:
    """Name the place of the parameter files, some of which Debian's xtb does not find itself.

    Otherwise it would also look for settings in the home directory.
    """
    share = Path(executable).resolve().parents[1] / "share" / "xtb"
    return {"XTBPATH": str(share), **os.environ}


def coordinates(atoms: Atoms) -> str:
    """Return the molecule, turned, in Turbomole's format, bohr, with all digits."""
    rows = zip(turned(atoms.positions_bohr, _TURN).tolist(), atoms.symbols, strict=True)
    lines = [f"{x:.17g} {y:.17g} {z:.17g} {symbol.lower()}" for (x, y, z), symbol in rows]
    return "\n".join(["$coord", *lines, "$end\n"])


def gradient(text: str | None, atoms: Atoms) -> Array:
    """Read the file ``gradient``: positions, then the gradient, hartree/bohr; turn it back.

    Raises
    ------
    qcengine.exceptions.UnknownError
        It is not there, or of another molecule.
    """
    n_atoms = len(atoms.numbers)
    rows = [line.split() for line in (text or "").splitlines()[2 + n_atoms :]][:n_atoms]
    if [len(row) for row in rows] != [3] * n_atoms:
        raise UnknownError("xtb has written no gradient that can be read")
    found = np.array([[float(each.replace("D", "E")) for each in row] for row in rows])
    return turned(found, _TURN.T)


def is_full(stdout: str, atoms: Atoms) -> bool:
    """Tell whether the electrons of one spin fill all orbitals: xtb looks at the one above them."""
    counts = _COUNTS.search(stdout)
    if counts is None:  # GFN-FF has none
        return False
    n_orbitals, n_electrons = int(counts[1]), int(counts[2])
    return n_electrons + int(atoms.multiplicity) - 1 >= 2 * n_orbitals


def _error(code: int, stdout: str, stderr: str) -> Exception:
    """Return QCEngine's exception for what xtb said last."""
    extras = {"stdout": stdout, "stderr": stderr}
    said = _SAID.findall(stdout)
    number = -code if code < 0 else code - 128
    if not said and number in set(signal.Signals):
        name = signal.Signals(number).name
        return RandomError(f"xtb was ended by {name}", extras=extras)  # type: ignore[no-any-return]
    message = said[-1] if said else f"xtb ended with code {code} and without a word"
    if _NOT_CONVERGED in message:
        return ConvergenceError(message, extras=extras)  # type: ignore[no-any-return]
    if "Parameter file" in message:
        message += " (the variable XTBPATH names the folder that has it)"
    is_inputs = any(fault in message for fault in _INPUT_FAULTS)
    return (InputError if is_inputs else UnknownError)(message, extras=extras)  # type: ignore[no-any-return]
