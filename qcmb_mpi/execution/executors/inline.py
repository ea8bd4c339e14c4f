"""Agents without slots: tasks run in this process, or in somebody else's pool.

Rules of this file
------------------
1. The same messages as :class:`~qcmb_mpi.execution.agent.Agent`, so that drivers cannot tell.
2. Every task has the threads of the layout: those of a process that is shared, or somebody else's,
   are not changed from task to task, so these agents say that they cannot widen.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

from qcmb_mpi.errors import QcmbError, TransportError
from qcmb_mpi.execution.backlog import Backlog
from qcmb_mpi.execution.engine import Engine, EngineRecipe, SlotResources
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.stop import Cut, cuttable
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Closed,
    Done,
    FromAgent,
    Open,
    Ready,
    Recall,
    Returned,
    Shut,
    TaskIds,
    ToAgent,
    Work,
)
from qcmb_mpi.scheduling.policy import ErrorClass

T = TypeVar("T")


class InlineAgent:
    """Computes in the caller's own thread, one task for each poll.

    Parameters
    ----------
    info : AgentInfo

    Notes
    -----
    ``Work.is_alone`` changes nothing: here every task is alone and has all memory of the agent.
    """

    def __init__(self, info: AgentInfo) -> None:
        self.info = replace(info, can_widen=False)
        self._engines: dict[int, Engine] = {}
        self._backlog = Backlog()
        self._news: list[FromAgent] = []

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""
        match message:
            case Open():
                self._open(message)
            case Work(space, ids):
                self._backlog.add(space, ids)
            case Recall(space):
                self._news.append(Returned(space, self._backlog.recall(space)))
            case Shut(space):
                self._engines.pop(space, None)
                self._backlog.recall(space)
                self._news.append(Closed(space))

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Tell the news, or run a few tasks and tell their outcomes."""
        if not self._news:
            batch = self._backlog.batch(1)
            if batch is None:
                time.sleep(min(timeout_s, 0.01))
            else:
                self._run(*batch)
        news, self._news = self._news, []
        return news

    def _run(self, space: int, ids: TaskIds) -> None:
        computed: list[Outcome] = []
        try:
            with cuttable():
                for outcome in _compute(self._engines[space], space, ids):
                    computed.append(outcome)
                    if outcome.failure is not None:
                        break  # after which the master may want no more
        except Cut:
            pass  # the task that was cut off is as if it had never begun
        outcomes = Outcomes.of(computed)
        self._backlog.put_back(space, ids[len(computed) :])
        self._backlog.learn(outcomes)
        self._news.append(Done(outcomes))

    def close(self, *, wait: bool = True) -> None:
        """Forget the engines."""
        self._engines.clear()

    def _open(self, message: Open) -> None:
        resources = _resources(self.info, message)
        try:
            self._engines[message.space] = message.recipe.build(resources)
        except QcmbError as error:
            self._news.append(Ready(message.space, error))
        else:
            self._news.append(Ready(message.space))


class FuturesAgent:
    """Submits tasks to a ``concurrent.futures.Executor``: threads, Dask, Parsl, loky, ...

    Parameters
    ----------
    info : AgentInfo
    pool : concurrent.futures.Executor
    is_owned : bool
        Whether to shut `pool` down at the end.

    Notes
    -----
    ``Work.is_alone`` gives a task no more memory than others: where the pool runs it is not known.
    """

    def __init__(
        self, info: AgentInfo, pool: concurrent.futures.Executor, *, is_owned: bool = False
    ) -> None:
        self.info = replace(info, can_widen=False)
        self._pool = pool
        self._is_owned = is_owned
        self._open: dict[int, Callable[[TaskIds], tuple[Outcome, ...]]] = {}
        self._n_slots = 0
        self._running: dict[concurrent.futures.Future[tuple[Outcome, ...]], tuple[int, TaskIds]]
        self._running = {}
        self._ended: queue.SimpleQueue[concurrent.futures.Future[tuple[Outcome, ...]]]
        self._ended = queue.SimpleQueue()
        self._backlog = Backlog()
        self._news: list[FromAgent] = []

    def handle(self, message: ToAgent) -> None:
        """Take a message of the master."""
        match message:
            case Open():
                self._open_space(message)
            case Work(space, ids):
                self._backlog.add(space, ids)
            case Recall(space):
                self._news.append(Returned(space, self._backlog.recall(space)))
            case Shut(space):
                self._open.pop(space, None)
                self._backlog.recall(space)
                self._hear_ended()
                self._news.append(Closed(space))
        self._feed()

    def poll(self, timeout_s: float) -> list[FromAgent]:
        """Return what has ended, waiting up to `timeout_s` for it."""
        if not self._news:
            with contextlib.suppress(queue.Empty):
                self._hear(self._ended.get(timeout=timeout_s))
        self._hear_ended()
        self._feed()
        news, self._news = self._news, []
        return news

    def close(self, *, wait: bool = True) -> None:
        """Cancel what has not started; shut an owned pool down.

        What still runs was given up by a run that has ended: nobody waits for it.
        """
        for future in self._running:
            future.cancel()
        if self._is_owned:
            self._pool.shutdown(wait=wait and not self.is_busy, cancel_futures=True)

    @property
    def is_busy(self) -> bool:
        """Whether a task runs."""
        return any(future.running() for future in self._running)

    def _open_space(self, message: Open) -> None:
        self._n_slots = message.layout.n_slots
        resources = _resources(self.info, message)
        what = (uuid.uuid4().hex, message.recipe, resources)
        self._open[message.space] = partial(_compute_remotely, *what, message.space)
        try:
            self._submit(_prepare_remotely, *what).result()
        except QcmbError as error:
            self._news.append(Ready(message.space, error))
        else:
            self._news.append(Ready(message.space))

    def _feed(self) -> None:
        while len(self._running) < self._n_slots:
            batch = self._backlog.batch(self._n_slots)
            if batch is None:
                return
            space, ids = batch
            future = self._submit(self._open[space], ids)
            self._running[future] = batch
            future.add_done_callback(self._ended.put)

    def _submit(self, function: Callable[..., T], *args: object) -> concurrent.futures.Future[T]:
        try:
            return self._pool.submit(function, *args)
        except RuntimeError as error:  # it was shut down, or its workers have died
            raise TransportError(f"the pool takes no more work: {error}") from error

    def _hear_ended(self) -> None:
        while not self._ended.empty():
            self._hear(self._ended.get())

    def _hear(self, future: concurrent.futures.Future[tuple[Outcome, ...]]) -> None:
        space, ids = self._running.pop(future)
        if future.cancelled():
            self._backlog.put_back(space, ids)
            return
        error = future.exception()
        outcomes = Outcomes.of(
            future.result() if error is None else self._broken(space, ids, error)
        )
        self._backlog.learn(outcomes)
        self._news.append(Done(outcomes))

    def _broken(self, space: int, ids: TaskIds, error: BaseException) -> tuple[Outcome, ...]:
        failure = Failure(ErrorClass.CRASHED, "crashed", f"{type(error).__name__}: {error}")
        return tuple(
            Outcome(space, task, time.time(), 0.0, failure=failure, host=self.info.host)
            for task in ids.tolist()
        )


def _resources(info: AgentInfo, message: Open) -> SlotResources:
    return SlotResources(
        rank=info.rank,
        host=info.host,
        n_threads=message.layout.n_threads,
        memory_bytes=message.layout.memory_per_slot_bytes,
        scratch=message.scratch,
        is_guest=True,
    )


def _compute(engine: Engine, space: int, ids: TaskIds) -> Iterator[Outcome]:
    return (replace(engine.compute(task), space=space) for task in ids.tolist())


_ENGINES_KEPT = 4
_engines: dict[str, Engine] = {}


def _engine(key: str, recipe: EngineRecipe, resources: SlotResources) -> Engine:
    """Build an engine once for each process of the pool."""
    engine = _engines.get(key)
    if engine is None:
        engine = recipe.build(resources)
        while len(_engines) >= _ENGINES_KEPT:
            _engines.pop(next(iter(_engines)), None)
        _engines[key] = engine
    return engine


def _prepare_remotely(key: str, recipe: EngineRecipe, resources: SlotResources) -> None:
    _engine(key, recipe, resources)


def _compute_remotely(
    key: str, recipe: EngineRecipe, resources: SlotResources, space: int, ids: TaskIds
) -> tuple[Outcome, ...]:
    return tuple(_compute(_engine(key, recipe, resources), space, ids))
