"""The executor that starts an agent on every rank and shares what rank 0 finds out.

Rules of this file
------------------
1. Every rank makes the same calls and leaves them with the same value or exception.
2. Collectives only while the ranks start; a rank that dies there ends the job.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from qcmb_mpi.errors import Interrupted, QcmbError, TopologyError
from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig, opened
from qcmb_mpi.execution.executors.mpi import leave, startup_watch
from qcmb_mpi.execution.executors.mpi.bell import Bell
from qcmb_mpi.execution.executors.mpi.mail import Mail, is_loss
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbour, Neighbours
from qcmb_mpi.execution.forkserver import PRELOAD, ForkServer, clean_environment
from qcmb_mpi.execution.host import HostShare, host_share
from qcmb_mpi.execution.stop import handled_by
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.machine import affinity, launcher

if TYPE_CHECKING:
    from mpi4py import MPI

    from qcmb_mpi.execution.executors.mpi.master import MasterTransport
    from qcmb_mpi.execution.executors.mpi.worker import Worker
    from qcmb_mpi.execution.wire import Transport

T = TypeVar("T")


class MPIExecutor(Executor):
    """An agent on every rank of an MPI communicator.

    Every rank makes the same calls and gets the same results, so a script needs no rank guard.

    Any rank but the first may be lost: its work goes to the others. Under Open MPI 5's
    ``mpiexec --with-ft ulfm`` that holds for ranks that die; with any launcher it holds for ranks
    that fall silent (``heartbeat_s``) or can start no more slots. A rank that dies without ULFM
    ends the job, also under MPICH (with ``-disable-auto-cleanup`` too): the same command resumes.
    After a loss the process leaves without MPI_Finalize: with exit code 1 if an exception went
    unhandled, else 0, also after a ``sys.exit`` of another code.

    Parameters
    ----------
    config : ExecutorConfig, optional
    comm : MPI.Comm, optional
        Default ``MPI.COMM_WORLD``. What is said here goes over a copy of it, which stays with it
        until it is freed and is used again by the next executor.
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
        self._departure = leave.Departure()
        self._is_sharing = False

    @property
    def comm(self) -> MPI.Comm:
        """The user's communicator, checked against the launcher."""
        if self._comm is None:
            environment = dict(os.environ)  # before MPI_Init, which may change it
            if self._server is None and launcher.leads_node(environment):
                self._server = self._start_server()
            # Open MPI's one-sided transport over libfabric, which nothing here uses, sleeps for a
            # second while it starts.
            os.environ.setdefault("OMPI_MCA_btl", "^ofi")
            is_up = "mpi4py.MPI" in sys.modules
            with self._watched(environment, math.inf if is_up else startup_watch.LIMIT_S):
                start_mpi()
            from mpi4py import MPI

            self._departure.prepare()
            library = " ".join(MPI.Get_library_version().split("\n")[0].split())
            launcher.check_world(environment, MPI.COMM_WORLD.size, library=library)
            self._comm = self._given_comm or MPI.COMM_WORLD
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
                from qcmb_mpi.execution.executors.mpi.worker import Worker

                self._worker = Worker(*self._settle(), self._departure, self.config.heartbeat_s)

    @contextlib.contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        """End the whole job rather than leave the other ranks waiting for this one."""
        _ = self.comm  # what is wrong with it is wrong on every rank
        try:
            yield
        except BaseException:
            traceback.print_exc()
            self._departure.with_a_bug(QcmbError.exit_code)

    def _start(self) -> Transport:
        from qcmb_mpi.execution.executors.mpi.master import MasterTransport

        return MasterTransport(*self._settle(), self._departure, self.config.heartbeat_s)

    def shutdown(self, wait: bool = True) -> None:
        """End this rank's slots."""
        with self._turn:
            if self._worker is not None:
                self._worker.close(wait=wait)
                self._worker = None
            super().shutdown(wait)

    def leave(self, code: int) -> None:
        """Leave with `code` here and now if ranks were lost, or could still be lost."""
        if self._comm is not None:
            self._departure.now(code)

    def share(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0; every rank returns its value or raises its exception.

        What `work` shares in its turn is rank 0's alone: the others serve it until `work` ends.
        """
        with self._turn, opened(self):
            if self._is_sharing:
                return work()
            self.initialize()
            if self._worker is not None:
                return cast("T", self._serve(self._worker))
            return self._lead(cast("MasterTransport", self.transport), work)

    def _lead(self, transport: MasterTransport, work: Callable[[], T]) -> T:
        transport.greet()
        self._is_sharing = True
        try:
            value = work()
            _check_pickles(value)
        except BaseException as error:
            self._conclude(transport, None, _portable(error))
            raise
        finally:
            self._is_sharing = False
        self._conclude(transport, value, None)
        return value

    def _conclude(
        self, transport: MasterTransport, value: object, error: BaseException | None
    ) -> None:
        end = transport.conclude(value, error)
        if not end.is_whole:
            self._departure.decide(transport.take_leave, has_silent=transport.has_silent)
        if end.error is not None and end.error is not error:
            raise end.error

    def _serve(self, worker: Worker) -> object:
        # The master drains the job when it is asked to stop.
        with self._abort_on_error(), handled_by(signal.SIG_IGN):
            end = worker.serve()
        if not end.is_whole:
            self._departure.decide(worker.take_leave)
        if end.error is not None:
            raise end.error
        return end.value

    def _start_server(self) -> ForkServer:
        """Start a server that is not bound to this rank's core, as mpiexec binds ranks."""
        with affinity.pinned(affinity.allocation_mask(self._is_binding_respected)):
            return ForkServer.start(clean_environment(os.environ), PRELOAD)

    @contextlib.contextmanager
    def _watched(self, environment: Mapping[str, str], limit_s: float = math.inf) -> Iterator[None]:
        """See to it that no rank waits in a collective for one that has died."""
        found = launcher.launcher(environment)
        watch: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if found is not None and found.local_rank == 0 and self._departure.is_tolerant:
            watch = startup_watch.kept(environment, found.local_size or 1, limit_s=limit_s)
        with watch, _ending_on_loss():
            yield

    def _settle(self) -> tuple[Agent, Mail, Neighbours]:
        """Divide the node among its ranks and make this rank's agent."""
        with self._watched(os.environ):
            mail, bell = Mail(self.comm), Bell()
            server, address, rows = self._meet_neighbours(mail.comm, bell)
        share = self._share(rows)
        server = server or ForkServer.connect(address)
        agent = Agent(
            share.info,
            server,
            slot_cpus=share.slot_cpus,
            new_server=self._start_server,
            bell=bell,
            n_spares=self.config.likely_slots(share.info.n_cores),
        )
        neighbours = Neighbours(rows, bell)
        mail.ring = neighbours.ring
        return agent, mail, neighbours

    def _meet_neighbours(
        self, comm: MPI.Comm, bell: Bell
    ) -> tuple[ForkServer | None, str, list[Neighbour]]:
        """Return our own fork server if we have one, the node's, and the ranks of the node."""
        node = self._node(comm)
        server, self._server = self._server, None
        mask = affinity.allocation_mask(self._is_binding_respected)
        us = Neighbour(comm.rank, mask, bell.address)
        met = node.allgather((us, None if server is None else server.address))
        known = next(filter(None, (address for _, address in met)), None)
        if known is None:  # no early start: the first rank of the node makes up for it
            if node.rank == 0:
                server = self._start_server()
            known = node.bcast(None if server is None else server.address)
        if node is not comm:
            node.Free()
        return server, known, [row for row, _ in met]

    def _node(self, comm: MPI.Comm) -> MPI.Comm:
        """Return the ranks of this node; `comm` itself, which takes no time, where that is all."""
        from mpi4py import MPI

        found = launcher.launcher(os.environ)
        is_all = found is not None and found.local_size == MPI.COMM_WORLD.size
        if is_all and self._given_comm is None:
            return comm
        return comm.Split_type(MPI.COMM_TYPE_SHARED)

    def _share(self, node: Sequence[Neighbour]) -> HostShare:
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
            is_pinned=self.config.is_pinned,
        )


def start_mpi() -> None:
    """Have MPI started, or say why it cannot be.

    Raises
    ------
    TopologyError
    """
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise TopologyError(
            f"MPI cannot be started: {' '.join(str(error).split())}; install mpi4py and the MPI "
            "library of this mpiexec, or see `qcmb-mpi doctor`"
        ) from error


@contextlib.contextmanager
def _ending_on_loss() -> Iterator[None]:
    """End the job if a rank dies in a collective: no rank can tell who got how far."""
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
        where = f"{leave.rank_name()}: another rank died while the job started"
        print(f"qcmb-mpi: {where}; start it again", file=sys.stderr, flush=True)
        leave.at_once(leave.EXIT_INCOMPLETE)


def _idle_share(share: HostShare) -> HostShare:
    info = AgentInfo(0, share.info.host, 0, share.info.memory_bytes)
    return HostShare(info, (), share.topology)


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
