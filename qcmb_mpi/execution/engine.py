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
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.acceptance import failure, judge
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.slicer import Slicer, atomic_input
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.machine.peaks import PeakMemory
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.programs.remedies import remedies
from qcmb_mpi.programs.thread_config import calculation_environment
from qcmb_mpi.scheduling.policy import ErrorClass

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput

    from qcmb_mpi.expansion.levels import Expansion

# Another place, or another time, may do what this one could not: no reason to change the method.
_OF_THE_PLACE = (ErrorClass.RESOURCE, ErrorClass.TRANSIENT, ErrorClass.MISSING_PROGRAM)


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
    is_guest : bool
        Whether the process is the caller's, or somebody else's.
    """

    rank: int = 0
    slot: int = 0
    host: str = ""
    cpus: tuple[int, ...] = ()
    n_threads: int = 1
    memory_bytes: int = 0
    scratch: str | None = None
    is_guest: bool = False

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
    is_remedied : bool
        Whether what does not converge is tried again with other keywords (``--remedies``).
    """

    expansion: Expansion
    imports: tuple[str, ...] = ()
    wants_records: bool = False
    is_remedied: bool = False

    def build(self, resources: SlotResources) -> QCEngine:
        """Import what is needed, check the programs on this node and return the engine."""
        prepare(self.imports)
        space = TaskSpace(self.expansion)
        check_programs(space)
        runner = AtomicRunner(
            resources, wants_records=self.wants_records, is_remedied=self.is_remedied
        )
        return QCEngine(space, runner)


class QCEngine:
    """The tasks of one expansion through ``qcengine.compute``.

    Parameters
    ----------
    space : TaskSpace
    runner : AtomicRunner
    """

    def __init__(self, space: TaskSpace, runner: AtomicRunner) -> None:
        self._space = space
        self._chemistries = space.expansion.model_chemistries
        self._slicer = Slicer(space.expansion.system)
        self._runner = runner

    def compute(self, task: int) -> Outcome:
        """Run task `task` of the space."""
        clusters = self._space.clusters(np.array([task], dtype=np.int64))
        chemistry = self._chemistries[int(clusters.model_chemistry[0])]

        def make_input() -> AtomicInput:
            molecule = self._slicer.molecule(clusters.real[0], clusters.basis[0])
            return atomic_input(molecule, chemistry)

        return self._runner.run(task, chemistry.program, make_input)


class AtomicRunner:
    """Run ``AtomicInput`` objects through QCEngine and judge what comes back.

    Parameters
    ----------
    resources : SlotResources
    wants_records : bool
    is_remedied : bool
        Whether what does not converge is tried again with other keywords.
    """

    def __init__(
        self, resources: SlotResources, *, wants_records: bool = False, is_remedied: bool = False
    ) -> None:
        self._resources = resources
        self._wants_records = wants_records
        self._is_remedied = is_remedied
        self._known_variables: dict[str, dict[str, str]] = {}

    def run(self, task: int, program: str, make_input: Callable[[], AtomicInput]) -> Outcome:
        """Return the outcome of one calculation; a failure to make its input is one too."""
        start_s, clock, cpu = time.time(), time.perf_counter(), _cpu_s()
        with PeakMemory(is_guest=self._resources.is_guest) as peak:
            try:
                fields = self._carry_out(program, make_input())
            except Exception as error:
                kind = "unknown_error" if isinstance(error, MemoryError) else "input_error"
                fields = {"failure": failure(program, kind, traceback.format_exc())}
        return Outcome(
            space=0,
            task=task,
            start_s=start_s,
            seconds=time.perf_counter() - clock,
            cpu_s=_cpu_s() - cpu,
            peak_bytes=peak.n_bytes,
            host=self._resources.host,
            rank=self._resources.rank,
            slot=self._resources.slot,
            n_threads=self._resources.n_threads,
            **fields,
        )

    def _carry_out(self, program: str, inp: AtomicInput) -> dict[str, Any]:
        """Compute; where that does not converge, and the user allows it, by its remedies."""
        fields = self._attempt(program, inp)
        first: Failure | None = fields.get("failure")
        if (
            not self._is_remedied
            or first is None
            or first.error_class is not ErrorClass.CONVERGENCE
        ):
            return fields
        tried = []
        for remedy in remedies(program, inp.specification, first.message):
            fields = self._attempt(program, remedy.applied(inp))
            again: Failure | None = fields.get("failure")
            if again is None:
                return {**fields, "remedy": str(remedy)}
            if again.error_class in _OF_THE_PLACE:
                return fields
            tried.append(str(remedy))
        in_vain = f"; remedies that did not help: {'; '.join(tried)}" if tried else ""
        return {"failure": replace(first, message=first.message + in_vain)}

    def _attempt(self, program: str, inp: AtomicInput) -> dict[str, Any]:
        import qcengine

        try:
            with qcengine.util.environ_context(env=self._variables(program)):
                result = qcengine.compute(
                    inp, program, task_config=self._resources.task_config, return_version=2
                )
            return judge(program, result, inp, wants_record=self._wants_records)
        except (Exception, SystemExit) as error:  # a harness may do anything; the slot must answer
            kind = "crashed" if isinstance(error, SystemExit) else "unknown_error"
            return {"failure": failure(program, kind, traceback.format_exc())}

    def _variables(self, program: str) -> dict[str, str]:
        found = self._known_variables.get(program)
        if found is None:
            found = calculation_environment(program, self._resources.n_threads)
            self._known_variables[program] = found
        return found


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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

    with _patched(cpuinfo, "get_cpu_info", lambda: {"brand_raw": processor_name()}):
        qcengine.config.get_global()


@contextlib.contextmanager
def _patched(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
