"""Live progress of a run on standard error.

Rules of this file
------------------
1. A terminal gets a live display, anything else plain lines, ``--quiet`` nothing.
2. Standard error may vanish at any moment (closed terminal, broken pipe): then silence, no error.
3. No thread and no clock: the driver calls :meth:`Progress.update` with ``now`` whenever it likes;
   how often something is drawn is decided here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

from qcmb_mpi.report.snapshot import (
    LevelCount,
    Snapshot,
    format_line,
    level_name,
    notes,
    percent,
    times,
    usage,
    work_share,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    _TextHandler = logging.StreamHandler[TextIO]
else:
    _TextHandler = logging.StreamHandler  # not generic at run time before Python 3.11

DRAW_INTERVAL_S = 0.2
LINE_INTERVAL_S = 10.0
LINE_INTERVAL_MAX_S = 300.0
LINE_STEP = 0.1
_WIDE = 72  # columns that have room for the share of work


class Progress(Protocol):
    """Where the driver reports how far it is."""

    def start(self, snapshot: Snapshot, now: float) -> None:
        """Show that the run has begun."""

    def is_due(self, now: float) -> bool:
        """Whether an update now could be shown: spares the making of a snapshot."""

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Show the state, if it is time to."""

    def finish(self, snapshot: Snapshot, now: float) -> None:
        """Show the last state and give the terminal back."""


def make_progress(
    *,
    is_enabled: bool | None = None,
    is_quiet: bool = False,
    title: str = "",
    stream: TextIO | None = None,
) -> Progress:
    """Choose how to show progress.

    Parameters
    ----------
    is_enabled : bool, optional
        ``--progress`` / ``--no-progress``; without either it is shown.
    is_quiet : bool, optional
        ``--quiet``.
    title : str, optional
        What runs: a name, a treatment, an executor.
    stream : file, optional
        Instead of standard error.

    Returns
    -------
    Progress
    """
    target = sys.stderr if stream is None else stream
    if is_quiet or is_enabled is False or target is None:
        return SilentProgress()
    if stream is None and "IPython" in sys.modules:
        from qcmb_mpi.report.notebook import NotebookProgress, is_notebook

        if is_notebook():
            return NotebookProgress(title=title)
    if _is_terminal(target):
        return LiveProgress(make_console(target), title=title)
    return PlainProgress(target, title=title)


def _is_terminal(stream: TextIO) -> bool:
    """Whether a display can stay in place there: Emacs' shell, for one, says it is dumb."""
    try:
        return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    except (OSError, ValueError):
        return False


class StderrHandler(_TextHandler):
    """Log to whatever ``sys.stderr`` is now, so that lines go above a live display."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error of this moment."""
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Stay silent when standard error has gone; complain about anything else."""
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handleError(record)


class SilentProgress:
    """Show nothing."""

    def start(self, snapshot: Snapshot, now: float) -> None:
        """Do nothing."""

    def is_due(self, now: float) -> bool:
        """Never."""
        return False

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Do nothing."""

    def finish(self, snapshot: Snapshot, now: float) -> None:
        """Do nothing."""


class PlainProgress:
    """One line now and then: for log files and pipes.

    A line comes after every tenth of the tasks (not more than one a second) and at least every
    10 s at first, later every twentieth of the time passed, at most 5 min apart.

    Parameters
    ----------
    stream : file
    title : str, optional
    """

    def __init__(self, stream: TextIO, *, title: str = "") -> None:
        self._stream: TextIO | None = stream
        self._title = title
        self._last_s = float("inf")  # nothing is due before the start
        self._last_fraction = 0.0
        self._interval_s = LINE_INTERVAL_S

    def start(self, snapshot: Snapshot, now: float) -> None:
        """Write what is about to run."""
        reused = f", {snapshot.n_reused} of them in the store already" if snapshot.n_reused else ""
        head = f"{self._title}: " if self._title else ""
        self._write(f"{head}{snapshot.n_tasks} tasks{reused}")
        self._note(snapshot, now)

    def is_due(self, now: float) -> bool:
        """Whether a second has passed since the last line."""
        return self._stream is not None and now - self._last_s >= 1.0

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Write a line if it is time to."""
        is_step = snapshot.fraction - self._last_fraction >= LINE_STEP and self.is_due(now)
        if is_step or now - self._last_s >= self._interval_s:
            self._write(format_line(snapshot))
            self._note(snapshot, now)

    def finish(self, snapshot: Snapshot, now: float) -> None:
        """Write the last line."""
        self._write(format_line(snapshot))

    def _note(self, snapshot: Snapshot, now: float) -> None:
        self._last_s, self._last_fraction = now, snapshot.fraction
        growing_s = max(LINE_INTERVAL_S, snapshot.elapsed_s / 20)
        self._interval_s = min(growing_s, LINE_INTERVAL_MAX_S)

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(f"qcmb_mpi: {line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def make_console(stream: TextIO) -> Console:
    """Make a rich console that neither exits nor touches standard output on a broken pipe.

    Parameters
    ----------
    stream : file
        A terminal.

    Returns
    -------
    rich.console.Console
    """
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> NoReturn:
            # rich's own points standard output at the null device and exits the process
            self.quiet = True
            raise BrokenPipeError

    return _Console(file=stream, highlight=False)


class LiveProgress:
    """A display that stays in place on a terminal.

    Parameters
    ----------
    console : rich.console.Console
        From :func:`make_console`.
    title : str, optional
    """

    def __init__(self, console: Console, *, title: str = "") -> None:
        from rich.live import Live

        self._console = console
        self._title = title
        self._last_s = float("inf")  # nothing is due before the start
        self._stderr = sys.stderr
        self._live: Live | None = Live(
            console=console, auto_refresh=False, redirect_stdout=False, transient=False
        )

    def start(self, snapshot: Snapshot, now: float) -> None:
        """Open the display."""
        self._stderr = sys.stderr
        self._guard(lambda live: live.start())
        self._draw(snapshot, now)

    def is_due(self, now: float) -> bool:
        """Whether the display may be drawn again."""
        return self._live is not None and now - self._last_s >= DRAW_INTERVAL_S

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Draw, at most five times a second."""
        if self.is_due(now):
            self._draw(snapshot, now)

    def finish(self, snapshot: Snapshot, now: float) -> None:
        """Draw the last state, leave it on the screen and close the display."""
        self._draw(snapshot, now)
        self._guard(lambda live: live.stop())
        self._live = None

    def _draw(self, snapshot: Snapshot, now: float) -> None:
        self._last_s = now
        self._guard(lambda live: live.update(self._render(snapshot), refresh=True))

    def _guard(self, act: Callable[[Any], None]) -> None:
        """Act on the display unless it has gone; if it goes now, be silent from here on."""
        live = self._live
        if live is None:
            return
        try:
            act(live)
        except (OSError, ValueError):
            self._live = None
            self._abandon(live)

    def _abandon(self, live: Any) -> None:
        """Give ``sys.stderr`` back, which rich may have replaced, without writing."""
        self._console.quiet = True
        # Half started or half stopped, rich may raise anything; there is nobody left to tell.
        with contextlib.suppress(Exception):
            live.stop()
        sys.stderr = self._stderr

    def _render(self, snapshot: Snapshot) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        foot_lines = _footer(snapshot, self._console.width)
        rows = self._visible(snapshot.levels, 3 + len(foot_lines))
        table = _level_table(rows, snapshot, self._console.width)
        foot = Text("\n".join(foot_lines), style="dim", no_wrap=True, overflow="ellipsis")
        if snapshot.n_failed:
            foot.highlight_words([f"{snapshot.n_failed} failed"], "bold red")
        head = [Text(self._title, style="bold", no_wrap=True, overflow="ellipsis")]
        return Group(*(head if self._title else []), table, foot)

    def _visible(self, levels: tuple[LevelCount, ...], n_others: int) -> list[LevelCount]:
        """Leave out finished levels where the terminal is too low for all of them."""
        room = max(self._console.height - n_others, 1)
        if len(levels) <= room:
            return list(levels)
        return [level for level in levels if level.n_done < level.n_tasks][:room]


def _level_table(levels: list[LevelCount], snapshot: Snapshot, width: int) -> Table:
    """Draw one row per level and one for all; what says less gives way on a narrow terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    is_wide = width >= _WIDE and any(level.left_s is not None for level in levels)
    bar_width = min(max(width - 62 - 12 * is_wide, 6), 28)
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=min(max(width // 3, 6), 40))
    table.add_column(no_wrap=True, min_width=6)
    table.add_column(width=bar_width)
    counts_width = 2 * len(str(snapshot.n_tasks)) + 1
    table.add_column(justify="right", no_wrap=True, min_width=counts_width)
    table.add_column(justify="right", no_wrap=True, min_width=5)
    if is_wide:
        table.add_column(justify="right", no_wrap=True)

    def row(name: str, of: LevelCount | Snapshot, done: float, work: float | None) -> list[Any]:
        bar = ProgressBar(total=1.0, completed=done if work is None else work, width=bar_width)
        last = [f"work {'?' if work is None else percent(work)}"] if is_wide else []
        return [name, bar, f"{of.n_done}/{of.n_tasks}", percent(done), *last]

    for each in levels:
        done = each.n_done / each.n_tasks if each.n_tasks else 1.0
        cells = row(level_name(each.nbody), each, done, work_share(each.busy_s, each.left_s))
        table.add_row(each.model_chemistry, *cells)
    table.add_row("all", *row("", snapshot, snapshot.fraction, snapshot.work), style="bold")
    return table


def _footer(snapshot: Snapshot, width: int) -> list[str]:
    """Write the rest in as many lines as it takes: failures must be seen on any terminal."""
    lines = [""]
    for part in (*times(snapshot), *usage(snapshot), *notes(snapshot)):
        joined = f"{lines[-1]}   {part}" if lines[-1] else part
        if len(joined) > width and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines
