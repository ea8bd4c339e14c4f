"""The wish to end a run early, and the signals that express it.

Rules of this file
------------------
1. A signal handler only notes the wish: whoever runs the loop looks for it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

# After SIGTERM comes SIGKILL: 10 s later from batch systems, half a second later from mpiexec.
TERM_GRACE_S = 2.0


class Stop:
    """A request to stop early, safe to make from a signal handler."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.grace_s: float | None = None
        self.is_urgent = False

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


@contextlib.contextmanager
def heed_signals() -> Iterator[Stop]:
    """Turn the signals that ask a job to end into a request to stop; twice is at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def ask(signum: int, _frame: object) -> None:
        grace_s = TERM_GRACE_S if signum == signal.SIGTERM else None
        stop.request(signal.Signals(signum).name, grace_s)

    before = {each: signal.signal(each, ask) for each in asking}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
