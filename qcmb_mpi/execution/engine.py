"""One task: task id -> cluster -> arrays or ``AtomicInput`` -> numbers -> ``Outcome``.

Rules of this file
------------------
1. Runs inside a slot: nothing here knows ranks, queues or stores.
2. QCEngine is imported by whoever runs calculations through it, not by whoever only sends recipes
   or runs our own programs alone.
3. ``compute`` never raises for a failed calculation: a failure is a value.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.acceptance import judge
from qcmb_mpi.execution.attempts import Attempt, Attempts, Fields, raised
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.slicer import Cluster, Slicer, atomic_input, specification
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.programs.bare import bare_request
from qcmb_mpi.programs.native import Atoms
from qcmb_mpi.programs.thread_config import calculation_environment

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicSpecification

    from qcmb_mpi.execution.native import NativeRunner
    from qcmb_mpi.expansion.levels import Expansion
    from qcmb_mpi.expansion.system import ModelChemistry
    from qcmb_mpi.programs.calls import Caller


# Tasks looked up at once: more would keep the first of them waiting.
_PORTION = 256


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
        if not self._is_bare(resources):
            prepare(self.imports)
        space = TaskSpace(self.expansion)
        check_programs(space)
        runner = AtomicRunner(
            resources, wants_records=self.wants_records, is_remedied=self.is_remedied
        )
        return QCEngine(space, runner)

    def _is_bare(self, resources: SlotResources) -> bool:
        """Tell whether nothing is asked for that takes QCEngine."""
        if self.imports or self.wants_records or self.is_remedied:
            return False
        return all(
            bare_request(each.program, each.specification, resources.task_config)
            for each in self.expansion.model_chemistries
        )


class QCEngine:
    """The tasks of one expansion, natively or through QCEngine, whichever gives all that is wanted.

    Parameters
    ----------
    space : TaskSpace
    runner : AtomicRunner
    """

    def __init__(self, space: TaskSpace, runner: AtomicRunner) -> None:
        self._space = space
        self._slicer = Slicer(space.expansion.system)
        self._runner = runner
        is_embedded = space.expansion.system.embedding_charges is not None
        self._chemistries = [
            _Chemistry(each, runner, is_embedded=is_embedded)
            for each in space.expansion.model_chemistries
        ]
        self._coming = np.empty(0, dtype=np.int64)
        self._found: dict[int, _Task] = {}

    def rehearse(self) -> None:
        """Do what only the first task of a process has to."""
        for each in self._chemistries:
            if each.native is not None:
                each.native.rehearse()

    def prepare(self, ids: ArrayLike) -> None:
        """Take note of tasks that come next: to look up many at once takes little longer than one.

        Parameters
        ----------
        ids : int64[m]
            Task ids, in the order in which they will come; what was noted before is forgotten.
        """
        self._coming, self._found = np.asarray(ids, dtype=np.int64), {}

    def compute(self, task: int) -> Outcome:
        """Run task `task` of the space."""
        found = self._found.get(task) or self._looked_up(task)
        chemistry = self._chemistries[found.chemistry]
        if chemistry.native is not None and found.atoms is not None:
            return chemistry.native.run(task, found.atoms)
        return self._runner.run(
            task,
            chemistry.program,
            lambda: atomic_input(self._slicer.molecule(*found.cluster), chemistry.specification),
        )

    def _looked_up(self, task: int) -> _Task:
        """Look up a task and, if it was said to come, those that come after it."""
        ids = np.array([task])
        places = np.flatnonzero(self._coming == task)
        if places.size:
            ids = self._coming[places[0] :][:_PORTION]
        clusters = self._space.clusters(ids)
        pairs = list(zip(clusters.real, clusters.basis, strict=True))
        atoms: Sequence[Atoms | None] = [None] * len(ids)
        if any(each.native for each in self._chemistries):
            atoms = self._slicer.atoms(pairs)
        rows = map(_Task, clusters.model_chemistry.tolist(), pairs, atoms)
        found: dict[int, _Task] = dict(zip(ids.tolist(), rows, strict=True))
        if places.size:
            self._found = found
        return found[task]


class _Task(NamedTuple):
    """A task as its cluster: atoms if any model chemistry is run natively."""

    chemistry: int
    cluster: Cluster
    atoms: Atoms | None


class _Chemistry:
    """One model chemistry, and the way in which it is run."""

    def __init__(
        self, chemistry: ModelChemistry, runner: AtomicRunner, *, is_embedded: bool
    ) -> None:
        self.program = chemistry.program
        self.native = None if is_embedded else runner.bare(chemistry)
        if self.native is None:
            self.specification = specification(chemistry)
            if not is_embedded:
                self.native = runner.native(self.program, self.specification)
        if self.native is not None:
            self.native.warm_up()


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
        self._attempts = Attempts(resources, is_remedied=is_remedied)
        self._known_variables: dict[str, dict[str, str]] = {}

    @cached_property
    def _caller(self) -> Caller:
        from qcmb_mpi.programs.calls import Caller

        return Caller(self._resources.task_config)

    def bare(self, chemistry: ModelChemistry) -> NativeRunner | None:
        """Return what runs it while QCEngine is not even imported; None if it has to be."""
        from qcmb_mpi.execution.native import NativeRunner

        if self._wants_records or self._is_remedied:
            return None
        program, config = chemistry.program, self._resources.task_config
        found = bare_request(program, chemistry.specification, config)
        if found is None:
            return None
        runs, asked, means = found
        return NativeRunner(program, runs, asked, lambda: means, self._attempts)

    def native(self, program: str, specification: AtomicSpecification) -> NativeRunner | None:
        """Return what runs it without QCEngine; None if it cannot, or whole results are wanted."""
        from qcmb_mpi.execution.native import NativeRunner
        from qcmb_mpi.programs import native_harness
        from qcmb_mpi.programs.harness import means_of

        harness = native_harness(program)
        if harness is None or self._wants_records or specification.extras:
            return None
        return NativeRunner(
            program,
            harness,
            specification,
            lambda: means_of(self._caller.config(program)),
            self._attempts,
        )

    def run(self, task: int, program: str, make_input: Callable[[], AtomicInput]) -> Outcome:
        """Return the outcome of one calculation; a failure to make its input is one too."""

        def begin() -> tuple[AtomicSpecification, Attempt]:
            inp = make_input()
            return inp.specification, lambda asked: self._attempt(
                program, inp.model_copy(update={"specification": asked})
            )

        return self._attempts.outcome(task, program, begin)

    def _attempt(self, program: str, inp: AtomicInput) -> Fields:
        from qcmb_mpi.programs.calls import changed_environment

        try:
            with changed_environment(self._variables(program)):
                result = self._caller.compute(inp, program, is_bare=not self._wants_records)
            return judge(program, result, inp, wants_record=self._wants_records)
        except (Exception, SystemExit) as error:  # a harness may do anything; the slot must answer
            return raised(program, error)

    def _variables(self, program: str) -> dict[str, str]:
        found = self._known_variables.get(program)
        if found is None:
            found = calculation_environment(program, self._resources.n_threads)
            self._known_variables[program] = found
        return found


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
