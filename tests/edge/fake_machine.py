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

    ``is_interleaved`` deals cores to the packages in turn, as some BIOSes do;
    ``are_siblings_adjacent`` numbers the siblings of a core one after the other, as on hybrid
    processors. The last ``n_slow_cores`` have no siblings and are efficiency cores.
    ``n_cores_per_cache`` share a third-level cache; without it there is nothing about caches.
    """

    n_packages: int = 1
    n_domains_per_package: int = 1
    n_cores_per_domain: int = 4
    n_siblings: int = 1
    memory_kib_per_domain: int = 16 * 2**20
    is_interleaved: bool = False
    siblings_file: str = "core_cpus_list"
    offline: Sequence[int] = field(default_factory=tuple)
    n_cores_per_cache: int = 0
    are_siblings_adjacent: bool = False
    n_slow_cores: int = 0
    memory_only_kib: Sequence[int] = field(default_factory=tuple)

    @property
    def n_domains(self) -> int:
        return self.n_packages * self.n_domains_per_package

    @property
    def n_cores(self) -> int:
        return self.n_domains * self.n_cores_per_domain

    @property
    def n_cpus(self) -> int:
        return self.n_cores * self.n_siblings - self.n_slow_cores * (self.n_siblings - 1)

    def domain(self, core: int) -> int:
        return core % self.n_domains if self.is_interleaved else core // self.n_cores_per_domain

    def siblings(self, core: int) -> tuple[int, ...]:
        n_fast = self.n_cores - self.n_slow_cores
        if self.are_siblings_adjacent:
            if core >= n_fast:
                return (n_fast * self.n_siblings + core - n_fast,)
            return tuple(range(core * self.n_siblings, (core + 1) * self.n_siblings))
        return tuple(
            core + self.n_cores * i for i in range(1 if core >= n_fast else self.n_siblings)
        )

    def cache(self, core: int) -> int:
        """Give the number of a core's cache: cores of a domain share it in the domain's order."""
        step = self.n_domains if self.is_interleaved else 1
        place = core // step if self.is_interleaved else core % self.n_cores_per_domain
        per_domain = -(-self.n_cores_per_domain // self.n_cores_per_cache)
        return self.domain(core) * per_domain + place // self.n_cores_per_cache

    def build(self, root: Path) -> Path:
        cpu, node = "sys/devices/system/cpu", "sys/devices/system/node"
        online = {one for core in range(self.n_cores) for one in self.siblings(core)}
        online -= set(self.offline)
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
        for index, kib in enumerate(self.memory_only_kib, start=len(members)):
            files[f"{node}/node{index}/cpulist"] = "\n"
            files[f"{node}/node{index}/meminfo"] = f"Node {index} MemTotal:       {kib} kB\n"
        total = self.memory_kib_per_domain * len(members) + sum(self.memory_only_kib)
        files["proc/meminfo"] = f"MemTotal:       {total} kB\nMemFree: 1 kB\n"
        return write(root, files | self._caches(online) | self._kinds())

    def _caches(self, online: set[int]) -> dict[str, str]:
        if not self.n_cores_per_cache:
            return {}
        files, sharers = {}, {}
        for core in range(self.n_cores):
            sharers.setdefault(self.cache(core), []).extend(self.siblings(core))
        for core in range(self.n_cores):
            own, third = self.siblings(core), sharers[self.cache(core)]
            kinds = [(1, "Data", own), (1, "Instruction", own), (2, "Unified", own)]
            kinds = kinds if core == 0 else kinds[-1:]  # files are what these tests cost
            for index, (level, kind, shared) in enumerate([*kinds, (3, "Unified", third)]):
                for one in online.intersection(own):
                    place = f"sys/devices/system/cpu/cpu{one}/cache/index{index}"
                    files[f"{place}/level"] = f"{level}\n"
                    files[f"{place}/type"] = f"{kind}\n"
                    files[f"{place}/shared_cpu_list"] = format_cpu_list(shared) + "\n"
        return files

    def _kinds(self) -> dict[str, str]:
        if not self.n_slow_cores:
            return {}
        n_fast = self.n_cores - self.n_slow_cores
        kinds = {"core": range(n_fast), "atom": range(n_fast, self.n_cores)}
        return {
            f"sys/devices/cpu_{kind}/cpus": format_cpu_list(
                one for core in cores for one in self.siblings(core)
            )
            + "\n"
            for kind, cores in kinds.items()
        }


GIB_IN_KIB = 2**20
REALISTIC = {
    "laptop with SMT": Machine(n_cores_per_domain=4, n_siblings=2, n_cores_per_cache=4),
    "hybrid laptop": Machine(
        n_cores_per_domain=14,
        n_siblings=2,
        n_slow_cores=8,
        are_siblings_adjacent=True,
        n_cores_per_cache=14,
    ),
    "two sockets of 32 cores": Machine(2, 1, 32, 2, 256 * GIB_IN_KIB, n_cores_per_cache=32),
    "EPYC with 4 domains per socket": Machine(2, 4, 16, 2, 64 * GIB_IN_KIB, n_cores_per_cache=8),
    "sub-NUMA Xeon": Machine(
        2, 2, 10, 2, 48 * GIB_IN_KIB, is_interleaved=True, n_cores_per_cache=10
    ),
    "Grace with a GPU": Machine(
        1,
        1,
        72,
        1,
        480 * GIB_IN_KIB,
        siblings_file="thread_siblings_list",
        n_cores_per_cache=72,
        memory_only_kib=(96 * GIB_IN_KIB, 0, 0, 0, 0, 0, 0, 0),
    ),
    "two Graces": Machine(2, 1, 72, 1, 240 * GIB_IN_KIB, n_cores_per_cache=72),
}


@dataclass(frozen=True)
class Process:
    """One line of ancestors: pid, name, affinity mask and memory mask."""

    pid: str
    name: str
    mask: str
    memory: str = ""


def build_processes(root: Path, *chain: Process) -> Path:
    """Write ``chain``, the process itself (pid ``self``) first, its parent next."""
    parents = [process.pid for process in chain[1:]] + ["1"]
    for process, parent in zip(chain, parents, strict=True):
        status = f"Name:\t{process.name}\nPPid:\t{parent}\n"
        if process.mask:
            status += f"Cpus_allowed_list:\t{process.mask}\n"
        if process.memory:
            status += f"Mems_allowed_list:\t{process.memory}\n"
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


def install_lstopo(root: Path, xml: str, *, refuses: str = "no option") -> dict[str, str]:
    """Put an ``lstopo`` on a ``PATH`` that writes ``xml`` and notes what it was asked."""
    write(root, {"topology.xml": xml, "bin/lstopo-no-graphics": ""})
    program = root / "bin/lstopo-no-graphics"
    program.write_text(
        f'#!/bin/sh\necho "$@" >{root}/asked\n'
        f'case " $* " in *" {refuses} "*) exit 1;; esac\n'
        f'while read -r line; do echo "$line"; done <{root}/topology.xml\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return {"PATH": str(root / "bin")}
