"""Fake ``/sys`` and ``/proc`` trees from compact descriptions of machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qcmb_mpi.machine.topology import format_cpu_list


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@dataclass(frozen=True)
class Machine:
    """Numbering: ``cores`` of all packages first, then their second siblings, as Linux on x86 does.

    ``is_interleaved`` deals cores to the packages in turn, as some BIOSes do.
    """

    n_packages: int = 1
    n_domains_per_package: int = 1
    n_cores_per_domain: int = 4
    n_siblings: int = 1
    memory_kib_per_domain: int = 16 * 2**20
    is_interleaved: bool = False
    siblings_file: str = "core_cpus_list"
    offline: Sequence[int] = field(default_factory=tuple)

    @property
    def n_cores(self) -> int:
        return self.n_packages * self.n_domains_per_package * self.n_cores_per_domain

    def domain(self, core: int) -> int:
        n_domains = self.n_packages * self.n_domains_per_package
        return core % n_domains if self.is_interleaved else core // self.n_cores_per_domain

    def siblings(self, core: int) -> tuple[int, ...]:
        return tuple(core + self.n_cores * i for i in range(self.n_siblings))

    def build(self, root: Path) -> Path:
        cpu, node = "sys/devices/system/cpu", "sys/devices/system/node"
        online = set(range(self.n_cores * self.n_siblings)) - set(self.offline)
        files = {f"{cpu}/online": format_cpu_list(online) + "\n"}
        members: dict[int, list[int]] = {}
        for core in range(self.n_cores):
            package = self.domain(core) // self.n_domains_per_package
            for one in self.siblings(core):
                place = f"{cpu}/cpu{one}/topology"
                listed = format_cpu_list(online.intersection(self.siblings(core)))
                if one in online:
                    files[f"{place}/{self.siblings_file}"] = listed + "\n"
                    files[f"{place}/physical_package_id"] = f"{package}\n"
                members.setdefault(self.domain(core), []).append(one)
        for index, cpus in members.items():
            files[f"{node}/node{index}/cpulist"] = format_cpu_list(cpus) + "\n"
            files[f"{node}/node{index}/meminfo"] = (
                f"Node {index} MemTotal:       {self.memory_kib_per_domain} kB\n"
            )
        total = self.memory_kib_per_domain * len(members)
        files["proc/meminfo"] = f"MemTotal:       {total} kB\nMemFree: 1 kB\n"
        return write(root, files)


@dataclass(frozen=True)
class Process:
    """One line of ancestors: pid, name and affinity mask."""

    pid: str
    name: str
    mask: str


def build_processes(root: Path, *chain: Process) -> Path:
    """Write ``chain``, the process itself (pid ``self``) first, its parent next."""
    parents = [process.pid for process in chain[1:]] + ["1"]
    for process, parent in zip(chain, parents, strict=True):
        status = f"Name:\t{process.name}\nPPid:\t{parent}\n"
        if process.mask:
            status += f"Cpus_allowed_list:\t{process.mask}\n"
        write(
            root,
            {
                f"proc/{process.pid}/comm": process.name + "\n",
                f"proc/{process.pid}/status": status,
            },
        )
    return root


def build_cgroups(root: Path, *, v1: str = "", v2: str = "", mount_root: str = "/") -> Path:
    """Put the process at path ``v1`` of the version 1 hierarchies and at ``v2`` of version 2."""
    groups, mounts = [], ["22 1 0:5 / /proc rw - proc proc rw", "broken line"]
    if v1:
        for number, name in enumerate(("cpu,cpuacct", "memory", "cpuset"), start=3):
            groups.append(f"{number}:{name}:{v1}")
            short = name.partition(",")[0]
            mounts.append(
                f"3{number} 31 0:3 {mount_root} /sys/fs/cgroup/{short} rw shared:9 - "
                f"cgroup cgroup rw,{name}"
            )
    if v2:
        groups.append(f"0::{v2}")
        mounts.append(f"41 31 0:38 {mount_root} /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw")
    return write(
        root,
        {
            "proc/self/cgroup": "\n".join([*groups, "no colons", ""]),
            "proc/self/mountinfo": "\n".join([*mounts, ""]),
        },
    )
