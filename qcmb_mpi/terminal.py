"""Where people read along: a terminal or pipe that may go away, or know few characters.

Rules of this file
------------------
1. That nobody reads any more is no error: what a run does and its exit code stay the same.
2. Any other error of writing, as of a full disk, is one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LAUNCHERS = ("mpiexec", "mpirun", "prterun", "orterun", "srun")
_TERMINALS = ("/dev/pts/", "/dev/tty")
_MOST_ANCESTORS = 6


def have_standard_streams() -> None:
    """Put nowhere in the place of streams that whoever started this has closed.

    Else the next file or socket that is opened would be taken for them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def take_any_text() -> None:
    """Have what standard output cannot encode written as ``?``, not raise after hours of work."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def has_gone(error: BaseException) -> bool:
    """Whether an error says that nobody reads any more."""
    return isinstance(error, OSError) and error.errno in _GONE


def has_no_room(error: BaseException) -> bool:
    """Whether an error says that a stream, which has no name, can take no more."""
    return isinstance(error, OSError) and error.errno in _FULL and error.filename is None


def say(text: str, stream: TextIO) -> None:
    """Print text, unless whoever read there has gone.

    Raises
    ------
    OSError
        It cannot be written for another reason.
    """
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if not has_gone(error):
            raise
        mute(stream)


def flush() -> None:
    """Write what waits in standard output, so that the end of the process has nothing to say."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not has_gone(error):
            raise
        mute(sys.stdout)


def mute(stream: TextIO) -> None:
    """Let everything that is still written there vanish."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_launched_from_terminal() -> bool:
    """Whether the launcher of this rank writes to a terminal, though the rank has a pipe only."""
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _ in range(_MOST_ANCESTORS):
            with open(f"/proc/{pid}/stat") as stat:
                pid = int(stat.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/comm") as comm:
                is_launcher = comm.read().strip() in _LAUNCHERS
            if is_launcher and os.readlink(f"/proc/{pid}/fd/2").startswith(_TERMINALS):
                return True
    return False
