"""Which of the tasks that a slot was sent it may still start: a byte in a pipe for each.

The slot reads one before each task, and its agent, to take back what is left, reads them all: the
system gives each byte to one reader, so that a task is started or taken back, and never both.

Rules of this file
------------------
1. Nobody waits here: a system may give a pipe less room than others have.
2. A byte says to which message its task belongs: what was taken back is never mistaken for what
   was given later.
"""

from __future__ import annotations

import contextlib
import os

_MOST = 1 << 16  # what a pipe holds


class Tickets:
    """The agent's side.

    Attributes
    ----------
    slot_fd : int
        What the slot reads.

    Raises
    ------
    OSError
        Too many files are open.
    """

    def __init__(self) -> None:
        self.slot_fd, self._write_fd = os.pipe()
        for fd in (self.slot_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._number = 0

    def issue(self, n_tasks: int) -> tuple[int, int]:
        """Let the slot start as many tasks more, or fewer if it has not read many that it has.

        Returns
        -------
        tuple of (int, int)
            The number of the message they are to be in, and how many it may have.
        """
        number = (self._number + 1) % 256
        try:
            n_issued = os.write(self._write_fd, bytes([number]) * n_tasks)
        except BlockingIOError:
            return self._number, 0
        self._number = number
        return number, n_issued

    def take_back(self) -> int:
        """Return how many tasks the slot will not start any more: the last ones it was sent."""
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self.slot_fd, _MOST))
        return 0

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.slot_fd)
        os.close(self._write_fd)


class Turnstile:
    """The slot's side.

    Parameters
    ----------
    fd : int
        A :attr:`Tickets.slot_fd`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ticket = b""

    def admits(self, number: int) -> bool:
        """Tell whether the next task of a message may start; if not, none of its others may."""
        if not self._ticket:
            try:
                self._ticket = os.read(self._fd, 1)
            except BlockingIOError:
                return False
        if self._ticket[:1] != bytes([number]):
            return False
        self._ticket = b""
        return True
