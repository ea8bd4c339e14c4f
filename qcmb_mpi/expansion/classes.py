"""Composition classes: tasks that differ only in which of equal fragments they have.

Rules of this file
------------------
1. One object a class, never one a task; ids of a class are a range wherever they have no gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.subsets import Ints, portions

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import TaskSpace

_Kinds = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class CompositionClass:
    """Tasks of one block with the same kinds of real and of ghost fragments.

    Parameters
    ----------
    block : int
        Index of the block.
    ids : range or int array
        Task ids, ascending; a range wherever they are without gap.
    real_kinds, ghost_kinds : tuple of int
        Kinds (``System.fragment_kinds``) of the fragments, ascending.
    """

    block: int
    ids: range | NDArray[np.int32] | NDArray[np.int64]
    real_kinds: tuple[int, ...]
    ghost_kinds: tuple[int, ...]


def composition_classes(space: TaskSpace) -> tuple[CompositionClass, ...]:
    """Sort the tasks of a space into composition classes.

    Parameters
    ----------
    space : TaskSpace
        The tasks.

    Returns
    -------
    tuple of CompositionClass
        By block, then by the first task. Of a system with one kind of fragments each block is one
        class and costs nothing.
    """
    kinds = space.expansion.system.fragment_kinds
    if not kinds.any():
        return tuple(
            CompositionClass(i, bl.ids, (0,) * bl.n_real, (0,) * (bl.n_basis - bl.n_real))
            for i, bl in enumerate(space.blocks)
        )
    return tuple(
        CompositionClass(index, _compact(parts), *key)
        for index in range(len(space.blocks))
        for key, parts in _members(space, index, kinds).items()
    )


def _members(space: TaskSpace, index: int, kinds: Ints) -> dict[_Kinds, list[Ints]]:
    """Sort one block's ids by the kinds of real and ghost fragments."""
    block = space.blocks[index]
    members: dict[_Kinds, list[Ints]] = {}
    for part in portions(block.n_tasks, block.n_basis):
        ids = np.arange(part.start, part.stop) + block.start
        real, basis = space.fragments(block, ids - block.start)
        codes = _codes(np.sort(kinds[real], axis=1))
        # Where the basis is the whole system, or without ghosts, it tells nothing more.
        if block.n_real < block.n_basis < len(kinds):
            codes = _codes(np.column_stack([codes, np.sort(kinds[basis], axis=1)]))
        order = np.argsort(codes, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            ghosts = np.setdiff1d(basis[rows[0]], real[rows[0]])
            key = (_ascending(kinds[real[rows[0]]]), _ascending(kinds[ghosts]))
            members.setdefault(key, []).append(ids[rows])
    return dict(sorted(members.items(), key=lambda item: int(item[1][0][0])))


def _codes(rows: Ints) -> Ints:
    """Give equal rows equal numbers, and different rows different ones."""
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        # Renumbering after every column keeps the product of the two ranges from overflowing.
        _, codes = np.unique(codes * (int(column.max()) + 1) + column, return_inverse=True)
    return codes


def _ascending(kinds: Ints) -> tuple[int, ...]:
    return tuple(sorted(kinds.tolist()))


def _compact(parts: list[Ints]) -> range | NDArray[np.int32] | NDArray[np.int64]:
    """Join ascending ids: as a range if without gap, else in the smallest type."""
    first, last = int(parts[0][0]), int(parts[-1][-1])
    if sum(map(len, parts)) == last - first + 1:
        return range(first, last + 1)
    if last < 2**31:
        return np.concatenate(parts, dtype=np.int32, casting="unsafe")
    return np.concatenate(parts)
