"""Packages, NUMA domains and cores of one host, read from Linux ``/sys``.

Rules of this file
------------------
1. Only CPUs that are online count; a CPU is the kernel's number of one hardware thread.
2. Elsewhere than on Linux the counts are all that is known: one domain, no placement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class NumaDomain:
    """Cores that share a memory controller.

    Parameters
    ----------
    index : int
        The kernel's node number.
    cpus : tuple of int
        Online CPUs, ascending; empty for a domain of memory alone.
    memory_bytes : int or None
        Its memory; None where unknown.
    """

    index: int
    cpus: tuple[int, ...]
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Topology:
    """The parts of one host.

    Parameters
    ----------
    packages : tuple of tuple of int
        CPUs of each socket.
    numa_domains : tuple of NumaDomain
        By index.
    cores : tuple of tuple of int
        SMT siblings of each physical core, NUMA domain by NUMA domain.
    is_detailed : bool
        False where only counts are known.
    """

    packages: tuple[tuple[int, ...], ...]
    numa_domains: tuple[NumaDomain, ...]
    cores: tuple[tuple[int, ...], ...]
    is_detailed: bool = True

    @property
    def n_cpus(self) -> int:
        """Hardware threads online."""
        return sum(len(core) for core in self.cores)

    def cores_of(self, cpus: Iterable[int]) -> tuple[tuple[int, ...], ...]:
        """Give the cores that ``cpus`` reach, with those siblings alone, NUMA domain by domain.

        Parameters
        ----------
        cpus : iterable of int
            Any CPUs; one that the topology does not know counts as a core of its own, last.

        Returns
        -------
        tuple of tuple of int
        """
        wanted = set(cpus)
        known = tuple(
            kept for core in self.cores if (kept := tuple(cpu for cpu in core if cpu in wanted))
        )
        strangers = wanted.difference(*self.cores)
        return known + tuple((cpu,) for cpu in sorted(strangers))


def read_topology(root: Path | str = "/") -> Topology:
    """Read the parts of this host, or of the one recorded under ``root``.

    Parameters
    ----------
    root : path, optional
        Where ``sys`` and ``proc`` are.

    Returns
    -------
    Topology
        From counts alone where ``sys/devices/system/cpu`` is missing.
    """
    system = Path(root) / "sys/devices/system"
    cpus = _online_cpus(system / "cpu")
    if not cpus:
        return _counted(psutil.cpu_count() or 1, psutil.cpu_count(logical=False))
    domains = _numa_domains(system / "node", cpus)
    if len(domains) < 2:  # the host's own total also counts memory that was added while it ran
        domains = (NumaDomain(0, cpus, memory_total_bytes(root)),)
    domain_of = {cpu: place for place, domain in enumerate(domains) for cpu in domain.cpus}
    cores = sorted(
        _groups(cpus, lambda cpu: _siblings(system / "cpu", cpu)),
        key=lambda core: (domain_of.get(core[0], len(domains)), core),
    )
    packages = _groups(cpus, lambda cpu: _package(system / "cpu", cpu))
    return Topology(packages, domains, tuple(cores))


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read the kernel's list format: ``0-3,8,10-12``.

    Parameters
    ----------
    text : str
        May be empty.

    Returns
    -------
    tuple of int
        Ascending; empty for anything that is not such a list.
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            return ()
        first = int(match[1])
        cpus.update(range(first, int(match[2] or first) + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write CPUs as the kernel does: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def read_text(path: Path) -> str:
    """Read a small file of the kernel's; an unreadable one is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def memory_total_bytes(root: Path | str = "/") -> int | None:
    """Give the host's memory, or None where it cannot be told."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", read_text(Path(root) / "proc/meminfo"), re.M)
    if found:
        return int(found[1]) * 1024
    return psutil.virtual_memory().total if Path(root) == Path("/") else None


def _online_cpus(directory: Path) -> tuple[int, ...]:
    online = parse_cpu_list(read_text(directory / "online"))
    if online:
        return online
    numbers = _numbered(directory, "cpu")
    return tuple(n for n in numbers if read_text(directory / f"cpu{n}/online").strip() != "0")


def _numbered(directory: Path, stem: str) -> list[int]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError:
        return []
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(rf"{stem}(\d+)", name)))


def _siblings(directory: Path, cpu: int) -> tuple[int, ...]:
    place = directory / f"cpu{cpu}/topology"
    # core_cpus_list since Linux 5.3; the older name means the same.
    for name in ("core_cpus_list", "thread_siblings_list"):
        listed = parse_cpu_list(read_text(place / name))
        if cpu in listed:
            return listed
    return (cpu,)


def _package(directory: Path, cpu: int) -> tuple[int, ...]:
    text = read_text(directory / f"cpu{cpu}/topology/physical_package_id").strip()
    return (int(text),) if text.isdecimal() else (0,)  # some virtual machines say -1


def _groups(
    cpus: tuple[int, ...], key: Callable[[int], tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), []).append(cpu)
    return tuple(tuple(group) for group in groups.values())


def _numa_domains(directory: Path, cpus: tuple[int, ...]) -> tuple[NumaDomain, ...]:
    online, domains = set(cpus), []
    for index in _numbered(directory, "node"):
        place = directory / f"node{index}"
        own = tuple(c for c in parse_cpu_list(read_text(place / "cpulist")) if c in online)
        memory = re.search(r"MemTotal:\s+(\d+) kB", read_text(place / "meminfo"))
        domains.append(NumaDomain(index, own, int(memory[1]) * 1024 if memory else None))
    return tuple(domains) if any(domain.cpus for domain in domains) else ()


def _counted(n_cpus: int, n_cores: int | None) -> Topology:
    n_siblings = n_cpus // n_cores if n_cores and n_cpus % n_cores == 0 else 1
    cpus = tuple(range(n_cpus))
    cores = tuple(cpus[at : at + n_siblings] for at in range(0, n_cpus, n_siblings))
    domain = NumaDomain(0, cpus, memory_total_bytes())
    return Topology((cpus,), (domain,), cores, is_detailed=False)
