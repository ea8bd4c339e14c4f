"""What is left to do, how long it takes and how sure that is: for people who watch.

Rules of this file
------------------
1. Looks only, and only when somebody draws it: a fraction of a millisecond for any number of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.pool import Pool

_N_CLASSES = 16  # that take longest stand for all
_MOST_AGENTS = 256  # of more it is not worth the time to ask all what they hold


@dataclass(frozen=True, slots=True, eq=False)
class WorkLeft:
    """What is left at one moment.

    Parameters
    ----------
    relative_error : float, optional
        Of the predicted seconds, as :class:`~qcmb_mpi.scheduling.cost.CostEstimate` has it; None
        where nothing is left.
    held_bytes, limit_bytes : int
        Memory that running tasks are counted on to need, and all agents' limits; 0 if not known.
    seconds_of : mapping of int to float[n_classes]
        Predicted seconds of the tasks of each class that are not settled, by space.
    """

    relative_error: float | None = None
    held_bytes: int = 0
    limit_bytes: int = 0
    seconds_of: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)


def work_left(pool: Pool, model: CostModel) -> WorkLeft:
    """Look at what is left in a pool.

    Parameters
    ----------
    pool : Pool
    model : CostModel
        What predicted it.
    """
    seconds_of = {number: book.cost_s * book.n_unsettled_of for number, book in pool.books.items()}
    agents = pool.in_service
    is_asked = len(agents) <= _MOST_AGENTS and all(agent.memory_bytes for agent in agents)
    return WorkLeft(
        _relative_error(pool.books, model, seconds_of),
        sum(agent.held_bytes(pool.books) for agent in agents) if is_asked else 0,
        sum(agent.memory_bytes for agent in agents) if is_asked else 0,
        seconds_of,
    )


def _relative_error(
    books: Mapping[int, Ledger],
    model: CostModel,
    seconds_of: Mapping[int, NDArray[np.float64]],
) -> float | None:
    """Weigh the errors of the classes that take longest by what is left of them."""
    weights, errors = [], []
    for number, left_s in seconds_of.items():
        for place in np.argsort(-left_s)[:_N_CLASSES].tolist():
            each = books[number].classes[place]
            estimate = model.estimate(each.key, each.cost_s, family=each.family)
            weights.append(float(left_s[place]))
            errors.append(estimate.relative_error)
    return float(np.average(errors, weights=weights)) if sum(weights) > 0 else None
