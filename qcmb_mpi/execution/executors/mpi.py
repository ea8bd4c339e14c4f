"""MPI: an agent on every rank, the scheduler on rank 0.

Rules of this file
------------------
1. The only file that imports mpi4py.
2. Point-to-point messages only, received by matched probe from any source: no posted wildcard
   receive and no collective once the run is under way (both break when a rank dies).
3. Never spin: a rank sleeps on its slots' pipes and looks for messages between, in an
   interval that grows while nothing happens. Lookahead hides the interval.
4. A rank with a bug aborts the job instead of leaving the others waiting.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from qcmb_mpi.errors import Interrupted, QcmbError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
from qcmb_mpi.execution.forkserver import PRELOAD, ForkServer, clean_environment
from qcmb_mpi.execution.host import HostShare, host_share
from qcmb_mpi.execution.wire import AgentInfo, FromAgent, Hello, ToAgent, Transport
from qcmb_mpi.machine import affinity, launcher

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")
_TAG = 1
_SHORTEST_S = 0.0002
_LONGEST_S = 0.01
_GRACE_S = 30.0


class _Nap:
    """An interval that doubles while nothing happens."""

    def __init__(self) -> None:
        self.interval_s = _SHORTEST_S

    def reset(self) -> None:
        self.interval_s = _SHORTEST_S

    def lengthen(self) -> None:
        self.interval_s = min(2 * self.interval_s, _LONGEST_S)


class _Mail:
    """Messages of any size over one communicator."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._sending: list[MPI.Request] = []

    def send(self, to: int, message: object) -> None:
        self._sending = [request for request in self._sending if not request.test()[0]]
        self._sending.append(self._comm.isend(message, to, _TAG))

    def receive(self) -> list[tuple[int, Any]]:
        """Return what has arrived as (source, message)."""
        from mpi4py import MPI

        arrived = []
        status = MPI.Status()
        while (message := self._comm.improbe(MPI.ANY_SOURCE, _TAG, status)) is not None:
            arrived.append((status.source, message.recv()))
        return arrived

    def flush(self, timeout_s: float) -> None:
        """Wait until what was sent has been taken."""
        give_up_s = time.monotonic() + timeout_s
        while self._sending and time.monotonic() < give_up_s:
            self._sending = [request for request in self._sending if not request.test()[0]]
            time.sleep(_SHORTEST_S)


class MasterTransport:
    """Rank 0's own agent and those of the other ranks.

    Parameters
    ----------
    agent : Agent
    comm : MPI.Comm
    """

    def __init__(self, agent: Agent, comm: MPI.Comm) -> None:
        self._agent = agent
        self._comm = comm
        self._mail = _Mail(comm)
        self._nap = _Nap()
        self.infos = {0: agent.info}

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Return what has arrived from any agent."""
        give_up_s = time.monotonic() + timeout_s
        while True:
            left_s = give_up_s - time.monotonic()
            news = self._receive()
            wait_s = 0.0 if news else max(0.0, min(self._nap.interval_s, left_s))
            news += [(0, message) for message in self._agent.poll(wait_s)]
            if news:
                self._nap.reset()
                return news
            if left_s <= 0:
                return news
            self._nap.lengthen()

    def _receive(self) -> list[tuple[int, FromAgent]]:
        news: list[tuple[int, FromAgent]] = []
        for rank, message in self._mail.receive():
            if isinstance(message, Hello):
                self.infos[rank] = message.info
            else:
                news.append((rank, message))
        return news

    def send(self, to: int, message: ToAgent) -> None:
        """Send `message` to agent `to`."""
        if to == 0:
            self._agent.handle(message)
        else:
            self._mail.send(to, ("agent", message))

    def conclude(self, value: object, error: BaseException | None) -> None:
        """Tell every rank how the shared work ended."""
        for rank in range(1, self._comm.size):
            self._mail.send(rank, ("end", value, error))
        self._mail.flush(_GRACE_S)

    def close(self, *, wait: bool = True) -> None:
        """End our own slots; the other ranks end theirs."""
        self._agent.close(wait=wait)
        self._mail.flush(_GRACE_S)


class Worker:
    """A rank other than 0: its agent, served until the master ends the work.

    Parameters
    ----------
    agent : Agent
    comm : MPI.Comm
    """

    def __init__(self, agent: Agent, comm: MPI.Comm) -> None:
        self._agent = agent
        self._mail = _Mail(comm)
        self._mail.send(0, Hello(agent.info))

    def serve(self) -> tuple[Any, BaseException | None]:
        """Serve until the master concludes; return its value and its exception."""
        nap = _Nap()
        while True:
            messages = self._mail.receive()
            for _, (kind, *rest) in messages:
                if kind == "end":
                    return rest[0], rest[1]
                if kind == "agent":
                    self._agent.handle(rest[0])
            news = self._agent.poll(0.0 if messages else nap.interval_s)
            for message in news:
                self._mail.send(0, message)
            if messages or news:
                nap.reset()
            else:
                nap.lengthen()

    def close(self, *, wait: bool = True) -> None:
        """End our slots."""
        self._agent.close(wait=wait)
        self._mail.flush(_GRACE_S)


class MPIExecutor(Executor):
    """An agent on every rank of an MPI communicator.

    Every rank makes the same calls and gets the same results, so a script needs no rank guard.

    Parameters
    ----------
    config : ExecutorConfig, optional
    comm : MPI.Comm, optional
        Default ``MPI.COMM_WORLD``.
    server : ForkServer, optional
        One started before MPI was initialised; by default a new one.
    is_master_dedicated : bool
        Rank 0 computes nothing.
    is_binding_respected : bool
        Keep to the launcher's binding of each rank.

    Raises
    ------
    TopologyError
        The launcher started another number of ranks than MPI sees.
    """

    name: ClassVar[str] = "mpi"

    def __init__(
        self,
        config: ExecutorConfig | None = None,
        *,
        comm: MPI.Comm | None = None,
        server: ForkServer | None = None,
        is_master_dedicated: bool = False,
        is_binding_respected: bool = False,
    ) -> None:
        super().__init__(config)
        self._server = server
        self._is_master_dedicated = is_master_dedicated
        self._is_binding_respected = is_binding_respected
        self._given_comm = comm
        self._comm: MPI.Comm | None = None
        self._worker: Worker | None = None

    @property
    def comm(self) -> MPI.Comm:
        """The communicator, checked against the launcher."""
        if self._comm is None:
            environment = dict(os.environ)  # before MPI_Init, which may change it
            if self._server is None and launcher.leads_node(environment):
                self._server = self._start_server()
            # Open MPI's one-sided transport over libfabric, which nothing here uses, sleeps for a
            # second while it starts.
            os.environ.setdefault("OMPI_MCA_btl", "^ofi")
            from mpi4py import MPI

            library = " ".join(MPI.Get_library_version().split("\n")[0].split())
            launcher.check_world(environment, MPI.COMM_WORLD.size, library=library)
            self._comm = self._given_comm or MPI.COMM_WORLD.Dup()
        return self._comm

    @property
    def n_ranks(self) -> int:
        """Ranks of the communicator."""
        return self.comm.size

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.comm.rank == 0

    def initialize(self) -> None:
        """Start this rank's agent; a second call does nothing."""
        with self._abort_on_error():
            if self.is_master:
                super().initialize()
            elif self._worker is None:
                self._worker = Worker(self._agent(), self.comm)

    @contextlib.contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        """End the whole job rather than leave the other ranks waiting for this one."""
        comm = self.comm
        try:
            yield
        except BaseException:
            traceback.print_exc()
            comm.Abort(QcmbError.exit_code)
            raise

    def _start(self) -> Transport:
        return MasterTransport(self._agent(), self.comm)

    def shutdown(self, wait: bool = True) -> None:
        """End this rank's slots."""
        if self._worker is not None:
            self._worker.close(wait=wait)
            self._worker = None
        super().shutdown(wait)

    def share(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0; every rank returns its value or raises its exception."""
        self.initialize()
        if self._worker is not None:
            return cast("T", self._serve(self._worker))
        transport = cast("MasterTransport", self.transport)
        try:
            value = work()
            _check_pickles(value)
        except BaseException as error:
            transport.conclude(None, _portable(error))
            raise
        transport.conclude(value, None)
        return value

    def _serve(self, worker: Worker) -> object:
        with self._abort_on_error(), _signals_left_to_master():
            value, error = worker.serve()
        if error is not None:
            raise error
        return value

    def _start_server(self) -> ForkServer:
        """Start a server that is not bound to this rank's core, as mpiexec binds ranks."""
        with affinity.pinned(affinity.allocation_mask(self._is_binding_respected)):
            return ForkServer.start(clean_environment(os.environ), PRELOAD)

    def _agent(self) -> Agent:
        from mpi4py import MPI

        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        server, self._server = self._server, None
        addresses = node.allgather(None if server is None else server.address)
        known = next(filter(None, addresses), None)
        if known is None:  # no early start: the first rank of the node makes up for it
            if node.rank == 0:
                server = self._start_server()
            known = node.bcast(None if server is None else server.address)
        mask = affinity.allocation_mask(self._is_binding_respected)
        neighbours = [_Neighbour(*row) for row in node.allgather((self.comm.rank, mask))]
        node.Free()
        share = self._share(neighbours)
        return Agent(share.info, server or ForkServer.connect(known), slot_cpus=share.slot_cpus)

    def _share(self, node: Sequence[_Neighbour]) -> HostShare:
        rank = self.comm.rank
        is_idle = self._is_master_dedicated and self.comm.size > 1
        if is_idle and rank == 0:
            return _idle_share(host_share(memory_bytes=self.config.memory_bytes))
        computing = [row for row in node if not (is_idle and row.rank == 0)]
        return host_share(
            rank=rank,
            local_rank=[row.rank for row in computing].index(rank),
            masks=[row.mask for row in computing],
            memory_bytes=self.config.memory_bytes,
            is_binding_respected=self._is_binding_respected,
        )


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """A rank of this node and its processors."""

    rank: int
    mask: frozenset[int]


def _idle_share(share: HostShare) -> HostShare:
    info = AgentInfo(0, share.info.host, 0, share.info.memory_bytes)
    return HostShare(info, (), share.topology)


@contextlib.contextmanager
def _signals_left_to_master() -> Iterator[None]:
    """Ignore what asks the job to stop: the master drains it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {each: signal.signal(each, signal.SIG_IGN) for each in asking}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _check_pickles(value: object) -> None:
    """Find out here whether other ranks can get a value: they wait for it."""
    try:
        pickle.dumps(value)
    except Exception as error:
        message = f"a {type(value).__name__} cannot be sent to the other ranks: {error}"
        raise QcmbError(message) from error


def _portable(error: BaseException) -> BaseException:
    """Return `error` in a form that pickles and makes sense on another rank."""
    if isinstance(error, QcmbError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted on rank 0")
    return QcmbError(f"{type(error).__name__} on rank 0: {error}")
