"""The ranks that a plan is made for, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import ExecutorConfig, InputError, MethodAwareConfig, SequentialExecutor, schema
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import Prospect
from qcmb_mpi.machine.limits import Limits
from qcmb_mpi.machine.topology import read_topology
from qcmb_mpi.plan import format_plan, make_plan
from qcmb_mpi.plan_ranks import Agents, Ranks, agents_of, launched
from qcmb_mpi.scheduling.cost import CostModel
from tests.edge.fake_machine import Machine
from tests.edge.task_cases import IMPORTS, many_body_input

GB = 10**9
TWO_DOMAINS = Machine(n_packages=2, n_cores_per_domain=4)
Node = Callable[..., None]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return what turns this machine into another one, with 100 GB."""

    def become(machine: Machine, n_granted: int | None = None) -> None:
        topology = read_topology(machine.build(tmp_path / "root"))
        cpus = frozenset(range(n_granted or machine.n_cpus))
        limits = Limits(cpus, len(cpus), 100 * GB, ())
        monkeypatch.setattr("qcmb_mpi.machine.topology.read_topology", lambda *_: topology)
        monkeypatch.setattr("qcmb_mpi.machine.limits.read_limits", lambda *_, **__: limits)
        monkeypatch.setattr("qcmb_mpi.plan_ranks.allocation_mask", lambda *_: cpus)

    return become


def agents(**how: Any) -> Agents:
    return agents_of(Ranks(**how), ExecutorConfig())


def cores(**how: Any) -> list[int]:
    return [info.n_cores for info in agents(**how).infos]


def plan(**how: Any) -> dict[str, Any]:
    loaded = schema.load_input(many_body_input())
    return make_plan(loaded, ExecutorConfig(imports=IMPORTS), ranks=Ranks(**how))


def test_ranks_share_the_cores_of_their_nodes(node: Node) -> None:
    node(TWO_DOMAINS)
    assert cores() == [8]
    assert cores(n_ranks=2) == [4, 4]
    assert cores(n_nodes=3) == [4] * 6
    assert cores(n_ranks=3, n_nodes=2) == [4, 4, 8]
    assert cores(n_ranks=3, n_nodes=3) == [8] * 3
    assert [info.rank for info in agents(n_ranks=5, n_nodes=2).infos] == [*range(5)]
    assert {info.memory_bytes for info in agents(n_ranks=4).infos} == {20 * GB}


def test_a_dedicated_master_leaves_its_cores_to_the_others(node: Node) -> None:
    node(TWO_DOMAINS)
    found = agents(n_ranks=3, is_master_dedicated=True)
    assert [info.n_cores for info in found.infos] == [0, 4, 4]
    assert [info.rank for info in found.computing] == [1, 2]
    assert cores(n_ranks=1, is_master_dedicated=True) == [8]


def test_a_rank_needs_a_node(node: Node) -> None:
    node(TWO_DOMAINS)
    with pytest.raises(InputError, match="--nodes"):
        Ranks(2, 3)


def test_one_rank_for_each_domain_is_advised(node: Node) -> None:
    node(TWO_DOMAINS)
    alone = plan()
    assert alone["ranks"]["n_advised"] == 2
    assert "mpiexec -n 2 python -m qcmb_mpi run INPUT" in format_plan(alone)
    advised = plan(n_ranks=2)
    text = format_plan(advised)
    assert "2 ranks on 1 node, 4 cores and 40 GB each" in text
    assert "advised" not in text
    assert "in each rank 4 slots x 1 thread" in text
    several = plan(n_nodes=2)
    assert several["ranks"]["n_ranks"] == 4
    assert several["wall_s"] < advised["wall_s"]
    assert "on 2 nodes like this" in format_plan(several)


def test_what_is_granted_of_a_node_is_said(node: Node) -> None:
    node(TWO_DOMAINS, n_granted=3)
    text = format_plan(plan())
    assert ": 3 cores and 80 GB for tasks, 80 % of 100 GB granted (the machine has 8" in text
    assert "none: python -m qcmb_mpi run INPUT" in text
    assert "without MPI is as good" in format_plan(plan(n_ranks=2))


def large_input(n: int = 12, method: str = "mp2") -> dict[str, Any]:
    """Return `n` atoms whose whole is most of the work, for a program that threads."""
    document = many_body_input(n, program="pyscf", bsse_type=["nocp"])
    low = document["specification"]["specification"].pop("(auto)")
    low["model"] = {"method": "mp2", "basis": "sto-3g"}
    high = {**low, "model": {"method": method, "basis": "cc-pvtz"}}
    document["specification"]["specification"] = {"low": low, "high": high}
    document["specification"]["keywords"].pop("max_nbody")
    document["specification"]["keywords"]["levels"] = {1: "low", "supersystem": "high"}
    return document


@pytest.mark.parametrize(
    ("executor", "slots", "threads", "n_wide"),
    [("auto", 8, 1, 1), ("multiprocessing", 8, 1, 1), ("thread", 1, 8, 0), ("serial", 1, 8, 0)],
)
def test_each_executor_has_its_own_layout(
    node: Node, executor: str, slots: int, threads: int, n_wide: int
) -> None:
    node(TWO_DOMAINS)
    found = make_plan(schema.load_input(large_input()), ExecutorConfig(), executor=executor)
    layout = found["layout"]
    assert (layout["n_slots"], layout["n_threads"], layout["n_wide"]) == (slots, threads, n_wide)


def test_the_serial_executors_plan_is_what_it_does() -> None:
    loaded = schema.load_input(large_input())
    with SequentialExecutor() as executor:
        infos = list(executor.transport.infos.values())
        space, done = TaskSpace(loaded.expansion), np.empty(0, dtype=np.int64)
        layout = Prospect(space, executor.config, done=done).on(infos, CostModel()).layout
    planned = make_plan(loaded, ExecutorConfig(), executor="serial")["layout"]
    assert {name: getattr(layout, name) for name in ("n_slots", "n_threads", "reason")} == {
        name: planned[name] for name in ("n_slots", "n_threads", "reason")
    }
    assert (layout.n_slots, layout.n_threads) == (1, infos[0].n_cores)
    assert layout.reason.endswith("because 1 slot was asked for")


def test_workers_that_were_asked_for_are_told_enough_for_the_largest_task(node: Node) -> None:
    """All are predicted by what they are told: the whole keeps 13 GB of integrals if it may."""
    node(TWO_DOMAINS)
    loaded = schema.load_input(large_input(24, "hf"))
    plain = ExecutorConfig(n_workers=8, n_threads=1)
    demanding = MethodAwareConfig(
        methods={"mp2": {"memory_bytes": 30 * GB}}, n_workers=8, n_threads=1
    )
    found = [make_plan(loaded, each) for each in (plain, demanding)]
    assert [each["layout"]["memory_per_slot_bytes"] for each in found] == [10 * GB, 30 * GB]
    whole_bytes = [each["levels"][-1]["memory_bytes"] for each in found]
    assert whole_bytes[0] == 10 * GB
    assert 12 * GB < whole_bytes[1] < 14 * GB


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_RANK": "4"}, (6, 1, 4)),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "6",
                "OMPI_COMM_WORLD_RANK": "4",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
            },
            (6, 2, 4),
        ),
        ({"PMIX_RANK": "3"}, (0, 1, 3)),
    ],
)
def test_inside_a_job_its_own_ranks_are_taken(
    environ: dict[str, str], expected: tuple[int, int, int]
) -> None:
    assert launched(environ) == expected


def planned(document: dict[str, Any], *, n_ranks: int = 0, **how: Any) -> dict[str, Any]:
    config = ExecutorConfig(imports=IMPORTS, n_threads=1 if "n_workers" in how else None)
    config = replace(config, n_workers=how.pop("n_workers", None))
    return make_plan(schema.load_input(document), config, ranks=Ranks(n_ranks), **how)


def test_predicted_times_count_cores_not_slots(node: Node) -> None:
    node(TWO_DOMAINS)
    document = many_body_input(8)
    fits, crowded = (planned(document, n_workers=n) for n in (8, 16))
    assert crowded["wall_s"] > 0.9 * fits["wall_s"]
    assert "16 slots x 1 thread share 8 cores" in format_plan(crowded)
    assert "share" not in format_plan(fits)


def test_more_ranks_than_cores_share_them(node: Node) -> None:
    node(TWO_DOMAINS)
    document = many_body_input(8)
    fits, crowded = (planned(document, n_ranks=n) for n in (8, 16))
    assert crowded["wall_s"] > 0.9 * fits["wall_s"]
    assert "16 ranks of 1 slot x 1 thread share 8 cores" in format_plan(crowded)
    assert "share 8 cores" not in format_plan(planned(document, n_ranks=3))


def test_fewer_ranks_are_advised_where_a_large_task_dominates(node: Node) -> None:
    node(TWO_DOMAINS)
    text = format_plan(planned(large_input(), n_ranks=8))
    assert "in each rank 1 slot x 1 thread because a rank has 1 core" in text
    assert "wastes nothing" not in text
    assert "2 ranks would be sooner: about " in text
    for document, n_ranks in ((large_input(), 2), (many_body_input(8), 8)):
        assert "would be sooner" not in format_plan(planned(document, n_ranks=n_ranks))


def test_what_a_run_would_refuse_is_a_problem(node: Node) -> None:
    node(TWO_DOMAINS)
    assert planned(many_body_input())["problems"] == []
    found = planned(many_body_input(program="cfour"))
    assert "problem     this node would refuse it: program 'cfour' is not" in format_plan(found)


def test_a_time_limit_that_will_not_do_is_told_of(node: Node) -> None:
    node(TWO_DOMAINS)
    late, enough = (planned(many_body_input(), walltime_s=s) for s in (1e-6, 1e6))
    assert "the run would end incomplete" in format_plan(late)
    assert "incomplete" not in format_plan(enough)
