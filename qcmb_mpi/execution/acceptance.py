"""Whether what came back answers what was asked; if not, what kind of failure it is.

Rules of this file
------------------
1. A result is taken only if its molecule, shapes and numbers are those of the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.execution.outcome import Failure
from qcmb_mpi.programs.advice import hint, in_a_line
from qcmb_mpi.programs.failures import class_of, diagnose
from qcmb_mpi.programs.remedies import is_harness_known
from qcmb_mpi.scheduling.policy import ErrorClass

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput

    from qcmb_mpi.programs.native import Numbers

_TAIL_CHARACTERS = 2000
# Programs print coordinates with 5 decimals and more; other geometries differ by far more.
_ROUNDING_BOHR = 1e-4
_SAME_SIZE_LIMIT = 2000


def judge(program: str, result: Any, inp: AtomicInput, *, wants_record: bool) -> dict[str, Any]:
    """Turn what QCEngine gave into fields of an outcome.

    Parameters
    ----------
    program : str
        QCEngine's name of it.
    result : AtomicResult or FailedOperation
        QCSchema version 2.
    inp : AtomicInput
        What was asked.
    wants_record : bool
        Whether to keep the whole result.

    Returns
    -------
    dict
        Fields of :class:`Outcome`.
    """
    if not result.success:
        error = result.error
        output = (error.extras or {}).get("stdout") or ""
        return {"failure": failure(program, error.error_type, error.error_message, output)}
    driver, n_atoms = inp.specification.driver.value, len(inp.molecule.symbols)
    found = result.properties
    said = {"gradient": found.return_gradient, "hessian": found.return_hessian}
    if said.get(driver, 0) is None:  # some harnesses say it once, as the result itself
        said[driver] = result.return_result
    values = _values(found.return_energy, said["gradient"], said["hessian"], n_atoms)
    fault = _stranger(result, inp, driver) or _fault(values, driver, n_atoms)
    if fault:
        return _garbage(fault, result.stdout or "")
    provenance = result.provenance
    return {
        **values,
        "program": provenance.creator or "",
        "version": provenance.version or "",
        "record": result.model_dump_json().encode() if wants_record else None,
    }


def judge_numbers(
    numbers: Numbers, n_atoms: int, driver: str, program: str, version: str
) -> dict[str, Any]:
    """Turn what a program gave without QCSchema into fields of an outcome.

    Parameters
    ----------
    numbers : Numbers
    n_atoms : int
        Atoms asked for, ghosts included.
    driver : str
    program, version : str
        As the provenance of a result says.

    Returns
    -------
    dict
        Fields of :class:`Outcome`.
    """
    values = _values(numbers.energy, numbers.gradient, numbers.hessian, n_atoms)
    fault = _fault(values, driver, n_atoms)
    if fault:
        return _garbage(fault, numbers.stdout)
    return {**values, "program": program, "version": version}


def _garbage(fault: str, output: str) -> dict[str, Any]:
    tail = output[-_TAIL_CHARACTERS:]
    return {"failure": Failure(ErrorClass.GARBAGE, "garbage_result", fault, tail)}


def failure(program: str, error_type: str, message: str, output: str = "") -> Failure:
    """Make a failure and find its class.

    Parameters
    ----------
    program : str
        QCEngine's name of it.
    error_type, message : str
        As QCEngine tells them; of a traceback only the exception itself is for people.
    output : str
        What the program wrote.
    """
    message = message.strip()
    if "Traceback (most recent call last)" in message:
        output += message
        frames_end = message.rfind('\n  File "')
        exception = re.search(r"^\S.*", message[max(frames_end, 0) + 1 :], re.M | re.S)
        message = " ".join(exception[0].split()) if exception else message
    error_type = diagnose(program, error_type, message, output)
    if is_harness_known(program.lower()):
        told = in_a_line(program.lower(), message, output)
        output = output if told == message else output or message
        todo = hint(program.lower(), error_type, told)
        message = f"{told}; {todo}" if todo else told
    return Failure(class_of(error_type), error_type, message, output[-_TAIL_CHARACTERS:])


def _stranger(result: Any, inp: AtomicInput, driver: str) -> str:
    """Say in what the result is of another molecule than asked for."""
    asked = inp.molecule
    n_atoms, n_real = len(asked.symbols), int(np.sum(asked.real))
    n_found = result.properties.calcinfo_natom
    if n_found is not None and n_found not in (n_atoms, n_real):
        return f"the result is of {n_found} atoms instead of {n_atoms}"
    for found in (result.molecule, result.input_data.molecule):
        if found is asked:
            continue
        if len(found.symbols) != n_atoms or any(found.symbols != asked.symbols):
            return "the result is of other atoms than asked for"
        if not np.array_equal(found.real, asked.real):
            return "the result has other ghost atoms than asked for"
        if not _is_same_geometry(found.geometry, asked.geometry, driver):
            return "the result is of another geometry than asked for"
    return ""


def _is_same_geometry(found: Any, asked: Any, driver: str) -> bool:
    """Compare coordinates; an energy, unlike its derivatives, may come from another frame."""
    if np.allclose(found, asked, rtol=0.0, atol=_ROUNDING_BOHR):
        return True
    if driver != "energy" or len(asked) > _SAME_SIZE_LIMIT:
        return False
    return np.allclose(_distances(found), _distances(asked), rtol=0.0, atol=_ROUNDING_BOHR)


def _distances(geometry: Any) -> NDArray[np.float64]:
    points = np.asarray(geometry, dtype=np.float64)
    distances: NDArray[np.float64] = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return distances


def _values(energy: Any, gradient: Any, hessian: Any, n_atoms: int) -> dict[str, Any]:
    return {
        "energy_hartree": None if energy is None else float(energy),
        "gradient": _array(gradient, "gradient", n_atoms),
        "hessian": _array(hessian, "hessian", n_atoms),
    }


def _shape(name: str, n_atoms: int) -> tuple[int, int]:
    return (n_atoms, 3) if name == "gradient" else (3 * n_atoms, 3 * n_atoms)


def _array(value: Any, name: str, n_atoms: int) -> NDArray[np.float64] | None:
    """Return a property in its natural shape; as it came if it has not the size for that."""
    if value is None:
        return None
    array = np.ascontiguousarray(value, dtype=np.float64)
    shape = _shape(name, n_atoms)
    return array.reshape(shape) if array.size == shape[0] * shape[1] else array


def _fault(values: Mapping[str, Any], driver: str, n_atoms: int) -> str:
    """Say what is wrong with the numbers, if anything."""
    if values["energy_hartree"] is None:
        return "the program reported success but no energy"
    if not math.isfinite(values["energy_hartree"]):
        return f"the energy is {values['energy_hartree']}"
    for name in ("gradient", "hessian"):
        value, shape = values[name], _shape(name, n_atoms)
        if value is None:
            if name == driver:
                return f"the program reported success but no {name}"
            continue
        if value.shape != shape:
            return f"the {name} has shape {value.shape} instead of {shape}"
        if not np.isfinite(value).all():
            return f"the {name} holds values that are not finite"
    return ""
