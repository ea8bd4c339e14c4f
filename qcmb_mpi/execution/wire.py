"""What the master and the agents say to each other.

Rules of this file
------------------
1. Frozen data, picklable; the same messages in one process, over pipes and over MPI.
2. A task is named by (space, id); molecules never travel, only the recipe of a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qcmb_mpi.errors import QcmbError
    from qcmb_mpi.execution.engine import EngineRecipe
    from qcmb_mpi.execution.outcome import Outcome
    from qcmb_mpi.scheduling.placement import Layout

TaskIds: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What an agent has to offer.

    Parameters
    ----------
    rank : int
    host : str
    n_cores : int
        Cores that are its own (0: it computes nothing).
    memory_bytes : int
        Memory that is its own.
    node_memory_bytes : int
        Memory of all agents of its node together; 0 if unknown.
    can_widen : bool
        Whether it can run one task on all its cores for once.
    """

    rank: int
    host: str
    n_cores: int
    memory_bytes: int
    node_memory_bytes: int = 0
    can_widen: bool = False


# master -> agent


@dataclass(frozen=True, slots=True)
class Open:
    """Get ready for a task space: build its engine in every slot.

    Parameters
    ----------
    space : int
    recipe : EngineRecipe
    layout : Layout
        Slots and threads of this agent.
    timeout_s : float
        Wall seconds of one task, then it is killed.
    scratch : str, optional
    report_s : float
        How long results may be collected before the master is told of them.
    """

    space: int
    recipe: EngineRecipe
    layout: Layout
    timeout_s: float
    scratch: str | None = None
    report_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """Run these tasks, in this order.

    ``is_alone``: one task, to be given all memory of the node. ``n_threads``, unless 0: one task,
    to be given all cores and memory of the agent, and so many threads. Nothing else is at work in
    the agent meanwhile. ``n_heard``: the number of the agent's last report that was heard before.
    """

    space: int
    ids: TaskIds
    is_alone: bool = False
    n_threads: int = 0
    n_heard: int = 0


@dataclass(frozen=True, slots=True)
class Recall:
    """Give back what has not been started."""

    space: int


@dataclass(frozen=True, slots=True)
class Shut:
    """The space is finished, or given up: end what runs of it, and forget its engine."""

    space: int


# agent -> master


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent is there; only transports hear it."""

    info: AgentInfo


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer to :class:`Open`; `error` says why the space cannot be worked on here."""

    space: int
    error: QcmbError | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Attempts that have ended, well or badly; the agent numbers what it says so."""

    outcomes: Sequence[Outcome]
    number: int = 0


@dataclass(frozen=True, slots=True)
class Returned:
    """The answer to :class:`Recall`: tasks that were not started."""

    space: int
    ids: TaskIds


@dataclass(frozen=True, slots=True)
class Closed:
    """The answer to :class:`Shut`: whatever ended of the space has been told."""

    space: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An agent has gone."""

    reason: str


ToAgent: TypeAlias = Open | Work | Recall | Shut
FromAgent: TypeAlias = Ready | Done | Returned | Closed | Lost


class Transport(Protocol):
    """How the driver reaches its agents."""

    infos: dict[int, AgentInfo]
    lost: dict[int, str]  # agents that have gone, and why; :class:`Lost` was told once of each

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Return what has arrived as (agent, message), waiting up to `timeout_s` for it.

        A :class:`Hello` is not returned: it is entered in `infos`.
        """

    def send(self, to: int, message: ToAgent) -> None:
        """Send `message` to agent `to`."""

    def flush(self) -> None:
        """Wait a moment until what was sent has left, before a long silence."""

    def close(self, *, wait: bool = True) -> None:
        """End every slot; with `wait` idle ones leave by themselves."""


class AnyAgent(Protocol):
    """What a transport needs of an agent in its own process."""

    info: AgentInfo

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Keep the slots busy and return what there is to tell the master."""

    def close(self, *, wait: bool = True) -> None:
        """End the slots; with `wait` idle ones leave by themselves."""


class LocalTransport:
    """One agent in the driver's own process.

    Parameters
    ----------
    agent : AnyAgent
    """

    def __init__(self, agent: AnyAgent) -> None:
        self._agent = agent
        self.infos = {0: agent.info}
        self.lost: dict[int, str] = {}

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Return what the agent has to say."""
        return [(0, message) for message in self._agent.poll(timeout_s)]

    def send(self, to: int, message: ToAgent) -> None:
        """Hand `message` to the agent."""
        self._agent.handle(message)

    def flush(self) -> None:
        """Do nothing: whatever was sent has been handled."""

    def close(self, *, wait: bool = True) -> None:
        """End the agent."""
        self._agent.close(wait=wait)
