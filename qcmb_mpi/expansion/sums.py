"""Sums of task results over blocks: exactly rounded energies, gradients and Hessians in order.

Rules of this file
------------------
1. Energies are summed as if without rounding, so no order matters. (The sets are QCManyBody's.)
2. Arrays are added one after the other in canonical order into one full-size array a block: the
   same bits however results arrived or are portioned, and never a full-size array a task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.subsets import Ints
from qcmb_mpi.expansion.system import System

Array = NDArray[np.float64]
Value = float | NDArray[np.float64]
Arrays = Sequence[Array] | Array

PROPERTIES = ("energy", "gradient", "hessian")

_PORTION = 1 << 16


class ComponentValues(Protocol):
    """Results of all tasks of a space.

    Attributes
    ----------
    properties : frozenset of str
        Those of ``energy``, ``gradient``, ``hessian`` that every task has.
    """

    @property
    def properties(self) -> frozenset[str]:
        """Properties that every task has."""

    def energies(self, block: Block) -> Array:
        """Give a block's energies.

        Parameters
        ----------
        block : Block
            The block.

        Returns
        -------
        float64[n_tasks of the block]
            In E_h, in canonical order.
        """

    def arrays(self, block: Block, name: str) -> Iterator[tuple[Ints, Arrays]]:
        """Give a block's gradients or Hessians, portion by portion.

        Parameters
        ----------
        block : Block
            The block.
        name : str
            ``gradient`` or ``hessian``.

        Yields
        ------
        ranks : int64[m]
            Places in the block: together all of them, ascending.
        arrays : sequence of ndarray, or one ndarray
            Natural size: ``(nat, 3)`` in E_h/a0 or ``(3 nat, 3 nat)`` in E_h/a0^2, nat counting the
            atoms of the basis fragments; stacked along the first axis where all are alike.
        """


class Adder(Protocol):
    """Sums over blocks of one property; the sums are not to be changed.

    Attributes
    ----------
    zero : float or ndarray
        The empty sum.
    """

    zero: Value

    def block_sum(self, model_chemistry: int, n_real: int, n_basis: int) -> Value:
        """Sum over one block, named by its sizes."""

    def signed_sum(self, model_chemistry: int, n_basis: int) -> Value:
        """Sum over all real sizes k in one basis size, with the sign of (-1)^(n_basis - k)."""


def _block(space: TaskSpace, model_chemistry: int, n_real: int, n_basis: int) -> Block:
    wanted = (model_chemistry, n_real, n_basis)
    return next(bl for bl in space.blocks if (bl.model_chemistry, bl.n_real, bl.n_basis) == wanted)


class EnergyAdder:
    """Exactly rounded sums of energies."""

    zero: Value = 0.0

    def __init__(self, space: TaskSpace, values: ComponentValues) -> None:
        self._space, self._values = space, values
        self._sums: dict[Block, float] = {}

    def block_sum(self, model_chemistry: int, n_real: int, n_basis: int) -> float:
        """Sum over one block, named by its sizes."""
        block = _block(self._space, model_chemistry, n_real, n_basis)
        if block not in self._sums:
            self._sums[block] = math.fsum(chain.from_iterable(self._energies(block, 1.0)))
        return self._sums[block]

    def signed_sum(self, model_chemistry: int, n_basis: int) -> float:
        """Sum over all real sizes at once: rounded once, not once a block."""
        blocks = [_block(self._space, model_chemistry, k, n_basis) for k in range(1, n_basis + 1)]
        signed = [self._energies(block, (-1.0) ** (n_basis - block.n_real)) for block in blocks]
        return math.fsum(chain.from_iterable(chain.from_iterable(signed)))

    def _energies(self, block: Block, sign: float) -> Iterator[list[float]]:
        energies = np.asarray(self._values.energies(block), dtype=np.float64)
        if energies.shape != (block.n_tasks,):
            raise ValueError(f"{energies.shape} energies for the {block.n_tasks} tasks of {block}")
        # Python floats one portion at a time: 10 million at once would take 300 MB.
        for start in range(0, block.n_tasks, _PORTION):
            yield (sign * energies[start : start + _PORTION]).tolist()


class ArrayAdder:
    """Sums of gradients or Hessians, one full-size array a block, each made once."""

    def __init__(self, space: TaskSpace, values: ComponentValues, name: str) -> None:
        self._space, self._values, self._name = space, values, name
        self._sums: dict[Block, Array] = {}
        self.zero: Value = zeros(space.expansion.system, name)

    def block_sum(self, model_chemistry: int, n_real: int, n_basis: int) -> Array:
        """Sum over one block, named by its sizes."""
        block = _block(self._space, model_chemistry, n_real, n_basis)
        if block not in self._sums:
            self._sums[block] = self._add_up(block)
        return self._sums[block]

    def signed_sum(self, model_chemistry: int, n_basis: int) -> Array:
        """Sum over all real sizes in one basis size."""
        total = zeros(self._space.expansion.system, self._name)
        for n_real in range(1, n_basis + 1):
            total += (-1.0) ** (n_basis - n_real) * self.block_sum(model_chemistry, n_real, n_basis)
        return total

    def _add_up(self, block: Block) -> Array:
        system = self._space.expansion.system
        total, n_done = zeros(system, self._name), 0
        for ranks, arrays in self._values.arrays(block, self._name):
            if not len(arrays):
                continue
            expected = np.arange(n_done, n_done + len(arrays))
            if not np.array_equal(ranks, expected[: block.n_tasks - n_done]):
                raise ValueError(f"{self._name}s of {block} are not in canonical order")
            _, basis = self._space.fragments(block, expected)
            scatter(self._name, total, system, basis, arrays)
            n_done += len(arrays)
        if n_done != block.n_tasks:
            raise ValueError(f"{n_done} {self._name}s for the {block.n_tasks} tasks of {block}")
        return total


def zeros(system: System, name: str) -> Array:
    """Make a full-size array.

    Parameters
    ----------
    system : System
        The whole system.
    name : str
        ``gradient`` or ``hessian``.

    Returns
    -------
    ndarray
        ``(n_atoms, 3)`` or ``(3 n_atoms, 3 n_atoms)``.
    """
    n_coordinates = 3 * system.n_atoms
    shape = (system.n_atoms, 3) if name == "gradient" else (n_coordinates, n_coordinates)
    return np.zeros(shape)


def scatter(name: str, total: Array, system: System, basis: Ints, arrays: Arrays) -> None:
    """Add natural-size arrays into a full-size one, strictly in order.

    Parameters
    ----------
    name : str
        ``gradient`` or ``hessian``.
    total : ndarray
        Full size; changed in place.
    system : System
        The whole system.
    basis : int64[m, b]
        Fragments, 0-based, of each array.
    arrays : sequence of ndarray, or one ndarray
        Natural size, m of them.

    Raises
    ------
    ValueError
        If there are not m arrays, or one is not of its fragments' size.
    """
    places, counts = _coordinates(system, basis)
    _check_shapes(name, arrays, counts)
    if name == "gradient":
        _scatter_gradients(total, places, arrays)
    else:
        _scatter_hessians(total, np.split(places, np.cumsum(counts)[:-1]), arrays)


def _coordinates(system: System, basis: Ints) -> tuple[Ints, Ints]:
    """Give the full-size places of the coordinates of rows of fragments, and how many a row has."""
    sizes = 3 * np.array(system.fragment_sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    if (sizes == sizes[0]).all():
        places = starts[basis][..., None] + np.arange(sizes[0])
        return places.ravel(), np.full(len(basis), basis.shape[1] * sizes[0])
    counts = sizes[basis].ravel()
    shifts = starts[basis].ravel() - (np.cumsum(counts) - counts)
    return np.repeat(shifts, counts) + np.arange(counts.sum()), sizes[basis].sum(axis=1)


def _scatter_gradients(total: Array, places: Ints, arrays: Arrays) -> None:
    numbers = arrays if isinstance(arrays, np.ndarray) else np.concatenate(arrays)
    # Unbuffered: one addition after the other, so that portions do not show in the bits.
    np.add.at(total.reshape(-1), places, numbers.reshape(-1))


def _scatter_hessians(total: Array, places: list[Ints], arrays: Arrays) -> None:
    for own, array in zip(places, arrays, strict=True):
        total[own[:, None], own] += array


def _check_shapes(name: str, arrays: Arrays, counts: Ints) -> None:
    if len(arrays) != len(counts):
        raise ValueError(f"{len(arrays)} {name}s for {len(counts)} clusters")
    if isinstance(arrays, np.ndarray) and (counts == counts[0]).all():
        arrays, counts = arrays[:1], counts[:1]  # of a stack one stands for all
    for array, count in zip(arrays, counts.tolist(), strict=True):
        shape = (count // 3, 3) if name == "gradient" else (count, count)
        if array.shape != shape:
            raise ValueError(f"an array has the shape {array.shape} instead of {shape}")
