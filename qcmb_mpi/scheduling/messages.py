"""The words between driver and scheduler: events, commands, task states, and their table.

Rules of this file
------------------
1. Events say what happened (past tense); commands say what to do (imperative).
2. Every message is a frozen value that pickles; ``==`` compares arrays by content.
3. A task is named (space, id); spaces and agents are non-negative ints that are never used twice.
4. The tables below are the law: the ledger refuses a move that ``MOVES`` lacks, the scheduler
   dispatches by ``EVENT_RULES``, and ``docs/scheduler.md`` is printed from both.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.policy import ErrorClass

Ids = NDArray[np.int64]


def as_ids(ids: Iterable[int] | NDArray[Any]) -> Ids:
    """Return task ids as a one-dimensional int64 array, shape (m,)."""
    array = ids if isinstance(ids, np.ndarray) else np.array(list(ids), dtype=np.int64)
    return np.ascontiguousarray(array, dtype=np.int64).reshape(-1)


def _no_ids() -> Ids:
    return np.empty(0, dtype=np.int64)


class Message:
    """Base of events and commands: equality by content, and partial match for tests."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in _names(self))

    __hash__ = None  # type: ignore[assignment]

    def matches(self, kind: type[Message], **partial: object) -> bool:
        """Tell whether this is a ``kind`` whose named fields have the given values."""
        return isinstance(self, kind) and all(
            _same(getattr(self, name), value) for name, value in partial.items()
        )


def _names(message: Message) -> list[str]:
    return [item.name for item in fields(message)]  # type: ignore[arg-type]


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


@dataclass(frozen=True, slots=True, eq=False)
class TaskClass(Message):
    """Tasks that are predicted alike.

    Parameters
    ----------
    stage : int
        The stage they belong to.
    ids : range or integer ndarray
        Their task ids; a range costs no memory. The classes of a space partition
        ``range(n_tasks)``.
    cost_s : float
        Predicted wall seconds of one of them, before calibration.
    memory_bytes : int
        Predicted peak of one of them; 0 when unknown.
    key : Hashable
        What measured times are collected under; the same key in another space shares them.
    family : Hashable, optional
        What classes whose predictions err alike have in common (the model chemistry): a class
        that has not run yet is corrected by what its family showed.
    n_threads : int
        Threads of each, with an agent for itself; 0 for a slot's.
    parallel_fraction : float, optional
        Part of such a task that threads speed up (Amdahl's law), 0 for none; None when unknown.
    floor_bytes : int
        What is counted on for one of them at least, whatever is measured: the user says so.
    """

    stage: int
    ids: range | NDArray[Any]
    cost_s: float
    memory_bytes: int = 0
    key: Hashable = None
    family: Hashable = None
    n_threads: int = 0
    parallel_fraction: float | None = None
    floor_bytes: int = 0

    @property
    def n_tasks(self) -> int:
        """Number of tasks in the class."""
        return len(self.ids)


# ------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True, eq=False)
class AgentJoined(Message):
    """An agent with warm slots is ready for work; ``memory_bytes`` 0 means no limit."""

    agent: int
    n_slots: int
    memory_bytes: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class AgentLost(Message):
    """An agent is gone, with everything it held."""

    agent: int
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SpaceAdded(Message):
    """A task space is to be computed.

    Parameters
    ----------
    space : int
        Its name.
    classes : tuple of TaskClass
        All its tasks. Empty is legal: the space is finished at once.
    done : int64 ndarray
        Ids whose results exist already.
    released : frozenset of int, optional
        Stages that may start now; ``None`` for all. The others wait for ``StageReleased``.
    """

    space: int
    classes: tuple[TaskClass, ...]
    done: Ids = field(default_factory=_no_ids)
    released: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TasksDone(Message):
    """Results arrived and are in the store; arrays are parallel, shape (m,).

    ``seconds`` is the wall time of each, ``peak_bytes`` the slot's highest resident memory, or 0
    where that is unknown.
    """

    agent: int
    space: int
    ids: Ids
    seconds: NDArray[np.float64]
    peak_bytes: NDArray[np.int64] = field(default_factory=_no_ids)


@dataclass(frozen=True, slots=True, eq=False)
class TaskFailed(Message):
    """One attempt gave no result; it was seen to use ``peak_bytes``, 0 if that is not known."""

    agent: int
    space: int
    task: int
    error: ErrorClass
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TasksReturned(Message):
    """The answer to ``Retract``: these were not started and will not be. May be empty."""

    agent: int
    space: int
    ids: Ids = field(default_factory=_no_ids)


@dataclass(frozen=True, slots=True, eq=False)
class StageReleased(Message):
    """A gate has opened: the tasks of a stage may start."""

    space: int
    stage: int


@dataclass(frozen=True, slots=True, eq=False)
class DrainRequested(Message):
    """No task may be started any more; running ones may end."""

    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DeadlineSet(Message):
    """Nothing may be running at ``at_s`` (same clock as ``now``)."""

    at_s: float


@dataclass(frozen=True, slots=True, eq=False)
class CloseRequested(Message):
    """No space will be added any more: agents are retired when the last one is finished."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticked(Message):
    """Time has passed."""


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True, eq=False)
class Assign(Message):
    """Give these tasks to an agent, to be run in this order.

    ``is_alone``: one task that needs all memory; nothing else runs on its node meanwhile.
    ``n_threads``, unless 0: one task that runs so wide; nothing else runs in its agent meanwhile.
    """

    agent: int
    space: int
    ids: Ids
    is_alone: bool = False
    n_threads: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Retract(Message):
    """Ask an agent to give back what it has not started; it answers ``TasksReturned``."""

    agent: int
    space: int


@dataclass(frozen=True, slots=True, eq=False)
class Retire(Message):
    """Let an agent end; it gets no work any more."""

    agent: int


@dataclass(frozen=True, slots=True, eq=False)
class SetAside(Message):
    """Note that an agent on which everything fails gets no work any more."""

    agent: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Quarantine(Message):
    """Give a task up for good."""

    space: int
    task: int
    error: ErrorClass
    n_attempts: int


@dataclass(frozen=True, slots=True, eq=False)
class FinishStage(Message):
    """Every task of a stage is done or quarantined."""

    space: int
    stage: int


@dataclass(frozen=True, slots=True, eq=False)
class FinishSpace(Message):
    """Every task of a space is done or quarantined; late messages for it are dropped."""

    space: int


Event = (
    AgentJoined
    | AgentLost
    | SpaceAdded
    | TasksDone
    | TaskFailed
    | TasksReturned
    | StageReleased
    | DrainRequested
    | DeadlineSet
    | CloseRequested
    | Ticked
)
Command = Assign | Retract | Retire | SetAside | Quarantine | FinishStage | FinishSpace

# ------------------------------------------------------------- the tables


class TaskState(enum.IntEnum):
    """Where a task stands; the value is what the ledger stores."""

    WAITING = 0
    READY = 1
    ASSIGNED = 2
    DONE = 3
    QUARANTINED = 4


# As plain ints: comparing an array with an enum member costs more than the comparison.
WAITING, READY, ASSIGNED, DONE, QUARANTINED = (int(state) for state in TaskState)


@dataclass(frozen=True, slots=True)
class Move:
    """One legal change of a task's state."""

    source: TaskState
    target: TaskState
    why: str


_W, _R, _A, _D, _Q = TaskState
MOVES: tuple[Move, ...] = (
    Move(_W, _R, "its stage is released"),
    Move(_W, _D, "its result is in the store already, or arrives unasked"),
    Move(_W, _Q, "no agent has the memory it is predicted to need"),
    Move(_R, _A, "it is given to an agent"),
    Move(_R, _D, "its result is in the store already, or comes from an agent that lost it"),
    Move(_R, _Q, "no agent has the memory it is predicted to need"),
    Move(_A, _R, "it is returned, retried, or its agent is lost"),
    Move(_A, _D, "its result arrives, from whichever agent"),
    Move(_A, _Q, "policy gives it up, or it was there at too many deaths"),
    Move(_Q, _D, "its result arrives after all, before the space is finished"),
)


@dataclass(frozen=True, slots=True)
class EventRule:
    """What an event may do to tasks, and which commands may follow it."""

    event: type[Message]
    moves: str
    commands: tuple[type[Message], ...]


_WORK = (Assign, Retract, Retire)
_FINISH = (FinishStage, FinishSpace)
EVENT_RULES: tuple[EventRule, ...] = (
    EventRule(AgentJoined, "ready to assigned", (Quarantine, *_FINISH, *_WORK)),
    EventRule(AgentLost, "assigned to ready or quarantined", (Quarantine, *_FINISH, *_WORK)),
    EventRule(SpaceAdded, "new to any but assigned", (Quarantine, *_FINISH, *_WORK)),
    EventRule(TasksDone, "any but done to done", (*_FINISH, *_WORK)),
    EventRule(
        TaskFailed, "assigned to ready or quarantined", (SetAside, Quarantine, *_FINISH, *_WORK)
    ),
    EventRule(TasksReturned, "assigned to ready", _WORK),
    EventRule(StageReleased, "waiting to ready", _WORK),
    EventRule(DrainRequested, "none", (Retract, Retire)),
    EventRule(DeadlineSet, "none", _WORK),
    EventRule(CloseRequested, "none", _WORK),
    EventRule(Ticked, "none", _WORK),
)


def handler_name(event: type[Message]) -> str:
    """Return the scheduler's method for an event: ``TasksDone`` -> ``_on_tasks_done``."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in event.__name__)
    return f"_on{name}"


def render_tables() -> str:
    """Return ``docs/scheduler.md``'s tables as Markdown, from ``MOVES`` and ``EVENT_RULES``."""
    lines = ["| from | to | when |", "|---|---|---|"]
    lines += [f"| {m.source.name.lower()} | {m.target.name.lower()} | {m.why} |" for m in MOVES]
    lines += [
        "",
        "| event | its fields | moves tasks | commands that may follow |",
        "|---|---|---|---|",
    ]
    for rule in EVENT_RULES:
        names = ", ".join(item.name for item in fields(rule.event))  # type: ignore[arg-type]
        after = ", ".join(kind.__name__ for kind in rule.commands)
        lines.append(f"| `{rule.event.__name__}` | {names} | {rule.moves} | {after} |")
    return "\n".join(lines) + "\n"
