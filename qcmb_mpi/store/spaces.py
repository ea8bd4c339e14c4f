"""Task spaces by what the store knows them by: the keys of their blocks.

Rules of this file
------------------
1. A result is known by its content, never by the number or the order of spaces.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.outcomes import Batch, Outcomes
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store.codec import BlockKey, Encoded, encode
from qcmb_mpi.store.columns import Columns


@dataclass(frozen=True, slots=True)
class AttachedSpace:
    """A task space with the keys, drivers and starts of its blocks."""

    space: TaskSpace
    keys: tuple[BlockKey, ...]
    drivers: tuple[str, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, space: TaskSpace) -> AttachedSpace:
        """Find the keys of a space."""
        chemistries = space.expansion.model_chemistries
        used = [chemistries[block.model_chemistry] for block in space.blocks]
        return cls(
            space,
            tuple(
                BlockKey(chemistry.fingerprint, block.n_real, block.n_basis)
                for chemistry, block in zip(used, space.blocks, strict=True)
            ),
            tuple(chemistry.driver for chemistry in used),
            tuple(block.start for block in space.blocks),
        )

    def encode(self, outcome: Outcome) -> Encoded:
        """Make the rows of an outcome; see :func:`~qcmb_mpi.store.codec.encode`."""
        if not 0 <= outcome.task < self.space.n_tasks:
            raise StoreError(f"space {outcome.space} has no task {outcome.task}")
        index = bisect_right(self.starts, outcome.task) - 1
        rank = int(outcome.task) - self.starts[index]
        return encode(outcome, self.keys[index], rank, self.drivers[index])

    def columns(self, batch: Batch) -> list[Columns]:
        """Divide many by block; see :meth:`~qcmb_mpi.store.columns.Columns.of`."""
        ids = batch.column("task")
        if ids.min() < 0 or ids.max() >= self.space.n_tasks:
            raise StoreError(f"space {batch.space} has no task {ids.min()} or {ids.max()}")
        blocks = np.searchsorted(self.starts, ids, side="right") - 1
        found = []
        for index in np.flatnonzero(np.bincount(blocks)).tolist():
            is_there = blocks == index
            is_all = bool(is_there.all())
            part = batch if is_all else batch.chosen(is_there)
            ranks = (ids if is_all else ids[is_there]) - self.starts[index]
            found.append(Columns.of(self.keys[index], part, ranks, self.drivers[index]))
        return found


def attached_space(spaces: Mapping[int, AttachedSpace], number: int) -> AttachedSpace:
    """Return the space of a number."""
    if number not in spaces:
        raise StoreError(f"task space {number} is not attached to the store")
    return spaces[number]


def encode_all(
    spaces: Mapping[int, AttachedSpace], outcomes: Sequence[Outcome]
) -> tuple[list[Encoded | Columns], StoreError | None]:
    """Take all that can be stored, and say what is wrong with the first that cannot."""
    gathered = Outcomes.of(outcomes)
    found: list[Encoded | Columns] = []
    unfit: StoreError | None = None
    others = list(gathered.others)
    for batch in gathered.batches:
        try:
            found += attached_space(spaces, batch.space).columns(batch)
        except StoreError:
            others += batch  # one by one, to take what can be taken
    for outcome in others:
        try:
            found.append(attached_space(spaces, outcome.space).encode(outcome))
        except StoreError as error:
            unfit = unfit or error
    return found, unfit
