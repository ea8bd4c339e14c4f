"""What agents have finished and not told yet when a run ends early.

Rules of this file
------------------
1. Who ends a run early has no time: it waits a moment for the slowest agent, and no longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from qcmb_mpi.execution.crew import Crew
from qcmb_mpi.execution.wire import Closed, FromAgent, Shut, Transport

_LOG = logging.getLogger(__name__)
_MOMENT_S = 0.25


def hear_out(transport: Transport, crew: Crew, take: Callable[[int, FromAgent], None]) -> None:
    """Have all agents end what runs, and take in what they have finished until then.

    Parameters
    ----------
    transport : Transport
    crew : Crew
    take : callable
        ``take(agent, message)`` takes in what an agent says.
    """
    missing = {(agent, space) for agent in crew.layouts for space in crew.spaces}
    for agent, space in sorted(missing):
        transport.send(agent, Shut(space))
    give_up_s = time.monotonic() + _MOMENT_S
    while missing and (left_s := give_up_s - time.monotonic()) > 0:
        for agent, message in transport.poll(left_s):
            take(agent, message)
            if isinstance(message, Closed):
                missing.discard((agent, message.space))
        missing = {each for each in missing if not crew.has_left(each[0])}
    if missing:
        ranks = ", ".join(map(str, sorted({agent for agent, _ in missing})))
        _LOG.warning(
            "rank %s did not tell within %g s what it has finished since its last report: that is "
            "computed again",
            ranks,
            _MOMENT_S,
        )
