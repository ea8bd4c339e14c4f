"""The task space: every cluster of an expansion as an integer, by arithmetic alone.

Rules of this file
------------------
1. A space is a few blocks; nothing is held for a task, and memory is bounded by what is asked for.
2. Order is canonical: model chemistry, basis size, real size, basis fragments, real fragments. It
   depends on the expansion only, so ids mean the same in every process and after every restart.
3. A cluster that several treatments need is one block and so one task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion import subsets
from qcmb_mpi.expansion.classes import CompositionClass, composition_classes
from qcmb_mpi.expansion.graph import LevelGraph, parse_label
from qcmb_mpi.expansion.levels import Expansion
from qcmb_mpi.expansion.subsets import Ints, portions


@dataclass(frozen=True, slots=True)
class Block:
    """All clusters of one model chemistry with given numbers of real and basis fragments.

    Parameters
    ----------
    model_chemistry : int
        Index in the expansion.
    n_real, n_basis : int
        Numbers of real, and of real and ghost, fragments.
    start : int
        Id of its first task.
    n_tasks : int
        C(n, n_basis) * C(n_basis, n_real).
    """

    model_chemistry: int
    n_real: int
    n_basis: int
    start: int
    n_tasks: int

    @property
    def ids(self) -> range:
        """Ids of its tasks."""
        return range(self.start, self.start + self.n_tasks)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Tasks by their fragments.

    Parameters
    ----------
    model_chemistry : int64[m]
        Index of the model chemistry.
    real, basis : list of tuple of int
        Fragments, 1-based and ascending; the real ones are among the basis.
    """

    model_chemistry: Ints
    real: list[tuple[int, ...]]
    basis: list[tuple[int, ...]]


class TaskSpace:
    """The tasks of an expansion, numbered without gap from 0.

    Parameters
    ----------
    expansion : Expansion
        What to expand.

    Attributes
    ----------
    expansion : Expansion
        As given.
    blocks : tuple of Block
        In canonical order.
    n_tasks : int
        Number of tasks; 0 is legal (interaction data of a 1-body cp expansion).
    fingerprint : str
        SHA-256 in hexadecimal of all that gives the ids their meaning.

    Raises
    ------
    InputError
        If there are ``2**62`` tasks or more.
    """

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.blocks = tuple(_blocks(expansion))
        self.n_tasks = sum(block.n_tasks for block in self.blocks)
        self.fingerprint = _fingerprint(expansion, self.blocks)
        self._starts = np.array([block.start for block in self.blocks], dtype=np.int64)
        self._n_fragments = expansion.system.n_fragments

    def level_graph(self) -> LevelGraph:
        """Make the stages of the plain expansion: none waits for another.

        Returns
        -------
        LevelGraph
        """
        return LevelGraph.plain(self.blocks)

    def block_of(self, ids: ArrayLike) -> Ints:
        """Find the blocks of tasks.

        Parameters
        ----------
        ids : int64[m]
            Task ids.

        Returns
        -------
        int64[m]
            Block indices.

        Raises
        ------
        IndexError
            If an id is out of range.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.n_tasks:
            raise IndexError(f"task ids are in range({self.n_tasks})")
        return np.searchsorted(self._starts, ids, side="right") - 1

    def fragments(self, block: Block | int, ranks: ArrayLike) -> tuple[Ints, Ints]:
        """Find the fragments of tasks of one block.

        Parameters
        ----------
        block : Block or int
            The block or its index.
        ranks : int64[m]
            Places of the tasks in the block.

        Returns
        -------
        real : int64[m, n_real]
            Real fragments, 0-based, ascending.
        basis : int64[m, n_basis]
            Real and ghost fragments, 0-based, ascending; read-only if they are all fragments.
        """
        block = self._block(block)
        ranks = np.asarray(ranks, dtype=np.int64)
        n, k, b = self._n_fragments, block.n_real, block.n_basis
        if b == n:
            return subsets.unrank(n, k, ranks), np.broadcast_to(np.arange(n), (len(ranks), n))
        if k == b:
            basis = subsets.unrank(n, b, ranks)
            return basis, basis
        outer, inner = np.divmod(ranks, subsets.n_subsets(b, k))
        basis = subsets.unrank(n, b, outer)
        return np.take_along_axis(basis, subsets.unrank(b, k, inner), axis=1), basis

    def ranks(self, block: Block | int, real: Ints, basis: Ints) -> Ints:
        """Find the places of clusters in their block; the inverse of :meth:`fragments`.

        Parameters
        ----------
        block : Block or int
            The block or its index.
        real : int64[m, n_real]
            Real fragments, 0-based, ascending.
        basis : int64[m, n_basis]
            Real and ghost fragments, 0-based, ascending.

        Returns
        -------
        int64[m]

        Raises
        ------
        InputError
            If a row is not ascending, out of range, or has a real fragment outside its basis.
        """
        block = self._block(block)
        n, k, b = self._n_fragments, block.n_real, block.n_basis
        inner = np.stack([(basis < real[:, [i]]).sum(axis=1) for i in range(k)], axis=1)
        found = np.take_along_axis(basis, np.minimum(inner, b - 1), axis=1)
        is_cluster = subsets.is_subset_rows(n, basis) & (found == real).all(axis=1)
        is_cluster &= subsets.is_subset_rows(b, inner)
        if not is_cluster.all():
            row = int(np.argmin(is_cluster))
            raise InputError(
                "cluster",
                f"fragments must ascend in 1..{n}, real ones among the basis",
                value=((real[row] + 1).tolist(), (basis[row] + 1).tolist()),
            )
        return subsets.rank(n, basis) * subsets.n_subsets(b, k) + subsets.rank(b, inner)

    def clusters(self, ids: ArrayLike) -> Clusters:
        """Find the clusters of tasks.

        Parameters
        ----------
        ids : int64[m]
            Task ids, in any order.

        Returns
        -------
        Clusters
            In the order of the ids.
        """
        ids = np.asarray(ids, dtype=np.int64)
        model_chemistry = np.empty(len(ids), dtype=np.int64)
        real: list[tuple[int, ...]] = [()] * len(ids)
        basis: list[tuple[int, ...]] = [()] * len(ids)
        for block, places, real_rows, basis_rows in self._by_block(ids):
            model_chemistry[places] = block.model_chemistry
            rows = zip((real_rows + 1).tolist(), (basis_rows + 1).tolist(), strict=True)
            for place, (real_row, basis_row) in zip(places.tolist(), rows, strict=True):
                real[place], basis[place] = tuple(real_row), tuple(basis_row)
        return Clusters(model_chemistry, real, basis)

    def ids(self, clusters: Clusters) -> Ints:
        """Find the ids of clusters.

        Parameters
        ----------
        clusters : Clusters
            In any order.

        Returns
        -------
        int64[m]
            In the order of the clusters.

        Raises
        ------
        InputError
            If one is not in this space.
        """
        by_size = {(bl.model_chemistry, bl.n_real, bl.n_basis): bl for bl in self.blocks}
        groups: dict[tuple[int, int, int], list[int]] = {}
        indices = np.asarray(clusters.model_chemistry).tolist()
        rows = zip(indices, clusters.real, clusters.basis, strict=True)
        for place, (index, real, basis) in enumerate(rows):
            groups.setdefault((index, len(real), len(basis)), []).append(place)
        ids = np.empty(len(clusters.real), dtype=np.int64)
        for size, places in groups.items():
            if size not in by_size:
                example = clusters.real[places[0]], clusters.basis[places[0]]
                raise InputError("cluster", "is not part of this expansion", value=example)
            block = by_size[size]
            for part in portions(len(places), block.n_basis):
                real_rows = np.array([clusters.real[place] for place in places[part]]) - 1
                basis_rows = np.array([clusters.basis[place] for place in places[part]]) - 1
                ids[places[part]] = block.start + self.ranks(block, real_rows, basis_rows)
        return ids

    def labels(self, ids: ArrayLike) -> list[str]:
        """Write the labels of tasks, as ``qcmanybody.utils.labeler`` does.

        Parameters
        ----------
        ids : int64[m]
            Task ids, in any order.

        Returns
        -------
        list of str
            Such as ``'["mp2", [1], [1, 2]]'``, in the order of the ids.
        """
        ids = np.asarray(ids, dtype=np.int64)
        names = [json.dumps(label) for label in self.expansion.levels.model_chemistries]
        labels = [""] * len(ids)
        for block, places, real_rows, basis_rows in self._by_block(ids):
            name = names[block.model_chemistry]
            rows = zip((real_rows + 1).tolist(), (basis_rows + 1).tolist(), strict=True)
            for place, (real_row, basis_row) in zip(places.tolist(), rows, strict=True):
                labels[place] = f"[{name}, {real_row}, {basis_row}]"
        return labels

    def ids_of_labels(self, labels: Sequence[str]) -> Ints:
        """Find the ids of labels of either form.

        Parameters
        ----------
        labels : sequence of str
            See :func:`~qcmb_mpi.expansion.graph.parse_label`; the model chemistry may be left out
            if there is only one.

        Returns
        -------
        int64[m]

        Raises
        ------
        InputError
            If one is no label or not in this space.
        """
        names = self.expansion.levels.model_chemistries
        numbers: dict[str | None, int] = {name: index for index, name in enumerate(names)}
        if len(names) == 1:
            numbers[None] = 0
        parsed = [parse_label(label) for label in labels]
        for label, (name, _, _) in zip(labels, parsed, strict=True):
            if name not in numbers:
                raise InputError(
                    "label", "names no model chemistry", value=label, accepted=", ".join(names)
                )
        indices = np.array([numbers[name] for name, _, _ in parsed], dtype=np.int64)
        return self.ids(Clusters(indices, [row[1] for row in parsed], [row[2] for row in parsed]))

    def classes(self) -> tuple[CompositionClass, ...]:
        """Sort the tasks into composition classes.

        Returns
        -------
        tuple of CompositionClass
            See :func:`~qcmb_mpi.expansion.classes.composition_classes`.
        """
        return composition_classes(self)

    def _block(self, block: Block | int) -> Block:
        return block if isinstance(block, Block) else self.blocks[block]

    def _by_block(self, ids: Ints) -> Iterator[tuple[Block, Ints, Ints, Ints]]:
        """Yield (block, places among the ids, real rows, basis rows), in bounded portions."""
        indices = self.block_of(ids)
        for index in np.flatnonzero(np.bincount(indices)).tolist():
            block = self.blocks[index]
            places = np.flatnonzero(indices == index)
            for part in portions(len(places), block.n_basis):
                real, basis = self.fragments(block, ids[places[part]] - block.start)
                yield block, places[part], real, basis


def _blocks(expansion: Expansion) -> Iterator[Block]:
    n, start = expansion.system.n_fragments, 0
    for index in range(len(expansion.model_chemistries)):
        sizes = expansion.sums(index).sizes(n)
        for n_real, n_basis in sorted(sizes, key=lambda size: (size[1], size[0])):
            n_tasks = subsets.n_subsets(n, n_basis) * subsets.n_subsets(n_basis, n_real)
            yield Block(index, n_real, n_basis, start, n_tasks)
            start += n_tasks
            if start >= subsets.MAX_RANKS:
                raise InputError(
                    "specification.keywords.max_nbody",
                    f"gives more than {subsets.MAX_RANKS:.1e} calculations",
                    value=expansion.levels.max_nbody,
                )


def _fingerprint(expansion: Expansion, blocks: Sequence[Block]) -> str:
    chemistries = [mc.fingerprint for mc in expansion.model_chemistries]
    sizes = [(bl.model_chemistry, bl.n_real, bl.n_basis) for bl in blocks]
    return hashlib.sha256(json.dumps([chemistries, sizes]).encode()).hexdigest()
