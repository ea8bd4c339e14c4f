"""The composition root: input -> task space -> pool -> store -> numbers -> result and summary.

Rules of this file
------------------
1. Rooms are put together here and nowhere else; no room is done here.
2. Once work has begun, every error ends it with a summary and a store to resume from; the exit code
   tells what running again can mend (75) from what it cannot.
3. A signal is noted while the loop runs, raises while nobody would look for it, and waits while an
   end is written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qcmb_mpi import schema
from qcmb_mpi.errors import Interrupted, QcmbError, StoreError, TransportError
from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.engine import QCEngineRecipe
from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
from qcmb_mpi.execution.layout import Placement
from qcmb_mpi.execution.stop import Stop, heed_signals
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import Outlook, Prospect
from qcmb_mpi.learned import calibration_of, keep
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.plan_ranks import Ranks, fewer_ranks
from qcmb_mpi.report import summary as summaries
from qcmb_mpi.report.deadline import needed_walltime
from qcmb_mpi.report.events import EventLog
from qcmb_mpi.report.progress import Progress, SilentProgress
from qcmb_mpi.report.sources import material_of
from qcmb_mpi.runs import RunEnd, RunOptions
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from qcmb_mpi.store import Store
from qcmb_mpi.watcher import Watcher

__all__ = ["RunEnd", "RunOptions", "run_expansion"]

_LOG = logging.getLogger(__name__)
_MARGIN_S = 10.0
_QUICK_TABLE_TASKS = 1_000_000  # 1.3 us each

T = TypeVar("T")
_REMEDIED = (
    "tasks that converged only with other keywords (--remedies): %d; equations and thresholds "
    "are those of the input, but the solution may be another; see `remedies` in the summary, and "
    "in the provenance of the result"
)


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
        By default SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are heard from here to the end.
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
        Nothing was run: a program is missing, the store is somebody else's, a signal came, ...
    """
    options = options or RunOptions()
    deadline_s = _deadline_s(options)
    space = TaskSpace(loaded.expansion)
    with contextlib.ExitStack() as stack:
        stack.enter_context(executor.turn())
        began_s = time.monotonic() if start_s is None else start_s
        number = executor.next_space()
        summary = summaries.RunSummary(
            {number: space}, executor.name, start_s=began_s, n_ranks=executor.n_ranks
        )
        stop = stop or stack.enter_context(heed_signals())
        opened = _opened(options.store, executor.config.checkpoint_interval)
        with stop.raising("opening the store"):  # where it may watch a lock for long
            store = stack.enter_context(opened)
        log = stack.enter_context(EventLog(options.events)) if options.events else None
        store.attach(number, space)
        if options.is_fresh:
            summary.note(is_fresh=True)
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
            stop=stop,
        )
        watcher = Watcher(space, summary, progress or SilentProgress(), log)
        return run.carry_through(watcher, before_work)


def _tell(
    prospect: Prospect, infos: Sequence[AgentInfo], outlook: Outlook, model: CostModel
) -> None:
    """Say where tasks run and why, and what is odd about it."""
    for doubt in (*prospect.memory_doubts(outlook), *outlook.placement.crowded(infos)):
        _LOG.warning("%s", doubt)
    _LOG.info("layout: %s", outlook.placement.reason)
    n_nodes = len({info.host for info in infos})
    if len(infos) > n_nodes and _LOG.isEnabledFor(logging.INFO):  # it takes a second prediction
        is_dedicated = not all(info.n_cores for info in infos)
        ranks = Ranks(len(infos), n_nodes, is_master_dedicated=is_dedicated)
        if advice := fewer_ranks(prospect, ranks, model):
            _LOG.info("%s", advice)


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
        stop: Stop,
    ) -> None:
        self._deadline_s = deadline_s
        self._stop = stop
        self._loaded = loaded
        self._space = space
        self._number = number
        self._executor = executor
        self._options = options
        self._store = store
        self._summary = summary
        self._has_begun = False
        self._longest_s = 0.0

    @property
    def _is_kept(self) -> bool:
        """Whether there is a store that another run can go on from."""
        return self._options.store is not None

    def carry_through(self, watcher: Watcher, before_work: Callable[[], None]) -> RunEnd:
        """Work and conclude; an error after the first task may have cost something ends early."""
        passing: tuple[type[Exception], ...] = (Interrupted, TransportError, StoreError)
        try:
            n_failed = self._work(watcher, before_work)
            self._store.flush()
            passing = (Interrupted, TransportError)  # from here on the store is only read
            return self._conclude(n_failed)
        except Exception as error:
            if not self._has_begun and not isinstance(error, Interrupted):
                raise
            is_ours = isinstance(error, QcmbError)
            text = str(error) if is_ours else f"{type(error).__name__}: {error}"
            _LOG.error("%s", text)
            self._note_end("incomplete")
            self._summary.note(stopped=text)
            last = None if isinstance(error, passing) else error
            summary = self._finish("incomplete")
            return RunEnd("incomplete", None, summary, error=last, is_kept=self._is_kept)

    def _work(self, watcher: Watcher, before_work: Callable[[], None]) -> int | None:
        """Run what is not in the store; return the tasks that failed, None if stopped early."""
        loaded, store = self._loaded, self._store
        done = store.done(self._number, with_records=loaded.wants_records)
        remedies = store.remedied(self._number, with_records=loaded.wants_records)
        self._summary.reused(done, space=self._number, remedies=remedies)
        prospect = Prospect(self._space, self._executor.config, done=done)
        dispatcher = self._dispatcher(prospect.config, watcher)
        model = dispatcher.scheduler.cost_model
        learnt = calibration_of(store) or self._executor.learnt
        model.recall(learnt, machine=processor_name())
        job = Job(self._number, self._recipe(prospect.config), prospect.classes, done)

        def begin() -> None:
            n_before = store.n_done()
            before_work()
            self._has_begun = True
            self._note_start(len(done), n_before)

        try:
            dispatcher.open(job, lambda infos: self._place(prospect, infos, model), begin)
            with watcher.showing():
                is_through = dispatcher.run()
            if dispatcher.ending is not None:
                self._summary.note(stopped=dispatcher.ending)
            n_failed = dispatcher.scheduler.counts(self._number).quarantined
            is_given_up = n_failed > 0 and self._options.is_stopping_on_failure
            return n_failed if is_through or is_given_up else None
        finally:
            dispatcher.close(job)
            model = dispatcher.scheduler.cost_model  # with the last lessons
            keep(store, model)
            if model.has_learnt:
                self._executor.learnt = model.as_dict()

    def _dispatcher(self, config: ExecutorConfig, watcher: Watcher) -> Dispatcher:
        dispatcher = Dispatcher(
            self._executor.transport,
            self._executor.n_ranks,
            self._store,
            options=SchedulerOptions(
                n_retries=config.max_retries,
                order=self._options.order,
                is_stopping_on_failure=self._options.is_stopping_on_failure,
            ),
            observer=watcher,
            stop=self._stop,
            timeout_s=config.timeout_per_task,
            scratch=None if config.scratch_dir is None else os.fspath(config.scratch_dir),
            grant=self._executor.grant,
        )
        if self._deadline_s is not None:
            dispatcher.set_deadline(self._deadline_s)
        return dispatcher

    def _recipe(self, config: ExecutorConfig) -> QCEngineRecipe:
        loaded = self._loaded
        return QCEngineRecipe(
            loaded.expansion, config.imports, loaded.wants_records, config.is_remedied
        )

    def _place(self, prospect: Prospect, infos: Sequence[AgentInfo], model: CostModel) -> Placement:
        """Say where tasks run; note what is expected of them."""
        prospect.check_memory(infos)
        outlook = prospect.on(infos, model)
        _tell(prospect, infos, outlook, model)
        self._summary.predicted(outlook.expected, space=self._number)
        self._longest_s = outlook.longest_s
        return outlook.placement

    def _conclude(self, n_failed: int | None) -> RunEnd:
        """Assemble, if everything is there; say how it ended before anything that takes time."""
        status, result = "incomplete", None
        if n_failed:
            status = "failed"
        elif n_failed == 0:
            if self._stop.is_cutting_off:
                raise Interrupted(f"stopped before assembling: {self._stop.reason}")
            with self._stop.raising("assembling"):
                status, result = "complete", self._assemble()
        self._note_end(status)
        material = None
        if self._options.wants_timeline:
            material = self._extra(
                "timeline", lambda: material_of(self._store, self._space, space_id=self._number)
            )
        table = self._extra("n-body table", lambda: self._table(status, result)) or ""
        summary = self._finish(status)
        return RunEnd(status, result, summary, material, table, is_kept=self._is_kept)

    def _extra(self, name: str, make: Callable[[], T]) -> T | None:
        """Return something that a run can end without, should the store or the time not last."""
        try:
            with self._stop.raising(f"making the {name}"):
                return make()
        except (StoreError, Interrupted) as error:
            _LOG.error("no %s: %s", name, error)
            return None

    def _table(self, status: str, result: Any) -> str:
        """Print the n-body tables, of what there is; who was told to stop has a second for that."""
        if result is not None:
            return schema.n_body_table(result)
        if status == "incomplete" and self._space.n_tasks > _QUICK_TABLE_TASKS:
            return ""
        return schema.partial_table(self._space, self._store.values(self._number))

    def _finish(self, status: str) -> dict[str, Any]:
        summary = self._summary.finish(status, time.monotonic())
        summary |= needed_walltime(summary, self._options.deadline_s, self._longest_s)
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
            remedies=self._store.remedied(self._number, with_records=self._loaded.wants_records),
        )
        self._summary.assembly(time.monotonic() - began_s)
        return result

    def _note_start(self, n_reused: int, n_before: int) -> None:
        """Leave word in the store of what has begun, for ``status`` and ``report``."""
        self._store.set_meta(
            {
                "n_tasks": self._space.n_tasks,
                "n_reused": n_reused,
                "n_rows_before": n_before,
                "executor": self._executor.name,
                "n_ranks": self._executor.n_ranks,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_s": time.time(),
                "input": json.loads(self._loaded.model.model_dump_json()),
            }
        )
        self._note_status("running")

    def _note_end(self, status: str) -> None:
        """Leave word of how it ended, now; that it ended does not depend on it."""
        if not self._has_begun:
            return
        try:
            self._note_status(status)
            self._store.flush()
        except StoreError as error:
            _LOG.debug("the end was not noted: %s", error)

    def _note_status(self, status: str) -> None:
        """Leave word in the store of how it stands."""
        self._store.set_meta({"status": status, "updated_s": time.time()})
