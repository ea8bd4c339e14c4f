"""Which agents there are, which can work on what, and which have gone.

Rules of this file
------------------
1. An agent that has left is not sent anything any more, whatever the transport still knows of it.
2. An agent that refuses one space leaves altogether: the scheduler gives work of any space to all.
"""

from __future__ import annotations

from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.layout import Grant
from qcmb_mpi.execution.wire import AgentInfo, Transport
from qcmb_mpi.scheduling.learning import common_bytes
from qcmb_mpi.scheduling.placement import Layout

_UNSAID = QcmbError("has not answered yet")


class Crew:
    """The agents behind a transport, as one dispatcher sees them.

    Parameters
    ----------
    transport : Transport
    n_agents : int
        Agents there should be; they are numbered from 0.
    grant : Grant, optional
        What may be used of them.
    """

    def __init__(self, transport: Transport, n_agents: int, grant: Grant | None = None) -> None:
        self._transport = transport
        self.n_agents = n_agents
        self._grant = grant or Grant()
        self.layouts: dict[int, Layout] = {}
        self._left: dict[int, str] = {}
        self._mustered: dict[int, AgentInfo] = {}
        self._answers: dict[int, dict[int, QcmbError | None]] = {}

    @property
    def present(self) -> dict[int, AgentInfo]:
        """Those that have said hello and not left."""
        infos = {a: info for a, info in self._transport.infos.items() if not self.has_left(a)}
        return self._grant.of(infos)

    @property
    def is_idle(self) -> bool:
        """Whether nobody who is present computes."""
        return not any(info.n_cores for info in self.present.values())

    @property
    def common_bytes(self) -> float:
        """The memory that the large ones of those who compute have; infinite without a limit."""
        return common_bytes(i.memory_bytes for i in self.present.values() if i.n_cores)

    @property
    def absent(self) -> list[int]:
        """Those that have neither said hello nor left."""
        known = self._transport.infos
        return [a for a in range(self.n_agents) if a not in known and not self.has_left(a)]

    @property
    def obituary(self) -> str:
        """Who has left and why."""
        left = self._transport.lost | self._left
        return "; ".join(f"rank {agent}: {reason}" for agent, reason in sorted(left.items()))

    def has_left(self, agent: int) -> bool:
        """Whether an agent is lost or has refused."""
        return agent in self._left or agent in self._transport.lost

    def info(self, agent: int) -> AgentInfo | None:
        """Return what an agent said when it came; None if it never did."""
        return self._transport.infos.get(agent) or self._mustered.get(agent)

    def strike(self, agent: int, reason: str) -> bool:
        """Strike an agent off; return False if it was off already."""
        if agent in self._left:
            return False
        self._left[agent] = reason
        self.layouts.pop(agent, None)
        return True

    def knows(self, space: int) -> bool:
        """Whether a space has ever been opened here."""
        return space in self._answers

    @property
    def spaces(self) -> tuple[int, ...]:
        """All that were ever opened here."""
        return tuple(self._answers)

    def begin(self, space: int) -> None:
        """Expect answers about a space."""
        self._answers[space] = {}
        self._mustered |= self.present

    def answer(self, agent: int, space: int, error: QcmbError | None) -> None:
        """Note what an agent says about a space."""
        self._answers[space][agent] = error

    def silent(self, space: int) -> list[int]:
        """Those that have not answered yet."""
        return [agent for agent in self.layouts if agent not in self._answers[space]]

    def is_any_ready(self, space: int) -> bool:
        """Whether somebody who computes can work on a space."""
        answers = self._answers[space]
        ready = [agent for agent in self.layouts if answers.get(agent, _UNSAID) is None]
        return any(self.layouts[agent].n_slots for agent in ready)

    def refusals(self, space: int) -> dict[int, QcmbError]:
        """Those that cannot work on a space and have not left.

        Raises
        ------
        QcmbError
            Nobody can: the first that was said.
        """
        answers = self._answers[space].items()
        refused = {a: error for a, error in answers if error is not None and a in self.layouts}
        if refused and not any(self.layouts[a].n_slots for a in self.layouts.keys() - refused):
            raise next(iter(refused.values()))
        return refused
