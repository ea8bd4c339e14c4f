"""How far a run is, or how it ended, seen from another shell.

Rules of this file
------------------
1. Read-only, and no task space: quick on any store, whoever writes to it.
2. A run that says it is running is believed only while its process can be there, and no summary
   has been written since it began.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import StoreError
from qcmb_mpi.report.deadline import no_progress
from qcmb_mpi.report.files import RunFiles, find_files, is_result, read_json
from qcmb_mpi.report.reading import read_summary
from qcmb_mpi.report.snapshot import format_duration, percent

if TYPE_CHECKING:
    from qcmb_mpi.store import Store

_QUIET_S = 60.0
_WORDS = {
    "running": "running",
    "stopped": "not running any more: its process has gone without a word",
    "complete": "complete",
    "failed": "ended, some tasks failed for good",
    "incomplete": "stopped early",
    "unknown": "unknown",
}


def status_of(path: Path | str, *, now: float | None = None) -> dict[str, Any]:
    """Find out how a run is going.

    Parameters
    ----------
    path : Path or str
        STORE, RESULT or summary.
    now : float, optional
        Seconds since the epoch; default the clock's.

    Returns
    -------
    dict
        ``state`` (running, stopped, complete, failed, incomplete, unknown), ``name``,
        ``n_tasks``, ``n_done``, ``n_reused``, ``n_failed``, ``rate_per_s``, ``remaining_s``,
        ``started_s``, ``updated_s`` (seconds since the epoch), ``age_s`` (of the last update),
        ``elapsed_s``, ``host``, ``executor``, ``n_ranks``, ``levels``, ``files``,
        ``needed_walltime_s`` (of a run that had too little time for any task) and ``store_error``
        (why the store cannot be read). What is not known is None.

    Raises
    ------
    InputError
        If there is no such run.
    StoreError
        If the store is damaged, foreign or newer, and there is neither summary nor result.
    """
    now = time.time() if now is None else now
    files = find_files(path)
    status: dict[str, Any] = dict.fromkeys(_FIELDS) | {
        "state": "unknown",
        "name": _name(files),
        "levels": [],
        "files": {k: str(v) for k, v in _paths(files).items() if v is not None},
    }
    if files.store is not None:
        try:
            status |= _from_store(files.store, now)
        except StoreError as error:
            if files.summary is None and files.result is None:
                raise
            status["store_error"] = str(error)
    is_open = status["state"] in ("running", "stopped")
    if not is_open or _is_newer(files.summary, status["started_s"]):
        status |= _from_ended(files, status["state"])
    if status["updated_s"] is not None:
        status["age_s"] = max(now - status["updated_s"], 0.0)
    return status


_FIELDS = (
    "state", "name", "n_tasks", "n_done", "n_reused", "n_failed", "rate_per_s", "remaining_s",
    "started_s", "updated_s", "age_s", "elapsed_s", "host", "executor", "n_ranks", "levels",
    "files", "needed_walltime_s", "longest_left_s", "store_error",
)  # fmt: skip
_COPIED = (
    "n_tasks", "n_reused", "n_failed", "executor", "n_ranks", "levels", "needed_walltime_s",
    "longest_left_s",
)  # fmt: skip


def _paths(files: RunFiles) -> dict[str, Path | None]:
    return {"result": files.result, "summary": files.summary, "store": files.store}


def _name(files: RunFiles) -> str:
    first = next((each for each in _paths(files).values() if each is not None), Path())
    return first.name.split(".")[0]


def _from_store(path: Path, now: float) -> dict[str, Any]:
    from qcmb_mpi.store import Store

    with Store.open(path, is_read_only=True) as store:
        keys = ("status", "n_tasks", "n_reused", "host", "executor", "n_ranks", "started_s", "pid")
        meta = {key: store.meta(key) for key in keys}
        found = _counts(store, meta)
    updated_s = path.stat().st_mtime
    state = _state(meta)
    found |= {key: meta[key] for key in keys if key not in ("status", "pid")}
    found |= {"state": state, "updated_s": updated_s}
    if meta["started_s"] is not None:
        last_s = now if state == "running" else updated_s
        found["elapsed_s"] = max(last_s - meta["started_s"], 0.0)
        found |= _rate(found)
    return found


def _state(meta: Mapping[str, Any]) -> str:
    state = str(meta["status"] or "unknown")
    if state == "running" and meta["host"] == socket.gethostname() and meta["pid"] is not None:
        return "running" if _lives(int(meta["pid"])) else "stopped"
    return state


def _lives(pid: int) -> bool:
    """Whether a process is there, and not only its exit code, which nobody has asked for."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _counts(store: Store, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Count this run's tasks in a store that may hold those of others too."""
    blocks = store.counts()
    n_done = sum(block.n_done for block in blocks)
    n_before = store.meta("n_rows_before")
    if n_before is not None:
        n_done = n_done - n_before + (meta["n_reused"] or 0)
    if meta["n_tasks"] is not None:
        n_done = min(n_done, meta["n_tasks"])
    levels: dict[tuple[str, int], dict[str, Any]] = {}
    for block in blocks:
        model = "/".join(filter(None, (block.method, block.basis)))
        empty = {"model": model, "nbody": block.n_real, "n_done": 0, "n_failed": 0}
        row = levels.setdefault((model, block.n_real), empty)
        row["n_done"] += block.n_done
        row["n_failed"] += block.n_failed
    n_failed = sum(block.n_failed for block in blocks)
    return {"n_done": n_done, "n_failed": n_failed, "levels": list(levels.values())}


def _rate(found: Mapping[str, Any]) -> dict[str, Any]:
    n_new = found["n_done"] - (found["n_reused"] or 0)
    if n_new < 1 or not found["elapsed_s"]:
        return {}
    rate_per_s = n_new / found["elapsed_s"]
    n_left = (found["n_tasks"] or 0) - found["n_done"] - found["n_failed"]
    left = {"remaining_s": max(n_left, 0) / rate_per_s} if found["state"] == "running" else {}
    return {"rate_per_s": rate_per_s, **left}


def _is_newer(summary: Path | None, started_s: float | None) -> bool:
    """Whether a summary tells of the end of what began then, though the store could not."""
    return summary is not None and started_s is not None and summary.stat().st_mtime > started_s


def _from_ended(files: RunFiles, state: str) -> dict[str, Any]:
    """Read the summary of a run that has ended, or else its result."""
    if files.summary is not None:
        summary = read_summary(files.summary)
        found = {key: summary[key] for key in _COPIED if key in summary}
        found["n_done"] = summary.get("n_computed", 0) + summary.get("n_reused", 0)
        found |= {"state": summary.get("status", state), "elapsed_s": summary.get("wall_s")}
        return found | {"remaining_s": None, "updated_s": files.summary.stat().st_mtime}
    if files.result is not None:
        is_complete = is_result(read_json(files.result))
        updated_s = files.result.stat().st_mtime
        return {"state": "complete" if is_complete else state, "updated_s": updated_s}
    return {}


def format_status(status: Mapping[str, Any]) -> str:
    """Write a status for people.

    Parameters
    ----------
    status : mapping
        Of :func:`status_of`.

    Returns
    -------
    str
        Two to six lines; no line end at the end.
    """
    where = _where(status)
    if status["state"] == "incomplete":
        again = "" if status["needed_walltime_s"] else "; the same command goes on"
        where = f"{' after running' + where if where else ''}{again}"
    lines = [f"{status['name']}: {_WORDS.get(status['state'], status['state'])}{where}"]
    lines += [_tasks(status), _times(status), _last_word(status), no_progress(status)]
    lines.append(_store_word(status))
    return "\n  ".join(line for line in lines if line)


def _where(status: Mapping[str, Any]) -> str:
    parts = []
    if status["host"]:
        parts.append(f"on {status['host']}")
    if status["executor"]:
        n_ranks = status["n_ranks"] or 1
        ranks = f", {n_ranks} ranks" if n_ranks > 1 else ""
        parts.append(f"({status['executor']}{ranks})")
    return " " + " ".join(parts) if parts else ""


def _tasks(status: Mapping[str, Any]) -> str:
    if status["n_done"] is None:
        return ""
    total = status["n_tasks"]
    share = f" of {total} tasks done ({percent(status['n_done'] / total)})" if total else " done"
    notes = "".join(
        f", {status[key]} {word}"
        for key, word in (("n_failed", "failed"), ("n_reused", "reused"))
        if status[key]
    )
    return f"{status['n_done']}{share}{notes}"


def _times(status: Mapping[str, Any]) -> str:
    parts = []
    if status["started_s"] is not None:
        started = datetime.fromtimestamp(status["started_s"], timezone.utc).astimezone()
        parts.append(f"since {started:%Y-%m-%d %H:%M:%S}")
    if status["elapsed_s"] is not None:
        parts.append(format_duration(status["elapsed_s"]))
    if status["rate_per_s"]:
        rate = status["rate_per_s"]
        parts.append(f"{rate:.1f} tasks/s" if rate >= 1 else f"{60 * rate:.1f} tasks/min")
    if status["remaining_s"]:
        parts.append(f"about {format_duration(status['remaining_s'])} left at this rate")
    return ", ".join(parts)


def _last_word(status: Mapping[str, Any]) -> str:
    if status["age_s"] is None:
        return ""
    text = f"last update {format_duration(status['age_s'])} ago"
    if status["state"] == "running" and status["age_s"] > _QUIET_S:
        return f"{text}: either its tasks take that long, or it has died on {status['host']}"
    if status["state"] == "stopped":
        return f"{text}; run the same command again to go on"
    return text


def _store_word(status: Mapping[str, Any]) -> str:
    if status["store_error"] is None:
        return ""
    relief = "the result does not need it any more, but " * (status["state"] == "complete")
    return f"{relief}its store cannot be read: {status['store_error']}"
