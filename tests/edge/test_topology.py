from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from qcmb_mpi.machine import topology as topology_module
from qcmb_mpi.machine.topology import format_cpu_list, parse_cpu_list, read_topology
from tests.edge.fake_machine import Machine, write

MACHINES = {
    "laptop": Machine(n_cores_per_domain=4, n_siblings=2),
    "two sockets, 64 cores, SMT": Machine(2, 1, 32, 2),
    "EPYC with 8 domains": Machine(2, 4, 16, 2),
    "sub-NUMA Xeon": Machine(2, 2, 10, 2, is_interleaved=True),
    "Arm without SMT": Machine(1, 1, 72, 1, siblings_file="thread_siblings_list"),
}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_parts_of_recorded_machines(machine: Machine, tmp_path: Path) -> None:
    topology = read_topology(machine.build(tmp_path))
    assert topology.is_detailed
    assert topology.n_cpus == machine.n_cores * machine.n_siblings
    assert len(topology.packages) == machine.n_packages
    assert len(topology.cores) == machine.n_cores
    assert {frozenset(core) for core in topology.cores} == {
        frozenset(machine.siblings(core)) for core in range(machine.n_cores)
    }
    assert len(topology.numa_domains) == machine.n_packages * machine.n_domains_per_package
    for domain in topology.numa_domains:
        assert domain.memory_bytes == machine.memory_kib_per_domain * 1024
        assert len(domain.cpus) == machine.n_cores_per_domain * machine.n_siblings


def test_cores_come_domain_by_domain_also_when_interleaved(tmp_path: Path) -> None:
    machine = Machine(2, 1, 3, 2, is_interleaved=True)
    topology = read_topology(machine.build(tmp_path))
    assert [machine.domain(core[0]) for core in topology.cores] == [0, 0, 0, 1, 1, 1]
    assert topology.packages == ((0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11))


def test_only_online_cpus(tmp_path: Path) -> None:
    topology = read_topology(
        Machine(n_cores_per_domain=4, n_siblings=2, offline=(1, 6)).build(tmp_path)
    )
    assert sorted(topology.cores) == [(0, 4), (2,), (3, 7), (5,)]
    assert topology.numa_domains[0].cpus == (0, 2, 3, 4, 5, 7)


def test_missing_files_are_survived(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            f"{cpu}/cpu0/uevent": "",
            f"{cpu}/cpu1/online": "1\n",
            f"{cpu}/cpu2/online": "0\n",
            f"{cpu}/cpu10/topology/physical_package_id": "-1\n",
            f"{cpu}/cpufreq/x": "",
        },
    )
    topology = read_topology(tmp_path)
    assert topology.cores == ((0,), (1,), (10,))
    assert topology.packages == ((0, 1, 10),)
    assert [(d.cpus, d.memory_bytes) for d in topology.numa_domains] == [((0, 1, 10), None)]


def test_a_domain_of_memory_alone_has_no_cores(tmp_path: Path) -> None:
    Machine(1, 1, 2).build(tmp_path)
    write(tmp_path, {"sys/devices/system/node/node1/meminfo": "Node 1 MemTotal: 1024 kB\n"})
    topology = read_topology(tmp_path)
    assert [(d.index, d.cpus, d.memory_bytes) for d in topology.numa_domains][1] == (1, (), 2**20)
    assert topology.cores == ((0,), (1,))


def test_one_domain_has_the_hosts_memory(tmp_path: Path) -> None:
    Machine(1, 1, 2).build(tmp_path)
    write(tmp_path, {"proc/meminfo": "MemTotal: 99 kB\n"})
    assert read_topology(tmp_path).numa_domains[0].memory_bytes == 99 * 1024


@pytest.mark.parametrize(
    ("logical", "physical", "cores"),
    [(4, 2, ((0, 1), (2, 3))), (3, 2, ((0,), (1,), (2,))), (2, None, ((0,), (1,)))],
)
def test_counts_where_there_is_no_sys(
    logical: int,
    physical: int | None,
    cores: tuple[tuple[int, ...], ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: logical_or(logical))
    logical_or = {True: logical, False: physical}.__getitem__
    topology = read_topology(tmp_path)
    assert not topology.is_detailed
    assert topology.cores == cores
    assert len(topology.packages) == len(topology.numa_domains) == 1


def test_cores_of_a_mask(tmp_path: Path) -> None:
    topology = read_topology(Machine(2, 1, 2, 2).build(tmp_path))
    assert topology.cores_of({4, 2, 6, 99}) == ((4,), (2, 6), (99,))
    assert topology.cores_of(()) == ()


def test_cpu_lists_round_trip() -> None:
    assert parse_cpu_list("0-3,8,10-11\n") == (0, 1, 2, 3, 8, 10, 11)
    assert format_cpu_list((11, 10, 8, 3, 2, 1, 0)) == "0-3,8,10-11"
    for nonsense in ("", "\n", "a", "1-", "-1", "1;2"):
        assert parse_cpu_list(nonsense) == ()
    assert format_cpu_list(()) == ""


def test_this_machine() -> None:
    topology = read_topology()
    assert topology.n_cpus >= len(topology.cores) >= 1
    assert topology_module.memory_total_bytes() > 2**26


def test_memory_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert topology_module.memory_total_bytes(tmp_path) is None
    monkeypatch.setattr(topology_module, "read_text", lambda path: "")
    assert topology_module.memory_total_bytes() == psutil.virtual_memory().total
