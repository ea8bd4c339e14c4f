"""What surrounds the numbers of a result: tables of single tasks, comparison with stock.

Rules of this file
------------------
1. Blocks in canonical order; nothing full-size is held for more than one block at a time.
2. No import of QCManyBody or QCElemental.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.assembly import ComponentValues, expand
from qcmb_mpi.expansion.levels import Levels
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.inputs.documents import parse_document, read_text

CLUSTER_PROPERTIES_BYTES = 64 * 2**20  # "auto" keeps the tables of single clusters up to this
_ENTRY_BYTES = 2000  # one AtomicProperties without arrays, measured


class ComponentStore(Protocol):
    """What verification asks of a :class:`qcmb_mpi.store.Store`."""

    def attach(self, space_id: int, space: TaskSpace) -> None:
        """Make a task space known."""

    def done(self, space_id: int) -> Any:
        """Return the ids of the tasks that have a result."""

    def values(self, space_id: int) -> ComponentValues:
        """Return the results."""


def read_result(path: Path | str) -> dict[str, Any]:
    """Read a RESULT file as plain data.

    Raises
    ------
    InputError
        The file is not a ManyBodyResult.
    """
    document = parse_document(read_text(str(path)), str(path))
    if not {"input_data", "properties", "return_result"} <= document.keys():
        is_input = {"molecule", "specification"} <= document.keys()
        hint = ": it is an input; give the RESULT that its run wrote" if is_input else ""
        raise InputError(str(path), f"is not a ManyBodyResult{hint}")
    return document


def keeps_cluster_properties(policy: str, space: TaskSpace, values: ComponentValues) -> bool:
    """Whether the tables of single clusters are kept: ``all``, ``none`` or ``auto`` by size."""
    if policy not in ("auto", "all", "none"):
        raise InputError(
            "--cluster-properties", "is not known", value=policy, accepted="auto, all, none"
        )
    n_coordinates = 3 * space.expansion.system.n_atoms
    sizes = {"gradient": n_coordinates, "hessian": n_coordinates**2}
    entry_bytes = _ENTRY_BYTES + 8 * sum(sizes.get(name, 0) for name in values.properties)
    return policy == "all" or (
        policy == "auto" and space.n_tasks * entry_bytes <= CLUSTER_PROPERTIES_BYTES
    )


def components(
    space: TaskSpace, values: ComponentValues, *, is_full_size: bool = True
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Task ids and what each task gave, block by block in canonical order."""
    names = [name for name in ("gradient", "hessian") if name in values.properties]
    for block in space.blocks:
        entries = [{"energy": energy} for energy in values.energies(block).tolist()]
        for name in names:
            for ranks, arrays in values.arrays(block, name):
                for rank, array in zip(ranks.tolist(), arrays, strict=True):
                    full = expand(space, block, rank, array) if is_full_size else array
                    entries[rank][name] = full
        yield np.arange(block.start, block.start + block.n_tasks), entries


def levels_by_label(levels: Levels) -> dict[str, list[int | str]]:
    """Return what ``ManyBodyCore.nbodies_per_mc_level`` is for these levels."""
    pairs = zip(levels.model_chemistries, levels.nbodies, strict=True)
    by_label: dict[str, list[int | str]] = {label: list(nbodies) for label, nbodies in pairs}
    if levels.supersystem is not None:
        by_label[levels.model_chemistries[levels.supersystem]].append("supersystem")
    return by_label


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What :func:`verify` found.

    Parameters
    ----------
    n_components, n_properties : int
        How many task results went in, and how many properties were compared.
    max_difference : float
        Largest absolute difference, atomic units.
    worst : str
        The property that has it.
    is_ok : bool
        Whether every property is there and differs by at most the tolerance.
    """

    n_components: int
    n_properties: int
    max_difference: float
    worst: str
    is_ok: bool

    def __str__(self) -> str:
        verdict = "agree with" if self.is_ok else "DIFFER from"
        return (
            f"{self.n_properties} properties {verdict} stock QCManyBody's from the same "
            f"{self.n_components} components; largest difference {self.max_difference:.1e} "
            f"({self.worst})"
        )


def compared(
    document: Mapping[str, Any], expected: Mapping[str, Any], n_components: int, tolerance: float
) -> VerifyReport:
    """Compare a RESULT document with expected properties, and report the worst."""
    found = {**document["properties"], "return_result": document["return_result"]}
    differences = {name: difference(found.get(name), value) for name, value in expected.items()}
    worst = max(differences, key=lambda name: differences[name])
    largest = differences[worst]
    return VerifyReport(n_components, len(differences), largest, worst, largest <= tolerance)


def in_file_order(value: Any, order: Sequence[int] | None) -> Any:
    """Put what a driver gave into the order of the atoms in the file.

    Parameters
    ----------
    value : float or array
        An energy, a gradient (3 n values) or a Hessian (its square), atoms as computed.
    order : sequence of int, optional
        The place in the file of each atom; None if they are computed in its order.

    Returns
    -------
    float or array
        Of the same shape.
    """
    if order is None or value is None or np.ndim(value) == 0:
        return value
    places = np.argsort(np.asarray(order))
    array = np.asarray(value)
    if array.size == 3 * len(places):
        return array.reshape(-1, 3)[places].reshape(array.shape)
    rows = (3 * places[:, None] + np.arange(3)).ravel()
    square = array.reshape(len(rows), len(rows))
    return square[np.ix_(rows, rows)].reshape(array.shape)


def difference(found: Any, expected: Any) -> float:
    """Return the largest absolute difference; infinity if shapes differ or a value is absent."""
    wanted = np.asarray(expected, dtype=np.float64).ravel()
    values = np.asarray(np.nan if found is None else found, dtype=np.float64).ravel()
    if values.shape != wanted.shape or np.isnan(values).any():
        return float("inf")
    return float(np.abs(values - wanted).max())
