"""The wish to end a run early, and the signals that express it.

Rules of this file
------------------
1. A signal handler only notes the wish, and whoever runs the loop looks for it; where there is no
   loop that looks, and nothing that must not be cut short, the handler raises.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from qcmb_mpi.errors import Interrupted

# After SIGTERM comes SIGKILL: 10 s later from batch systems, half a second later from mpiexec.
TERM_GRACE_S = 2.0
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class _Cut(BaseException):
    """Raised by a signal handler, wherever the program is: logging would swallow an Exception."""


class Stop:
    """A request to stop early, safe to make from a signal handler."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.grace_s: float | None = None
        self.is_urgent = False
        self._may_raise = False

    def request(self, reason: str, grace_s: float | None = None) -> None:
        """Ask for a drain; asked twice, for an end at once.

        Parameters
        ----------
        reason : str
        grace_s : float, optional
            Seconds that running tasks get before they are cut off; by default what they need.
        """
        self.is_urgent = self.reason is not None
        if not self.is_urgent:
            self.grace_s = grace_s  # before the reason, which is what the loop looks at
            self.reason = reason

    @property
    def is_cutting_off(self) -> bool:
        """Whether what runs is about to be killed, by us or by whoever sent the signal."""
        return self.is_urgent or self.grace_s is not None

    @contextlib.contextmanager
    def raising(self, doing: str) -> Iterator[None]:
        """Have the first signal that comes meanwhile end this block, which `doing` names.

        Raises
        ------
        Interrupted
            There was one; a second one does not disturb how the block ends.
        """
        try:
            self._may_raise = True
            yield
        except _Cut:
            raise Interrupted(f"stopped while {doing}: {self.reason}") from None
        finally:
            self._may_raise = False

    def cut(self) -> None:
        """End the block that may be ended here and now; in the main thread."""
        may_raise, self._may_raise = self._may_raise, False
        if may_raise:
            raise _Cut


@contextlib.contextmanager
def heed_signals() -> Iterator[Stop]:
    """Turn the signals that ask a job to end into a request to stop; twice is at once."""
    stop = Stop()

    def ask(signum: int, _frame: FrameType | None) -> None:
        grace_s = TERM_GRACE_S if signum == signal.SIGTERM else None
        stop.request(signal.Signals(signum).name, grace_s)
        stop.cut()

    with handled_by(ask):
        try:
            yield stop
        except _Cut:  # on the threshold of the block that it was to end
            raise Interrupted(f"stopped: {stop.reason}") from None


class Ending:
    """How the work of a process ended, as far as it did.

    Parameters
    ----------
    code : int or None
        Its exit code; None before the work has ended.
    """

    def __init__(self, code: int | None = None) -> None:
        self.code = code


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[Ending]:
    """Have those signals end this process at once while there is nothing that could be lost.

    After the work, too: a launcher that waits for others may send one. The exit code is then that
    of the work, if the object given back has it.
    """
    ending = Ending()

    def leave(signum: int, _frame: FrameType | None) -> None:
        is_over = ending.code is not None
        words = "ended after its work" if is_over else "stopped while starting"
        os.write(2, f"qcmb_mpi: {words}: {signal.Signals(signum).name}\n".encode())
        os._exit(Interrupted.exit_code if ending.code is None else ending.code)

    with handled_by(leave):
        yield ending


@contextlib.contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Have `handler` take the signals that ask a job to end; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each in _ASKING}
    try:
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)
