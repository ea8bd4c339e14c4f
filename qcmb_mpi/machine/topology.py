"""Packages, NUMA domains, caches and cores of one host, read from Linux ``/sys``.

Rules of this file
------------------
1. Only CPUs that are online count; a CPU is the kernel's number of one hardware thread.
2. ``/sys`` first; hwloc's ``lstopo`` only where it is incomplete; where neither tells, counts:
   one domain, no placement. A topology says which it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


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
        SMT siblings of each physical core: NUMA domain by NUMA domain, in each the fast cores
        first, and cores that share a cache together.
    caches : tuple of tuple of int, optional
        CPUs that share each last-level cache; empty where unknown.
    slow_cpus : tuple of int, optional
        CPUs of efficiency cores, where there are faster ones.
    source : str, optional
        ``/sys``, ``lstopo`` or ``psutil`` (counts alone).
    """

    packages: tuple[tuple[int, ...], ...]
    numa_domains: tuple[NumaDomain, ...]
    cores: tuple[tuple[int, ...], ...]
    caches: tuple[tuple[int, ...], ...] = ()
    slow_cpus: tuple[int, ...] = ()
    source: str = "/sys"

    @classmethod
    def of_parts(
        cls,
        cores: Iterable[tuple[int, ...]],
        *,
        packages: tuple[tuple[int, ...], ...],
        numa_domains: tuple[NumaDomain, ...],
        caches: tuple[tuple[int, ...], ...] = (),
        slow_cpus: tuple[int, ...] = (),
        source: str = "/sys",
    ) -> Topology:
        """Put cores, found in any order, into the order of ``cores``."""
        domain_of = _group_of(domain.cpus for domain in numa_domains)
        cache_of, slow = _group_of(caches), set(slow_cpus)

        def place(core: tuple[int, ...]) -> tuple[object, ...]:
            cpu = core[0]
            domain = domain_of.get(cpu, len(numa_domains))
            return domain, cpu in slow, cache_of.get(cpu, len(caches)), core

        ordered = tuple(sorted(cores, key=place))
        return cls(packages, numa_domains, ordered, caches, slow_cpus, source)

    @property
    def is_detailed(self) -> bool:
        """False where only counts are known."""
        return self.source != "psutil"

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

    def borders(self, cores: Iterable[tuple[int, ...]]) -> tuple[frozenset[int], frozenset[int]]:
        """Tell where, in a sequence of cores, another NUMA domain or another cache begins.

        Parameters
        ----------
        cores : iterable of tuple of int
            As of :meth:`cores_of`.

        Returns
        -------
        domains, caches : frozenset of int
            Positions of first cores; 0 is not among them.
        """
        first = [core[0] for core in cores]

        def changes(groups: Iterable[tuple[int, ...]]) -> frozenset[int]:
            group_of = _group_of(groups)
            found = [group_of.get(cpu, -1) for cpu in first]
            return frozenset(i for i in range(1, len(found)) if found[i] != found[i - 1])

        return changes(domain.cpus for domain in self.numa_domains), changes(self.caches)


def _group_of(groups: Iterable[tuple[int, ...]]) -> dict[int, int]:
    return {cpu: place for place, group in enumerate(groups) for cpu in group}


def read_topology(root: Path | str = "/", environ: Mapping[str, str] | None = None) -> Topology:
    """Read the parts of this host, or of the one recorded under ``root``.

    Parameters
    ----------
    root : path, optional
        Where ``sys`` and ``proc`` are.
    environ : Mapping of str to str, optional
        Where ``lstopo`` is looked for (``PATH``) if ``/sys`` is incomplete; default this process's
        environment for this host, none for a recorded one.

    Returns
    -------
    Topology
        From counts alone where ``sys/devices/system/cpu`` is missing, and ``lstopo`` as well.
    """
    system = Path(root) / "sys/devices/system"
    cpus = _online_cpus(system / "cpu")
    if cpus and all(_is_described(system / "cpu", cpu) for cpu in cpus):
        return _from_sys(Path(root), cpus)
    if environ is None:
        environ = os.environ if Path(root) == Path("/") else {}
    from qcmb_mpi.machine import hwloc  # needed nowhere but here: not at every start

    other = hwloc.ask_lstopo(environ)
    import psutil  # here as well

    if other is not None and other.n_cpus == (len(cpus) or psutil.cpu_count()):
        return other
    if cpus:
        return _from_sys(Path(root), cpus)
    return _counted(psutil.cpu_count() or 1, psutil.cpu_count(logical=False))


def read_numa_domains(root: Path | str = "/") -> tuple[NumaDomain, ...]:
    """Read the NUMA domains as the kernel describes them, those of memory alone too.

    Parameters
    ----------
    root : path, optional
        Where ``sys`` is.

    Returns
    -------
    tuple of NumaDomain
        Empty where nothing is said.
    """
    system = Path(root) / "sys/devices/system"
    return _numa_domains(system / "node", _online_cpus(system / "cpu"))


def _from_sys(root: Path, cpus: tuple[int, ...]) -> Topology:
    system = root / "sys/devices/system"
    domains = _numa_domains(system / "node", cpus)
    if len(domains) < 2:  # the host's own total also counts memory that was added while it ran
        domains = (NumaDomain(0, cpus, memory_total_bytes(root)),)
    return Topology.of_parts(
        _groups(cpus, lambda cpu: _siblings(system / "cpu", cpu)),
        packages=_groups(cpus, lambda cpu: _package(system / "cpu", cpu)),
        numa_domains=domains,
        caches=_last_level_caches(system / "cpu", cpus),
        slow_cpus=_slow_cpus(root / "sys/devices", cpus),
    )


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
    for part in text.strip(" \n\0").split(","):  # Linux 5.15 may end it with a zero byte
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
    return memory_here_bytes() if Path(root) == Path("/") else None


def memory_here_bytes() -> int:
    """Give this host's memory where ``/proc`` does not tell."""
    import psutil

    return int(psutil.virtual_memory().total)


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


# core_cpus_list since Linux 5.3; the older name means the same.
_SIBLINGS = ("core_cpus_list", "thread_siblings_list")


def _is_described(directory: Path, cpu: int) -> bool:
    place = directory / f"cpu{cpu}/topology"
    return any((place / name).exists() for name in _SIBLINGS)


def _siblings(directory: Path, cpu: int) -> tuple[int, ...]:
    place = directory / f"cpu{cpu}/topology"
    for name in _SIBLINGS:
        listed = parse_cpu_list(read_text(place / name))
        if cpu in listed:
            return listed
    return (cpu,)


def _package(directory: Path, cpu: int) -> tuple[int, ...]:
    text = read_text(directory / f"cpu{cpu}/topology/physical_package_id").strip()
    return (int(text),) if text.isdecimal() else (0,)  # some virtual machines say -1


def _last_level_caches(directory: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    online, groups = set(cpus), {}
    for cpu in cpus:
        if cpu not in groups:  # one look for all that share it: this costs a dozen files
            shared = tuple(
                c for c in _last_level_cache(directory / f"cpu{cpu}/cache") if c in online
            )
            groups.update(dict.fromkeys(shared, shared))
    return tuple(dict.fromkeys(groups.values()))


def _last_level_cache(directory: Path) -> tuple[int, ...]:
    levels = {}
    for index in _numbered(directory, "index"):
        place = directory / f"index{index}"
        if read_text(place / "type").strip() != "Instruction":
            level = read_text(place / "level").strip()
            levels[int(level) if level.isdecimal() else 0] = place / "shared_cpu_list"
    return parse_cpu_list(read_text(levels[max(levels)])) if levels else ()


def _slow_cpus(devices: Path, cpus: tuple[int, ...]) -> tuple[int, ...]:
    """Find efficiency cores: Intel's are a device of their own, others have less capacity."""
    if parse_cpu_list(read_text(devices / "cpu_core/cpus")):
        atoms = set(parse_cpu_list(read_text(devices / "cpu_atom/cpus")))
        atoms.update(parse_cpu_list(read_text(devices / "cpu_lowpower/cpus")))
        return tuple(cpu for cpu in cpus if cpu in atoms)
    capacity = {}
    for cpu in cpus:
        text = read_text(devices / f"system/cpu/cpu{cpu}/cpu_capacity").strip()
        if not text.isdecimal():
            return ()
        capacity[cpu] = int(text)
    # Cores of one kind differ by some percent where each has its own highest clock.
    return tuple(cpu for cpu in cpus if capacity[cpu] < 0.8 * max(capacity.values()))


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
    return Topology((cpus,), (domain,), cores, source="psutil")
