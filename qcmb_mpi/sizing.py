"""How large the tasks of a space are, and which of them no node can hold.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
2. Refused is only what is certain not to fit: everything else is left to the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.programs.basis_size import electrons_of_atom, functions_of_atom
from qcmb_mpi.programs.memory import scaling_of
from qcmb_mpi.programs.profiles import method_family, profile
from qcmb_mpi.report.snapshot import short_label
from qcmb_mpi.scheduling.placement import in_gb
from qcmb_mpi.scheduling.scaling import TaskSize, certain_bytes

if TYPE_CHECKING:
    from qcmb_mpi.expansion.classes import CompositionClass
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.expansion.system import ModelChemistry


@dataclass(frozen=True, slots=True)
class SizedClass:
    """Tasks of one composition, and their size.

    Parameters
    ----------
    tasks : CompositionClass
    chemistry : ModelChemistry
    size : TaskSize
    """

    tasks: CompositionClass
    chemistry: ModelChemistry
    size: TaskSize


def sized_classes(space: TaskSpace, *, slot_bytes: int = 0) -> tuple[SizedClass, ...]:
    """Return the tasks of a space in classes of equal composition, with the size of each.

    Parameters
    ----------
    space : TaskSpace
    slot_bytes : int, optional
        Memory that a calculation is told it has; 0 when that is not known.
    """
    classes = space.classes()
    clusters = space.clusters(np.array([each.ids[0] for each in classes], dtype=np.int64))
    sizers = {
        index: _Sizer(space, index, slot_bytes)
        for index in sorted({block.model_chemistry for block in space.blocks})
    }
    return tuple(
        SizedClass(each, sizers[index].chemistry, sizers[index].size_of(real, basis))
        for each, index, real, basis in zip(
            classes, clusters.model_chemistry.tolist(), clusters.real, clusters.basis, strict=True
        )
    )


class _Sizer:
    """Sizes of the tasks of one model chemistry, from sums over their fragments."""

    def __init__(self, space: TaskSpace, index: int, slot_bytes: int) -> None:
        expansion = space.expansion
        system, driver = expansion.system, expansion.driver
        self.chemistry = expansion.model_chemistries[index]
        model = self.chemistry.specification.get("model") or {}
        keywords = self.chemistry.specification.get("keywords") or {}
        program, method = self.chemistry.program.lower(), str(model.get("method", ""))
        base_bytes = profile(program).base_memory_bytes
        scaling = scaling_of(program, method_family(program, method), driver, base_bytes, keywords)
        self._basis = str(model.get("basis") or "")
        self._size = partial(
            TaskSize, method=method, driver=driver, scaling=scaling, given_bytes=slot_bytes
        )
        symbols = [system.symbols[atoms] for atoms in system.fragment_slices]
        self._n_atoms = system.fragment_sizes
        self._charges = system.fragment_charges
        self._n_electrons = [sum(map(electrons_of_atom, each)) for each in symbols]
        self._n_functions = [
            sum(functions_of_atom(symbol, self._basis) for symbol in each) for each in symbols
        ]

    def size_of(self, real: Sequence[int], basis: Sequence[int]) -> TaskSize:
        """Return the size of a cluster; fragments count from 1."""
        n_atoms = _total(self._n_atoms, real)
        n_electrons = _total(self._n_electrons, real) - _total(self._charges, real)
        return self._size(
            _total(self._n_functions, basis if self._basis else real),
            n_atoms=n_atoms,
            n_electrons=max(0, round(n_electrons)),
            n_ghost_atoms=_total(self._n_atoms, basis) - n_atoms,
        )


def _total(numbers: Sequence[float], fragments: Sequence[int]) -> Any:
    return sum(numbers[fragment - 1] for fragment in fragments)


def family_name(chemistry: ModelChemistry, driver: str) -> str:
    """Name what measured times tell of any molecule: program, method, basis, driver, keywords."""
    model: dict[str, Any] = chemistry.specification.get("model") or {}
    words = [chemistry.program, model.get("method"), _short(model.get("basis")), driver]
    keywords = chemistry.specification.get("keywords")
    if keywords:
        words.append(_digest(keywords))
    return "/".join(str(word or "").lower() for word in words)


def method_of(family: str) -> tuple[str, str]:
    """Return program and method of a name that :func:`family_name` gave."""
    program, method, *_ = family.split("/")
    return program, method


def _short(basis: Any) -> Any:
    return basis if basis is None or isinstance(basis, str) else _digest(basis)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def n_among(done: NDArray[np.int64], ids: range | NDArray[Any]) -> int:
    """Return how many of some ids are among `done`, which is ascending."""
    if not len(done):
        return 0
    if isinstance(ids, range) and ids.step == 1:
        first, last = np.searchsorted(done, [ids.start, ids.stop])
        return int(last - first)
    wanted = np.asarray(ids, dtype=done.dtype)  # of another type would have `done` copied
    places = np.minimum(np.searchsorted(done, wanted), len(done) - 1)
    return int(np.count_nonzero(done[places] == wanted))


def memory_doubt(asked_bytes: int, granted_bytes: int, largest_bytes: int) -> str:
    """Say what is odd about a memory limit that the user gave.

    Parameters
    ----------
    asked_bytes : int
        The limit of a node.
    granted_bytes : int
        What this node has, or grants; 0 when that is not known.
    largest_bytes : int
        What the largest task is predicted to need; 0 when that is not known.

    Returns
    -------
    str
        Empty if nothing is.
    """
    asked = f"--memory: {in_gb(asked_bytes, 3)}"
    if granted_bytes and asked_bytes > granted_bytes:
        return (
            f"{asked} is more than the {in_gb(granted_bytes, 3)} that this node grants: tasks may "
            "be killed for lack of memory; without --memory, 80 % of that is used"
        )
    if asked_bytes < largest_bytes:
        return (
            f"{asked} is less than a single task may need ({in_gb(largest_bytes, 3)}): such tasks "
            "run one at a time, and are ended if they really need more"
        )
    return ""


def check_memory(
    space: TaskSpace,
    node_bytes: int,
    *,
    done: NDArray[np.int64],
    sized: Sequence[SizedClass] = (),
) -> None:
    """Refuse a space with a task that cannot fit into a whole node.

    Parameters
    ----------
    space : TaskSpace
    node_bytes : int
        Memory of the largest node; 0 when there is no known limit.
    done : ndarray of int64
        Ids that need not be run, ascending.
    sized : sequence of SizedClass, optional
        :func:`sized_classes` of the space, if it is at hand.

    Raises
    ------
    InputError
        It names the task, what it needs at the very least, and what can be done.
    """
    if not node_bytes:
        return
    needs = ((certain_bytes(each.size), each.tasks.ids) for each in sized or sized_classes(space))
    too_large = [
        (needed, ids)
        for needed, ids in needs
        if needed > node_bytes and n_among(done, ids) < len(ids)
    ]
    if not too_large:
        return
    needed, largest = max(too_large, key=lambda item: item[0])
    label = space.labels(np.asarray(largest[:1], dtype=np.int64))[0]
    n_too_large = sum(len(ids) for _, ids in too_large)
    raise InputError(
        "memory",
        f"task {short_label(label)} needs at least {in_gb(needed, 3)}, whatever the program does, "
        f"and a node has {in_gb(node_bytes, 3)} for it ({n_too_large} "
        f"{'tasks do' if n_too_large > 1 else 'task does'} not fit): take a smaller basis set, a "
        "method or driver that needs less, a lower max_nbody, nodes with more memory, or raise "
        "--memory if this limit is lower than what there is",
    )
