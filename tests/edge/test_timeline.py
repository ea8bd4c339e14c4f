"""When and where tasks ran: the trace, the bars and the utilisation."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.report.timeline import (
    MAX_BARS,
    MAX_LANES,
    TaskRows,
    gantt,
    memory,
    trace_events,
    utilisation,
    waiting,
    write_trace,
)
from tests.edge.report_cases import make_rows


def rows(**columns: Any) -> TaskRows:
    n_rows = len(columns["start_s"])
    defaults = {name: np.zeros(n_rows, np.int64) for name in ("rank", "slot")}
    return TaskRows.from_columns({"task": np.arange(n_rows), **defaults, **columns})


NONE = rows(start_s=[], seconds=[])


def test_trace_has_every_task_once(tmp_path: Path) -> None:
    made, labels = make_rows(8)
    path = tmp_path / "trace.json"
    write_trace(path, made, labels)
    events = json.loads(path.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"rank 0 node0", "rank 1 node1", "slot 0", "slot 1"}
    assert sorted(event["name"] for event in slices) == sorted(labels)
    assert min(event["ts"] for event in slices) == 0.0
    assert [event["ts"] for event in slices] == sorted(event["ts"] for event in slices)
    total_us = sum(event["dur"] for event in slices)
    assert total_us == pytest.approx(1e6 * made.seconds.sum(), rel=1e-5)
    assert {event["cat"] for event in slices} == {"1-body", "2-body", "3-body"}


def test_trace_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    made, labels = make_rows(6)
    order = np.random.default_rng(0).permutation(len(made))
    write_trace(tmp_path / "a", made, labels)
    write_trace(tmp_path / "b", made.take(order), [labels[row] for row in order])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_gives_an_empty_trace_and_picture(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", NONE, [])
    assert json.loads((tmp_path / "a").read_text())["traceEvents"] == []
    assert list(trace_events(NONE, [])) == []
    assert gantt(NONE).bars == ()
    assert len(utilisation(NONE, 4)) == 0
    assert len(NONE.last_session()) == 0


def test_bars_cover_every_task_once() -> None:
    made, _ = make_rows(16)
    picture = gantt(made)
    assert picture.lanes == ((0, 0, "node0"), (0, 1, "node0"), (1, 0, "node1"), (1, 1, "node1"))
    assert sum(bar.n_tasks for bar in picture.bars) == len(made)
    for lane in range(4):
        bars = [bar for bar in picture.bars if bar.lane == lane]
        assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(bars))
    assert max(bar.end_s for bar in picture.bars) == pytest.approx(picture.span_s)


def test_a_long_task_keeps_its_own_bar() -> None:
    made = rows(start_s=[0.0, 0.001, 0.002, 50.0], seconds=[0.001, 0.001, 0.001, 50.0])
    bars = gantt(made).bars
    assert [bar.n_tasks for bar in bars] == [3, 1]
    assert bars[1].row == 3


def test_short_tasks_of_two_levels_are_not_joined() -> None:
    made = rows(start_s=[0.0, 0.001, 99.0], seconds=[0.001, 0.001, 1.0], level=np.array([1, 2, 3]))
    assert [bar.level for bar in gantt(made).bars] == [1, 2, 3]


def test_a_picture_stays_small_whatever_runs() -> None:
    n_rows, n_lanes = 60_000, 300
    lane = np.arange(n_rows) % n_lanes
    start_s = (np.arange(n_rows) // n_lanes) * 10.0
    made = rows(start_s=start_s, seconds=np.full(n_rows, 9.0), rank=lane)
    picture = gantt(made)
    assert len(picture.lanes) == MAX_LANES
    assert picture.n_hidden == n_lanes - MAX_LANES
    assert len(picture.bars) <= 2 * MAX_BARS


def test_last_session_leaves_earlier_runs_out() -> None:
    made = rows(start_s=[1010.0, 0.0, 1000.0, 5.0], seconds=[5.0, 100.0, 3.0, 1.0])
    assert made.last_session().task.tolist() == [2, 0]
    assert made.last_session(gap_s=2000.0).task.tolist() == [1, 3, 2, 0]


def test_utilisation_is_busy_time_per_bin() -> None:
    made = rows(start_s=[0.0, 0.0, 5.0], seconds=[10.0, 5.0, 2.5], slot=[0, 1, 1])
    shares = utilisation(made, 2, n_bins=4)
    assert shares.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.5])
    assert utilisation(made, 4, n_bins=4).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.25])
    assert len(utilisation(made, 0)) == 0


def test_utilisation_conserves_work() -> None:
    made, _ = make_rows(12)
    span_s = gantt(made).span_s
    assert utilisation(made, 4).mean() * 4 * span_s == pytest.approx(made.seconds.sum())


def test_tasks_wait_until_they_begin() -> None:
    made = rows(start_s=[10.0, 10.0, 15.0, 17.0], seconds=[5.0, 2.5, 2.0, 3.0])
    assert waiting(made, n_bins=4).tolist() == [2.0, 1.0, 0.0, 0.0]
    assert waiting(replace(made, stride=3), n_bins=4).tolist() == [6.0, 3.0, 0.0, 0.0]
    assert waiting(made, 7, n_bins=4).tolist() == [9.0, 8.0, 7.0, 7.0]
    assert len(waiting(NONE)) == 0


def test_memory_is_the_sum_of_the_peaks_of_those_that_run() -> None:
    peaks = np.array([100, 10, 0, 1000])
    made = rows(
        start_s=[0.0, 1.0, 5.0, 9.5],
        seconds=[5.0, 1.0, 4.5, 0.5],
        slot=[0, 1, 0, 0],
        peak_bytes=peaks,
    )
    assert memory(made, n_bins=5).tolist() == [110.0, 100.0, 100.0, 100.0, 1000.0]
    assert memory(made, n_bins=1).tolist() == [1000.0]
    assert len(memory(rows(start_s=[0.0], seconds=[1.0]))) == 0
    assert len(memory(NONE)) == 0


def test_of_one_task_in_two_the_utilisation_is_that_of_all() -> None:
    made, _ = make_rows(16)
    half = replace(made.take(np.arange(0, len(made), 2)), stride=2)
    assert utilisation(half, 4).mean() == pytest.approx(utilisation(made, 4).mean(), rel=0.02)
