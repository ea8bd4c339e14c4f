"""The work that is left, by level and model chemistry, as people want to see it.

Rules of this file
------------------
1. Asked only when something is drawn; what does not change is found once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.snapshot import LevelCount, Snapshot
from qcmb_mpi.report.tallies import level_of
from qcmb_mpi.scheduling.leftover import work_left
from qcmb_mpi.scheduling.pool import Pool
from qcmb_mpi.scheduling.scheduler import Scheduler

_MOST_CLASSES = 100_000  # to find the levels of more takes too long


class LevelsLeft:
    """Adds to a snapshot what the scheduler expects.

    Parameters
    ----------
    space : TaskSpace
        The tasks.
    pool : Pool
        Has the classes of that one space.
    """

    def __init__(self, space: TaskSpace, pool: Pool) -> None:
        blocks = [
            (
                space.expansion.model_chemistries[b.model_chemistry].label,
                level_of(space, b.model_chemistry, b.n_real),
            )
            for b in space.blocks
        ]
        self._levels = {level: place for place, level in enumerate(dict.fromkeys(blocks))}
        of_block = np.array([self._levels[level] for level in blocks], dtype=np.intp)
        self._of_class: dict[int, NDArray[np.intp]] = {}
        for number, book in pool.books.items():
            if len(book.classes) <= _MOST_CLASSES:
                firsts = [each.ids[0] for each in book.classes]
                self._of_class[number] = of_block[space.block_of(firsts)]

    def added_to(self, snapshot: Snapshot, scheduler: Scheduler) -> Snapshot:
        """Return the snapshot with what is left, how sure that is, and the memory in use."""
        left = work_left(scheduler.pool, scheduler.cost_model)
        seconds = np.zeros(len(self._levels))
        is_known = bool(self._of_class)
        for number, left_s in left.seconds_of.items():
            if number in self._of_class:
                seconds += np.bincount(self._of_class[number], left_s, len(seconds))
        return replace(
            snapshot,
            relative_error=left.relative_error,
            held_bytes=left.held_bytes,
            limit_bytes=left.limit_bytes,
            levels=tuple(self._with_left(each, seconds) for each in snapshot.levels)
            if is_known
            else snapshot.levels,
        )

    def _with_left(self, level: LevelCount, seconds: NDArray[np.float64]) -> LevelCount:
        place = self._levels[level.model_chemistry, level.nbody]
        return replace(level, left_s=float(seconds[place]))
