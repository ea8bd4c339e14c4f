"""Executors on one node without MPI: serial, local processes, threads, any futures pool.

Rules of this file
------------------
1. The local process pool survives whatever its programs do; the others trade that away for
   running in the caller's process or in somebody else's pool.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
from dataclasses import replace
from typing import ClassVar

from qcmb_mpi.execution.agent import Agent
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
from qcmb_mpi.execution.executors.inline import FuturesAgent, InlineAgent
from qcmb_mpi.execution.forkserver import PRELOAD, ForkServer, clean_environment
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.wire import LocalTransport, Transport


class SequentialExecutor(Executor):
    """One task after the other, in the caller's process."""

    name: ClassVar[str] = "serial"

    def __init__(self, config: ExecutorConfig | None = None) -> None:
        super().__init__(replace(config or ExecutorConfig(), n_workers=1))

    def _start(self) -> Transport:
        return LocalTransport(InlineAgent(host_share(memory_bytes=self.config.memory_bytes).info))


class MultiprocessingExecutor(Executor):
    """Warm processes of this node, each pinned to its cores.

    Parameters
    ----------
    config : ExecutorConfig, optional
    server : ForkServer, optional
        One that is already starting; by default a new one.

    Notes
    -----
    A slot that crashes or overruns its time is replaced; its task is reported.
    """

    name: ClassVar[str] = "multiprocessing"

    def __init__(
        self, config: ExecutorConfig | None = None, *, server: ForkServer | None = None
    ) -> None:
        super().__init__(config)
        self._server = server

    def _start(self) -> Transport:
        server, self._server = self._server or _new_server(), None
        share = host_share(memory_bytes=self.config.memory_bytes, is_pinned=self.config.is_pinned)
        agent = Agent(
            share.info,
            server,
            slot_cpus=share.slot_cpus,
            new_server=_new_server,
            n_spares=self.config.likely_slots(share.info.n_cores),
        )
        return LocalTransport(agent)


def _new_server() -> ForkServer:
    return ForkServer.start(clean_environment(os.environ), PRELOAD)


class FuturesExecutor(Executor):
    """Any ``concurrent.futures.Executor``: Dask's, Parsl's, loky's, mpi4py.futures'.

    Parameters
    ----------
    pool : concurrent.futures.Executor
        The caller's; it is not shut down.
    config : ExecutorConfig, optional
        ``n_workers`` should be the number of workers of `pool`.

    Notes
    -----
    Such pools cannot kill a single task, so ``timeout_per_task`` has no effect on them.
    """

    name: ClassVar[str] = "futures"

    def __init__(
        self, pool: concurrent.futures.Executor, config: ExecutorConfig | None = None
    ) -> None:
        super().__init__(config)
        self._pool = pool

    def _start(self) -> Transport:
        info = host_share(memory_bytes=self.config.memory_bytes).info
        pool_size: int | None = getattr(self._pool, "_max_workers", None)
        n_workers = self.config.n_workers or pool_size or info.n_cores
        return LocalTransport(FuturesAgent(replace(info, n_cores=n_workers), self._pool))


class ThreadExecutor(Executor):
    """Threads of the caller's process, for programs that are child processes anyway.

    Notes
    -----
    ``timeout_per_task`` has no effect: a thread cannot be killed.
    """

    name: ClassVar[str] = "thread"
    _agent: FuturesAgent | None = None

    def _start(self) -> Transport:
        info = host_share(memory_bytes=self.config.memory_bytes).info
        pool = concurrent.futures.ThreadPoolExecutor(self.config.n_workers or info.n_cores)
        self._agent = FuturesAgent(info, pool, is_owned=True)
        return LocalTransport(self._agent)

    def leave(self, code: int) -> None:
        """Leave with `code` here and now if a thread is still at a task that was given up."""
        if self._agent is not None and self._agent.is_busy:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
