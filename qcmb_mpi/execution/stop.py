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

# After SIGTERM comes SIGKILL: 10 s later from batch systems, half a second later from Open MPI's
# mpiexec, which makes one of Ctrl-C, too. Time is needed after the grace, to say how it ended.
TERM_GRACE_S = 2.0
_MPIEXEC_GRACE_S = 0.1
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_HASTY = (signal.SIGTERM, signal.SIGHUP)  # whoever sent it does not wait; SIGHUP: nobody is there


_is_cuttable = False  # whether this process itself computes, and looks for no wish meanwhile


class Cut(BaseException):
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

    @property
    def may_have_hit_programs(self) -> bool:
        """Whether programs may have had the signal, too: Ctrl-C goes to all of a terminal."""
        return self.is_cutting_off or self.reason == signal.SIGINT.name

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
        except Cut:
            raise Interrupted(f"stopped while {doing}: {self.reason}") from None
        finally:
            self._may_raise = False

    def cut(self) -> None:
        """End the block that may be ended here and now; in the main thread."""
        may_raise, self._may_raise = self._may_raise, False
        if may_raise:
            raise Cut


@contextlib.contextmanager
def heed_signals() -> Iterator[Stop]:
    """Turn the signals that ask a job to end into a request to stop; twice is at once."""
    stop = Stop()

    def ask(signum: int, _frame: FrameType | None) -> None:
        stop.request(signal.Signals(signum).name, _grace_s(signum))
        stop.cut()
        if _is_cuttable:
            _cut_task(stop)

    with handled_by(ask):
        try:
            yield stop
        except Cut:  # on the threshold of the block that it was to end
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
def cuttable() -> Iterator[None]:
    """Let a signal that asks for an end at once raise :class:`Cut` in what this process computes.

    One that leaves the time is only acknowledged: nobody looks for it before the task has ended.
    """
    global _is_cuttable
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    _is_cuttable = True
    try:
        yield
    finally:
        _is_cuttable = False


def _cut_task(stop: Stop) -> None:
    global _is_cuttable
    if stop.is_cutting_off:
        _is_cuttable = False
        raise Cut
    with contextlib.suppress(OSError):  # of a terminal that has gone
        word = (
            f"\nqcmb_mpi: {stop.reason}: the running task will be finished (once more: at once)\n"
        )
        os.write(2, word.encode())


def _grace_s(signum: int) -> float | None:
    if signum not in _HASTY:
        return None
    return _MPIEXEC_GRACE_S if "OMPI_COMM_WORLD_RANK" in os.environ else TERM_GRACE_S


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
        with contextlib.suppress(OSError):  # of a terminal that has gone
            os.write(2, f"qcmb_mpi: {words}: {signal.Signals(signum).name}\n".encode())
        os._exit(Interrupted.exit_code if ending.code is None else ending.code)

    with handled_by(leave):
        yield ending


@contextlib.contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Have `handler` take the signals that ask a job to end; only the main thread can.

    Who started the job with SIGHUP ignored (``nohup``) wants it to outlive the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    asking = [each for each in _ASKING if not (outlives and each == signal.SIGHUP)]
    before = {each: signal.signal(each, handler) for each in asking}
    try:
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)
