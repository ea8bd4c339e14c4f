"""What a run tells of itself while it runs: to the summary, the progress and the event log.

Rules of this file
------------------
1. Listens only: nothing that is heard here changes what happens.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.observer import Observer
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.slot_failures import OUT_OF_MEMORY
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report import summary as summaries
from qcmb_mpi.report.events import EventLog
from qcmb_mpi.report.levels_left import LevelsLeft
from qcmb_mpi.report.progress import Progress
from qcmb_mpi.report.snapshot import short_label
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.placement import Layout
from qcmb_mpi.scheduling.scheduler import Scheduler

_LOG = logging.getLogger(__name__)


class Watcher(Observer):
    """Tells summary, progress and event log what happens.

    Parameters
    ----------
    space : TaskSpace
    summary : RunSummary
    progress : Progress
    log : EventLog, optional
    """

    def __init__(
        self,
        space: TaskSpace,
        summary: summaries.RunSummary,
        progress: Progress,
        log: EventLog | None,
    ) -> None:
        self._space = space
        self._summary = summary
        self._progress = progress
        self._log = log
        self._n_memory_kills = 0
        self._left: LevelsLeft | None = None

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show progress meanwhile."""
        now = time.monotonic()
        self._progress.start(self._summary.snapshot(now), now)
        try:
            yield
        finally:
            now = time.monotonic()
            self._progress.finish(self._summary.snapshot(now), now)

    def agent_joined(self, agent: int, info: AgentInfo, layout: Layout) -> None:
        """Note the agent and why it is laid out as it is."""
        self._summary.agent_joined(_row(agent, info, layout))
        self._summary.note(layout=layout.reason)

    def agent_refused(self, agent: int, info: AgentInfo | None, error: QcmbError) -> None:
        """Note that the others do its work."""
        _LOG.warning("%s gets no work: %s", _name(agent, info), error)
        self._summary.agent_refused(_row(agent, info), str(error))

    def agent_lost(self, agent: int, info: AgentInfo | None, reason: str) -> None:
        """Note that the agent has gone."""
        _LOG.warning("%s is lost: %s; what it had is run again", _name(agent, info), reason)
        self._summary.agent_lost(_row(agent, info), reason)

    def agent_set_aside(self, agent: int, reason: str) -> None:
        """Note that everything fails there."""
        _LOG.warning("rank %d gets no more work: %s", agent, reason)
        self._summary.agent_set_aside(agent, reason)

    def cut_off(self, n_tasks: int) -> None:
        """Count what has to be begun anew."""
        self._summary.retried(n_tasks)

    def outcomes(self, agent: int, outcomes: Sequence[Outcome]) -> None:
        """Add attempts up."""
        self._summary.observe(outcomes, agent, now=time.monotonic())
        for each in Outcomes.of(outcomes).failures:
            if each.failure is not None and each.failure.error_type == OUT_OF_MEMORY:
                self._note_memory(each.task, each.failure)

    def _note_memory(self, task: int, failure: Failure) -> None:
        """Tell of the first task that was ended for memory; count them all."""
        self._n_memory_kills += 1
        self._summary.note(n_memory_kills=self._n_memory_kills)
        if self._n_memory_kills == 1:
            label = short_label(self._space.labels(np.array([task]))[0])
            _LOG.warning(
                "task %s: %s; such tasks run again alone on their node, as --retries allows; "
                "the last lines of the run say how many there were",
                *(label, failure.message),
            )

    def quarantined(self, space: int, task: int, failure: Failure, n_attempts: int) -> None:
        """Note what failed for good, by label."""
        label = self._space.labels(np.array([task]))[0]
        block = self._space.blocks[int(self._space.block_of(np.array([task]))[0])]
        chemistry = self._space.expansion.model_chemistries[block.model_chemistry]
        self._summary.failed(
            label,
            failure.error_type,
            failure.message,
            attempts=n_attempts,
            program=chemistry.program,
            output_tail=failure.output_tail,
        )

    def stepped(self, event: m.Event, commands: Sequence[m.Command], now: float) -> None:
        """Log the event and what came of it."""
        for command in commands:
            if isinstance(command, m.FinishStage):
                stage = self._space.level_graph().stages[command.stage]
                chemistry = self._space.expansion.model_chemistries[stage.model_chemistry]
                _LOG.info("finished: all %d-body tasks of %s", stage.n_real, chemistry.label)
        if self._log is not None:
            self._log.write(event, commands, now)

    def ticked(self, scheduler: Scheduler, now: float) -> None:
        """Show how far it is, if it is time to."""
        if not self._progress.is_due(now):
            return
        snapshot = self._summary.snapshot(
            now, n_busy=scheduler.n_busy, remaining_s=scheduler.remaining_s(now)
        )
        self._left = self._left or LevelsLeft(self._space, scheduler.pool)
        self._progress.update(self._left.added_to(snapshot, scheduler), now)


def _row(agent: int, info: AgentInfo | None, layout: Layout | None = None) -> summaries.AgentInfo:
    """Introduce an agent to the summary; without a layout it has no slots."""
    n_slots, n_threads = (layout.n_slots, layout.n_threads) if layout else (0, 0)
    if info is None:
        return summaries.AgentInfo(agent, "", 0, n_slots, n_threads)
    return summaries.AgentInfo(
        info.rank, info.host, info.n_cores, n_slots, n_threads, info.memory_bytes
    )


def _name(agent: int, info: AgentInfo | None) -> str:
    return f"rank {agent}" if info is None else f"rank {agent} on {info.host}"
