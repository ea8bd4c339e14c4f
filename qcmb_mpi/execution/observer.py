"""Who is told by the dispatcher: the sink that keeps outcomes, the observer that hears of all.

Rules of this file
------------------
1. Interfaces only; nothing that is heard changes what the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qcmb_mpi.errors import QcmbError
    from qcmb_mpi.execution.outcome import Failure, Outcome
    from qcmb_mpi.execution.wire import AgentInfo
    from qcmb_mpi.scheduling import messages as m
    from qcmb_mpi.scheduling.placement import Layout
    from qcmb_mpi.scheduling.scheduler import Scheduler


class Sink(Protocol):
    """Where outcomes are kept."""

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Keep `outcomes`."""

    def commit_if_due(self) -> None:
        """Make what was kept durable if it has waited long enough."""

    def flush(self) -> None:
        """Make what was kept durable now."""


class Observer:
    """Hears what happens; every method may be overridden, none need be."""

    def agent_joined(self, agent: int, info: AgentInfo, layout: Layout) -> None:
        """Hear that an agent is ready for work."""

    def agent_refused(self, agent: int, info: AgentInfo | None, error: QcmbError) -> None:
        """Hear that an agent cannot do this work while others can."""

    def agent_lost(self, agent: int, info: AgentInfo | None, reason: str) -> None:
        """Hear that an agent has gone; `info` is None if it was never there."""

    def cut_off(self, n_tasks: int) -> None:
        """Hear how many running tasks went with an agent."""

    def agent_set_aside(self, agent: int, reason: str) -> None:
        """Hear that an agent gets no more work because everything fails on it."""

    def outcomes(self, agent: int, outcomes: Sequence[Outcome]) -> None:
        """Hear of attempts that have ended."""

    def quarantined(self, space: int, task: int, failure: Failure, n_attempts: int) -> None:
        """Hear of a task that failed for good."""

    def stepped(self, event: m.Event, commands: Sequence[m.Command], now: float) -> None:
        """Hear of an event and what the scheduler made of it."""

    def ticked(self, scheduler: Scheduler, now: float) -> None:
        """Be called several times a second."""
