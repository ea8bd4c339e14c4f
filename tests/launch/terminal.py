"""A terminal of our own: a job on a pseudo-terminal, and what it draws there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyte

from tests.launch.jobs import TIMEOUT_S, environment

INTERRUPT = b"\x03"


class Terminal:
    """One end of a pseudo-terminal; a job has the other.

    Parameters
    ----------
    master : int
        File descriptor of this end.
    job : subprocess.Popen
    columns, lines : int
        Size.
    """

    def __init__(self, master: int, job: subprocess.Popen[bytes], columns: int, lines: int) -> None:
        self.job = job
        self.written = b""
        self._master = master
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def screen(self) -> list[str]:
        """The lines of the screen that are not empty."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def read(self, seconds: float = 0.05) -> None:
        """Take what the job has written by now; wait a little if there is nothing."""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # nobody has the other end any more
                data = b""
            if not data:
                return
            self.written += data
            self._stream.feed(data)
            seconds = 0.0

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Read until something is so."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not is_so():
            assert time.monotonic() < deadline_s, self.screen
            self.read()
            if self.job.poll() is not None and not is_so():
                self.read(0.5)
                assert is_so(), self.screen

    def wait(self) -> int:
        """Read to the end of the job and return its exit code."""
        self.wait_until(lambda: self.job.poll() is not None)
        self.read(0.5)
        assert self.job.returncode is not None
        return self.job.returncode

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; the job is told by a signal."""
        self._screen.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def close(self) -> None:
        """Close the window: the job gets a SIGHUP, and what it writes an error."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


@contextlib.contextmanager
def terminal(
    words: Sequence[str],
    *,
    cwd: Path,
    size: tuple[int, int] = (100, 30),
    variables: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> Iterator[Terminal]:
    """Start a job whose terminal this is; in the end nothing of it is left.

    Parameters
    ----------
    words : sequence of str
    cwd : Path
    size : (int, int)
        Columns and lines.
    variables : mapping of str to str, optional
        Environment.
    out : Path, optional
        Where standard output goes instead.
    """
    master, slave = pty.openpty()
    columns, lines = size
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    usual = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(variables or {})}
    clean = {k: v for k, v in environment().items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with contextlib.ExitStack() as stack:
        target = slave if out is None else stack.enter_context(open(out, "wb"))
        job = subprocess.Popen(
            words,
            cwd=cwd,
            env=clean | usual,
            stdin=slave,
            stdout=target,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
    os.close(slave)
    shown = Terminal(master, job, columns, lines)
    try:
        yield shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        shown.close()


def _own_terminal() -> None:
    """Make standard error the terminal of this session, with signals as a shell leaves them."""
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)
    for each in (signal.SIGHUP, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
