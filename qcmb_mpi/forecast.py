"""What a run will do, before it does it: its tasks as predicted, and where they run.

Rules of this file
------------------
1. Joins expansion, programs and scheduling; each knows nothing of the others.
2. ``run`` and ``plan`` ask the same :class:`Prospect`: a plan says what a run does.
3. Runs no chemistry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.execution.executors.configs import adapted, demanded, fitted
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.layout import Placement, place
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.learned import calibrated, on_threads
from qcmb_mpi.machine.limits import read_limits
from qcmb_mpi.programs.profiles import method_family, profile
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import PARALLEL_FRACTIONS, choose_layout
from qcmb_mpi.scheduling.scaling import bytes_of, is_told_enough, seconds_of
from qcmb_mpi.scheduling.widths import end_s
from qcmb_mpi.sizing import (
    SizedClass,
    check_memory,
    family_name,
    memory_doubt,
    method_of,
    n_among,
    sized_classes,
)

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.execution.wire import AgentInfo
    from qcmb_mpi.scheduling.placement import Layout

_SOONER = 0.8


def forecast(
    space: TaskSpace, *, slot_bytes: int = 0, sized: Sequence[SizedClass] = ()
) -> tuple[TaskClass, ...]:
    """Return the tasks of a space in classes that are predicted alike, by formula alone.

    Parameters
    ----------
    space : TaskSpace
    slot_bytes : int, optional
        Memory that a calculation is told it has; 0 when that is not known.
    sized : sequence of SizedClass, optional
        :func:`~qcmb_mpi.sizing.sized_classes` of these, if it is at hand.
    """
    stages = {block: stage.index for stage in space.level_graph().stages for block in stage.blocks}
    driver = space.expansion.driver
    commons: dict[str, _Common] = {}
    found = []
    for each in sized or sized_classes(space, slot_bytes=slot_bytes):
        common = commons.get(each.chemistry.fingerprint)
        if common is None:
            common = _Common.of(each, driver)
            commons[each.chemistry.fingerprint] = common
        found.append(common.task_class(each, stages[each.tasks.block]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Common:
    """What the classes of a model chemistry have in common: there may be very many of them."""

    fingerprint: str
    family: str
    parallel_fraction: float

    @classmethod
    def of(cls, each: SizedClass, driver: str) -> _Common:
        chemistry, method = each.chemistry, each.size.method
        fraction = 0.0
        if profile(chemistry.program).is_threaded:
            fraction = PARALLEL_FRACTIONS[method_family(chemistry.program, method)]
        return cls(chemistry.fingerprint, family_name(chemistry, driver), fraction)

    def task_class(self, each: SizedClass, stage: int) -> TaskClass:
        """Return the class as the scheduler knows it."""
        return TaskClass(
            stage=stage,
            ids=each.tasks.ids,
            cost_s=seconds_of(each.size),
            memory_bytes=bytes_of(each.size),
            key=(self.fingerprint, each.tasks.real_kinds, each.tasks.ghost_kinds),
            family=self.family,
            parallel_fraction=self.parallel_fraction,
        )


def slot_bytes_of(config: ExecutorConfig, info: AgentInfo) -> int:
    """Return the memory of a calculation on this node if no core is idle; 0: no known limit."""
    return info.memory_bytes // max(1, config.n_workers or info.n_cores)


def thread_limit(space: TaskSpace) -> int | None:
    """Return 1 if no program of the space threads, else None."""
    used = {block.model_chemistry for block in space.blocks}
    programs = {space.expansion.model_chemistries[index].program for index in used}
    return None if any(profile(program).is_threaded for program in programs) else 1


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where the tasks of a space run, and what is expected of them.

    Parameters
    ----------
    placement : Placement
        Its classes have the seconds, by formula, of the threads that they get.
    layout : Layout
        Of the first agent that computes.
    expected : tuple of TaskClass
        The same classes by all that was measured.
    n_left : tuple of int
        Tasks of each that are still to be run.
    """

    placement: Placement
    layout: Layout
    expected: tuple[TaskClass, ...]
    n_left: tuple[int, ...]

    @property
    def left(self) -> tuple[TaskClass, ...]:
        """What is expected, with only as many tasks as are left; their ids say nothing."""
        pairs = zip(self.expected, self.n_left, strict=True)
        return tuple(replace(each, ids=range(n)) for each, n in pairs if n)

    @property
    def longest_s(self) -> float:
        """Seconds of the longest task that is left."""
        return max((each.cost_s for each in self.left), default=0.0)

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest task that is left."""
        return max((each.memory_bytes for each in self.left), default=0)


class Prospect:
    """The tasks of a space as a pool with some configuration would run them.

    Parameters
    ----------
    space : TaskSpace
    config : ExecutorConfig
        The pool.
    done : ndarray of int64
        Ids that need not be run, ascending.

    Attributes
    ----------
    config : ExecutorConfig
        With what it says of the methods of the space.
    classes : tuple of TaskClass
        All tasks, as predicted by formula on one thread.
    """

    def __init__(
        self, space: TaskSpace, config: ExecutorConfig, *, done: NDArray[np.int64]
    ) -> None:
        self._space, self._done = space, done
        used = {block.model_chemistry for block in space.blocks}
        chemistries = [space.expansion.model_chemistries[index] for index in sorted(used)]
        names = {family_name(each, space.expansion.driver) for each in chemistries}
        self.config = fitted(config, map(method_of, sorted(names)))
        info = host_share(memory_bytes=self.config.memory_bytes).info
        told_bytes = slot_bytes_of(self.config, info)
        self._sized, self.classes = self._predicted(config, told_bytes)
        n_workers = self.config.n_workers
        largest_bytes = max((each.memory_bytes for each in self.classes), default=0)
        if n_workers and 0 < told_bytes < largest_bytes:
            # Every task is told as much as the largest needs, and may use it.
            told_bytes = min(largest_bytes, told_bytes * n_workers)
            self._sized, self.classes = self._predicted(config, told_bytes)
        elif not n_workers and told_bytes:
            self._tell_more(config, info)

    def _tell_more(self, config: ExecutorConfig, info: AgentInfo) -> None:
        """Have fewer tasks at once, each told of more, where all are through much sooner then."""
        limit = thread_limit(self._space)

        def through_s(classes: Sequence[TaskClass]) -> float:
            layout = choose_layout(
                *(classes, info.n_cores, info.memory_bytes),
                n_threads=self.config.n_threads,
                thread_limit=limit,
            )
            return end_s(classes, layout)

        best_s = _SOONER * through_s(self.classes)
        n_slots = info.n_cores
        while n_slots > 1 and not all(is_told_enough(each.size) for each in self._sized):
            n_slots //= 2
            sized, classes = self._predicted(config, info.memory_bytes // n_slots)
            if through_s(classes) < best_s:
                best_s, self._sized, self.classes = through_s(classes), sized, classes

    def _predicted(
        self, config: ExecutorConfig, told_bytes: int
    ) -> tuple[tuple[SizedClass, ...], tuple[TaskClass, ...]]:
        sized = sized_classes(self._space, slot_bytes=told_bytes)
        classes = forecast(self._space, sized=sized)
        return sized, demanded(config, classes, lambda each: method_of(str(each.family)))

    def check_memory(self, infos: Sequence[AgentInfo]) -> None:
        """Refuse a task that cannot fit into the largest node.

        Parameters
        ----------
        infos : sequence of AgentInfo
            All agents.

        Raises
        ------
        InputError
            It names the task, what it needs at the very least, and what can be done.
        """
        sizes = (each.node_memory_bytes or each.memory_bytes for each in infos if each.n_cores)
        check_memory(self._space, max(sizes, default=0), done=self._done, sized=self._sized)

    def on(self, infos: Sequence[AgentInfo], model: CostModel) -> Outlook:
        """Choose slots and threads, from predictions by formula alone, and say what to expect.

        Parameters
        ----------
        infos : sequence of AgentInfo
            All agents.
        model : CostModel
            What was measured.

        Raises
        ------
        InputError
            Bounds of the configuration cannot be kept.
        """
        limit = thread_limit(self._space)
        config = adapted(self.config, infos, self.classes, thread_limit=limit)
        placement = place(infos, self.classes, config, thread_limit=limit)
        first = next((info for info in infos if info.n_cores), infos[0])
        layout = placement.layout_of(first)
        placed = on_threads(placement.classes, layout.n_threads)
        n_left = tuple(each.n_tasks - n_among(self._done, each.ids) for each in placed)
        return Outlook(
            replace(placement, classes=placed), layout, calibrated(placed, model), n_left
        )

    def memory_doubts(self, outlook: Outlook) -> list[str]:
        """Say what is odd about a memory limit that the user gave."""
        asked_bytes = self.config.memory_bytes
        if asked_bytes is None:
            return []
        doubt = memory_doubt(asked_bytes, read_limits().memory_bytes, outlook.largest_bytes)
        return [doubt] if doubt else []
