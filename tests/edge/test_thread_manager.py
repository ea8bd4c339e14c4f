from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qcmb_mpi
from qcmb_mpi import (
    ExecutorConfig,
    HybridParallelConfig,
    InputError,
    MultiprocessingExecutor,
    QCThreadManager,
    ThreadAllocation,
)
from qcmb_mpi.execution.host import HostShare, host_share
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.machine.affinity import allocation_mask
from qcmb_mpi.machine.topology import read_topology
from tests.edge.agent_cases import slots_of, wait_until
from tests.edge.fake_machine import REALISTIC
from tests.edge.task_cases import IMPORTS, task

GIB = 2**30


@cache
def share(name: str = "laptop with SMT", memory_bytes: int = 8 * GIB) -> HostShare:
    machine = REALISTIC[name]
    with tempfile.TemporaryDirectory() as root:
        topology = read_topology(machine.build(Path(root)))
    cpus = tuple(core[i] for i in range(2) for core in topology.cores if i < len(core))
    info = AgentInfo(0, "n1", machine.n_cores, memory_bytes)
    return HostShare(info, cpus, topology)


def manager(name: str = "laptop with SMT", **config: Any) -> QCThreadManager:
    return QCThreadManager(HybridParallelConfig(**config), share=share(name))


def test_the_names_are_public() -> None:
    for name in ("HybridParallelConfig", "QCThreadConfig", "QCThreadManager", "ParallelConfig"):
        assert name in qcmb_mpi.__all__
        assert getattr(qcmb_mpi, name).__doc__
    assert {"ThreadAllocation", "ThreadUsageStats"} <= set(qcmb_mpi.__all__)
    assert qcmb_mpi.ParallelConfig is ExecutorConfig


# --------------------------------------------------------------------------------------- configure


def test_a_calculation_gets_its_share() -> None:
    made = manager().configure_qc_threads("psi4")
    assert made.qcengine_task_config == {"ncores": 4, "nnodes": 1, "memory": 8.0}
    made = manager().configure_qc_threads("psi4", total_workers=2)
    assert made.qcengine_task_config == {"ncores": 2, "nnodes": 1, "memory": 4.0}
    assert manager(qc_threads_per_fragment=1).configure_qc_threads("psi4").n_ranks == 1


def test_cores_are_never_given_twice() -> None:
    made = manager().configure_qc_threads("psi4", 4, 2, memory_bytes=GIB)
    assert made.threads_per_calculation == 2
    assert made.environment_variables["OMP_NUM_THREADS"] == "2"
    assert made.reason.endswith("4 threads for each of 2 are more than 4 cores")
    assert manager().configure_qc_threads("psi4", total_workers=9).threads_per_calculation == 1
    assert "more than" not in manager().configure_qc_threads("xtb", 8).reason


@pytest.mark.parametrize(
    "call", [{"threads_per_calc": 0}, {"total_workers": 0}, {"memory_bytes": -1}]
)
def test_nonsense_is_refused(call: dict[str, int]) -> None:
    with pytest.raises(InputError, match="1 or more"):
        manager().configure_qc_threads("psi4", **call)
    with pytest.raises(InputError, match="1 or more"):
        manager().allocate_thread_resources(fragment_workers=0)
    with pytest.raises(InputError, match="balanced"):
        manager().allocate_thread_resources(strategy="wild")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- allocate


def layout(allocation: ThreadAllocation) -> tuple[int, int]:
    return allocation.fragment_workers, allocation.qc_threads_per_worker


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({}, (4, 1)),
        ({"costs": [1.0] * 100}, (4, 1)),
        ({"costs": [100.0, 1.0]}, (1, 4)),
        ({"costs": [100.0, 1.0], "strategy": "balanced"}, (2, 2)),
        ({"costs": [1.0] * 100, "task_memory_bytes": 3 * GIB}, (2, 2)),
        ({"costs": [1.0] * 100, "task_memory_bytes": 3 * GIB, "strategy": "adaptive"}, (4, 1)),
        ({"fragment_workers": 4, "task_memory_bytes": 3 * GIB}, (2, 2)),
        ({"fragment_workers": 2}, (2, 2)),
        ({"qc_threads_per_worker": 2}, (2, 2)),
        ({"fragment_workers": 2, "qc_threads_per_worker": 1}, (2, 1)),
        ({"fragment_workers": 3, "qc_threads_per_worker": 4}, (3, 1)),
        ({"fragment_workers": 9}, (4, 1)),
        ({"costs": [100.0, 1.0], "programs": ["xtb", "gcp"]}, (2, 1)),
        ({"costs": [100.0, 1.0], "programs": ["xtb", "psi4"]}, (1, 4)),
        ({"fragment_workers": 2, "qc_threads_per_worker": 2, "programs": ["xtb"]}, (2, 1)),
    ],
)
def test_strategies(call: dict[str, Any], expected: tuple[int, int]) -> None:
    allocation = manager().allocate_thread_resources(**call)
    n_workers, n_threads = layout(allocation)
    if "xtb" in call.get("programs", ()) and expected == (2, 1):
        assert n_threads == 1
        assert n_workers <= 4
    else:
        assert (n_workers, n_threads) == expected
    assert allocation.total_threads_used == n_workers * n_threads
    assert " because " in allocation.reason
    assert allocation.memory_per_worker_bytes == 8 * GIB // n_workers


def test_reasons_say_what_was_cut() -> None:
    allocation = manager().allocate_thread_resources(3, 4)
    assert allocation.reason.endswith("3 x 4 would be more than 4 cores")
    serial = manager().allocate_thread_resources(costs=[1.0], programs=["xtb"])
    assert serial.reason.endswith("xtb: one core for each calculation")
    equal = manager().allocate_thread_resources(strategy="balanced")
    assert equal.reason == "4 slots x 1 thread because 4 cores are shared equally"


@given(
    name=st.sampled_from(sorted(REALISTIC)),
    n_workers=st.none() | st.integers(1, 300),
    n_threads=st.none() | st.integers(1, 300),
    costs=st.lists(st.sampled_from([0.1, 1.0, 50.0]), max_size=30),
    strategy=st.sampled_from(["balanced", "adaptive", "memory_aware"]),
    most=st.none() | st.integers(1, 40),
)
@settings(deadline=None, max_examples=30)
def test_never_more_threads_than_cores(
    name: str,
    n_workers: int | None,
    n_threads: int | None,
    costs: list[float],
    strategy: Any,
    most: int | None,
) -> None:
    node = share(name)
    asker = QCThreadManager(HybridParallelConfig(max_total_threads=most), share=node)
    made = asker.allocate_thread_resources(n_workers, n_threads, costs=costs, strategy=strategy)
    n_cores = min(node.info.n_cores, most or node.info.n_cores)
    assert 1 <= made.total_threads_used <= n_cores
    parts = [set(cpus) for cpus in made.cpu_affinity_map.values()]
    assert len(parts) == made.fragment_workers
    assert sum(len(part) for part in parts) == len(set().union(*parts))
    for part in parts:
        assert len(node.topology.cores_of(part)) >= made.qc_threads_per_worker


def test_no_pinning_if_not_wanted_or_not_exact() -> None:
    off = manager(enable_thread_affinity=False).allocate_thread_resources()
    assert off.cpu_affinity_map == {}
    some = HostShare(share().info, (), share().topology)  # which CPUs are ours is not known
    assert QCThreadManager(share=some).allocate_thread_resources().cpu_affinity_map == {}


@pytest.mark.parametrize(
    ("config", "is_pinned"),
    [
        (HybridParallelConfig(), True),
        (HybridParallelConfig(enable_thread_affinity=False), False),
        (HybridParallelConfig(is_pinned=False), False),
        (ExecutorConfig(is_pinned=False), False),
    ],
)
def test_slots_have_cores_of_their_own_if_wanted(config: ExecutorConfig, is_pinned: bool) -> None:
    ours = allocation_mask()
    n_slots = min(2, host_share().info.n_cores)
    config = replace(config, n_workers=n_slots, imports=IMPORTS)
    with MultiprocessingExecutor(config) as executor:
        assert executor.execute([task(2)])[0].success
        slots = slots_of(os.getpid())
        assert len(slots) == n_slots
        if is_pinned and host_share().cpus:  # the slot without the task may be on its way still
            wait_until(lambda: are_apart([os.sched_getaffinity(slot.pid) for slot in slots]))
        else:
            assert [os.sched_getaffinity(slot.pid) for slot in slots] == [ours] * n_slots


def are_apart(masks: Sequence[set[int]]) -> bool:
    """Tell whether no processor is in two of these."""
    return sum(map(len, masks)) == len(frozenset().union(*masks))


# -------------------------------------------------------------------------------- affinity and use


def test_a_worker_is_pinned_to_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: asked.append((pid, cpus)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: asked[-1][1])
    asker = manager()
    with pytest.raises(InputError, match="allocate first"):
        asker.set_thread_affinity(0)
    asker.allocate_thread_resources(2, 2)
    assert asker.set_thread_affinity(1).is_exact
    assert asker.set_thread_affinity(0, [5]).cpus == (5,)
    assert asked == [(0, {2, 3, 6, 7}), (0, {5})]
    with pytest.raises(InputError, match="worker_id"):
        asker.set_thread_affinity(2)


def test_usage_is_told_since_the_last_call() -> None:
    asker = QCThreadManager()
    with asker.monitoring(interval_s=0.05, n_cores=3) as usage:
        sum(range(3 * 10**6))
    assert usage.stats().n_cores == 3
    first, second = asker.monitor_thread_usage(), asker.monitor_thread_usage()
    assert first.n_cores == asker.n_cores
    assert first.cpu_s > second.cpu_s
    assert first.wall_s > second.wall_s


# ----------------------------------------------------------------------------------- configuration


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcmb_mpi.programs.thread_manager.host_share", lambda **_: share())


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("fields", "n_workers", "n_threads"),
    [
        ({}, None, None),
        ({"qc_threads_per_fragment": 2}, None, 2),
        ({"thread_allocation_strategy": "balanced"}, None, 1),
        ({"thread_allocation_strategy": "balanced", "n_threads": 4}, None, 4),
        ({"max_total_threads": 64}, None, None),
        ({"max_total_threads": 3}, 3, 1),
        ({"max_total_threads": 3, "qc_threads_per_fragment": 2}, 1, 2),
        ({"max_total_threads": 3, "n_workers": 2}, 2, None),
    ],
)
def test_an_executor_understands_it(
    fields: dict[str, Any], n_workers: int | None, n_threads: int | None
) -> None:
    config = HybridParallelConfig(**fields)
    assert isinstance(config, ExecutorConfig)
    executor = MultiprocessingExecutor(config)
    assert (executor.config.n_workers, executor.config.n_threads) == (n_workers, n_threads)


@pytest.mark.parametrize(
    "fields",
    [
        {"qc_threads_per_fragment": 0},
        {"max_total_threads": True},
        {"thread_allocation_strategy": "wild"},
        {"qc_threads_per_fragment": 2, "n_threads": 3},
        {"qc_threads_per_fragment": 4, "max_total_threads": 2},
        {"max_retries": -1},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        HybridParallelConfig(**fields)
