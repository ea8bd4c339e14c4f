"""Where this process sits in the control groups, versions 1 and 2, and what they grant.

Rules of this file
------------------
1. A limit may stand on any ancestor (Slurm puts it on the job, not on the task): all are read.
2. Both versions may be mounted at once; each is asked for what it controls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qcmb_mpi.machine.topology import parse_cpu_list, read_text

# Version 1 writes "no limit" as the largest page multiple that fits a signed 64-bit integer.
_UNLIMITED_BYTES = 2**60
# Above memory.high nothing is killed, but everything is made to wait for memory.
_MEMORY_FILES = ("memory.max", "memory.high", "memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Granted:
    """One limit and the file that says so.

    Parameters
    ----------
    amount : int
        CPUs or bytes.
    source : str
        The path, as seen on the host.
    """

    amount: int
    source: str


def cpu_quotas(root: Path | str = "/") -> list[Granted]:
    """Give the CPUs that quotas of this process's groups allow, rounded up, at least 1.

    Parameters
    ----------
    root : path, optional
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    list of Granted
        Own group first; groups without a quota left out.
    """
    root, found = Path(root), []
    for group in _groups(root, "cpu"):
        for name, quota_us, period_us in (
            ("cpu.max", *_pair(read_text(group / "cpu.max"))),
            (
                "cpu.cfs_quota_us",
                _positive(read_text(group / "cpu.cfs_quota_us")),
                _positive(read_text(group / "cpu.cfs_period_us")),
            ),
        ):
            if quota_us and period_us:
                amount = max(1, math.ceil(quota_us / period_us))
                found.append(Granted(amount, _shown(root, group / name)))
    return found


def memory_limits(root: Path | str = "/") -> list[Granted]:
    """Give the memory limits of this process's groups in bytes.

    Parameters
    ----------
    root : path, optional
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    list of Granted
        Own group first; groups without a limit left out.
    """
    root, found = Path(root), []
    for group in _groups(root, "memory"):
        amounts = {name: _positive(read_text(group / name)) for name in _MEMORY_FILES}
        amounts["memory.stat"] = _hierarchical(read_text(group / "memory.stat"))
        for name, amount in amounts.items():
            if amount is not None and amount < _UNLIMITED_BYTES:
                found.append(Granted(amount, _shown(root, group / name)))
    return found


def slurm_cpuset(root: Path | str = "/") -> frozenset[int]:
    """Give the CPUs that this process's Slurm step may use, whatever its affinity mask says.

    Parameters
    ----------
    root : path, optional
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    frozenset of int
        Empty outside a step, and where Slurm does not confine CPUs: then the groups above allow
        the whole host, which is not what was granted.
    """
    for group in _groups(Path(root), "cpuset"):
        is_jobs = any(part.startswith("job_") for part in group.parts)
        written = parse_cpu_list(read_text(group / "cpuset.cpus"))
        if is_jobs and written:
            return frozenset(parse_cpu_list(read_text(group / "cpuset.cpus.effective")) or written)
    return frozenset()


def oom_counter(root: Path | str = "/") -> Callable[[], int]:
    """Return what counts the processes that the kernel has killed for lack of memory so far.

    It looks for the file with the count once.

    Parameters
    ----------
    root : path, optional
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    callable
        Counts those of this process's own memory group; of the whole host where no group does.
    """
    root = Path(root)
    files = [
        group / name
        for group in _groups(root, "memory")
        for name in ("memory.events", "memory.oom_control")
    ]
    for file in (*files, root / "proc/vmstat"):
        if _oom_kills_in(file) is not None:
            return lambda: _oom_kills_in(file) or 0
    return lambda: 0


def _oom_kills_in(file: Path) -> int | None:
    found = re.search(r"^oom_kill (\d+)", read_text(file), re.M)
    return int(found[1]) if found else None


def _groups(root: Path, controller: str) -> list[Path]:
    """Give this process's groups for a controller, each hierarchy from its own group upwards."""
    paths = _paths(root)
    found: list[Path] = []
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            path = paths.get("")
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            path = paths.get(controller)
        else:
            continue
        if path is not None:
            found += _upwards(root, _unescaped(fields[4]), _unescaped(fields[3]), path)
    return found


def _paths(root: Path) -> dict[str, str]:
    """Give the path of this process per controller; version 2's is under the empty name."""
    paths: dict[str, str] = {}
    for line in read_text(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _upwards(root: Path, mount_point: str, mount_root: str, path: str) -> list[Path]:
    top = root / mount_point.lstrip("/")
    try:
        below = PurePosixPath(path).relative_to(mount_root)
    except ValueError:  # another namespace's path: the mount itself is the nearest group seen
        return [top]
    if ".." in below.parts:
        return [top]
    return [top / below, *(top / parent for parent in below.parents)] if below.parts else [top]


def _unescaped(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _positive(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _hierarchical(text: str) -> int | None:
    """Read version 1's own minimum over the ancestors, those that a container hides as well."""
    found = re.search(r"^hierarchical_memory_limit (\d+)$", text, re.M)
    return _positive(found[1]) if found else None


def _pair(text: str) -> tuple[int | None, int | None]:
    quota, _, period = text.strip().partition(" ")
    return _positive(quota), _positive(period)


def _shown(root: Path, path: Path) -> str:
    return f"/{path.relative_to(root)}"
