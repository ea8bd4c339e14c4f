"""What must hold between two steps, executable.

Rules of this file
------------------
1. For tests: O(number of tasks). Nothing is changed.
2. What is broken raises ``IllegalEvent`` that says which law it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.ledger import NOBODY, Counts, Ledger
from qcmb_mpi.scheduling.messages import ASSIGNED, DONE, READY, Assign, Command, TaskState, as_ids
from qcmb_mpi.scheduling.pool import Pool


def check_pool(pool: Pool, said: Iterable[Command], *, is_draining: bool) -> None:
    """Check books, agents, and the commands of the last step.

    Raises
    ------
    IllegalEvent
        Something does not hold.
    """
    for book in pool.books.values():
        check_book(book)
        _require(not book.is_finished, "a finished space is still open")
        holders = set(np.unique(book.holders).tolist())
        _require(holders <= {NOBODY, *pool.agents}, "somebody gone holds tasks")
    for agent in pool.agents.values():
        _check_agent(pool, agent)
    slots = sum(agent.n_slots for agent in pool.in_service)
    _require(slots == pool.n_slots, "slots do not add up")
    _require(bool(pool.in_service) == bool(pool.agents), "every agent is set aside")
    limits = [agent.memory_bytes or np.inf for agent in pool.in_service]
    _require(pool.most_bytes == max(limits, default=np.inf), "the most memory is another")
    _check_lone(pool)
    _check_wide(pool)
    for each in said:
        if isinstance(each, Assign):
            _require(not is_draining, "assigned while draining")
            _check_assign(pool, each)


def check_book(book: Ledger) -> None:
    """Check that a book's counters agree with its states.

    Raises
    ------
    IllegalEvent
        They do not.
    """
    name = f"space {book.space}"
    found = Counts(*np.bincount(book.states, minlength=len(TaskState)).tolist())
    _require(found == book.counts and found.n_tasks == book.n_tasks, f"{name}: counts disagree")
    is_held = book.holders != NOBODY
    _require(np.array_equal(is_held, book.states == ASSIGNED), f"{name}: holders")
    for index, each in enumerate(book.classes):
        states = book.states[np.asarray(each.ids, dtype=np.int64)]
        _require((states == READY).sum() == book.n_ready_of[index], f"{name}: ready per class")
        _require((states < DONE).sum() == book.n_unsettled_of[index], f"{name}: left per class")


def _check_agent(pool: Pool, agent: Agent) -> None:
    name = f"agent {agent.number}"
    _require(sum(agent.load.values()) == agent.n_held, f"{name}: load does not add up")
    _require(len(agent.shunned) <= agent.n_held, f"{name}: minds what it does not hold")
    for space, book in pool.books.items():
        ids = agent.held(book)
        is_holder = book.holders == agent.number
        _require(len(ids) == is_holder.sum() and is_holder[ids].all(), f"{name}: holders")
        mine = {(space, index): len(ids[places]) for index, places in book.groups(ids)}
        noted = {key: n for key, n in agent.load.items() if key[0] == space}
        _require(mine == noted, f"{name}: classes held")
    if agent.memory_bytes and not _lone_held(pool, agent):
        # A prediction that was raised since counts for what is assigned from now on.
        held = _largest(pool, agent, "least_bytes")
        _require(sum(held) <= agent.memory_bytes, f"{name} holds more than its memory")


def _largest(pool: Pool, agent: Agent, name: str) -> list[int]:
    """Return the sizes of the ``n_slots`` largest tasks that an agent holds, largest first."""
    sizes = [
        int(getattr(pool.books[space], name)[index])
        for (space, index), n in agent.load.items()
        for _ in range(min(n, agent.n_slots))
    ]
    return sorted(sizes, reverse=True)[: agent.n_slots]


def _check_lone(pool: Pool) -> None:
    for place, agents in pool.places.items():
        n_lone = sum(_lone_held(pool, agent) for agent in agents.values())
        n_held = sum(agent.n_held for agent in agents.values())
        _require(not n_lone or n_held == 1, f"a lone task has company on {place}")
        for agent in agents.values():
            is_wide = any(pool.books[space].n_threads[index] for space, index in agent.load)
            _require(not is_wide or agent.n_held == 1, f"a wide task has company on {place}")


def _check_wide(pool: Pool) -> None:
    found = {
        (space, index)
        for space, book in pool.books.items()
        for index in np.flatnonzero((book.n_threads > 0) & (book.n_unsettled_of > 0)).tolist()
        if book.n_ready_of[index]
        or (book.states[np.asarray(book.classes[index].ids)] == ASSIGNED).any()
    }
    _require(found <= set(pool.wide), "a wide class is forgotten")
    for space, index in pool.wide:
        book = pool.books.get(space)
        _require(book is not None and book.n_unsettled_of[index], "a wide class is over")


def _lone_held(pool: Pool, agent: Agent) -> int:
    return sum(pool.books[space].holders[task] == agent.number for space, task in pool.lone)


def _check_assign(pool: Pool, command: Assign) -> None:
    keys = [(command.space, task) for task in command.ids.tolist()]
    agent = pool.agents[command.agent]
    _require(not agent.is_aside, "assigned to an agent that was set aside")
    is_apart = command.is_alone or command.n_threads > 0
    _require(is_apart == agent.is_reserved, "assigned to an agent that is kept free")
    if command.is_alone:
        _require(len(keys) == 1 and keys[0] in pool.lone, "assigned alone what need not be")
    else:
        _require(not any(key in pool.lone for key in keys), "a lone task was assigned as any")
    if agent.memory_bytes and not command.is_alone:
        _check_room(pool, agent)
    widths = {_width(pool, key) for key in keys}
    _require(widths == {command.n_threads}, "assigned with threads that are not its own")
    _require(not command.n_threads or len(keys) == 1, "wide tasks were assigned together")


def _check_room(pool: Pool, agent: Agent) -> None:
    """Check that what was assigned fits, whichever of what is held run together."""
    fits = sum(_largest(pool, agent, "memory_bytes")) <= agent.memory_bytes
    _require(fits, f"agent {agent.number} was given more than fits")


def _width(pool: Pool, key: tuple[int, int]) -> int:
    book = pool.books[key[0]]
    return int(book.n_threads[book.class_of(as_ids([key[1]]))[0]])


def _require(is_met: Any, message: str) -> None:
    if not is_met:
        raise IllegalEvent(f"invariant broken: {message}")
