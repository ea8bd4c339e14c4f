"""One task through QCEngine: task id -> cluster -> ``AtomicInput`` -> ``Outcome``.

Rules of this file
------------------
1. Runs inside a slot: nothing here knows ranks, queues or stores.
2. ``compute`` never raises for a failed calculation: a failure is a value.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.slicer import Slicer, atomic_input
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.policy import ErrorClass, error_class_of

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput

    from qcmb_mpi.expansion.levels import Expansion

_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class SlotResources:
    """What one slot may use.

    Parameters
    ----------
    rank, slot : int
        Where the slot is.
    host : str
        Name of the node.
    cpus : tuple of int
        Processors it is pinned to; empty leaves it unpinned.
    n_threads : int
        Threads of one calculation.
    memory_bytes : int
        Memory of one calculation; 0 leaves it to the program.
    scratch : str, optional
        Scratch directory for programs; None leaves it to QCEngine.
    """

    rank: int = 0
    slot: int = 0
    host: str = ""
    cpus: tuple[int, ...] = ()
    n_threads: int = 1
    memory_bytes: int = 0
    scratch: str | None = None

    @property
    def task_config(self) -> dict[str, Any]:
        """QCEngine's ``task_config`` for a task in this slot."""
        config: dict[str, Any] = {"ncores": self.n_threads, "nnodes": 1, "retries": 0}
        if self.memory_bytes:
            config["memory"] = round(self.memory_bytes / 2**30, 3)
        if self.scratch is not None:
            config["scratch_directory"] = self.scratch
        return config


class Engine(Protocol):
    """Anything that turns a task id into an :class:`Outcome`."""

    def compute(self, task: int) -> Outcome:
        """Run one task; a failed calculation is an outcome too."""


class EngineRecipe(Protocol):
    """A picklable description from which a slot builds its engine."""

    def build(self, resources: SlotResources) -> Engine:
        """Return the engine, warmed up; raise :class:`QcmbError` if it cannot work here."""


@dataclass(frozen=True, slots=True)
class QCEngineRecipe:
    """How a slot runs the tasks of an expansion through QCEngine.

    Parameters
    ----------
    expansion : Expansion
        What is to be computed.
    imports : tuple of str
        The user's own modules, imported before any work (``--import``).
    wants_records : bool
        Whether whole ``AtomicResult`` objects are to be kept.
    """

    expansion: Expansion
    imports: tuple[str, ...] = ()
    wants_records: bool = False

    def build(self, resources: SlotResources) -> QCEngine:
        """Import what is needed, check the programs on this node and return the engine."""
        prepare(self.imports)
        space = TaskSpace(self.expansion)
        check_programs(space)
        return QCEngine(space, resources, wants_records=self.wants_records)


class QCEngine:
    """The tasks of one expansion through ``qcengine.compute``.

    Parameters
    ----------
    space : TaskSpace
    resources : SlotResources
    wants_records : bool
    """

    def __init__(
        self, space: TaskSpace, resources: SlotResources, *, wants_records: bool = False
    ) -> None:
        self._space = space
        self._chemistries = space.expansion.model_chemistries
        self._slicer = Slicer(space.expansion.system)
        self._runner = AtomicRunner(resources, wants_records=wants_records)

    def compute(self, task: int) -> Outcome:
        """Run task `task` of the space."""
        clusters = self._space.clusters(np.array([task], dtype=np.int64))
        chemistry = self._chemistries[int(clusters.model_chemistry[0])]
        molecule = self._slicer.molecule(clusters.real[0], clusters.basis[0])
        return self._runner.run(task, chemistry.program, atomic_input(molecule, chemistry))


class AtomicRunner:
    """Run ``AtomicInput`` objects through QCEngine and judge what comes back.

    Parameters
    ----------
    resources : SlotResources
    wants_records : bool
    """

    def __init__(self, resources: SlotResources, *, wants_records: bool = False) -> None:
        self._resources = resources
        self._wants_records = wants_records

    def run(self, task: int, program: str, inp: AtomicInput) -> Outcome:
        """Return the outcome of one calculation."""
        import qcengine

        start_s, clock, cpu = time.time(), time.perf_counter(), _cpu_s()
        try:
            result = qcengine.compute(
                inp, program, task_config=self._resources.task_config, return_version=2
            )
            fields = self._judge(result, inp)
        except Exception:  # a harness may raise anything; the slot must answer all the same
            fields = {"failure": _failure("unknown_error", traceback.format_exc(), "")}
        return Outcome(
            space=0,
            task=task,
            start_s=start_s,
            seconds=time.perf_counter() - clock,
            cpu_s=_cpu_s() - cpu,
            peak_bytes=peak_bytes(),
            host=self._resources.host,
            rank=self._resources.rank,
            slot=self._resources.slot,
            n_threads=self._resources.n_threads,
            **fields,
        )

    def _judge(self, result: Any, inp: AtomicInput) -> dict[str, Any]:
        if not result.success:
            error = result.error
            output = (error.extras or {}).get("stdout") or ""
            return {"failure": _failure(error.error_type, error.error_message, output)}
        n_atoms = len(inp.molecule.symbols)
        values = _values(result, n_atoms)
        fault = _fault(values, inp.specification.driver.value, n_atoms)
        if fault:
            tail = _tail(result.stdout or "")
            return {"failure": Failure(ErrorClass.GARBAGE, "garbage_result", fault, tail)}
        provenance = result.provenance
        return {
            **values,
            "program": provenance.creator or "",
            "version": provenance.version or "",
            "record": result.model_dump_json().encode() if self._wants_records else None,
        }


def _values(result: Any, n_atoms: int) -> dict[str, Any]:
    properties = result.properties
    energy = properties.return_energy
    return {
        "energy_hartree": None if energy is None else float(energy),
        "gradient": _array(properties.return_gradient, "gradient", n_atoms),
        "hessian": _array(properties.return_hessian, "hessian", n_atoms),
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
    if not np.isfinite(values["energy_hartree"]):
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


def _failure(error_type: str, message: str, output: str) -> Failure:
    """Make a failure; of a traceback only the exception itself is for people."""
    message = message.strip()
    if "Traceback (most recent call last)" in message:
        output += message
        frames_end = message.rfind('\n  File "')
        exception = re.search(r"^\S.*", message[max(frames_end, 0) + 1 :], re.M | re.S)
        message = " ".join(exception[0].split()) if exception else message
    return Failure(error_class_of(error_type), error_type, message, _tail(output))


def _tail(text: str) -> str:
    return text[-_TAIL_CHARACTERS:]


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_bytes() -> int:
    """Return the highest resident memory of this process or one of its programs so far."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def prepare(imports: tuple[str, ...] = ()) -> None:
    """Register our harnesses and import the user's modules.

    Raises
    ------
    InputError
        A module of `imports` cannot be imported.
    """
    from qcmb_mpi import programs

    programs.register()
    prime_qcengine()
    for name in imports:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise InputError(
                "--import", f"cannot import {name!r}: {type(error).__name__}: {error}"
            ) from error


def check_programs(space: TaskSpace) -> None:
    """Check that every program of the expansion can do its part on this node.

    Raises
    ------
    QcmbError
        A program is missing here or cannot do what is asked.
    """
    from qcmb_mpi.programs.profiles import check_request

    needs_ghosts = {b.model_chemistry for b in space.blocks if b.n_basis > b.n_real}
    used = {b.model_chemistry for b in space.blocks}
    for index, chemistry in enumerate(space.expansion.model_chemistries):
        if index in used:
            check_request(
                chemistry, needs_ghosts=index in needs_ghosts, system=space.expansion.system
            )


def prime_qcengine() -> None:
    """Fill QCEngine's process-wide facts without py-cpuinfo's slow survey.

    The survey costs 1.2 s in every process and only its brand string is ever used.
    """
    import cpuinfo
    import qcengine.config

    with _patched(cpuinfo, "get_cpu_info", lambda: {"brand_raw": _cpu_brand()}):
        qcengine.config.get_global()


@contextlib.contextmanager
def _patched(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def _cpu_brand() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "(unknown)"
