"""The composition root: input -> task space -> pool -> store -> numbers -> result and summary.

Rules of this file
------------------
1. Rooms are put together here and nowhere else; no room is done here.
2. Once work has begun, every error of ours ends it with a summary and a store to resume from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcmb_mpi import schema
from qcmb_mpi.errors import Interrupted, QcmbError, StoreError, TasksFailed
from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.engine import QCEngineRecipe
from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.execution.layout import choose_layouts
from qcmb_mpi.execution.stop import Stop, heed_signals
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import forecast, thread_limit
from qcmb_mpi.report import summary as summaries
from qcmb_mpi.report.events import EventLog
from qcmb_mpi.report.progress import Progress, SilentProgress
from qcmb_mpi.report.sources import rows_of
from qcmb_mpi.report.timeline import TaskRows
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from qcmb_mpi.store import Store
from qcmb_mpi.watcher import Watcher

_LOG = logging.getLogger(__name__)
_MARGIN_S = 10.0
_QUICK_TABLE_TASKS = 1_000_000  # 1.3 us each
_REMEDIED = (
    "tasks that converged only with other keywords (--remedies): %d; equations and thresholds "
    "are those of the input, but the solution may be another; see `remedies` in the summary"
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run one expansion; the executor has its own options.

    Parameters
    ----------
    store : Path, optional
        The result store; None keeps results only while the run lasts.
    is_fresh : bool
        Do not reuse results in the store.
    is_stopping_on_failure : bool
        Stop after the first task that failed for good, instead of going on with the others.
    order : {"lpt", "level"}
    deadline_s : float, optional
        Seconds from now after which nothing runs any more.
    cluster_properties : {"auto", "all", "none"}
    events : Path, optional
        Where to log every event and decision.
    wants_timeline : bool
        Whether the end is to tell when and where every task ran.
    """

    store: Path | None = None
    is_fresh: bool = False
    is_stopping_on_failure: bool = False
    order: str = "lpt"
    deadline_s: float | None = None
    cluster_properties: str = "auto"
    events: Path | None = None
    wants_timeline: bool = False


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    Parameters
    ----------
    status : {"complete", "failed", "incomplete"}
    result : ManyBodyResult, optional
        Set if and only if complete.
    summary : dict
        The fields of ``*.run.json``.
    timeline : tuple of TaskRows and list of str, optional
        When and where every task ran, and their labels.
    table : str
        The n-body tables; where results are missing they say so.
    """

    status: str
    result: Any
    summary: dict[str, Any]
    timeline: tuple[TaskRows, list[str]] | None = None
    table: str = ""

    def raise_if_unfinished(self) -> None:
        """Raise what a Python caller should see instead of a result.

        Raises
        ------
        TasksFailed
            Some tasks failed for good.
        Interrupted
            The run was stopped early.
        """
        if self.status == "failed":
            failed = tuple(self.summary["failed"])
            first = failed[0]
            message = f"{first['label']}: {first['error_type']}: {first['message']}"
            tasks = "1 task" if len(failed) == 1 else f"{len(failed)} tasks"
            raise TasksFailed(f"{tasks} failed for good, first {message}", failed=failed)
        if self.status == "incomplete":
            n_left = self.summary["n_tasks"] - self.summary["n_computed"] - self.summary["n_reused"]
            why = self.summary.get("stopped") or "no reason known"
            raise Interrupted(f"stopped early ({why}) with {n_left} tasks left; run again to go on")


def run_expansion(
    loaded: schema.LoadedInput,
    executor: Executor,
    options: RunOptions | None = None,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
    start_s: float | None = None,
    before_work: Callable[[], None] = lambda: None,
) -> RunEnd:
    """Run a many-body expansion on the master.

    Parameters
    ----------
    loaded : LoadedInput
    executor : Executor
        Initialised or not; it stays warm.
    options : RunOptions, optional
    progress : Progress, optional
    stop : Stop, optional
        By default SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are heard while it runs.
    start_s : float, optional
        When the run began, on the monotonic clock; default now.
    before_work : callable, optional
        Called when every check is passed, before the first task.

    Returns
    -------
    RunEnd

    Raises
    ------
    QcmbError
        Nothing was run: a program is missing, the store is somebody else's, ...
    """
    options = options or RunOptions()
    deadline_s = _deadline_s(options)
    space = TaskSpace(loaded.expansion)
    began_s = time.monotonic() if start_s is None else start_s
    number = executor.next_space()
    summary = summaries.RunSummary(
        {number: space}, executor.name, start_s=began_s, n_ranks=executor.n_ranks
    )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_opened(options.store, executor.config.checkpoint_interval))
        stop = stop or stack.enter_context(heed_signals())
        log = stack.enter_context(EventLog(options.events)) if options.events else None
        store.attach(number, space)
        if options.is_fresh:
            store.forget(number)
        run = _Run(
            loaded,
            space,
            number,
            executor,
            options,
            store=store,
            summary=summary,
            deadline_s=deadline_s,
        )
        watcher = Watcher(space, summary, progress or SilentProgress(), log)
        return run.carry_through(watcher, stop, before_work)


def _deadline_s(options: RunOptions) -> float | None:
    """Return when to stop, on the monotonic clock: early enough to end every slot and say so."""
    left_s = options.deadline_s
    return None if left_s is None else time.monotonic() + left_s - min(_MARGIN_S, 0.1 * left_s)


@contextlib.contextmanager
def _opened(path: Path | None, interval_s: float) -> Iterator[Store]:
    """Open the store; if nothing was run because of an error, leave no new file behind."""
    is_new = path is not None and not path.exists()
    store = Store.open(path, commit_interval_s=interval_s)
    try:
        yield store
    except QcmbError:
        is_useless = is_new and not store.counts()
        _close(store)
        if path is not None and is_useless:
            path.unlink(missing_ok=True)
        raise
    except BaseException:
        _close(store)
        raise
    _close(store)


def _close(store: Store) -> None:
    """Close the store; what could not be written was told already and is computed again."""
    try:
        store.close()
    except StoreError as error:
        _LOG.error("%s", error)


class _Run:
    """One expansion on one pool."""

    def __init__(
        self,
        loaded: schema.LoadedInput,
        space: TaskSpace,
        number: int,
        executor: Executor,
        options: RunOptions,
        *,
        store: Store,
        summary: summaries.RunSummary,
        deadline_s: float | None,
    ) -> None:
        self._deadline_s = deadline_s
        self._loaded = loaded
        self._space = space
        self._number = number
        self._executor = executor
        self._options = options
        self._store = store
        self._summary = summary
        self._has_begun = False

    def carry_through(
        self, watcher: Watcher, stop: Stop, before_work: Callable[[], None]
    ) -> RunEnd:
        """Work and conclude; an error after the first task may have cost something ends early."""
        try:
            n_failed = self._work(watcher, stop, before_work)
            self._store.flush()
            end = self._conclude(n_failed)
            self._note_status(end.status)
        except QcmbError as error:
            if not self._has_begun and not isinstance(error, Interrupted):
                raise
            _LOG.error("%s", error)
            self._summary.note(stopped=str(error))
            end = RunEnd("incomplete", None, self._finish("incomplete"))
        return end

    def _work(self, watcher: Watcher, stop: Stop, before_work: Callable[[], None]) -> int | None:
        """Run what is not in the store; return the tasks that failed, None if stopped early."""
        loaded, config, store = self._loaded, self._executor.config, self._store
        done = store.done(self._number, with_records=loaded.wants_records)
        remedies = store.remedied(self._number, with_records=loaded.wants_records)
        self._summary.reused(done, space=self._number, remedies=remedies)
        classes = forecast(self._space)
        self._summary.predicted(classes, space=self._number)
        recipe = QCEngineRecipe(
            loaded.expansion, config.imports, loaded.wants_records, config.is_remedied
        )
        job = Job(self._number, recipe, classes, done)
        dispatcher = Dispatcher(
            self._executor.transport,
            self._executor.n_ranks,
            store,
            options=SchedulerOptions(
                n_retries=config.max_retries,
                order=self._options.order,
                is_stopping_on_failure=self._options.is_stopping_on_failure,
            ),
            observer=watcher,
            stop=stop,
            timeout_s=config.timeout_per_task,
            scratch=None if config.scratch_dir is None else os.fspath(config.scratch_dir),
        )
        if self._deadline_s is not None:
            dispatcher.set_deadline(self._deadline_s)
        limit = thread_limit(self._space)
        try:
            dispatcher.open(
                job,
                lambda infos: choose_layouts(infos, classes, config, done=done, thread_limit=limit),
            )
            before_work()
            self._has_begun = True
            self._note_start(len(done))
            with watcher.showing():
                is_through = dispatcher.run()
            if dispatcher.ending is not None:
                self._summary.note(stopped=dispatcher.ending)
            n_failed = dispatcher.scheduler.counts(self._number).quarantined
            is_given_up = n_failed > 0 and self._options.is_stopping_on_failure
            return n_failed if is_through or is_given_up else None
        finally:
            dispatcher.close(job)

    def _conclude(self, n_failed: int | None) -> RunEnd:
        """Assemble, if everything is there."""
        status, result = "incomplete", None
        if n_failed:
            status = "failed"
        elif n_failed == 0:
            status, result = "complete", self._assemble()
        timeline = None
        if self._options.wants_timeline:
            timeline = rows_of(self._store, self._space, space_id=self._number)
        return RunEnd(status, result, self._finish(status), timeline, self._table(status, result))

    def _table(self, status: str, result: Any) -> str:
        """Print the n-body tables, of what there is; who was told to stop has a second for that."""
        if result is not None:
            return schema.n_body_table(result)
        if status == "incomplete" and self._space.n_tasks > _QUICK_TABLE_TASKS:
            return ""
        return schema.partial_table(self._space, self._store.values(self._number))

    def _finish(self, status: str) -> dict[str, Any]:
        summary = self._summary.finish(status, time.monotonic())
        if summary["n_remedied"]:
            _LOG.warning(_REMEDIED, summary["n_remedied"])
        return summary

    def _assemble(self) -> Any:
        began_s = time.monotonic()
        values = self._store.values(self._number)
        result = schema.build_result(
            self._loaded,
            self._space,
            assemble(self._space, values),
            values,
            self._store.records(self._number) if self._loaded.wants_records else (),
            cluster_properties=self._options.cluster_properties,
        )
        self._summary.assembly(time.monotonic() - began_s)
        return result

    def _note_start(self, n_reused: int) -> None:
        """Leave word in the store of what has begun, for ``status`` and ``report``."""
        self._store.set_meta(
            {
                "n_tasks": self._space.n_tasks,
                "n_reused": n_reused,
                "n_rows_before": sum(count.n_done for count in self._store.counts()),
                "executor": self._executor.name,
                "n_ranks": self._executor.n_ranks,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_s": time.time(),
                "input": json.loads(self._loaded.model.model_dump_json()),
            }
        )
        self._note_status("running")

    def _note_status(self, status: str) -> None:
        """Leave word in the store of how it stands."""
        self._store.set_meta({"status": status, "updated_s": time.time()})
