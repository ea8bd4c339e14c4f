"""The last lines of a run, for people, and statistics of results for scripts.

Rules of this file
------------------
1. Every number says what it is; none is shown that was not measured.
2. A failure is shown with what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from qcmb_mpi.report.deadline import no_progress
from qcmb_mpi.report.snapshot import format_duration, share, short_label
from qcmb_mpi.report.tallies import NO_LAYOUT, costs
from qcmb_mpi.scheduling.policy import ErrorClass, error_class_of

N_FAILURES_SHOWN = 5
N_LABELS_SHOWN = 3
N_TAIL_LINES = 3
N_AGENTS_SHOWN = 3
MESSAGE_LENGTH = 200
N_WORDS_COMPARED = 50
_ADVICE = (
    (("timeout", "timed out"), "give it more time with --timeout, or more threads with --threads"),
    (("memory", "resource"), "give it more memory with --memory, or fewer slots with --workers"),
    (
        ("converge",),
        "see that charges and multiplicities of the fragments are right; let the program try more "
        "with --remedies, or change its keywords in INPUT",
    ),
    (("scratch",), "see that --scratch is there, and has room, on every node"),
    (("missing", "not found"), "install it on every node: `qcmb-mpi doctor` there says what is"),
    (("hung",), "see in the program's output what it waited for (licence, scratch, file system)"),
    (("garbage",), "look at the program's keywords and version: its result was none"),
    (("input",), "correct INPUT where the message says"),
    (("signal", "crash", "died"), "see the program's output above; memory is a frequent cause"),
)
_RECURRING = frozenset(
    {ErrorClass.UNKNOWN, ErrorClass.INPUT, ErrorClass.CONVERGENCE, ErrorClass.GARBAGE}
)
# An error of unknown kind whose message speaks of the machine may be gone the next time.
_SIGNS_OF_CHANCE = ("timeout", "timed out", "memory", "signal", "crash", "died", "not found")
# In a word that is a number, a time, a path or a name with a number.
_VARYING = re.compile(r"[\d/\\]|^[-+]?(?:nan|inf)\b", re.IGNORECASE)
_EMPTY_ROW = re.compile(r"^\s*(?:FULL)?\s+\d+(?:\s+N/A)+\s*$")
_TELLING = frozenset({"code", "signal", "status", "errno"})  # the number after it is no measure
STOPPED_ON_FAILURE = "a task failed for good"  # in the scheduler's words
_COMES_AGAIN = (
    "the error came from the program and will come again: check basis, geometry, charges and "
    "keywords"
)


def shortened_table(table: str) -> str:
    """Put rows of the n-body table that say nothing together, for a screen.

    Parameters
    ----------
    table : str
        As QCManyBody prints it, with a row for every order there could be.

    Returns
    -------
    str
        Orders that were not expanded, if they are more than three, in one row.
    """
    lines: list[str] = []
    for is_empty, rows in groupby(table.split("\n"), lambda line: bool(_EMPTY_ROW.match(line))):
        many = list(rows)
        if is_empty and len(many) > 3:
            first, last = (row.split("N/A")[0].split()[-1] for row in (many[0], many[-1]))
            many = [f"{first}-{last}".rjust(19) + "        N/A"]
        lines += many
    return "\n".join(lines)


def compute_execution_stats(results: Iterable[Any] | Mapping[Any, Any]) -> dict[str, Any]:
    """Summarise what became of a collection of tasks.

    Parameters
    ----------
    results : iterable or mapping of TaskResult or Outcome
        One entry per task or per attempt; attempts at one task are taken together. The values of
        a mapping count.

    Returns
    -------
    dict
        Fields of the run summary that can be known from results alone: ``status``, ``n_tasks``,
        ``n_computed``, ``n_failed``, ``n_retries``, ``busy_s``, ``longest_s``, ``mean_s``,
        ``failed`` and, where results tell when and where they ran, ``wall_s`` (first start to
        last end), ``n_slots``, ``lower_bound_s`` and ``efficiency``.
    """
    given = list(results.values() if isinstance(results, Mapping) else results)
    last = {_name(each, place): each for place, each in enumerate(given)}
    for place, each in enumerate(given):
        if _is_success(each):
            last[_name(each, place)] = each
    done = [_seconds(each) for each in last.values() if _is_success(each)]
    failed = [_failed_row(name, each) for name, each in last.items() if not _is_success(each)]
    repeats = sum(max(int(getattr(each, "attempts", 1)), 1) - 1 for each in given)
    stats: dict[str, Any] = {
        "status": "failed" if failed else "complete",
        "n_tasks": len(last),
        "n_computed": len(done),
        "n_reused": 0,
        "n_failed": len(failed),
        "n_retries": repeats + len(given) - len(last),
        "busy_s": sum(done),
        "longest_s": max(done, default=0.0),
        "mean_s": sum(done) / len(done) if done else 0.0,
        "failed": failed,
    }
    return stats | _when_and_where(given, stats)


def _when_and_where(given: list[Any], stats: dict[str, Any]) -> dict[str, Any]:
    if not given or not all(hasattr(each, "start_s") for each in given):
        return {}
    wall_s = max(e.start_s + e.seconds for e in given) - min(e.start_s for e in given)
    n_slots = len({(e.host, e.rank, e.slot) for e in given})
    return {"wall_s": wall_s} | costs(stats["busy_s"], stats["longest_s"], n_slots, wall_s)


def _name(result: Any, place: int) -> str:
    if hasattr(result, "task_id"):
        return str(result.task_id)
    return f"{result.space}:{result.task}" if hasattr(result, "task") else str(place)


def _is_success(result: Any) -> bool:
    if hasattr(result, "failure"):
        return result.failure is None
    return bool(getattr(result, "success", False))


def _seconds(result: Any) -> float:
    return float(getattr(result, "seconds", getattr(result, "execution_time", 0.0)))


def _failed_row(name: str, result: Any) -> dict[str, Any]:
    failure = getattr(result, "failure", None)
    if failure is None:
        error_type = getattr(result, "error_type", "")
        message = getattr(result, "error_message", "")
    else:
        error_type, message = failure.error_type, failure.message
    attempts = int(getattr(result, "attempts", 1))
    return {"label": name, "error_type": error_type, "message": message, "attempts": attempts}


def format_execution_summary(stats: Mapping[str, Any]) -> str:
    """Write the end of a run for people.

    Parameters
    ----------
    stats : mapping
        Of :meth:`RunSummary.finish` or :func:`compute_execution_stats`. ``files``, a mapping of
        what (``result``, ``summary``, ``report``...) to path, is shown if it is there.

    Returns
    -------
    str
        Four to six lines, and the first failures; no line end at the end.
    """
    lines = [_tasks_line(stats), _layout_line(stats), _time_line(stats), _efficiency_line(stats)]
    lines += [
        _memory_line(stats),
        _prediction_line(stats),
        *_files_lines(stats),
        *_agent_lines(stats),
    ]
    lines += [*_failure_lines(stats), _stopped_line(stats), _next_line(stats)]
    return "\n".join(line for line in lines if line)


def _tasks_line(stats: Mapping[str, Any]) -> str:
    words = (("n_computed", "computed"), ("n_reused", "reused"), ("n_failed", "failed"))
    counts = [f"{stats.get(key, 0)} {word}" for key, word in words]
    counts += [f"{_n_open(stats)} not done"] if _n_open(stats) > 0 else []
    counts += (
        [f"{_count(stats['n_retries'], 'attempt')} repeated"] if stats.get("n_retries") else []
    )
    counts += [f"{stats['n_remedied']} converged by a remedy"] if stats.get("n_remedied") else []
    return f"{stats['status']}: {stats['n_tasks']} tasks: {', '.join(counts)}"


def _layout_line(stats: Mapping[str, Any]) -> str:
    layout = stats.get("layout", NO_LAYOUT)
    each = "in each rank " if stats.get("n_ranks", 1) > 1 else ""
    return "" if layout == NO_LAYOUT else f"layout: {each}{layout}"


def _memory_line(stats: Mapping[str, Any]) -> str:
    n_killed = stats.get("n_memory_kills", 0)
    if not n_killed:
        return ""
    were, ran = ("was", "its task runs") if n_killed == 1 else ("were", "their tasks run")
    return (
        f"memory: {_count(n_killed, 'attempt')} {were} ended for memory; {ran} again alone, as "
        "long as --retries lasts: more --memory or fewer --workers would spare that"
    )


def _n_open(stats: Mapping[str, Any]) -> int:
    settled = ("n_computed", "n_reused", "n_failed")
    return int(stats["n_tasks"] - sum(stats.get(key, 0) for key in settled))


def _time_line(stats: Mapping[str, Any]) -> str:
    parts = []
    if "wall_s" in stats:
        details = [
            f"{word} {format_duration(stats[key])}"
            for key, word in (("setup_s", "set-up"), ("assembly_s", "assembly"))
            if stats.get(key) is not None
        ]
        inside = f" ({', '.join(details)})" if details else ""
        parts.append(f"wall {format_duration(stats['wall_s'])}{inside}")
    slots = f" on {_count(stats['n_slots'], 'slot')}" if stats.get("n_slots") else ""
    parts.append(f"sum over tasks {format_duration(stats['busy_s'])}{slots}")
    if stats.get("wasted_s"):
        parts.append(f"failed attempts {format_duration(stats['wasted_s'])}")
    return f"time: {'; '.join(parts)}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _efficiency_line(stats: Mapping[str, Any]) -> str:
    if stats.get("efficiency") is None:
        return ""
    bound = format_duration(stats["lower_bound_s"])
    line = f"efficiency: {share(stats['efficiency'])} (at best {bound} on these slots)"
    slot_s = stats.get("slot_s", 0.0)
    if slot_s <= stats["busy_s"]:
        return line
    in_use = share(slot_s / (stats["n_slots"] * stats["wall_s"]))
    return f"{line}; as some had the cores of several slots, {in_use} of the cores were in use"


def _prediction_line(stats: Mapping[str, Any]) -> str:
    prediction = stats.get("prediction") or {}
    error = prediction.get("median_relative_error")
    if error is None:
        return ""
    predicted, measured = (format_duration(prediction[k]) for k in ("predicted_s", "measured_s"))
    return f"prediction: {predicted}, measured {measured}; a task is off by {share(error)} (median)"


def _files_lines(stats: Mapping[str, Any]) -> list[str]:
    files = stats.get("files") or {}
    shown = ", ".join(f"{what} {path}" for what, path in files.items() if path)
    return [f"files: {shown}"] if shown else []


def _agent_lines(stats: Mapping[str, Any]) -> list[str]:
    """Name the agents that did not stay to the end."""
    lines = []
    for agent in stats.get("agents") or []:
        reason = agent.get("trouble") or agent.get("set_aside")
        if reason:
            state = "lost" if agent["lost"] else "set aside" if agent["set_aside"] else "unfit"
            where = f" on {agent['host']}" if agent["host"] else ""
            lines.append(f"rank {agent['rank']}{where}: {state}: {_shorten(reason)}")
    n_more = len(lines) - N_AGENTS_SHOWN
    return lines[:N_AGENTS_SHOWN] + ([f"and {_count(n_more, 'more rank')}"] if n_more > 0 else [])


def _stopped_line(stats: Mapping[str, Any]) -> str:
    if not stats.get("stopped"):
        return ""
    if stats["stopped"] == STOPPED_ON_FAILURE and _n_open(stats) > 0:
        were = "task was" if _n_open(stats) == 1 else "tasks were"
        return (
            f"stopped early: {_n_open(stats)} {were} not tried (again) because of --on-failure "
            "stop; leave it out to have them computed"
        )
    return f"stopped early: {_shorten(stats['stopped'])}"


def _failure_lines(stats: Mapping[str, Any]) -> list[str]:
    failed = stats.get("failed") or []
    if not failed:
        return []
    groups = group_failures(failed)
    which = f", the first {N_FAILURES_SHOWN} kinds" if len(groups) > N_FAILURES_SHOWN else ""
    lines = [f"failed for good{which}:"]
    for rows in groups[:N_FAILURES_SHOWN]:
        row, error = rows[0], _error(rows[0])
        if len(rows) > 1:
            labels = ", ".join(short_label(str(each["label"])) for each in rows[:N_LABELS_SHOWN])
            more = ", ..." if len(rows) > N_LABELS_SHOWN else ""
            kind = "" if {_error(each) for each in rows} == {error} else " and alike"
            lines.append(f"  {len(rows)} tasks: {error}{kind} ({labels}{more})")
        else:
            attempts = _count(row["attempts"], "attempt")
            lines.append(f"  {short_label(str(row['label']))}  {error} ({attempts})")
        tail = str(row.get("output_tail") or "").rstrip().splitlines()[-N_TAIL_LINES:]
        lines += [f"    | {line[:MESSAGE_LENGTH]}" for line in tail]
    return lines


def group_failures(failed: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Put failures together whose texts differ by numbers, times, names and paths only.

    Parameters
    ----------
    failed : iterable of mapping
        With ``error_type``, ``message`` and, if known, ``program``.

    Returns
    -------
    list of list of mapping
        In the order of the first of each kind.
    """
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for row in failed:
        error = error_class_of(str(row["error_type"]))
        kind = (row.get("program"), error, *_gist(str(row["message"])))
        groups.setdefault(kind, []).append(row)
    return list(groups.values())


def _gist(message: str) -> list[str]:
    """Return the words of a message, what varies from task to task as ``#``."""
    words = message.split()[:N_WORDS_COMPARED]
    before = ("", *(word.lower().strip("[(:=") for word in words))
    masked = (
        "#" if _VARYING.search(word) and last not in _TELLING else word
        for word, last in zip(words, before, strict=False)
    )
    return [word for word, _ in groupby(masked)]


def _error(row: Mapping[str, Any]) -> str:
    program = f"{row['program']}: " if row.get("program") else ""
    return f"{program}{row['error_type']}: {_shorten(row['message'])}"


def _shorten(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 3] + "..."


def _next_line(stats: Mapping[str, Any]) -> str:
    if stats["status"] == "complete":
        return ""
    again = "run the same command again: finished tasks are not repeated"
    if "store" not in stats.get("files", {"store": ""}):
        again = "everything has to be computed again, as there is no store: leave out --no-store"
    elif stats.get("is_fresh"):
        again = "run the same command again without --fresh: finished tasks are not repeated"
    if stats["status"] == "incomplete":
        return no_progress(stats) or f"next: {again}"
    failed = stats.get("failed") or []
    advice = advice_for(failed)
    if failed and all(map(_comes_again, failed)):
        return f"next: {_COMES_AGAIN}{'; ' + advice if advice else ''}"
    return f"next: {advice}; then {again}" if advice else f"next: {again}"


def _comes_again(row: Mapping[str, Any]) -> bool:
    """Whether another run of the same input will meet the same error."""
    message = str(row.get("message", "")).lower()
    is_chance = any(word in message for word in _SIGNS_OF_CHANCE)
    return error_class_of(str(row.get("error_type", ""))) in _RECURRING and not is_chance


def advice_for(failed: Iterable[Mapping[str, Any]]) -> str:
    """Say what to do about failures.

    Parameters
    ----------
    failed : iterable of mapping
        With ``error_type`` and ``message``.

    Returns
    -------
    str
        Empty if nothing is known.
    """
    found: dict[str, None] = {}
    for row in failed:
        for text in (str(row.get("error_type", "")).lower(), str(row.get("message", "")).lower()):
            hints = [advice for words, advice in _ADVICE if any(word in text for word in words)]
            if hints:
                found[hints[0]] = None
                break
    return "; ".join(found)
