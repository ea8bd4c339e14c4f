"""What a run did and what it cost: the run summary, and the lines people read at the end.

Rules of this file
------------------
1. Aggregates only: a few numbers per level, agent and class; nothing per task but failures, and
   two bytes for its prediction.
2. Durations come from the ``now`` that is passed in (a monotonic clock), never from the wall clock.
3. ``busy_s`` is of attempts that gave a result. Time lost in failed attempts is ``wasted_s``, so
   that failures lower the efficiency instead of raising it. Both are wall seconds of tasks, however
   wide; what a wide task keeps of its agent's slots is in ``slot_s`` alone.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.report.snapshot import LevelCount, Snapshot
from qcmb_mpi.report.tallies import (
    NO_LAYOUT,
    AgentInfo,
    AgentTally,
    LevelTally,
    MedianSketch,
    PredictedClass,
    Prediction,
    costs,
    level_of,
    rounded,
)
from qcmb_mpi.report.versions import versions

if TYPE_CHECKING:
    from qcmb_mpi.execution.outcome import Outcome
    from qcmb_mpi.execution.outcomes import Batch
    from qcmb_mpi.expansion.plan import TaskSpace

__all__ = [
    "AgentInfo",
    "RunSummary",
    "versions",
]

STATUSES = ("complete", "failed", "incomplete")
N_SLOWEST = 10
N_CLASSES = 100


class RunSummary:
    """Collects what a run does, as it does it.

    Parameters
    ----------
    spaces : TaskSpace or mapping of int to TaskSpace
        By the numbers of :attr:`Outcome.space`, a single one being 0; more come by
        :meth:`add_space`.
    executor : str
        Name of the executor.
    start_s : float
        When the run began, on the clock of every ``now``.
    n_ranks : int, optional
    started_at_s : float, optional
        The date, seconds since the epoch; default now. No time is computed from it.
    """

    def __init__(
        self,
        spaces: TaskSpace | Mapping[int, TaskSpace],
        executor: str,
        *,
        start_s: float,
        n_ranks: int = 1,
        started_at_s: float | None = None,
    ) -> None:
        self._started_at_s = time.time() if started_at_s is None else started_at_s
        self._executor, self._n_ranks, self._start_s = executor, n_ranks, start_s
        self._spaces: dict[int, TaskSpace] = {}
        self._levels: dict[tuple[str, int | str], LevelTally] = {}
        self._level_of_block: dict[int, list[LevelTally]] = {}
        self._predictions: dict[int, Prediction] = {}
        self._agents: dict[int, AgentTally] = {}
        self._failed: list[dict[str, Any]] = []
        self._slowest: list[tuple[float, int, int, int, int, str]] = []
        self._programs: set[tuple[str, str]] = set()
        self._remedies: Counter[str] = Counter()
        self._notes: dict[str, Any] = {"layout": NO_LAYOUT}
        self._errors = MedianSketch()
        self._predicted_s = self._measured_s = 0.0
        self._busy_s = self._slot_s = self._wasted_s = self._longest_s = self._assembly_s = 0.0
        self._n_computed = self._n_reused = self._n_retries = self._n_slots = 0
        self._first_start_s: float | None = None
        for number, space in (spaces if isinstance(spaces, Mapping) else {0: spaces}).items():
            self.add_space(number, space)

    def add_space(self, number: int, space: TaskSpace) -> None:
        """Take in one more task space."""
        labels = [mc.label for mc in space.expansion.model_chemistries]
        levels = []
        for block in space.blocks:
            label = labels[block.model_chemistry]
            nbody = level_of(space, block.model_chemistry, block.n_real)
            level = self._levels.setdefault((label, nbody), LevelTally(label, nbody))
            level.n_tasks += block.n_tasks
            level.finished_at = None
            levels.append(level)
        self._spaces[number] = space
        self._level_of_block[number] = levels

    def predicted(self, classes: Iterable[PredictedClass], *, space: int = 0) -> None:
        """Note what the tasks of a space were predicted to cost, before they ran."""
        self._predictions[space] = Prediction(classes)

    def note(self, **values: Any) -> None:
        """Add fields of the caller's own to the summary (``layout``, ``files``, ...)."""
        self._notes.update(values)

    def agent_joined(self, info: AgentInfo) -> None:
        """Note a new agent; its rank is the name that :meth:`observe` uses."""
        self._agents[info.rank] = AgentTally(info)
        present = sum(a.n_slots for a in self._agents.values())
        self._n_slots = max(self._n_slots, present)

    def agent_lost(self, info: AgentInfo, reason: str) -> None:
        """Note that an agent has gone before its time, maybe before it joined."""
        agent = self._agents.setdefault(info.rank, AgentTally(info))
        agent.lost, agent.trouble = True, reason

    def agent_refused(self, info: AgentInfo, reason: str) -> None:
        """Note that an agent cannot work on this."""
        self._agents.setdefault(info.rank, AgentTally(info)).trouble = reason

    def agent_set_aside(self, rank: int, reason: str) -> None:
        """Note that an agent gets no more work because everything fails on it."""
        if rank in self._agents:
            self._agents[rank].set_aside = reason

    def first_start(self, now: float) -> None:
        """Note that the first task starts; later calls change nothing."""
        if self._first_start_s is None:
            self._first_start_s = now

    def reused(
        self,
        ids: ArrayLike,
        *,
        space: int = 0,
        now: float | None = None,
        remedies: Mapping[str, int] | None = None,
    ) -> None:
        """Note tasks whose results were in the store already (ids), some thanks to remedies."""
        self._remedies.update(remedies or {})
        tasks = np.atleast_1d(np.asarray(ids, np.int64))
        self._n_reused += len(tasks)
        moment = self._start_s if now is None else now
        self._count_done(space, tasks, np.zeros(len(tasks)), moment)

    def retried(self, n: int = 1) -> None:
        """Note tasks begun anew whose attempt left no outcome (their agent was lost).

        Failed attempts that :meth:`observe` sees are counted without being told.
        """
        self._n_retries += n

    def assembly(self, seconds: float) -> None:
        """Note the time the assembly took."""
        self._assembly_s += seconds

    def failed(
        self,
        label: str,
        error_type: str,
        message: str,
        *,
        attempts: int,
        program: str = "",
        output_tail: str = "",
    ) -> None:
        """Note a task that failed for good."""
        row = {"label": label, "error_type": error_type, "message": message, "attempts": attempts}
        self._failed.append(row | {"program": program, "output_tail": output_tail})
        self._n_retries -= attempts > 0

    def observe(self, outcomes: Sequence[Outcome], agent: int, *, now: float) -> None:
        """Take in attempts as they come back.

        Parameters
        ----------
        outcomes : sequence of Outcome
            Those with a result count as computed; of the others only the time is noted.
        agent : int
            Rank of the agent they came from.
        now : float
        """
        if not outcomes:
            return
        gathered = Outcomes.of(outcomes)
        failures, batches = gathered.failures, gathered.times()
        longest_s = [o.seconds for o in failures] + [b.rows["seconds"].max() for b in batches]
        self.first_start(max(now - float(max(longest_s)), self._start_s))
        self._wasted_s += sum(o.seconds for o in failures)
        self._n_retries += len(failures)
        self._remedies.update(o.remedy for o in gathered.successes().others if o.remedy)
        if agent not in self._agents:
            self._agents[agent] = AgentTally(AgentInfo(agent, outcomes[0].host, 0, 0, 0))
        for batch in batches:
            self._observe_done(batch, self._agents[agent], now)

    def _observe_done(self, batch: Batch, agent: AgentTally, now: float) -> None:
        ids, seconds = batch.column("task"), batch.column("seconds")
        busy_s = float(seconds.sum())
        self._n_computed += len(batch)
        self._busy_s += busy_s
        self._slot_s += busy_s * agent.slots_of(batch.origin.n_threads)
        self._longest_s = max(self._longest_s, float(seconds.max()))
        agent.n_tasks += len(batch)
        agent.busy_s += busy_s
        agent.peak_bytes = max(agent.peak_bytes, int(batch.rows["peak_bytes"].max()))
        if batch.origin.program:
            self._programs.add((batch.origin.program, batch.origin.version))
        self._note_slowest(batch, seconds)
        self._note_prediction(batch.space, ids, seconds)
        self._count_done(batch.space, ids, seconds, now)

    def _count_done(
        self, space: int, ids: NDArray[np.int64], seconds: NDArray[np.float64], now: float
    ) -> None:
        blocks = np.asarray(self._spaces[space].block_of(ids), np.intp)
        counts, busy = np.bincount(blocks), np.bincount(blocks, seconds)
        for block in np.flatnonzero(counts):
            level = self._level_of_block[space][block]
            level.n_done += int(counts[block])
            level.busy_s += float(busy[block])
            if level.n_done == level.n_tasks:
                level.finished_at = now

    def _note_slowest(self, batch: Batch, seconds: NDArray[np.float64]) -> None:
        floor = self._slowest[0][0] if len(self._slowest) == N_SLOWEST else -1.0
        if seconds.max() <= floor:
            return
        host, rank = batch.origin.host, batch.origin.rank
        for row in batch.rows[np.argsort(-seconds, kind="stable")[:N_SLOWEST]]:
            place = (batch.space, int(row["task"]), rank, int(row["slot"]), host)
            heapq.heappush(self._slowest, (float(row["seconds"]), *place))
        while len(self._slowest) > N_SLOWEST:
            heapq.heappop(self._slowest)

    def _note_prediction(
        self, space: int, ids: NDArray[np.int64], seconds: NDArray[np.float64]
    ) -> None:
        if space not in self._predictions:
            return
        predicted = self._predictions[space].note(ids, seconds)
        known = np.isfinite(predicted) & (seconds > 0)
        self._predicted_s += float(predicted[known].sum())
        self._measured_s += float(seconds[known].sum())
        self._errors.add(np.abs(predicted[known] - seconds[known]) / seconds[known])

    def snapshot(
        self, now: float, *, n_busy: int = 0, remaining_s: float | None = None
    ) -> Snapshot:
        """Give the state of this moment, for :class:`~qcmb_mpi.report.progress.Progress`."""
        levels = tuple(
            LevelCount(each.model_chemistry, each.nbody, each.n_done, each.n_tasks, each.busy_s)
            for each in self._levels.values()
        )
        return Snapshot(
            n_tasks=self._n_tasks,
            n_done=self._n_computed + self._n_reused,
            n_reused=self._n_reused,
            n_failed=len(self._failed),
            n_retries=max(self._n_retries, 0),
            n_busy=n_busy,
            n_slots=sum(a.n_slots for a in self._agents.values()),
            elapsed_s=now - self._start_s,
            remaining_s=remaining_s,
            levels=levels,
        )

    @property
    def _n_tasks(self) -> int:
        return sum(space.n_tasks for space in self._spaces.values())

    def finish(self, status: str, now: float) -> dict[str, Any]:
        """Close the books.

        Parameters
        ----------
        status : {"complete", "failed", "incomplete"}
        now : float

        Returns
        -------
        dict
            The fields of ``*.run.json``. ``efficiency`` is None where nothing was computed,
            ``setup_s`` where no task started, ``finished_s`` of a level that is not finished.
            ``slot_s`` is ``busy_s`` with a task that has a whole agent counted on all its slots.

        Raises
        ------
        ValueError
            For another status.
        """
        if status not in STATUSES:
            raise ValueError(f"status: {status!r} is none of {', '.join(STATUSES)}")
        wall_s = now - self._start_s
        return {
            "status": status,
            "n_tasks": self._n_tasks,
            "n_computed": self._n_computed,
            "n_reused": self._n_reused,
            "n_failed": len(self._failed),
            "n_retries": max(self._n_retries, 0),
            "n_remedied": sum(self._remedies.values()),
            "remedies": dict(sorted(self._remedies.items())),
            "wall_s": rounded(wall_s),
            "setup_s": rounded(self._since_start(self._first_start_s)),
            "assembly_s": rounded(self._assembly_s),
            **costs(self._busy_s, self._longest_s, self._n_slots, wall_s),
            "slot_s": rounded(self._slot_s),
            "wasted_s": rounded(self._wasted_s),
            "executor": self._executor,
            "n_ranks": self._n_ranks,
            "agents": [a.as_dict() for _, a in sorted(self._agents.items())],
            "failed": list(self._failed),
            "levels": [self._level_row(level) for level in self._levels.values()],
            "slowest": self._slowest_rows(),
            "prediction": self._prediction_row(),
            "versions": versions(self._programs),
            "started": _date(self._started_at_s),
            **self._notes,
        }

    def _since_start(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self._start_s

    def _level_row(self, level: LevelTally) -> dict[str, Any]:
        row = {"model_chemistry": level.model_chemistry, "nbody": level.nbody}
        counts = {"n_tasks": level.n_tasks, "n_done": level.n_done}
        finished_s = rounded(self._since_start(level.finished_at))
        return row | counts | {"busy_s": rounded(level.busy_s), "finished_s": finished_s}

    def _slowest_rows(self) -> list[dict[str, Any]]:
        rows = []
        for seconds, space, task, rank, slot, host in sorted(self._slowest, reverse=True):
            label = self._spaces[space].labels(np.array([task], np.int64))[0]
            where = {"rank": rank, "slot": slot, "host": host}
            rows.append({"label": label, "seconds": rounded(seconds)} | where)
        return rows

    def _prediction_row(self) -> dict[str, Any]:
        error = self._errors.value()
        has_any = error is not None
        return {
            "predicted_s": rounded(self._predicted_s) if has_any else None,
            "measured_s": rounded(self._measured_s) if has_any else None,
            "median_relative_error": None if error is None else round(error, 4),
            "classes": self._predicted_classes(),
        }

    def _predicted_classes(self) -> list[dict[str, Any]]:
        """Tell of the classes that took longest how long one task was to take, and did."""
        rows = []
        for number, prediction in self._predictions.items():
            space = self._spaces[number]
            for task, n_tasks, predicted_s, measured_s in prediction.longest(N_CLASSES):
                block = space.blocks[int(space.block_of(np.array([task]))[0])]
                label = space.expansion.levels.model_chemistries[block.model_chemistry]
                nbody = level_of(space, block.model_chemistry, block.n_real)
                what = {"model_chemistry": label, "nbody": nbody, "n_basis": block.n_basis}
                times = {"predicted_s": rounded(predicted_s), "measured_s": rounded(measured_s)}
                rows.append(what | {"n_tasks": n_tasks} | times)
        return rows


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
