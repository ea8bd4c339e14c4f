"""When and where tasks ran: the trace file, and the bars of the report.

Rules of this file
------------------
1. Columns in, plain data out; the same rows give the same bytes.
2. What is drawn is bounded by pixels, not by tasks; what is written to a trace is every task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.report.files import replace_lines

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SESSION_GAP_S = 60.0
MAX_BARS = 12_000
MAX_LANES = 96


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """Attempts that gave a result, one per row.

    Parameters
    ----------
    task : int64[m]
        Task ids.
    start_s, seconds : float64[m]
        Start (seconds since the epoch) and wall time.
    rank, slot : int64[m]
        Where each ran.
    host : tuple of str
        Name of each row's machine.
    level : int64[m]
        Number of real fragments, which colours the bars; 0 if unknown.
    peak_bytes, attempts : int64[m]
        Peak memory, 0 if unknown; attempts over all runs.
    stride : int
        One task in so many is here.
    """

    task: Ints
    start_s: Floats
    seconds: Floats
    rank: Ints
    slot: Ints
    host: tuple[str, ...]
    level: Ints
    peak_bytes: Ints
    attempts: Ints
    stride: int = 1

    def __len__(self) -> int:
        return len(self.task)

    @classmethod
    def from_columns(cls, columns: Mapping[str, ArrayLike | Sequence[str]]) -> TaskRows:
        """Make rows from columns by name, of which only the first five must be there.

        Parameters
        ----------
        columns : mapping
            Of ``task``, ``start_s``, ``seconds``, ``rank``, ``slot`` and perhaps ``host``,
            ``level``, ``peak_bytes`` and ``attempts`` to sequences of one length.

        Returns
        -------
        TaskRows
        """
        n_rows = len(np.asarray(columns["task"]))
        whole: dict[str, Any] = {
            name: np.asarray(columns.get(name, np.zeros(n_rows)), np.int64)
            for name in ("task", "rank", "slot", "level", "peak_bytes", "attempts")
        }
        host = tuple(str(name) for name in np.asarray(columns.get("host", [""] * n_rows)).tolist())
        start_s = np.asarray(columns["start_s"], np.float64)
        seconds = np.asarray(columns["seconds"], np.float64)
        return cls(**whole, start_s=start_s, seconds=seconds, host=host)

    def take(self, rows: NDArray[Any]) -> TaskRows:
        """Pick rows by index or mask."""
        places = np.arange(len(self))[rows]
        host = tuple(self.host[place] for place in places.tolist())
        columns = {
            each.name: getattr(self, each.name)[places]
            for each in fields(self)
            if each.name not in ("host", "stride")
        }
        return replace(self, host=host, **columns)

    def ordered(self) -> TaskRows:
        """Sort by start, then place, then task."""
        return self.take(np.lexsort((self.task, self.slot, self.rank, self.start_s)))

    def last_session(self, gap_s: float = SESSION_GAP_S) -> TaskRows:
        """Keep what ran after the last time that nothing at all ran for `gap_s`.

        A store keeps results of earlier runs too; a picture of all would be mostly empty.
        """
        if len(self) == 0:
            return self
        rows = self.ordered()
        ends_s = np.maximum.accumulate(rows.start_s + rows.seconds)
        breaks = np.flatnonzero(rows.start_s[1:] - ends_s[:-1] > gap_s)
        return rows if len(breaks) == 0 else rows.take(np.arange(breaks[-1] + 1, len(rows)))


def write_trace(path: Path | str, rows: TaskRows, labels: Sequence[str]) -> None:
    """Write a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

    Parameters
    ----------
    path : Path or str
    rows : TaskRows
    labels : sequence of str
        Of each row.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    replace_lines(path, _trace_lines(rows, labels))


def _trace_lines(rows: TaskRows, labels: Sequence[str]) -> Iterator[str]:
    yield '{"displayTimeUnit":"ms","traceEvents":['
    separator = ""
    for event in trace_events(rows, labels):
        yield separator + json.dumps(event, separators=(",", ":"))
        separator = ","
    yield "]}"


def trace_events(rows: TaskRows, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give the trace's events: a process per rank, a thread per slot, a slice per task.

    Parameters
    ----------
    rows : TaskRows
    labels : sequence of str

    Yields
    ------
    dict
        Times in microseconds from the first start.
    """
    order = np.lexsort((rows.task, rows.slot, rows.rank, rows.start_s)).tolist()
    lanes = sorted(set(zip(rows.rank.tolist(), rows.host, rows.slot.tolist(), strict=True)))
    for rank, host in sorted({(rank, host) for rank, host, _ in lanes}):
        yield _name_event("process_name", f"rank {rank} {host}".rstrip(), pid=rank)
    for rank, slot in sorted({(rank, slot) for rank, _, slot in lanes}):
        yield _name_event("thread_name", f"slot {slot}", pid=rank, tid=slot)
    first_s = float(rows.start_s.min()) if len(rows) else 0.0
    for row in order:
        yield {
            "name": labels[row],
            "cat": f"{rows.level[row]}-body",
            "ph": "X",
            "ts": round(1e6 * (float(rows.start_s[row]) - first_s), 1),
            "dur": round(1e6 * float(rows.seconds[row]), 1),
            "pid": int(rows.rank[row]),
            "tid": int(rows.slot[row]),
            "args": {"task": int(rows.task[row])},
        }


def _name_event(kind: str, name: str, **where: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", **where, "args": {"name": name}}


@dataclass(frozen=True, slots=True)
class Bar:
    """A task, or several short ones in a row, on one lane of the picture.

    Parameters
    ----------
    lane : int
    start_s, end_s : float
        From the first start of all.
    level : int
        Of the (first) task.
    n_tasks : int
    row : int
        Of the (first) task.
    """

    lane: int
    start_s: float
    end_s: float
    level: int
    n_tasks: int
    row: int


@dataclass(frozen=True, slots=True)
class Gantt:
    """What the picture of a run consists of.

    Parameters
    ----------
    lanes : tuple of (int, int, str)
        Rank, slot and host of each lane drawn.
    n_hidden : int
        Lanes left out.
    span_s : float
        First start to last end.
    bars : tuple of Bar
    """

    lanes: tuple[tuple[int, int, str], ...]
    n_hidden: int
    span_s: float
    bars: tuple[Bar, ...]


def gantt(rows: TaskRows, *, n_columns: int = 1000) -> Gantt:
    """Reduce rows to bars that can be told apart in a picture of `n_columns` pixels.

    Parameters
    ----------
    rows : TaskRows
    n_columns : int, optional

    Returns
    -------
    Gantt
        Of at most 96 lanes and about 12,000 bars, however many rows there are.
    """
    if len(rows) == 0:
        return Gantt((), 0, 0.0, ())
    keys = list(zip(rows.rank.tolist(), rows.slot.tolist(), rows.host, strict=True))
    every = sorted(set(keys))
    lanes = every[:MAX_LANES]
    number = {key: lane for lane, key in enumerate(lanes)}
    lane_of = np.array([number.get(key, -1) for key in keys])
    start_s = rows.start_s - rows.start_s.min()
    span_s = float((start_s + rows.seconds).max())
    pixel_s = span_s / max(min(n_columns, MAX_BARS // len(lanes)), 1)
    bars: list[Bar] = []
    for lane in range(len(lanes)):
        members = np.flatnonzero(lane_of == lane)
        members = members[np.argsort(start_s[members], kind="stable")]
        bars += _lane_bars(lane, members, start_s[members], rows, pixel_s)
    return Gantt(tuple(lanes), len(every) - len(lanes), span_s, tuple(bars))


def _lane_bars(
    lane: int, members: NDArray[np.intp], start_s: Floats, rows: TaskRows, pixel_s: float
) -> Iterator[Bar]:
    """Join neighbours shorter than two pixels with less than one between them."""
    end_s = start_s + rows.seconds[members]
    is_short = rows.seconds[members] < 2 * pixel_s
    is_joined = is_short[1:] & is_short[:-1] & (start_s[1:] - end_s[:-1] < pixel_s)
    is_joined &= rows.level[members][1:] == rows.level[members][:-1]
    firsts = np.flatnonzero(np.concatenate(([True], ~is_joined)))
    lasts = np.append(firsts[1:], len(members))
    ends = np.maximum.reduceat(end_s, firsts)
    for first, last, end in zip(firsts.tolist(), lasts.tolist(), ends.tolist(), strict=True):
        row = int(members[first])
        level = int(rows.level[row])
        yield Bar(lane, float(start_s[first]), end, level, last - first, row)


def utilisation(rows: TaskRows, n_slots: int, *, n_bins: int = 200) -> Floats:
    """Compute the share of slots at work over time.

    Parameters
    ----------
    rows : TaskRows
    n_slots : int
        Slots there were, busy or not.
    n_bins : int, optional
        Equal parts of the time from first start to last end.

    Returns
    -------
    float64[n_bins]
        Between 0 and 1; empty without rows.
    """
    if len(rows) == 0 or n_slots < 1:
        return np.zeros(0)
    start_s = np.sort(rows.start_s - rows.start_s.min())
    end_s = np.sort(rows.start_s - rows.start_s.min() + rows.seconds)
    edges_s = _edges_s(rows, n_bins)
    done_s = rows.stride * (_time_since(edges_s, start_s) - _time_since(edges_s, end_s))
    return np.clip(np.diff(done_s) / (np.diff(edges_s) * n_slots), 0.0, 1.0)


def _time_since(moments_s: Floats, events_s: Floats) -> Floats:
    """Sum, for each moment, the time that has passed since each earlier event."""
    n_before = np.searchsorted(events_s, moments_s)
    sums = np.concatenate(([0.0], np.cumsum(events_s)))
    return np.asarray(moments_s * n_before - sums[n_before], np.float64)


def waiting(rows: TaskRows, n_open: int = 0, *, n_bins: int = 200) -> Floats:
    """Count the tasks that have not begun, over time.

    Parameters
    ----------
    rows : TaskRows
    n_open : int, optional
        Tasks that wait at the end.
    n_bins : int, optional
        Equal parts of the time from first start to last end.

    Returns
    -------
    float64[n_bins]
        At the end of each part; empty without rows.
    """
    if len(rows) == 0:
        return np.zeros(0)
    start_s = np.sort(rows.start_s - rows.start_s.min())
    begun = np.searchsorted(start_s, _edges_s(rows, n_bins)[1:], side="right")
    return np.asarray(n_open + rows.stride * (len(rows) - begun), np.float64)


def memory(rows: TaskRows, *, n_bins: int = 200) -> Floats:
    """Add up the peaks of all tasks that run, over time: what they may have had at most.

    A peak is unknown where it was below that of an earlier task of the slot, and counts as that.

    Parameters
    ----------
    rows : TaskRows
    n_bins : int, optional
        Equal parts of the time from first start to last end.

    Returns
    -------
    float64[n_bins]
        The largest sum in each part, bytes; empty if no peak is known.
    """
    if not rows.peak_bytes.any():
        return np.zeros(0)
    start_s = rows.start_s - rows.start_s.min()
    moments_s = np.concatenate([start_s + rows.seconds, start_s])
    peaks = _at_most(rows)
    changes = rows.stride * np.concatenate([-peaks, peaks])
    order = np.argsort(moments_s, kind="stable")  # at one moment: ends before starts
    in_use = np.cumsum(changes[order])
    edges_s = _edges_s(rows, n_bins)
    place = np.clip(np.searchsorted(edges_s, moments_s[order], side="right") - 1, 0, n_bins - 1)
    highest = np.full(n_bins, -1)
    np.maximum.at(highest, place, in_use)
    before = np.searchsorted(moments_s[order], edges_s[:-1], side="right") - 1
    found = np.maximum(highest, in_use[np.maximum(before, 0)])
    return np.asarray(found, np.float64)


def _at_most(rows: TaskRows) -> Ints:
    """Replace peaks that are unknown by the highest one before in the slot."""
    order = np.lexsort((rows.start_s, rows.slot, rows.rank))
    peaks, lanes = rows.peak_bytes[order], np.stack([rows.rank, rows.slot])[:, order]
    breaks = np.flatnonzero((np.diff(lanes, axis=1) != 0).any(axis=0)) + 1
    highest = np.concatenate([np.maximum.accumulate(part) for part in np.split(peaks, breaks)])
    found = np.empty_like(peaks)
    found[order] = np.where(peaks > 0, peaks, highest)
    return found


def _edges_s(rows: TaskRows, n_bins: int) -> Floats:
    """Cut the time from first start to last end into equal parts."""
    end_s = float((rows.start_s - rows.start_s.min() + rows.seconds).max())
    return np.linspace(0.0, max(end_s, 1e-9), n_bins + 1)
