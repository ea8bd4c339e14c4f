"""What a process and all that it started really used: CPU seconds, wall seconds, cores.

Rules of this file
------------------
1. Two looks give the answer; looking between them only finds the peak, and costs at most 0.5 %.
2. A measurement never fails the work that it measures.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from qcmb_mpi.machine.limits import read_limits
from qcmb_mpi.machine.processes import cpu_s, descendants

_LEAST_SLEEP_PER_LOOK = 200


@dataclass(frozen=True, slots=True)
class ThreadUsageStats:
    """How well cores were used over a stretch of time.

    Parameters
    ----------
    cpu_s : float
        Processor time of the process and its descendants, in seconds.
    wall_s : float
        Duration, in seconds.
    n_cores : int
        Cores that were there for it.
    n_running_peak : int
        Most threads seen running at once; 0 if nobody looked, and off Linux.
    monitor_s : float
        Processor time that looking cost, in seconds.
    """

    cpu_s: float
    wall_s: float
    n_cores: int
    n_running_peak: int = 0
    monitor_s: float = 0.0

    @property
    def n_cores_busy(self) -> float:
        """Cores that were busy on average."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def efficiency(self) -> float:
        """The share of the cores that was busy; above 1 where more threads than cores ran."""
        return self.n_cores_busy / self.n_cores

    def __str__(self) -> str:
        return (
            f"{self.cpu_s:.4g} CPU s in {self.wall_s:.4g} s: {self.n_cores_busy:.2f} of "
            f"{self.n_cores} cores busy ({self.efficiency:.0%})"
        )


class UsageMonitor:
    """Measures a process tree from now on; as a context manager it looks out for the peak too.

    Parameters
    ----------
    pid : int, optional
        Root of the tree; default this process.
    n_cores : int, optional
        Cores that are there for it; default all that are granted on this host.
    interval_s : float, optional
        Seconds between two looks at least; longer where a look is dear.

    Raises
    ------
    ValueError
        If ``n_cores`` is below 1 or ``interval_s`` is not more than 0.
    """

    def __init__(
        self, pid: int | None = None, *, n_cores: int | None = None, interval_s: float = 0.5
    ) -> None:
        if (n_cores is not None and n_cores < 1) or not interval_s > 0:
            raise ValueError(f"n_cores {n_cores} and interval_s {interval_s} must be positive")
        self._pid = os.getpid() if pid is None else pid
        self._n_cores = read_limits().n_cpus if n_cores is None else n_cores
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._cost_s, self._peak = 0.0, 0
        # What ended and was never waited for by a process of the tree is kept in here.
        self._lost_s, self._last_s = 0.0, cpu_s(self._pid)
        self._began_s, self._wall_began_s = self._last_s, time.monotonic()

    def stats(self) -> ThreadUsageStats:
        """Tell what was used since the start, or since :meth:`restart`."""
        with self._lock:
            used_s = self._look() - self._began_s
            return ThreadUsageStats(
                cpu_s=max(used_s, 0.0),
                wall_s=time.monotonic() - self._wall_began_s,
                n_cores=self._n_cores,
                n_running_peak=self._peak,
                monitor_s=self._cost_s,
            )

    def restart(self) -> None:
        """Measure from now on."""
        with self._lock:
            self._began_s, self._wall_began_s = self._look(), time.monotonic()
            self._cost_s, self._peak = 0.0, 0

    def __enter__(self) -> UsageMonitor:
        self._thread = threading.Thread(target=self._watch, name="usage-monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            began_s = time.thread_time()
            n_running = _n_running(self._pid)
            with self._lock:
                self._look()
                self._peak = max(self._peak, n_running)
                cost_s = time.thread_time() - began_s
                self._cost_s += cost_s
            wait_s = max(self._interval_s, _LEAST_SLEEP_PER_LOOK * cost_s)

    def _look(self) -> float:
        """Give the processor time so far; it never shrinks."""
        now_s = cpu_s(self._pid)
        self._lost_s += max(self._last_s - now_s, 0.0)
        self._last_s = now_s
        return now_s + self._lost_s


def _n_running(pid: int) -> int:
    """Count the threads of a tree that run or wait for a core; the caller's own is not counted."""
    own, n_running = threading.get_native_id(), 0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                if int(thread) != own:
                    n_running += _is_running(f"/proc/{each}/task/{thread}/stat")
    return n_running


def _is_running(path: str) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        # The name in parentheses may hold anything; the state is the word behind it.
        return file.read(512).rpartition(b")")[2].split()[:1] == [b"R"]
    return False
