"""``lstopo --of xml``: recorded outputs of hwloc 2.9, shortened to what is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi.machine.hwloc import ask_lstopo, disagreements, find_lstopo, parse_lstopo
from qcmb_mpi.machine.topology import Topology, read_topology
from tests.edge.fake_machine import REALISTIC, Machine, install_lstopo

RECORDED = Path(__file__).parent / "lstopo"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.xml").read_text(encoding="utf-8")


def parsed(text: str) -> Topology:
    topology = parse_lstopo(text)
    assert topology is not None
    return topology


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("hybrid-laptop", REALISTIC["hybrid laptop"]),
        ("sub-numa-xeon", REALISTIC["sub-NUMA Xeon"]),
    ],
)
def test_lstopo_agrees_with_sys(name: str, machine: Machine, tmp_path: Path) -> None:
    ours, theirs = read_topology(machine.build(tmp_path)), parsed(recorded(name))
    assert disagreements(ours, theirs) == []
    assert (ours.source, theirs.source) == ("/sys", "lstopo")
    assert theirs.cores == ours.cores or ours.slow_cpus
    assert theirs.numa_domains == ours.numa_domains


def test_a_synthetic_machine() -> None:
    topology = parsed(recorded("synthetic"))
    assert len(topology.packages) == 2
    assert [domain.memory_bytes for domain in topology.numa_domains] == [64 * 10**9] * 4
    assert [domain.cpus for domain in topology.numa_domains][1] == tuple(range(8, 16))
    assert topology.cores[:2] == ((0, 1), (2, 3))
    assert len(topology.caches) == 8
    assert topology.is_detailed


def test_hwloc_1() -> None:
    topology = parsed(recorded("hwloc-1"))
    assert topology.packages == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert [domain.cpus for domain in topology.numa_domains] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert topology.cores == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert topology.caches == topology.packages


def test_more_than_32_cpus_and_memory_alone() -> None:
    topology = parsed(
        "<topology>"
        '<object type="NUMANode" os_index="1" cpuset="0x0" local_memory="7"/>'
        '<object type="NUMANode" os_index="0" cpuset="0x00000001,,0x00000002"/>'
        '<object type="Core" cpuset="0x00000001,,0x00000002">'
        '<object type="PU" os_index="1"/><object type="PU" os_index="64"/></object>'
        '<object type="Core" cpuset="0xf...f"/></topology>'
    )
    assert topology.cores == ((1, 64),)
    assert [(d.index, d.cpus, d.memory_bytes) for d in topology.numa_domains] == [
        (0, (1, 64), None),
        (1, (), 7),
    ]
    assert topology.packages == ((1, 64),)
    assert topology.caches == ()


@pytest.mark.parametrize(
    ("kinds", "slow"),
    [
        (
            '<cpukind cpuset="0x00000fff"><info name="CoreType" value="IntelCore"/></cpukind>'
            '<cpukind cpuset="0x000ff000"><info name="CoreType" value="IntelAtom"/></cpukind>',
            tuple(range(12, 20)),
        ),
        (
            '<cpukind cpuset="0x0000000f" forced_efficiency="0"/>'
            '<cpukind cpuset="0x000ffff0" forced_efficiency="1"/>',
            (0, 1, 2, 3),
        ),
        ('<cpukind cpuset="0x000fffff"/>', ()),
    ],
)
def test_kinds_of_cores(kinds: str, slow: tuple[int, ...]) -> None:
    text = recorded("hybrid-laptop").replace("</topology>", f"{kinds}</topology>")
    topology = parsed(text)
    assert topology.slow_cpus == slow
    n_fast = len(topology.cores) - len(topology.cores_of(slow))
    assert not set(slow).intersection(*topology.cores[:n_fast][:1])


def test_words_around_the_document() -> None:
    text = f"warning: something\n{recorded('hwloc-1')}\nmore\n"
    assert parsed(text) == parsed(recorded("hwloc-1"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no XML",
        "<topology></topology>",
        "<topology><object></topology>",
        "<topology a=></topology>",
    ],
)
def test_nonsense_is_no_topology(text: str) -> None:
    assert parse_lstopo(text) is None


def test_disagreements_name_the_parts(tmp_path: Path) -> None:
    ours = read_topology(Machine(n_cores_per_domain=4, n_siblings=2).build(tmp_path))
    found = disagreements(ours, parsed(recorded("hwloc-1")))
    assert [
        re.match(r"(\d+) ([\w ]+) by /sys but (\d+) by lstopo", each).groups() for each in found
    ] == [  # type: ignore[union-attr]
        ("1", "packages", "2"),
        ("1", "NUMA domains", "2"),
        ("4", "cores", "4"),
    ]


# ------------------------------------------------------------------------------------------ asking


def test_a_program_on_path(tmp_path: Path) -> None:
    environ = install_lstopo(tmp_path, recorded("hwloc-1"))
    assert find_lstopo(environ) == str(tmp_path / "bin/lstopo-no-graphics")
    assert ask_lstopo(environ) == parsed(recorded("hwloc-1"))
    assert (tmp_path / "asked").read_text().split() == ["--disallowed", "--of", "xml", "-"]


def test_an_old_program_that_does_not_know_the_option(tmp_path: Path) -> None:
    environ = install_lstopo(tmp_path, recorded("hwloc-1"), refuses="--disallowed")
    assert ask_lstopo(environ) == parsed(recorded("hwloc-1"))


def test_no_program_or_one_that_fails(tmp_path: Path) -> None:
    assert ask_lstopo({}) is None
    assert ask_lstopo({"PATH": str(tmp_path)}) is None
    assert ask_lstopo(install_lstopo(tmp_path, "", refuses="xml")) is None


def test_a_program_that_hangs(tmp_path: Path) -> None:
    def hang(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert 0 < options["timeout"] <= 5
        raise subprocess.TimeoutExpired(command, options["timeout"])

    assert ask_lstopo(install_lstopo(tmp_path, ""), hang) is None
