"""Progress: a live display on a terminal, lines elsewhere, silence when nobody can hear."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.report.progress import (
    LiveProgress,
    PlainProgress,
    SilentProgress,
    StderrHandler,
    make_console,
    make_progress,
)
from qcmb_mpi.report.snapshot import LevelCount, Snapshot, format_duration, format_line, level_name
from qcmb_mpi.runner import _set_up_logging

LEVELS = (LevelCount("mp2", 1, 16, 16), LevelCount("hf", 2, 30, 120), LevelCount("hf", 3, 0, 0))


def at(n_done: int, **changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "n_tasks": 200,
        "n_reused": 0,
        "n_failed": 0,
        "n_retries": 0,
        "n_busy": 3,
        "n_slots": 4,
        "elapsed_s": 65.0,
        "remaining_s": 90.0,
        "levels": LEVELS,
    }
    return Snapshot(n_done=n_done, **(fields | changes))


class Terminal(io.StringIO):
    """Text that says it is a terminal, and can be hung up."""

    error: BaseException | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


def live(width: int = 100, height: int = 30) -> tuple[LiveProgress, Terminal]:
    terminal = Terminal()
    console = make_console(terminal)
    console.size = (width, height)  # type: ignore[assignment]
    return LiveProgress(console, title="water cp"), terminal


def plain(terminal: Terminal) -> str:
    """Return what was written without colours and movements."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.getvalue())


@pytest.fixture(autouse=True)
def usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_the_stream_decides() -> None:
    assert isinstance(make_progress(stream=Terminal()), LiveProgress)
    assert isinstance(make_progress(stream=io.StringIO()), PlainProgress)
    assert isinstance(make_progress(stream=Terminal(), is_quiet=True), SilentProgress)
    assert isinstance(make_progress(stream=Terminal(), is_enabled=False), SilentProgress)


def test_closed_or_missing_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    progress = make_progress(stream=closed)
    progress.start(at(0), 0.0)
    assert not progress.is_due(100.0)
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(make_progress(), SilentProgress)


def test_silence() -> None:
    progress = SilentProgress()
    progress.start(at(0), 0.0)
    progress.update(at(1), 100.0)
    progress.finish(at(1), 200.0)
    assert not progress.is_due(1e9)


def test_lines_name_what_matters() -> None:
    line = format_line(at(150, n_failed=2, n_retries=1, n_reused=6))
    assert line == (
        "150/200 tasks (76 %), 2 failed, 1 repeated, 6 reused, 3/4 slots busy, "
        "1 min 05 s, about 1 min 30 s left"
    )
    assert format_line(at(200)) == "200/200 tasks (100 %), 3/4 slots busy, 1 min 05 s"


def test_all_but_one_is_not_a_hundred_per_cent() -> None:
    assert "(99 %)" in format_line(at(9999, n_tasks=10000))


def test_plain_lines_come_by_tenths_and_by_time() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, title="water")
    progress.start(at(0, n_reused=6), 0.0)
    assert not progress.is_due(0.5)
    progress.update(at(100), 0.5)  # too soon
    progress.update(at(19), 2.0)  # less than a tenth
    assert stream.getvalue() == "qcmb_mpi: water: 200 tasks, 6 of them in the store already\n"
    progress.update(at(20), 3.0)
    progress.update(at(21), 12.9)
    progress.update(at(21), 13.0)
    progress.finish(at(200), 14.0)
    shown = [line.split()[1] for line in stream.getvalue().splitlines()[1:]]
    assert shown == ["20/200", "21/200", "200/200"]


def test_nothing_is_shown_before_the_start() -> None:
    stream, (display, terminal) = io.StringIO(), live()
    for progress in (PlainProgress(stream), display):
        assert not progress.is_due(100.0)
        progress.update(at(100), 100.0)
    assert stream.getvalue() + terminal.getvalue() == ""


def test_no_time_left_is_no_estimate() -> None:
    assert "left" not in format_line(at(0, remaining_s=0.0))
    assert "left" not in format_line(at(0, remaining_s=None))


def test_plain_lines_of_a_long_run_are_few() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.start(at(0, elapsed_s=0.0), 0.0)
    for second in range(36_000):
        progress.update(at(second // 36_000, elapsed_s=float(second)), float(second))
    assert 100 < len(stream.getvalue().splitlines()) < 300


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "hung up"), ValueError("closed")])
def test_plain_lines_end_in_silence(error: Exception) -> None:
    stream = Terminal()
    progress = PlainProgress(stream)
    progress.start(at(0), 0.0)
    stream.error = error
    progress.update(at(100), 10.0)
    stream.error = AssertionError("written after the end")
    progress.update(at(150), 100.0)
    progress.finish(at(200), 200.0)


def test_live_display_shows_levels_and_time_left() -> None:
    progress, terminal = live()
    progress.start(at(46, n_failed=2), 0.0)
    shown = terminal.getvalue()
    for text in ("water cp", "mp2", "1-body", "16/16", "100 %", "30/120", "46/200", "24 %"):
        assert text in shown
    assert "about 1 min 30 s left" in shown
    assert "2 failed" in shown
    assert "work" not in shown
    progress.finish(at(200), 1.0)
    assert "200/200" in terminal.getvalue()
    progress.finish(at(200), 2.0)


def test_the_time_left_says_how_sure_it_is() -> None:
    assert "about 1 min 30 s left ± 21 %" in format_line(at(46, relative_error=0.21))
    assert ", roughly 1 min 30 s left" in format_line(at(46, relative_error=1.5))


def test_work_done_is_shown_by_level_and_memory_in_all() -> None:
    levels = (LevelCount("mp2", 1, 16, 16, 30.0, 0.0), LevelCount("hf", 2, 30, 120, 10.0, 60.0))
    more = {"held_bytes": 3 * 2**30, "limit_bytes": 8 * 2**30, "levels": levels}
    progress, terminal = live(width=110)
    progress.start(at(46, **more), 0.0)
    assert re.findall(r"work +(\d+) %", plain(terminal)) == ["100", "14", "40"]
    assert "memory 3.0 of 8.0 GiB" in plain(terminal)
    assert at(46).work is None


def test_failures_are_seen_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    progress, terminal = live(width=30)
    progress.start(at(46, n_failed=2, n_reused=7), 0.0)
    assert max(map(len, plain(terminal).splitlines())) <= 30
    assert "2 failed" in plain(terminal)
    assert not re.search(r"\x1b\[(3|4|9|10)\d", terminal.getvalue()), "no colours"


def test_a_terminal_where_nothing_stays_in_place_gets_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(stream=Terminal()), PlainProgress)


def test_live_display_is_drawn_a_few_times_a_second() -> None:
    progress, terminal = live()
    progress.start(at(0), 0.0)
    length = len(terminal.getvalue())
    assert not progress.is_due(0.1)
    progress.update(at(1), 0.1)
    assert len(terminal.getvalue()) == length
    progress.update(at(123), 0.3)
    assert "123/200" in terminal.getvalue()
    progress.finish(at(200), 0.4)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (80, 5), (10, 2)])
def test_live_display_fits_a_small_terminal(width: int, height: int) -> None:
    progress, terminal = live(width, height)
    levels = tuple(LevelCount("mp2/aug-cc-pvdz", n, n % 2, 1) for n in range(12))
    progress.start(at(46, levels=levels), 0.0)
    progress._console.size = (width // 2 + 3, height)  # type: ignore[assignment]
    progress.update(at(50, levels=levels), 1.0)
    progress.finish(at(60, levels=levels), 2.0)
    assert terminal.getvalue()


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "hung up"), ValueError("closed")])
def test_live_display_ends_in_silence_and_gives_stderr_back(error: Exception) -> None:
    before = sys.stdout, sys.stderr
    progress, terminal = live()
    progress.start(at(0), 0.0)
    assert sys.stderr is not before[1]
    terminal.error = error
    progress.update(at(100), 10.0)
    assert (sys.stdout, sys.stderr) == before
    assert not progress.is_due(100.0)
    terminal.error = AssertionError("written after the end")
    progress.finish(at(200), 200.0)


def test_a_broken_pipe_leaves_standard_output_alone(tmp_path: Path) -> None:
    progress, terminal = live()
    descriptor = os.fstat(1)
    terminal.error = BrokenPipeError()
    progress.start(at(0), 0.0)
    assert os.fstat(1) == descriptor
    progress.finish(at(0), 1.0)


def test_a_display_that_cannot_even_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stderr
    progress, _ = live()
    progress.start(at(0), 0.0)
    display = progress._live
    assert display is not None

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "hung up")

    monkeypatch.setattr(display, "update", fail)
    monkeypatch.setattr(display, "stop", fail)
    progress.update(at(1), 1.0)
    assert sys.stderr is before


def test_log_lines_go_to_the_standard_error_of_the_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = StderrHandler()
    record = logging.LogRecord("qcmb_mpi", logging.WARNING, "f.py", 1, "agent lost", None, None)
    first, second = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", first)
    handler.emit(record)
    assert first.getvalue() == "agent lost\n"
    monkeypatch.setattr(sys, "stderr", second)
    second.error = BrokenPipeError()
    handler.emit(record)
    assert second.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", first)
    record.args = (1,)
    handler.emit(record)
    assert "not all arguments converted" in first.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (-1.0, "0.0 s"),
        (0.0, "0.0 s"),
        (0.0123, "12 ms"),
        (0.5, "0.5 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (7620.0, "2 h 07 min"),
        (200_000.0, "2 d 7 h"),
        (3.324e12, "110000 years"),
        (1e8, "3.2 years"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_levels() -> None:
    assert (level_name(2), level_name("supersystem")) == ("2-body", "supersystem")


def test_a_second_run_in_a_process_has_one_log(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("qcmb_mpi")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    for _ in range(2):
        _set_up_logging(Namespace(quiet=False, log_level="info"))
    assert [type(each) for each in logger.handlers] == [StderrHandler]
