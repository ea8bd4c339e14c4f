"""Composition classes: tasks that differ only in which of equal fragments they have.

Rules of this file
------------------
1. One object a class, never one a task; ids of a class are a range wherever they have no gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.subsets import Ints, portions

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import TaskSpace

_Kinds = tuple[tuple[int, ...], tuple[int, ...]]
_Ids = NDArray[np.integer[Any]]
_FEW_CODES = 1 << 16  # stable sorting of 16-bit numbers takes time in proportion to their number


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
    ids: range | _Ids
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


def _members(space: TaskSpace, index: int, kinds: Ints) -> dict[_Kinds, list[_Ids]]:
    """Sort one block's ids by the kinds of real and ghost fragments."""
    block = space.blocks[index]
    small = np.dtype(np.int32 if block.ids.stop <= 2**31 else np.int64)
    members: dict[_Kinds, list[_Ids]] = {}
    for part in portions(block.n_tasks, block.n_basis):
        ids = np.arange(part.start, part.stop) + block.start
        real, basis = space.fragments(block, ids - block.start)
        columns = [np.sort(kinds[real], axis=1)]
        # Where the basis is the whole system, or without ghosts, it tells nothing more.
        if block.n_real < block.n_basis < len(kinds):
            columns.append(np.sort(kinds[basis], axis=1))
        codes = _codes(np.concatenate(columns, axis=1), int(kinds.max()) + 1)
        order = np.argsort(codes, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            first = real[rows[0]].tolist()
            ghosts = [each for each in basis[rows[0]].tolist() if each not in first]
            key = (_ascending(kinds[first]), _ascending(kinds[ghosts]))
            members.setdefault(key, []).append(ids[rows].astype(small))
    return dict(sorted(members.items(), key=lambda item: int(item[1][0][0])))


def _codes(rows: Ints, n_kinds: int) -> NDArray[np.uint16] | Ints:
    """Give equal rows equal numbers, and different rows different ones."""
    codes, n_codes = np.zeros(len(rows), dtype=np.int64), 1
    for column in rows.T:
        codes, n_codes = codes * n_kinds + column, n_codes * n_kinds
        if n_codes > _FEW_CODES:  # renumbered, so that no product overflows
            found, codes = np.unique(codes, return_inverse=True)
            n_codes = len(found)
    return codes.astype(np.uint16) if n_codes <= _FEW_CODES else codes


def _ascending(kinds: Ints) -> tuple[int, ...]:
    return tuple(sorted(kinds.tolist()))


def _compact(parts: list[_Ids]) -> range | _Ids:
    """Join ascending ids: as a range if without gap."""
    first, last = int(parts[0][0]), int(parts[-1][-1])
    if sum(map(len, parts)) == last - first + 1:
        return range(first, last + 1)
    return np.concatenate(parts)
