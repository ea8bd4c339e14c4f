"""What a slot leaves in a file, so that its agent knows it even if the slot dies.

The file has four 8-byte integers: tasks started, the processor time in ms that was spent before
the last one, outcomes told, and the bytes of those that are not told yet, which follow in pieces,
each after its size and checksum.

Rules of this file
------------------
1. Bytes are there before they are counted: a slot may be killed between any two statements.
2. The file has its size before a slot maps it: the slot would die of a full disk.
3. Pieces are believed up to the first whose checksum is wrong: the slot may have died of writing
   where it should not.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from qcmb_mpi.execution.outcome import Outcome

SIZE = 1 << 16
_HEAD = struct.Struct("<qqqq")
_STARTED, _SPENT_MS, _TOLD, _HELD = range(4)
_PART = struct.Struct("<II")
_CPU_INTERVAL_S = 0.05


def new() -> IO[bytes]:
    """Return a file that a slot can map, in memory where the system can: no disk is full there.

    Raises
    ------
    OSError
        There is no room for it.
    """
    with contextlib.ExitStack() as undo:
        file: IO[bytes]
        if hasattr(os, "memfd_create"):
            file = undo.enter_context(os.fdopen(os.memfd_create("qcmb-mark"), "w+b", buffering=0))
        else:
            file = undo.enter_context(tempfile.TemporaryFile(prefix="qcmb-mark-", buffering=0))
        prepare(file.fileno())
        undo.pop_all()
    return file


def prepare(fd: int) -> None:
    """Give a file the size and the content that a slot expects; raise OSError if it has no room."""
    if os.pwrite(fd, bytes(SIZE), 0) < SIZE:
        raise OSError(errno.ENOSPC, "no room for what a slot leaves")


class Mark:
    """The slot's side.

    Parameters
    ----------
    fd : int
        A file of :func:`new`.
    """

    def __init__(self, fd: int) -> None:
        self._file = mmap.mmap(fd, SIZE)
        self._numbers = memoryview(self._file)[: _HEAD.size].cast("q")
        self._timed_s = -_CPU_INTERVAL_S
        self._end = _HEAD.size + self._numbers[_HELD]

    def count(self) -> None:
        """Enter that a task starts."""
        now = time.monotonic()
        if now - self._timed_s >= _CPU_INTERVAL_S:
            self._timed_s = now
            self._numbers[_SPENT_MS] = int(1000 * sum(os.times()[:4]))
        self._numbers[_STARTED] += 1

    def hold(self, pieces: Iterable[bytes]) -> bool:
        """Keep the pieces of an outcome until it is told; return whether there is room."""
        data = b"".join(_PART.pack(len(each), zlib.crc32(each)) + each for each in pieces)
        begin = self._end
        end = begin + len(data)
        if end > SIZE:
            return False
        self._file[begin:end] = data
        self._numbers[_HELD] = end - _HEAD.size
        self._end = end
        return True

    def told(self, n_outcomes: int) -> None:
        """Enter that outcomes have been told, all that were kept among them."""
        self._numbers[_HELD] = 0
        self._end = _HEAD.size
        self._numbers[_TOLD] += n_outcomes


def n_started(fd: int) -> int:
    """Return how many tasks a slot has started."""
    return _read(fd)[_STARTED]


def spent_s(fd: int) -> float:
    """Return the processor time in seconds that was spent before its last task."""
    return _read(fd)[_SPENT_MS] / 1000


def untold(fd: int, n_heard: int) -> list[Outcome]:
    """Return what a dead slot has not told.

    Parameters
    ----------
    fd : int
    n_heard : int
        Outcomes that it has told in its life.
    """
    from qcmb_mpi.execution.outcomes import pieced  # NumPy: not before the fork server is started

    head = _read(fd)
    data = os.pread(fd, min(max(head[_HELD], 0), SIZE - _HEAD.size), _HEAD.size)
    return list(pieced(_sound(data)))[max(0, n_heard - head[_TOLD]) :]


def _sound(data: bytes) -> Iterator[bytes]:
    """Yield the pieces that are as they were written."""
    start = 0
    while start + _PART.size < len(data):
        n_bytes, checksum = _PART.unpack_from(data, start)
        end = start + _PART.size + n_bytes
        part = data[start + _PART.size : end]
        if not part or end > len(data) or zlib.crc32(part) != checksum:
            break
        yield part
        start = end


def _read(fd: int) -> tuple[int, ...]:
    return _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
