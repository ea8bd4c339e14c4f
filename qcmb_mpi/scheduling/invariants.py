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
from qcmb_mpi.scheduling.ledger import NOBODY
from qcmb_mpi.scheduling.messages import Assign, Command
from qcmb_mpi.scheduling.pool import Pool


def check_pool(pool: Pool, said: Iterable[Command], *, is_draining: bool) -> None:
    """Check books, agents, and the commands of the last step.

    Raises
    ------
    IllegalEvent
        Something does not hold.
    """
    for book in pool.books.values():
        book.check()
        _require(not book.is_finished, "a finished space is still open")
        holders = set(np.unique(book.holders).tolist())
        _require(holders <= {NOBODY, *pool.agents}, "somebody gone holds tasks")
    for agent in pool.agents.values():
        _check_agent(pool, agent)
    slots = sum(agent.n_slots for agent in pool.in_service)
    _require(slots == pool.n_slots, "slots do not add up")
    _require(bool(pool.in_service) == bool(pool.agents), "every agent is set aside")
    _check_lone(pool)
    for each in said:
        if isinstance(each, Assign):
            _require(not is_draining, "assigned while draining")
            _check_assign(pool, each)


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
        fits = agent.memory_in_use(pool.books) <= agent.memory_bytes
        _require(fits, f"{name} holds more than its memory")


def _check_lone(pool: Pool) -> None:
    for place, agents in pool.places.items():
        n_lone = sum(_lone_held(pool, agent) for agent in agents.values())
        n_held = sum(agent.n_held for agent in agents.values())
        _require(not n_lone or n_held == 1, f"a lone task has company on {place}")


def _lone_held(pool: Pool, agent: Agent) -> int:
    return sum(pool.books[space].holders[task] == agent.number for space, task in pool.lone)


def _check_assign(pool: Pool, command: Assign) -> None:
    keys = [(command.space, task) for task in command.ids.tolist()]
    agent = pool.agents[command.agent]
    _require(not agent.is_aside, "assigned to an agent that was set aside")
    _require(command.is_alone == agent.is_reserved, "assigned to a host that is kept free")
    if command.is_alone:
        _require(len(keys) == 1 and keys[0] in pool.lone, "assigned alone what need not be")
    else:
        _require(not any(key in pool.lone for key in keys), "a lone task was assigned as any")


def _require(is_met: Any, message: str) -> None:
    if not is_met:
        raise IllegalEvent(f"invariant broken: {message}")
