"""Transports for tests: agents in this process, every message through pickle and on record."""

from __future__ import annotations

import pickle
from collections.abc import Iterable

from qcmb_mpi.execution.backlog import Backlog
from qcmb_mpi.execution.executors.inline import InlineAgent
from qcmb_mpi.execution.wire import AgentInfo, FromAgent, Lost, TaskIds, ToAgent


class OneByOne(Backlog):
    """Gives a task at a time, however short: a run is not over before anything can happen to it."""

    def batch(
        self, n_sharing: int, seconds: float = 0.0, least_s: float = 0.0, n_blind: int = 1
    ) -> tuple[int, TaskIds] | None:
        """Take one task."""
        return self.take(1) if self else None


class RecordingTransport:
    """Inline agents behind messages that are pickled on the way.

    Parameters
    ----------
    n_agents : int
        They are numbered from 0.
    """

    def __init__(self, n_agents: int = 1) -> None:
        self.infos = {rank: AgentInfo(rank, f"node{rank}", 1, 0) for rank in range(n_agents)}
        self.agents = {rank: InlineAgent(info) for rank, info in self.infos.items()}
        for agent in self.agents.values():
            agent._backlog = OneByOne()
        self.sent: list[tuple[int, ToAgent]] = []
        self.heard: list[tuple[int, FromAgent]] = []
        self.to_tell: list[tuple[int, FromAgent]] = []
        self.lost: dict[int, str] = {}
        self.n_sent_at_loss: dict[int, int] = {}
        self.dies_after: dict[int, int] = {}
        self.dies_when_told: dict[int, type] = {}

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Let every living agent work a little; return what they say."""
        news, self.to_tell = self.to_tell, []
        for rank, agent in list(self.agents.items()):
            news += [(rank, message) for message in agent.poll(0.0)]
            if rank in self.dies_after and self._n_done(rank, news) >= self.dies_after[rank]:
                self.kill(rank)
        self._bury(news)
        news = [(rank, pickle.loads(pickle.dumps(message))) for rank, message in news]
        self.heard += news
        return news

    def send(self, to: int, message: ToAgent) -> None:
        """Hand a copy of `message` to an agent; the dead do not answer."""
        message = pickle.loads(pickle.dumps(message))
        self.sent.append((to, message))
        if isinstance(message, self.dies_when_told.get(to, ())):
            self.kill(to)
        if to in self.agents:
            self.agents[to].handle(message)

    def flush(self) -> None:
        """Do nothing: whatever was sent has arrived."""

    def kill(self, rank: int, reason: str = "its node was switched off") -> None:
        """End an agent; that it is lost comes with the next poll."""
        self.agents.pop(rank, None)
        self.to_tell.append((rank, Lost(reason)))

    def demote(self, rank: int) -> None:
        """Make an agent one that computes nothing."""
        self.infos[rank] = AgentInfo(rank, f"node{rank}", 0, 0)

    def _bury(self, news: Iterable[tuple[int, FromAgent]]) -> None:
        for rank, message in news:
            if isinstance(message, Lost):
                self.lost[rank] = message.reason
                self.n_sent_at_loss[rank] = len(self.sent)
                self.infos.pop(rank, None)

    def close(self, *, wait: bool = True) -> None:
        """End the agents."""
        for agent in self.agents.values():
            agent.close()

    def sent_of(self, kind: type) -> list[tuple[int, ToAgent]]:
        """Return what was sent of one kind."""
        return [(to, message) for to, message in self.sent if isinstance(message, kind)]

    def _n_done(self, rank: int, news: Iterable[tuple[int, FromAgent]]) -> int:
        told = [*self.heard, *news]
        return sum(len(getattr(message, "outcomes", ())) for of, message in told if of == rank)
