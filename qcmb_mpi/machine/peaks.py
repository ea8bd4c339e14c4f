"""The highest resident memory of one task after the other in a process that lives on.

Linux keeps a high-water mark per process and lowers it to what is resident now when asked to
(``clear_refs``). Other marks are of a whole life: of programs that have ended the system tells only
how large the largest ever was.

Rules of this file
------------------
1. A mark that grew tells the peak; one that did not only that the peak was no higher. What cannot
   be told for certain is 0, unknown.
2. While several tasks run in one process nothing can be told of any of them.
3. The marks of a process that is not ours are left alone: its owner may want them.
4. A task may last a millisecond: files stay open, and what is dear to read is read once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from types import TracebackType

_CLEAR = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"
_RESET_HIGH_WATER_MARK = b"5"
_MARK = b"VmHWM:"
_ALIKE_BYTES = 4 * 2**20

_running: set[PeakMemory] = set()  # in this process, in several threads


class PeakMemory:
    """Measures the peak of one task: that of this process, or of the largest program it ran.

    A context manager, for one task.

    Parameters
    ----------
    is_guest : bool
        Whether the process is somebody else's.

    Attributes
    ----------
    n_bytes : int
        The peak, when the task has ended; 0 if it is unknown.
    """

    def __init__(self, *, is_guest: bool = False) -> None:
        self.n_bytes = 0
        self._is_guest = is_guest
        self._is_alone = True
        self._is_reset = False
        self._own = self._programs = 0
        self._programs_s = 0.0

    def __enter__(self) -> PeakMemory:
        _running.add(self)
        if len(_running) > 1:
            for each in tuple(_running):
                each._is_alone = False
        self._programs, self._programs_s = _programs()
        self._is_reset = not self._is_guest and _reset()
        self._own = 0 if self._is_reset else _own_bytes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        own = (_bytes_since_reset() if self._is_reset else 0) or _own_bytes()
        programs, seconds = _programs()
        pairs = [(self._own, own)]
        if programs > self._programs or seconds > self._programs_s:
            pairs.append((self._programs, programs))
        _running.discard(self)
        if self._is_alone:
            self.n_bytes = _largest(pairs)


def _largest(pairs: list[tuple[int, int]]) -> int:
    """Return the largest of some peaks, given their marks before and after; 0 if it is unknown."""
    known = max((after for before, after in pairs if after > before), default=0)
    return known if all(after <= known for _, after in pairs) else 0


def _reset() -> bool:
    try:
        os.write(_kept_open(_CLEAR, os.getpid()), _RESET_HIGH_WATER_MARK)
    except OSError:
        return False
    return True


@cache
def _kept_open(path: str, _pid: int) -> int:
    """Open a file to write; a forked process needs one of its own."""
    return os.open(path, os.O_WRONLY)


def _bytes_since_reset() -> int:
    """Return the mark since it was last reset, 0 if it cannot be read."""
    return _own_bytes() if _is_usage_reset(os.getpid()) else _high_water_mark()


@cache
def _is_usage_reset(_pid: int) -> bool:
    """Whether the cheap mark was lowered with the other one: not below what was before an exec."""
    return 0 < _own_bytes() <= _high_water_mark() + _ALIKE_BYTES


def _high_water_mark() -> int:
    """Return the mark since it was last reset, 0 if it cannot be read."""
    with contextlib.suppress(OSError, ValueError), open(_STATUS, "rb", buffering=0) as file:
        text = file.read(8192)
        at = text.find(_MARK)
        if at >= 0:
            return 1024 * int(text[at + len(_MARK) :].split(None, 1)[0])
    return 0


def _own_bytes() -> int:
    return _usage("RUSAGE_SELF")[0]


def _programs() -> tuple[int, float]:
    return _usage("RUSAGE_CHILDREN")


def _usage(who: str) -> tuple[int, float]:
    """Return the most that was ever resident, and processor seconds; 0 where nobody tells."""
    try:
        import resource
    except ImportError:
        return 0, 0.0
    usage = resource.getrusage(getattr(resource, who))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * int(usage.ru_maxrss), usage.ru_utime + usage.ru_stime
