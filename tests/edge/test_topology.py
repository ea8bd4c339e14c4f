from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from qcmb_mpi.machine import topology as topology_module
from qcmb_mpi.machine.topology import format_cpu_list, parse_cpu_list, read_topology
from tests.edge.fake_machine import REALISTIC, Machine, install_lstopo, write

LSTOPO = (Path(__file__).parent / "lstopo/hwloc-1.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", REALISTIC.values(), ids=REALISTIC.keys())
def test_parts_of_recorded_machines(machine: Machine, tmp_path: Path) -> None:
    topology = read_topology(machine.build(tmp_path))
    assert topology.is_detailed
    assert topology.source == "/sys"
    assert topology.n_cpus == machine.n_cpus
    assert len(topology.packages) == machine.n_packages
    assert len(topology.cores) == machine.n_cores
    assert {frozenset(core) for core in topology.cores} == {
        frozenset(machine.siblings(core)) for core in range(machine.n_cores)
    }
    with_cpus = [domain for domain in topology.numa_domains if domain.cpus]
    assert len(with_cpus) == machine.n_domains
    assert sum(len(domain.cpus) for domain in with_cpus) == machine.n_cpus
    assert {domain.memory_bytes for domain in with_cpus[1:]} <= {
        machine.memory_kib_per_domain * 1024
    }
    memory_only = [domain.memory_bytes for domain in topology.numa_domains if not domain.cpus]
    assert memory_only == [kib * 1024 for kib in machine.memory_only_kib]
    assert sorted(cpu for cache in topology.caches for cpu in cache) == list(range(machine.n_cpus))
    assert len(topology.caches) == machine.n_cores // machine.n_cores_per_cache
    assert len(topology.cores_of(topology.slow_cpus)) == machine.n_slow_cores


@pytest.mark.parametrize("machine", REALISTIC.values(), ids=REALISTIC.keys())
def test_cores_are_ordered_by_domain_and_cache(machine: Machine, tmp_path: Path) -> None:
    topology = read_topology(machine.build(tmp_path))
    domains, caches = topology.borders(topology.cores)
    assert len(domains) == machine.n_domains - 1
    assert len(caches) == len(topology.caches) - 1
    assert domains <= caches


def test_fast_cores_come_first(tmp_path: Path) -> None:
    topology = read_topology(REALISTIC["hybrid laptop"].build(tmp_path))
    assert topology.cores[5:8] == ((10, 11), (12,), (13,))
    assert topology.slow_cpus == tuple(range(12, 20))
    write(tmp_path, {"sys/devices/cpu_core/cpus": "8-19\n", "sys/devices/cpu_atom/cpus": "0-5\n"})
    write(tmp_path, {"sys/devices/cpu_lowpower/cpus": "6-7\n"})
    assert read_topology(tmp_path).cores[-4:] == ((0, 1), (2, 3), (4, 5), (6, 7))


@pytest.mark.parametrize(
    ("capacities", "slow"),
    [((1024, 1024, 400, 410), (2, 3)), ((1024, 970, 1000, 1024), ()), ((1024, 512), ())],
)
def test_cores_of_less_capacity(
    capacities: tuple[int, ...], slow: tuple[int, ...], tmp_path: Path
) -> None:
    Machine().build(tmp_path)
    files = {f"cpu{cpu}/cpu_capacity": f"{each}\n" for cpu, each in enumerate(capacities)}
    write(tmp_path, {f"sys/devices/system/cpu/{name}": text for name, text in files.items()})
    assert read_topology(tmp_path).slow_cpus == slow


def test_the_last_level_may_be_the_second(tmp_path: Path) -> None:
    """Low-power cores outside the third level's part of the chip share a second level."""
    Machine(n_cores_per_domain=4, n_siblings=2).build(tmp_path)
    for cpu in range(8):
        is_outside = cpu in (2, 3, 6, 7)
        shared = {2: "2-3,6-7" if is_outside else str(cpu), 3: "" if is_outside else "0-1,4-5"}
        for level, cpus in shared.items():
            place = f"sys/devices/system/cpu/cpu{cpu}/cache/index{level}"
            if cpus:
                files = {"level": f"{level}\n", "type": "Unified\n", "shared_cpu_list": cpus}
                write(tmp_path, {f"{place}/{name}": text for name, text in files.items()})
    assert read_topology(tmp_path).caches == ((0, 1, 4, 5), (2, 3, 6, 7))


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


def test_lstopo_helps_out_where_sys_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = install_lstopo(tmp_path, LSTOPO)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    assert read_topology(tmp_path, environ).source == "lstopo"
    assert read_topology(tmp_path).source == "psutil"
    write(tmp_path, {"sys/devices/system/cpu/online": "0-7\n"})
    topology = read_topology(tmp_path, environ)
    assert (topology.source, len(topology.cores)) == ("lstopo", 4)
    assert read_topology(tmp_path, {}).cores[:2] == ((0,), (1,))


@pytest.mark.parametrize("online", ["0-3", "0-15"])
def test_lstopo_of_another_machine_is_not_believed(online: str, tmp_path: Path) -> None:
    environ = install_lstopo(tmp_path, LSTOPO)
    write(tmp_path, {"sys/devices/system/cpu/online": online + "\n"})
    assert read_topology(tmp_path, environ).source == "/sys"


def test_lstopo_is_not_asked_where_sys_is_complete(tmp_path: Path) -> None:
    environ = install_lstopo(tmp_path, LSTOPO)
    assert read_topology(Machine().build(tmp_path), environ).source == "/sys"
    assert not (tmp_path / "asked").exists()


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
