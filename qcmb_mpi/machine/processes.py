"""Process trees: who descends from a process, what they use, and how to end them all.

Rules of this file
------------------
1. A process may vanish at any moment: one that has gone uses nothing, and that is no error.
2. What is asked every second reads /proc by itself, where there is one; psutil does the rest, and
   is imported for that: fork servers and most ranks never need it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_N_OTHER_FILES = 512
_IS_POSIX = os.name == "posix"
_IS_LINUX = sys.platform == "linux"
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if _IS_LINUX else 0


def allow_open_files(n_files: int) -> None:
    """Raise the limit of open files so that there is room for these and some hundred others.

    What the system does not allow is left: whoever opens one too many will say so.
    """
    if not _IS_POSIX:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_files + _N_OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends (Linux; elsewhere a no-op).

    A program that left its process group, or its parent, can still be found then.
    """
    if _IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies (Linux; elsewhere a no-op)."""
    if not _IS_LINUX:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def children(pid: int) -> list[int]:
    """Return the children of `pid`, also those that ended and were not waited for."""
    if not _HAS_CHILDREN:
        return _ids(pid, is_recursive=False)
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the children of `pid`, theirs, and so on."""
    if not _HAS_CHILDREN:
        return _ids(pid, is_recursive=True)
    found = children(pid)
    for each in found:  # grows meanwhile
        found += children(each)
    return found


def kill_tree(pid: int) -> None:
    """Kill a process, its group and all its descendants, also those in groups of their own.

    They are stopped before they are killed, so that none can start another one meanwhile.
    """
    stopped: set[int] = set()
    while found := {pid, *descendants(pid)} - stopped:
        _signal(found, signal.SIGSTOP)
        stopped |= found
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _signal(stopped, signal.SIGKILL)


def end_children(spared: Iterable[int] = ()) -> None:
    """Kill the children of this process, except those `spared`, with all their descendants."""
    for pid in set(children(os.getpid())) - set(spared):
        kill_tree(pid)


def reap_strays() -> None:
    """Take note of children that have ended, without waiting for any."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def cpu_s(pid: int) -> float:
    """Return the processor time in seconds of a process and all its descendants so far."""
    import psutil

    total = 0.0
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(psutil.Error):
            total += sum(psutil.Process(each).cpu_times()[:4])  # own and waited-for children's
    return total


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; shared pages count in each."""
    return sum(_resident(each) for each in (pid, *descendants(pid)))


def proportional_bytes(pid: int) -> int:
    """Return the resident memory of a tree, a shared page divided among those that share it.

    About ten times as dear as :func:`resident_bytes`; the same where the kernel cannot tell.
    """
    return sum(_proportional(each) for each in (pid, *descendants(pid)))


def _resident(pid: int) -> int:
    if _IS_LINUX:
        with contextlib.suppress(OSError, IndexError):
            return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE_BYTES
        return 0
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        if found := re.search(rb"^Pss:\s*(\d+) kB", _read(f"/proc/{pid}/smaps_rollup"), re.M):
            return int(found[1]) * 1024
    return _resident(pid)


def _ids(pid: int, *, is_recursive: bool) -> list[int]:
    import psutil

    try:
        return [each.pid for each in psutil.Process(pid).children(recursive=is_recursive)]
    except psutil.Error:
        return []


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
