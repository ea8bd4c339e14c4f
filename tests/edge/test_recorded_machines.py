"""Trees of ``/sys`` that were recorded on real machines, with what hwloc makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.machine.affinity import divide_among_ranks
from qcmb_mpi.machine.topology import Topology, parse_cpu_list, read_topology
from tests.edge.fake_machine import write

RECORDED = json.loads((Path(__file__).parent / "recorded/machines.json").read_text())["machines"]

# Packages, NUMA domains with CPUs and without, cores, CPUs, last-level caches, slow CPUs: as
# hwloc 2.9 counts them; caches only where the kernel tells who shares them.
EXPECTED = {
    "hybrid laptop": (1, 1, 0, 14, 20, 1, 0),
    "Opteron of 8 domains": (4, 8, 0, 48, 48, 8, 0),
    "sub-NUMA Xeon": (2, 4, 0, 40, 80, 2, 0),
    "Arm of 4 domains": (2, 4, 0, 128, 128, 4, 0),
    "Grace of two kinds of cores": (1, 1, 0, 20, 20, 2, 10),
    "POWER9 with GPUs": (2, 2, 6, 8, 32, 0, 0),
}


def build(name: str, root: Path) -> Topology:
    files: dict[str, str] = {}
    texts: dict[str, Any] = RECORDED[name]["files"]
    for path, text in texts.items():
        if isinstance(text, str):
            files[path] = text
            continue
        for each, cpus in text.items():
            files |= {path.format(cpu): each for cpu in parse_cpu_list(cpus)}
    return read_topology(write(root, files), {"PATH": "/nowhere"})


@pytest.mark.parametrize("name", RECORDED)
def test_parts(name: str, tmp_path: Path) -> None:
    topology = build(name, tmp_path)
    domains = topology.numa_domains
    n_with_cpus = sum(bool(domain.cpus) for domain in domains)
    assert topology.source == "/sys"
    assert EXPECTED[name] == (
        len(topology.packages),
        n_with_cpus,
        len(domains) - n_with_cpus,
        len(topology.cores),
        topology.n_cpus,
        len(topology.caches),
        len(topology.slow_cpus),
    )
    assert all(domain.memory_bytes is not None for domain in domains)


@pytest.mark.parametrize("name", RECORDED)
def test_one_rank_for_each_domain_gets_its_cpus(name: str, tmp_path: Path) -> None:
    topology = build(name, tmp_path)
    domains = [set(domain.cpus) for domain in topology.numa_domains if domain.cpus]
    everything = frozenset().union(*domains)
    parts = [
        set(divide_among_ranks([everything] * len(domains), rank, topology))
        for rank in range(len(domains))
    ]
    assert sorted(map(sorted, parts)) == sorted(map(sorted, domains))


def test_lists_that_end_with_a_zero_byte(tmp_path: Path) -> None:
    files = RECORDED["Arm of 4 domains"]["files"]
    assert files["sys/devices/system/node/node1/cpulist"] == "32-63\n\0"
    assert build("Arm of 4 domains", tmp_path).numa_domains[1].cpus == tuple(range(32, 64))
