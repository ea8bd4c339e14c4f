"""How large the tasks of a space are, and which of them no node can hold.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
2. Refused is only what is certain not to fit: everything else is left to the run.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.programs.basis_size import n_basis_functions, n_electrons
from qcmb_mpi.programs.memory import scaling_of
from qcmb_mpi.programs.profiles import method_family, profile
from qcmb_mpi.scheduling.scaling import TaskSize, certain_bytes

if TYPE_CHECKING:
    from qcmb_mpi.expansion.classes import CompositionClass
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.expansion.system import ModelChemistry


def size_of(space: TaskSpace, each: CompositionClass, *, slot_bytes: int = 0) -> TaskSize:
    """Return the size of the tasks of a class.

    Parameters
    ----------
    space : TaskSpace
    each : CompositionClass
    slot_bytes : int, optional
        Memory that a calculation is told it has; 0 when that is not known.
    """
    expansion = space.expansion
    system, driver = expansion.system, expansion.driver
    chemistry = expansion.model_chemistries[space.blocks[each.block].model_chemistry]
    clusters = space.clusters(np.asarray(each.ids[:1], dtype=np.int64))
    real, basis = clusters.real[0], clusters.basis[0]
    model = chemistry.specification.get("model") or {}
    keywords = chemistry.specification.get("keywords") or {}
    program, method = chemistry.program.lower(), str(model.get("method", ""))
    base_bytes = profile(program).base_memory_bytes
    n_atoms = sum(system.fragment_sizes[fragment - 1] for fragment in real)
    return TaskSize(
        n_basis_functions(system, real, basis, model),
        method=method,
        driver=driver,
        n_atoms=n_atoms,
        scaling=scaling_of(program, method_family(program, method), driver, base_bytes, keywords),
        n_electrons=n_electrons(system, real),
        n_ghost_atoms=sum(system.fragment_sizes[fragment - 1] for fragment in basis) - n_atoms,
        given_bytes=slot_bytes,
    )


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
    return int(np.isin(np.asarray(ids), done, assume_unique=True).sum())


def check_memory(space: TaskSpace, node_bytes: int, *, done: NDArray[np.int64]) -> None:
    """Refuse a space with a task that cannot fit into a whole node.

    Parameters
    ----------
    space : TaskSpace
    node_bytes : int
        Memory of the largest node; 0 when there is no known limit.
    done : ndarray of int64
        Ids that need not be run, ascending.

    Raises
    ------
    InputError
        It names the task, what it needs at the very least, and what can be done.
    """
    if not node_bytes:
        return
    sizes = [
        (certain_bytes(size_of(space, each)), each)
        for each in space.classes()
        if n_among(done, each.ids) < len(each.ids)
    ]
    needed, largest = max(sizes, key=lambda item: item[0], default=(0, None))
    if largest is None or needed <= node_bytes:
        return
    label = space.labels(np.asarray(largest.ids[:1], dtype=np.int64))[0]
    n_too_large = sum(len(each.ids) for size, each in sizes if size > node_bytes)
    raise InputError(
        "memory",
        f"task {label} needs at least {needed / 1e9:.3g} GB, whatever the program does, and a node "
        f"has {node_bytes / 1e9:.3g} GB for it ({n_too_large} "
        f"{'tasks do' if n_too_large > 1 else 'task does'} not fit): take a smaller basis set, a "
        "method or driver that needs less, a lower max_nbody, nodes with more memory, or raise "
        "--memory if this limit is lower than what there is",
    )
