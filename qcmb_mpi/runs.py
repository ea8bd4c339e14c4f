"""What a run is asked to do, and how it ended: the values that go into the driver and come out.

Rules of this file
------------------
1. Values only; what they mean to a process is its exit code, to a Python caller an exception.
2. 75 is for what running again may mend: other ends must not make a job script try again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcmb_mpi.errors import Interrupted, QcmbError, TasksFailed
from qcmb_mpi.report.deadline import no_progress
from qcmb_mpi.report.sources import Material

_EXIT_CODES = {"complete": 0, "failed": 1, "incomplete": Interrupted.exit_code}


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
        Whether the end is to tell what trace and report show of single tasks.
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
    material : Material, optional
        What report and trace show of single tasks.
    table : str
        The n-body tables; where results are missing they say so.
    error : Exception, optional
        What ended an incomplete run, if running it again does not help: a bug, a damaged store.
    is_kept : bool
        Whether there is a store that another run can go on from.
    """

    status: str
    result: Any
    summary: dict[str, Any]
    material: Material | None = None
    table: str = ""
    error: Exception | None = None
    is_kept: bool = True

    @property
    def exit_code(self) -> int:
        """The process's."""
        if self.error is None:
            return _EXIT_CODES[self.status]
        return getattr(self.error, "exit_code", QcmbError.exit_code)

    def raise_if_unfinished(self) -> None:
        """Raise what a Python caller should see instead of a result.

        Raises
        ------
        TasksFailed
            Some tasks failed for good.
        Interrupted
            The run was stopped early.
        Exception
            What ended it, if running it again does not help.
        """
        if self.error is not None:
            raise self.error
        if self.status == "failed":
            failed = tuple(self.summary["failed"])
            first = failed[0]
            message = f"{first['label']}: {first['error_type']}: {first['message']}"
            tasks = "1 task" if len(failed) == 1 else f"{len(failed)} tasks"
            raise TasksFailed(f"{tasks} failed for good, first {message}", failed=failed)
        if self.status == "incomplete":
            if stuck := no_progress(self.summary):
                raise Interrupted(stuck)
            n_left = self.summary["n_tasks"] - self.summary["n_computed"] - self.summary["n_reused"]
            why = self.summary.get("stopped") or "no reason known"
            advice = "run again to go on"
            if not self.is_kept:
                advice = "nothing was kept: with checkpoint_file the next run would go on"
            raise Interrupted(f"stopped early ({why}) with {n_left} tasks left; {advice}")
