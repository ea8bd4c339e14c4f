"""A control group of one's own that limits memory, versions 1 and 2 (Linux).

    with MemoryGroup(2_000_000_000) as group:
        subprocess.run(group.around(["python", "-m", "qcmb_mpi", "run", "input.json"]))
    print(group.peak_bytes, group.n_kills)

Making one needs the right to: root, or a folder of groups that was handed over to you (``parent``).

Rules of this file
------------------
1. Standard library only, and no import of the package.
2. The kernel's own counters are the truth; what they tell is read before the group is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_ROOT = Path("/sys/fs/cgroup")
_FAREWELL_S = 10.0
# A process moves itself in before it becomes the command, so that all it ever uses is counted.
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class MemoryGroup:
    """A new group with a limit; as a context manager it is removed at the end.

    Parameters
    ----------
    limit_bytes : int
    parent : Path, optional
        The folder to make it in; default the top of the hierarchy that controls memory.

    Raises
    ------
    OSError
        No group can be made here, or it cannot be limited.
    """

    def __init__(self, limit_bytes: int, parent: Path | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.peak_bytes = self.n_kills = self.n_full = 0
        self._path = (parent or _top()) / f"qcmb-{uuid.uuid4().hex[:12]}"
        self._path.mkdir()
        try:
            self._limit()
        except OSError:
            self._path.rmdir()
            raise

    def around(self, command: Sequence[str]) -> list[str]:
        """Return a command line that runs `command` inside."""
        return ["sh", "-c", _ENTER, str(self._path), *command]

    def read(self) -> None:
        """Take over what the kernel counted so far.

        ``peak_bytes`` is the most that was ever used, file caches included, 0 if this kernel does
        not tell; ``n_kills`` the processes it killed; ``n_full`` how often the limit was met.
        """
        if self._is_version_1:
            self.peak_bytes = int(self._text("memory.max_usage_in_bytes") or 0)
            self.n_full = int(self._text("memory.failcnt") or 0)
            self.n_kills = self._count("memory.oom_control", "oom_kill")
        else:
            self.peak_bytes = int(self._text("memory.peak") or 0)
            self.n_full = self._count("memory.events", "max")
            self.n_kills = self._count("memory.events", "oom_kill")

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.read()
        give_up_s = time.monotonic() + _FAREWELL_S
        while True:
            try:
                self._path.rmdir()
                return
            except OSError:  # the last process of it is still on its way out
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.05)

    @property
    def _is_version_1(self) -> bool:
        return (self._path / "memory.limit_in_bytes").exists()

    def _limit(self) -> None:
        if self._is_version_1:
            self._put("memory.limit_in_bytes", str(self.limit_bytes))
            swap = ("memory.memsw.limit_in_bytes", str(self.limit_bytes))
        else:
            self._put("memory.max", str(self.limit_bytes))
            swap = ("memory.swap.max", "0")
        with contextlib.suppress(OSError):  # a kernel that does not count swap
            self._put(*swap)

    def _put(self, name: str, text: str) -> None:
        with open(self._path / name, "r+") as file:  # it is there, or this is no control group
            file.write(text)

    def _text(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self._path / name).read_text()
        return ""

    def _count(self, name: str, key: str) -> int:
        found = re.search(rf"^{key} (\d+)$", self._text(name), re.M)
        return int(found[1]) if found else 0


def _top() -> Path:
    """Return where groups that control memory are made."""
    if (_ROOT / "memory" / "memory.limit_in_bytes").exists():
        return _ROOT / "memory"
    subtree = _ROOT / "cgroup.subtree_control"
    if subtree.exists() and "memory" in subtree.read_text().split() and os.access(_ROOT, os.W_OK):
        return _ROOT
    raise PermissionError("no control group for memory can be made here (root can)")
