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
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import lru_cache
from types import TracebackType
from typing import Any

_CLEAR = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"
_RESET_HIGH_WATER_MARK = b"5"
_MARK = b"VmHWM:"


def _module() -> Any:
    try:
        import resource
    except ImportError:  # on Windows
        return None
    return resource


_resource = _module()
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
        own = (_high_water_mark() if self._is_reset else 0) or _own_bytes()
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
    with contextlib.suppress(OSError, AttributeError):
        return os.pwrite(_file(_CLEAR, os.O_WRONLY, os.getpid()), _RESET_HIGH_WATER_MARK, 0) > 0
    return False


def _high_water_mark() -> int:
    """Return the mark since it was last reset, 0 if it cannot be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        text = os.pread(_file(_STATUS, os.O_RDONLY, os.getpid()), 8192, 0)
        at = text.find(_MARK)
        if at >= 0:
            return 1024 * int(text[at + len(_MARK) :].split(None, 1)[0])
    return 0


@lru_cache(maxsize=4)
def _file(path: str, flags: int, pid: int) -> int:
    """Open a file of this process once, as to open takes longer than to read; a fork opens anew."""
    del pid
    return os.open(path, flags)


def _own_bytes() -> int:
    return 0 if _resource is None else _bytes(_resource.getrusage(_resource.RUSAGE_SELF))


def _programs() -> tuple[int, float]:
    """Return the most that was ever resident, and processor seconds; 0 where nobody tells."""
    if _resource is None:
        return 0, 0.0
    usage = _resource.getrusage(_resource.RUSAGE_CHILDREN)
    return _bytes(usage), usage.ru_utime + usage.ru_stime


def _bytes(usage: Any) -> int:
    return (1 if sys.platform == "darwin" else 1024) * int(usage.ru_maxrss)
