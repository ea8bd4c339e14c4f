"""The n-body tables of a run that is not complete: what can be computed, and what is missing.

Rules of this file
------------------
1. A missing energy is NaN, and every sum that needs it becomes NaN: no number is ever shown that
   lacks a term.
2. What is shown is computed as in the complete table: the same digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.subsets import Ints
from qcmb_mpi.report.tallies import level_of
from qcmb_mpi.schema.result import n_body_tables

_WIDTH = 20
_NUMBER = re.compile(rf"(?<=  ) {{{_WIDTH - 3}}}nan(?=  |$)", re.M)


class PartialValues(Protocol):
    """Energies of which some may be missing."""

    def energies(self, block: Block, *, allow_missing: bool = False) -> NDArray[np.float64]:
        """Give a block's energies; NaN where one is missing."""


@dataclass(slots=True)
class _Energies:
    """Component values that have energies only, and remember how many each block lacks."""

    values: PartialValues
    properties: frozenset[str] = frozenset({"energy"})
    n_missing: dict[Block, int] = field(default_factory=dict)

    def energies(self, block: Block) -> NDArray[np.float64]:
        found = self.values.energies(block, allow_missing=True)
        self.n_missing[block] = int(np.isnan(found).sum())
        return found

    def arrays(self, block: Block, name: str) -> Iterator[tuple[Ints, list[NDArray[np.float64]]]]:
        raise ValueError(f"a table of energies needs no {name}s")


def partial_table(space: TaskSpace, values: PartialValues) -> str:
    """Return the n-body tables, with ``missing`` for every number that lacks a result.

    Parameters
    ----------
    space : TaskSpace
        The tasks.
    values : PartialValues
        The energies there are.

    Returns
    -------
    str
        One table for each BSSE treatment, and a line for each level that lacks results; the
        very table of the complete run if none is missing.

    Raises
    ------
    StoreError
        A result is damaged.
    """
    energies = _Energies(values)
    tables = n_body_tables(space.expansion, assemble(space, energies))
    lines = [_line(space, block, n) for block, n in energies.n_missing.items() if n]
    note = "\n".join([*lines, ""]) + "\n" if lines else ""
    return _NUMBER.sub(f"{'missing':>{_WIDTH}}", tables) + note


def _line(space: TaskSpace, block: Block, n_missing: int) -> str:
    label = space.expansion.model_chemistries[block.model_chemistry].label
    ghosts = block.n_basis - block.n_real
    basis = f" with the basis functions of {ghosts} more" if ghosts else ""
    level = level_of(space, block.model_chemistry, block.n_real)
    which = level if isinstance(level, str) else f"{level}-body"
    return f'   missing {n_missing} of {block.n_tasks} results: "{label}", {which}{basis}'
