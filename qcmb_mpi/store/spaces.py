"""Task spaces by what the store knows them by: the keys of their blocks.

Rules of this file
------------------
1. A result is known by its content, never by the number or the order of spaces.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store.codec import BlockKey, Encoded, encode


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
