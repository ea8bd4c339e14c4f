"""Task spaces and outcomes for the tests of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.expansion.levels import Bsse, Expansion, Levels
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.expansion.system import ModelChemistry, System, fingerprint
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.store import Store

SIZES = (1, 2, 1, 3, 2)


def make_space(
    max_nbody: int = 2,
    bsse: Sequence[str] = ("nocp",),
    *,
    driver: str = "energy",
    shift_bohr: float = 0.0,
    label: str = "hf",
    sizes: Sequence[int] = SIZES,
) -> TaskSpace:
    """Plan an expansion with a true fingerprint over fragments of helium atoms."""
    n_atoms = sum(sizes)
    system = System(
        symbols=("He",) * n_atoms,
        atomic_numbers=np.full(n_atoms, 2),
        masses=np.full(n_atoms, 4.00260325413),
        mass_numbers=np.full(n_atoms, 4),
        geometry_bohr=4.0 * np.arange(3.0 * n_atoms).reshape(n_atoms, 3) + shift_bohr,
        fragment_sizes=tuple(sizes),
        fragment_charges=(0.0,) * len(sizes),
        fragment_multiplicities=(1,) * len(sizes),
        name="helium",
    )
    specification = {
        "driver": driver,
        "model": {"method": "hf", "basis": "sto-3g"},
        "keywords": {"scf": np.float64(1e-8)},
    }
    levels = Levels.from_mapping(dict.fromkeys(range(1, max_nbody + 1), label))
    name = fingerprint(system, "toy", driver, specification)
    chemistry = ModelChemistry(label, "toy", driver, specification, name)
    treatments = tuple(Bsse(treatment) for treatment in bsse)
    return TaskSpace(Expansion(system, levels, treatments, True, False, driver, (chemistry,)))


def clusters_of(space: TaskSpace, ids: Iterable[int]) -> set[tuple[object, object]]:
    """Name tasks independently of their space."""
    clusters = space.clusters(np.array(list(ids), dtype=np.int64))
    return set(zip(clusters.real, clusters.basis, strict=True))


def energy_of(space: TaskSpace, task: int) -> float:
    """Give an energy that depends on the cluster alone and has no short decimal form."""
    ((real, basis),) = clusters_of(space, [task])
    return -float(np.sin(sum(np.sqrt(2.0 * f) for f in real) + 0.01 * len(basis))) / 3.0


def n_atoms_of(space: TaskSpace, task: int) -> int:
    """Count real and ghost atoms of a task."""
    ((_, basis),) = clusters_of(space, [task])
    return sum(space.expansion.system.fragment_sizes[f - 1] for f in basis)


def make_outcome(space: TaskSpace, task: int, *, space_id: int = 0, **changes: object) -> Outcome:
    """Make the outcome of a task, with the arrays of the space's driver."""
    fields: dict[str, object] = {
        "space": space_id,
        "task": task,
        "start_s": 1.7e9 + task,
        "seconds": 0.25 + task,
        "cpu_s": 0.125,
        "peak_bytes": 80_000_000,
        "energy_hartree": energy_of(space, task),
        "program": "toy",
        "version": "1.0",
        "host": f"node{task % 2}",
        "rank": task % 3,
        "slot": task % 2,
        "n_threads": 2,
    }
    n = 3 * n_atoms_of(space, task)
    if space.expansion.driver in ("gradient", "hessian"):
        fields["gradient"] = np.random.default_rng([task, 1]).normal(size=(n // 3, 3))
    if space.expansion.driver == "hessian":
        fields["hessian"] = np.random.default_rng([task, 2]).normal(size=(n, n))
    return Outcome(**(fields | changes))  # type: ignore[arg-type]


def make_failure(space: TaskSpace, task: int, message: str = "no luck") -> Outcome:
    """Make a failed outcome."""
    failure = Failure(ErrorClass.CONVERGENCE, "convergence_error", message, "last line")
    return make_outcome(
        space, task, energy_hartree=None, gradient=None, hessian=None, failure=failure
    )


def execute(path: Path, sql: str, *parameters: object) -> None:
    """Change a store behind its back."""
    db = sqlite3.connect(path)
    db.execute(sql, parameters)
    db.commit()
    db.close()


class ManualClock:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def committed(path: Path, space: TaskSpace) -> list[int]:
    with Store.open(path, is_read_only=True) as reader:
        reader.attach(0, space)
        return reader.done(0).tolist()


def fill(path: Path, space: TaskSpace, tasks: object = None) -> None:
    with Store.open(path) as writer:
        writer.attach(0, space)
        chosen = range(space.n_tasks) if tasks is None else tasks
        writer.append([make_outcome(space, task) for task in chosen])  # type: ignore[attr-defined]
