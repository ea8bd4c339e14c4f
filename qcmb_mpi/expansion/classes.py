"""Composition classes: tasks that differ only in which of equal fragments they have.

Rules of this file
------------------
1. One object a class, never one a task; ids of a class are a range wherever they have no gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.subsets import Ints, n_subsets, portions, rank, unrank

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import Block, TaskSpace

_Kinds = tuple[tuple[int, ...], tuple[int, ...]]
_Ids = NDArray[np.integer[Any]]
_Codes = NDArray[np.uint16] | Ints
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
    for start, codes in _coded(space, block, kinds):
        order = np.argsort(codes, kind="stable")
        cuts = np.flatnonzero(np.diff(codes[order])) + 1
        keys = _keys(space, block, start + order[np.append(0, cuts)], kinds)
        ids = (block.start + start + order).astype(small)
        for key, each in zip(keys, pairwise([0, *cuts.tolist(), len(ids)]), strict=True):
            members.setdefault(key, []).append(ids[slice(*each)])
    return dict(sorted(members.items(), key=lambda item: int(item[1][0][0])))


def _keys(space: TaskSpace, block: Block, ranks: Ints, kinds: Ints) -> Iterator[_Kinds]:
    """Yield the kinds of real and of ghost fragments of some tasks of a block."""
    real, basis = space.fragments(block, ranks)
    is_ghost = (basis[:, :, None] != real[:, None, :]).all(axis=2)
    ghosts = kinds[basis[is_ghost]].reshape(len(ranks), -1)
    rows = (np.sort(each, axis=1).tolist() for each in (kinds[real], ghosts))
    yield from ((tuple(a), tuple(b)) for a, b in zip(*rows, strict=True))


def _coded(space: TaskSpace, block: Block, kinds: Ints) -> Iterator[tuple[int, _Codes]]:
    """Yield portions of a block: where each starts, and equal numbers for equal compositions."""
    n, n_kinds, k = len(kinds), int(kinds.max()) + 1, block.n_real
    # Where the basis is the whole system, or without ghosts, it tells nothing more.
    is_told_by_real = block.n_basis in (k, n)
    n_compositions = n_subsets(n_kinds + k - 1, k)
    if is_told_by_real and 2 * k <= n and n_compositions <= _FEW_CODES:
        codes = _compositions(kinds, n_kinds, k)
        yield from ((part.start, codes[part]) for part in portions(len(codes), 1))
        return
    for part in portions(block.n_tasks, block.n_basis):
        real, basis = space.fragments(block, np.arange(part.start, part.stop))
        columns = [np.sort(kinds[real], axis=1)]
        if not is_told_by_real:
            columns.append(np.sort(kinds[basis], axis=1))
        yield part.start, _codes(np.concatenate(columns, axis=1), n_kinds)


def _compositions(kinds: Ints, n_kinds: int, k: int) -> NDArray[np.uint16]:
    """Give all k-subsets of fragments, in their order, the ranks of their compositions.

    Subsets that begin with fragment i go on with the last of the subsets that are one smaller.
    """
    n = len(kinds)
    codes = np.zeros(1, dtype=np.uint16)
    for size in range(1, k + 1):
        larger = [_with_one_more(n_kinds, size, kind) for kind in range(n_kinds)]
        rests = [codes[len(codes) - n_subsets(n - 1 - i, size - 1) :] for i in range(n)]
        codes = np.concatenate([larger[kinds[i]][rest] for i, rest in enumerate(rests)])
    return codes


def _with_one_more(n_kinds: int, size: int, kind: int) -> NDArray[np.uint16]:
    """Tell for each composition of ``size - 1`` fragments what it becomes with one of `kind`.

    A composition is a multiset of kinds; with 0, 1, 2, ... added, such ascend as subsets do.
    """
    n_smaller = n_subsets(n_kinds + size - 2, size - 1)
    smaller = unrank(n_kinds + size - 2, size - 1, np.arange(n_smaller)) - np.arange(size - 1)
    rows = np.sort(np.column_stack([smaller, np.full(n_smaller, kind)]), axis=1)
    return rank(n_kinds + size - 1, rows + np.arange(size)).astype(np.uint16)


def _codes(rows: Ints, n_kinds: int) -> _Codes:
    """Give equal rows equal numbers, and different rows different ones."""
    codes, n_codes = np.zeros(len(rows), dtype=np.int64), 1
    for column in rows.T:
        codes, n_codes = codes * n_kinds + column, n_codes * n_kinds
        if n_codes > _FEW_CODES:  # renumbered, so that no product overflows
            found, codes = np.unique(codes, return_inverse=True)
            n_codes = len(found)
    return codes.astype(np.uint16) if n_codes <= _FEW_CODES else codes


def _compact(parts: list[_Ids]) -> range | _Ids:
    """Join ascending ids: as a range if without gap."""
    first, last = int(parts[0][0]), int(parts[-1][-1])
    if sum(map(len, parts)) == last - first + 1:
        return range(first, last + 1)
    return np.concatenate(parts)
