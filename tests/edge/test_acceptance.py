"""What a failure is taken for, and which results are not believed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine import exceptions
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.execution.engine import AtomicRunner, SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.programs.failures import class_of, diagnose
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.harness_cases import WATER_GHOST, atomic_input

Act = Callable[[AtomicInput], Any]


class Puppet(ProgramHarness):
    """A program that does what a test says."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "puppet",
        "scratch": False,
        "thread_safe": True,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }
    act: ClassVar[Act]
    is_found: ClassVar[bool] = True

    @classmethod
    def found(cls, raise_error: bool = False) -> bool:
        if not cls.is_found and raise_error:
            raise ModuleNotFoundError("Please install puppet")
        return cls.is_found

    def get_version(self) -> str:
        return "1.0"

    def compute(self, input_data: AtomicInput, config: Any) -> Any:
        return type(self).act(input_data)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    qcengine.register_program(Puppet())
    yield
    qcengine.unregister_program("puppet")


def run(act: Act, *, driver: str = "energy", method: str = "hf") -> Outcome:
    """Run one calculation on water with a ghost."""
    Puppet.act = staticmethod(act)
    inp = atomic_input(WATER_GHOST, method, driver=driver, n_ghosts=1)
    return AtomicRunner(SlotResources()).run(0, "puppet", lambda: inp)


def result(inp: AtomicInput, **changes: Any) -> AtomicResult:
    """Make a result, by default a good one."""
    n_atoms, driver = len(inp.molecule.symbols), inp.specification.driver.value
    shapes = {"gradient": (n_atoms, 3), "hessian": (3 * n_atoms, 3 * n_atoms)}
    properties = {"calcinfo_natom": n_atoms, "return_energy": -1.0}
    if driver in shapes:
        properties[f"return_{driver}"] = np.ones(shapes[driver])
    fields: dict[str, Any] = {
        "input_data": inp,
        "molecule": inp.molecule,
        "properties": properties | changes.pop("properties", {}),
        "return_result": properties.get(f"return_{driver}", -1.0),
        "provenance": {"creator": "Puppet", "version": "1.0", "routine": "puppet"},
        "success": True,
    }
    return AtomicResult(**(fields | changes))


def raising(error: BaseException) -> Act:
    def act(_inp: AtomicInput) -> Any:
        raise error

    return act


def start_nothing(_inp: AtomicInput) -> None:
    subprocess.run(["no-such-program-here"], check=True)


def import_nothing(_inp: AtomicInput) -> None:
    __import__("no_such_module_here")


def survive_an_import(_inp: AtomicInput) -> None:
    try:
        __import__("no_such_module_here")
    except ModuleNotFoundError:
        raise ValueError("something else is wrong") from None


def chain_after_an_import(_inp: AtomicInput) -> None:
    try:
        __import__("no_such_module_here")
    except ModuleNotFoundError as error:
        raise ValueError("something else is wrong") from error


CASES: dict[str, tuple[Act, ErrorClass, str]] = {
    "input": (raising(exceptions.InputError("no")), ErrorClass.INPUT, "input_error"),
    "resource": (raising(exceptions.ResourceError("no")), ErrorClass.RESOURCE, "resource_error"),
    "convergence": (
        raising(exceptions.ConvergenceError("no")),
        ErrorClass.CONVERGENCE,
        "convergence_error",
    ),
    "random": (raising(exceptions.RandomError("no")), ErrorClass.TRANSIENT, "random_error"),
    "unknown": (raising(exceptions.UnknownError("no")), ErrorClass.UNKNOWN, "unknown_error"),
    "any": (raising(RuntimeError("no")), ErrorClass.UNKNOWN, "unknown_error"),
    "exit": (raising(SystemExit(3)), ErrorClass.CRASHED, "crashed"),
    "memory": (raising(MemoryError()), ErrorClass.RESOURCE, "resource_error"),
    "array": (
        lambda _: np.empty(1 << 45),
        ErrorClass.RESOURCE,
        "resource_error",
    ),
    "fork": (
        raising(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
        ErrorClass.RESOURCE,
        "resource_error",
    ),
    "disk": (
        raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/x")),
        ErrorClass.TRANSIENT,
        "scratch_full",
    ),
    "quota": (
        raising(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))),
        ErrorClass.TRANSIENT,
        "scratch_full",
    ),
    "program's disk": (
        raising(exceptions.RandomError("write: No space left on device")),
        ErrorClass.TRANSIENT,
        "scratch_full",
    ),
    "executable": (start_nothing, ErrorClass.MISSING_PROGRAM, "missing_program"),
    "module": (import_nothing, ErrorClass.MISSING_PROGRAM, "missing_program"),
    "module hidden": (survive_an_import, ErrorClass.UNKNOWN, "unknown_error"),
    "module chained": (chain_after_an_import, ErrorClass.UNKNOWN, "unknown_error"),
    "file": (
        raising(FileNotFoundError(2, "No such file or directory", "out.dat")),
        ErrorClass.UNKNOWN,
        "unknown_error",
    ),
    "library": (
        raising(exceptions.UnknownError("x: libmkl.so: cannot open shared object file")),
        ErrorClass.MISSING_PROGRAM,
        "missing_program",
    ),
    "version": (
        raising(exceptions.ResourceError("MP2D version '1.0' too old. Please update")),
        ErrorClass.MISSING_PROGRAM,
        "missing_program",
    ),
    "no result": (lambda _: None, ErrorClass.UNKNOWN, "unknown_error"),
    "its own words": (
        raising(RuntimeError("puppet: the SCF did not converge in 50 cycles")),
        ErrorClass.CONVERGENCE,
        "convergence_error",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_harness_raises_is_classified(name: str) -> None:
    act, error_class, error_type = CASES[name]
    failure = run(act).failure
    assert failure is not None
    assert (failure.error_class, failure.error_type) == (error_class, error_type)
    assert "Traceback" not in failure.message


def test_a_program_that_is_gone_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Puppet, "is_found", False)
    failure = run(result).failure
    assert failure is not None
    assert failure.error_class is ErrorClass.MISSING_PROGRAM
    assert "cannot be found" in failure.message


@pytest.mark.parametrize(
    ("error", "error_class"),
    [(ValueError("bad"), ErrorClass.INPUT), (MemoryError(), ErrorClass.RESOURCE)],
)
def test_an_input_that_cannot_be_made_is_a_failure(
    error: Exception, error_class: ErrorClass
) -> None:
    def make() -> AtomicInput:
        raise error

    failure = AtomicRunner(SlotResources()).run(0, "puppet", make).failure
    assert failure is not None
    assert failure.error_class is error_class


@pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
def test_a_good_result_is_taken(driver: str) -> None:
    outcome = run(result, driver=driver)
    assert outcome.failure is None
    assert outcome.energy_hartree == -1.0


def molecule(inp: AtomicInput, **changes: Any) -> Any:
    return inp.molecule.model_copy(update=changes)


def turned(inp: AtomicInput) -> Any:
    """Turn the molecule by a right angle."""
    return molecule(inp, geometry=inp.molecule.geometry[:, [1, 0, 2]] * [1.0, -1.0, 1.0])


def shifted(inp: AtomicInput, shift_bohr: float) -> Any:
    """Move the first atom."""
    geometry = inp.molecule.geometry.copy()
    geometry[0, 2] += shift_bohr
    return molecule(inp, geometry=geometry)


def nan(shape: tuple[int, ...]) -> np.ndarray:
    array = np.ones(shape)
    array.flat[-1] = np.nan
    return array


GARBAGE: dict[str, tuple[str, Act, str]] = {
    "nan": ("energy", lambda i: result(i, properties={"return_energy": float("nan")}), "is nan"),
    "inf": ("energy", lambda i: result(i, properties={"return_energy": float("-inf")}), "is -inf"),
    "none": ("energy", lambda i: result(i, properties={"return_energy": None}), "no energy"),
    "no gradient": (
        "gradient",
        lambda i: result(i, properties={"return_gradient": None}).model_copy(
            update={"return_result": None}
        ),
        "no gradient",
    ),
    "nan gradient": (
        "gradient",
        lambda i: result(i, properties={"return_gradient": nan((4, 3))}),
        "not finite",
    ),
    "nan hessian": (
        "hessian",
        lambda i: result(i, properties={"return_hessian": nan((12, 12))}),
        "not finite",
    ),
    "atoms": ("energy", lambda i: result(i, properties={"calcinfo_natom": 7}), "7 atoms"),
    "elements": (
        "energy",
        lambda i: result(i, molecule=molecule(i, symbols=np.array(["S", "H", "H", "He"]))),
        "other atoms",
    ),
    "ghosts": (
        "energy",
        lambda i: result(i, molecule=molecule(i, real_=np.ones(4, dtype=bool))),
        "other ghost atoms",
    ),
    "geometry": ("energy", lambda i: result(i, molecule=shifted(i, 0.01)), "another geometry"),
    "frame": ("gradient", lambda i: result(i, molecule=turned(i)), "another geometry"),
    "of its input": (
        "energy",
        lambda i: result(i, input_data=i.model_copy(update={"molecule": shifted(i, 0.01)})),
        "another geometry",
    ),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_not_taken_for_a_result(name: str) -> None:
    driver, act, message = GARBAGE[name]
    outcome = run(act, driver=driver)
    assert outcome.failure is not None
    assert outcome.failure.error_class is ErrorClass.GARBAGE
    assert message in outcome.failure.message
    assert outcome.energy_hartree is None


def test_a_gradient_may_be_told_as_the_result_alone() -> None:
    """As xtb, MOPAC, dftd4 and s-dftd3 do through QCEngine."""
    outcome = run(lambda i: result(i, properties={"return_gradient": None}), driver="gradient")
    assert outcome.failure is None
    assert outcome.gradient is not None
    assert np.array_equal(outcome.gradient, np.ones((4, 3)))


@pytest.mark.parametrize(
    "act",
    [
        lambda i: result(i, molecule=shifted(i, 1e-6)),
        lambda i: result(i, molecule=turned(i)),
        lambda i: result(i, properties={"calcinfo_natom": 3}),
        lambda i: result(i, properties={"calcinfo_natom": None}),
    ],
    ids=["rounded", "turned", "real atoms only", "not told"],
)
def test_an_energy_in_rounded_or_turned_coordinates_is_taken(act: Act) -> None:
    assert run(act).failure is None


SAID = {
    "pyscf": ("SCF not converged.", "MemoryError"),
    "tblite": ("SCF not converged in 250 cycles", "std::bad_alloc"),
    "psi4": ("Could not converge SCF iterations in 100 iterations.", "Not enough memory"),
    "nwchem": (
        "          Calculation failed to converge\n",
        "schwarz_init: insufficient memory           140344072",
    ),
    "qchem": ("gen_scfman_exception: SCF failed to converge", "Cannot allocate memory"),
    "gamess": (
        " SCF IS UNCONVERGED, TOO MANY ITERATIONS\n",
        "***** ERROR: MEMORY REQUEST EXCEEDS AVAILABLE MEMORY",
    ),
    "molpro": ("? No convergence", "insufficient memory available - require  9 have 1"),
    "cfour": ("", "xalloc(): memory allocation failed!"),
    "turbomole": ("ATTENTION: ridft did not converge!", ""),
    "mopac": ('""""""""""""UNABLE TO ACHIEVE SELF-CONSISTENCE', ""),
    "xtb": ("-1- scf: Self consistent charge iterator did not converge", ""),
    "orca": ("SCF NOT CONVERGED AFTER 125 CYCLES", "Please increase MaxCore to more than: 30 MB"),
}


@pytest.mark.parametrize("program", SAID)
@pytest.mark.parametrize("place", ["message", "output"])
def test_what_programs_say_is_understood(program: str, place: str) -> None:
    noise = "an input of 3000 lines\n" * 100
    wanted = (ErrorClass.CONVERGENCE, ErrorClass.RESOURCE)
    for text, error_class in zip(SAID[program], wanted, strict=True):
        if text:
            texts = {"message": "failed", "output": ""} | {place: f"{noise}{text}\n{noise}"}
            found = diagnose(program.upper(), "unknown_error", texts["message"], texts["output"])
            assert class_of(found) is error_class


def test_what_one_program_says_means_nothing_of_another() -> None:
    text = "No convergence\n" + "x" * 1000
    assert diagnose("molpro", "unknown_error", text) == "convergence_error"
    assert diagnose("psi4", "unknown_error", text) == "unknown_error"


def test_the_word_of_qcengine_stands() -> None:
    text = "Could not converge SCF iterations; std::bad_alloc"
    assert diagnose("psi4", "input_error", text) == "input_error"
    assert diagnose("psi4", "random_error", text) == "random_error"
    assert diagnose("psi4", "resource_error", text) == "resource_error"


def test_the_known_error_of_nwchem_is_a_failure_to_converge() -> None:
    from qcengine.programs.nwchem.errors import ConvergenceFailedError

    error = ConvergenceFailedError()
    found = diagnose("nwchem", error.error_type, error.error_message)
    assert class_of(found) is ErrorClass.CONVERGENCE
