"""Stages of work and levels of tasks: what may run, and what is complete.

Rules of this file
------------------
1. Release of stages is a function of (graph, finished stages) alone.
2. The plain expansion has no dependencies: nothing here puts a barrier between its levels.
3. Labels are QCManyBody's (``qcmanybody.utils.labeler``), with 1-based fragments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.subsets import Ints, portions

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import Block, TaskSpace

Bools = NDArray[np.bool_]

_PRETTY_LABEL = re.compile(r"(?:§(?P<mc>.*)_)?\((?P<real>\d[\d, ]*)\)@\((?P<basis>\d[\d, ]*)\)")


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of tasks that are released together.

    Parameters
    ----------
    index : int
        Its place in the graph.
    model_chemistry, n_real : int
        What the tasks have in common.
    blocks : tuple of int
        Indices of the blocks in the task space.
    released_by : tuple of int
        Stages that must be finished first; none in the plain expansion.
    """

    index: int
    model_chemistry: int
    n_real: int
    blocks: tuple[int, ...]
    released_by: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LevelGraph:
    """Stages of tasks with a release rule.

    Parameters
    ----------
    stages : tuple of Stage
        Each at its own index, gated by earlier ones only.

    Raises
    ------
    ValueError
        If a stage is out of place or waits for itself or a later one.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        """Check order and gates."""
        for place, stage in enumerate(self.stages):
            if stage.index != place or any(not 0 <= gate < place for gate in stage.released_by):
                raise ValueError(f"stage {place} is out of order or waits for a later one: {stage}")

    @classmethod
    def plain(cls, blocks: Iterable[Block]) -> LevelGraph:
        """Make one ungated stage for each model chemistry and number of real fragments.

        Parameters
        ----------
        blocks : iterable of Block
            The task space's.

        Returns
        -------
        LevelGraph
        """
        members: dict[tuple[int, int], list[int]] = {}
        for index, block in enumerate(blocks):
            members.setdefault((block.model_chemistry, block.n_real), []).append(index)
        return cls(
            tuple(
                Stage(place, *key, tuple(members[key])) for place, key in enumerate(sorted(members))
            )
        )


def released(graph: LevelGraph, finished: Collection[int]) -> tuple[int, ...]:
    """Tell which stages may run.

    Parameters
    ----------
    graph : LevelGraph
        The stages.
    finished : collection of int
        Indices of the stages that are complete.

    Returns
    -------
    tuple of int
        Stages, ascending, all of whose gates are finished; finished ones are among them.
    """
    return tuple(
        stage.index for stage in graph.stages if all(gate in finished for gate in stage.released_by)
    )


def parse_label(label: str) -> tuple[str | None, tuple[int, ...], tuple[int, ...]]:
    """Take a QCManyBody label apart.

    Parameters
    ----------
    label : str
        ``'["mp2", [1], [1, 2]]'`` or, for people, ``'§mp2_(1)@(1, 2)'`` or ``'(1)@(1, 2)'``.

    Returns
    -------
    tuple
        Model chemistry (None if not named), real and basis fragments, 1-based.

    Raises
    ------
    InputError
        If it is no label.
    """
    accepted = '["mp2", [1], [1, 2]] or §mp2_(1)@(1, 2)'
    try:
        if pretty := _PRETTY_LABEL.fullmatch(label):
            name, real, basis = (
                pretty["mc"],
                *(_numbers(pretty[part]) for part in ("real", "basis")),
            )
        else:
            name, real, basis = json.loads(label)
        return name, _fragments(real), _fragments(basis)
    except (ValueError, TypeError):
        raise InputError("label", "is not of a task", value=label, accepted=accepted) from None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.rstrip(", ").split(",")]


def _fragments(numbers: list[int]) -> tuple[int, ...]:
    if not numbers or not all(type(number) is int for number in numbers):
        raise TypeError("fragments are integers")
    return tuple(numbers)


class NBodyDependencyGraph:
    """Levels of tasks, and whether results are closed under sub-clusters.

    In the plain expansion no task waits for another. What exists is closure: the contribution of a
    cluster can be formed only when the sub-clusters it is compared with are there too. For a
    cluster these are all proper subsets of its real fragments, in the same basis (cp, vmfc) and,
    for a cluster without ghosts, also in their own basis (nocp), as far as the space has them.

    Parameters
    ----------
    space : TaskSpace, optional
        What the labels and ids refer to; needed for all but labels' levels.
    """

    def __init__(self, space: TaskSpace | None = None) -> None:
        self._space = space

    @staticmethod
    def extract_nbody_level(label: str) -> int:
        """Count the real fragments in a label of either form.

        Parameters
        ----------
        label : str
            See :func:`parse_label`.

        Returns
        -------
        int
        """
        return len(parse_label(label)[1])

    def group_by_level(
        self, tasks: Iterable[str] | TaskSpace
    ) -> dict[int, list[str]] | dict[int, range | Ints]:
        """Sort tasks into n-body levels.

        Parameters
        ----------
        tasks : iterable of str, or TaskSpace
            Labels, or a whole space.

        Returns
        -------
        dict
            Levels ascending; of each the labels in their order, or the ids ascending (a range where
            they are without gap).
        """
        if not isinstance(tasks, Iterable):
            return _ids_by_level(tasks.blocks)
        groups: dict[int, list[str]] = {}
        for label in tasks:
            groups.setdefault(self.extract_nbody_level(label), []).append(label)
        return dict(sorted(groups.items()))

    def missing_dependencies(self, completed: Iterable[str] | Ints | range) -> tuple[str, ...]:
        """Name the sub-clusters that completed tasks still lack.

        Parameters
        ----------
        completed : iterable of str, or int64[m], or range
            Labels or ids of completed tasks; a mapping from labels will do.

        Returns
        -------
        tuple of str
            Labels, in canonical order.

        Raises
        ------
        InputError
            If there is no space, or a label is not in it.
        """
        space = self._space
        if space is None:
            raise InputError("space", "dependencies need NBodyDependencyGraph(space)")
        ids = _completed_ids(space, completed)
        needed = [ids[:0]]
        for index in np.unique(space.block_of(ids)):
            needed += _sub_cluster_ids(space, index, ids)
        lacking = np.setdiff1d(np.concatenate(needed), ids)
        return tuple(space.labels(lacking))

    def validate_dependencies(self, completed: Iterable[str] | Ints | range) -> bool:
        """Tell whether completed tasks have all their sub-clusters completed too.

        Parameters
        ----------
        completed : iterable of str, or int64[m], or range
            As for :meth:`missing_dependencies`.

        Returns
        -------
        bool
        """
        return not self.missing_dependencies(completed)


def _completed_ids(space: TaskSpace, completed: Iterable[str] | Ints | range) -> Ints:
    if isinstance(completed, np.ndarray | range):
        return np.unique(np.asarray(completed, dtype=np.int64))
    return np.unique(space.ids_of_labels(list(completed)))


def _ids_by_level(blocks: Iterable[Block]) -> dict[int, range | Ints]:
    groups: dict[int, list[range]] = {}
    for block in blocks:
        groups.setdefault(block.n_real, []).append(block.ids)
    return {
        level: parts[0] if len(parts) == 1 else np.concatenate([np.array(ids) for ids in parts])
        for level, parts in sorted(groups.items())
    }


def _sub_cluster_ids(space: TaskSpace, index: int, ids: Ints) -> list[Ints]:
    """List the ids of the sub-clusters of those tasks that are in one block."""
    block = space.blocks[index]
    ranks = ids[(ids >= block.start) & (ids < block.ids.stop)] - block.start
    return [
        other.start + np.flatnonzero(_is_sub_cluster(space, block, other, ranks))
        for other in space.blocks
        if _is_compared_with(block, other)
    ]


def _is_compared_with(block: Block, other: Block) -> bool:
    if other.model_chemistry != block.model_chemistry or other.n_real >= block.n_real:
        return False
    has_own_basis = other.n_basis == other.n_real and block.n_basis == block.n_real
    return other.n_basis == block.n_basis or has_own_basis


def _is_sub_cluster(space: TaskSpace, block: Block, other: Block, ranks: Ints) -> Bools:
    """Mark the tasks of another block that are sub-clusters of tasks of this one."""
    if block.n_real == space.expansion.system.n_fragments:
        return np.ones(other.n_tasks, dtype=bool)
    is_needed = np.zeros(other.n_tasks, dtype=bool)
    for part in portions(len(ranks), block.n_basis):
        real, basis = space.fragments(block, ranks[part])
        for columns in combinations(range(block.n_real), other.n_real):
            sub = real[:, columns]
            own = basis if other.n_basis == block.n_basis else sub
            is_needed[space.ranks(other, sub, own)] = True
    return is_needed
