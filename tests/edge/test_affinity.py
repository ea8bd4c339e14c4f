from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.machine.affinity import (
    Pinning,
    allocation_mask,
    divide,
    divide_among_ranks,
    pin,
    pin_process,
)
from qcmb_mpi.machine.threads import stack_bytes, thread_environment
from qcmb_mpi.machine.topology import Topology, read_topology
from tests.edge.fake_machine import (
    REALISTIC,
    Machine,
    Process,
    build_cgroups,
    build_processes,
    write,
)


@functools.cache
def built(machine: Machine) -> Topology:
    with tempfile.TemporaryDirectory() as root:
        return read_topology(machine.build(Path(root)))


LAPTOP = built(Machine(1, 1, 4, 2))
TOPOLOGIES = [
    LAPTOP,
    *(built(machine) for machine in REALISTIC.values()),
    built(Machine(2, 2, 3, 2, is_interleaved=True)),
    built(Machine(2, 1, 5, 1)),
]


# ------------------------------------------------------------------------------------------ divide


@given(data=st.data(), topology=st.sampled_from(TOPOLOGIES), n_parts=st.integers(1, 30))
@settings(deadline=None)
def test_divide_laws(data: st.DataObject, topology: Topology, n_parts: int) -> None:
    every = sorted(cpu for core in topology.cores for cpu in core)
    cpus = data.draw(st.sets(st.sampled_from(every), min_size=1))
    cores = topology.cores_of(cpus)
    parts = divide(cpus, topology, n_parts)
    assert len(parts) == n_parts
    assert set().union(*parts) == cpus
    n_cores = [sum(bool(set(core) & set(part)) for core in cores) for part in parts]
    for part in parts:
        for core in cores:
            assert set(core) <= set(part) or not set(core) & set(part)
    if n_parts <= len(cores):
        assert sum(len(part) for part in parts) == len(cpus)
        assert max(n_cores) - min(n_cores) <= 1
    else:
        assert n_cores == [1] * n_parts
        shared = [parts.count(part) for part in set(parts)]
        assert max(shared) - min(shared) <= 1


@given(topology=st.sampled_from(TOPOLOGIES), n_parts=st.integers(1, 10))
def test_first_cpus_of_a_part_are_different_cores(topology: Topology, n_parts: int) -> None:
    core_of = {cpu: core for core in topology.cores for cpu in core}
    for part in divide(core_of, topology, n_parts):
        n_cores = len({core_of[cpu] for cpu in part})
        assert len({core_of[cpu] for cpu in part[:n_cores]}) == n_cores


MACHINES = pytest.mark.parametrize("machine", REALISTIC.values(), ids=REALISTIC.keys())


@MACHINES
@pytest.mark.parametrize("n_ranks", range(1, 18))
def test_ranks_of_a_whole_node(machine: Machine, n_ranks: int) -> None:
    topology = built(machine)
    masks = [range(machine.n_cpus)] * n_ranks
    parts = [set(divide_among_ranks(masks, rank, topology)) for rank in range(n_ranks)]
    assert sorted(cpu for part in set(map(frozenset, parts)) for cpu in part) == list(
        range(machine.n_cpus)
    )
    for core in topology.cores:
        assert all(part.issuperset(core) or part.isdisjoint(core) for part in parts)
    domains = [set(domain.cpus) for domain in topology.numa_domains if domain.cpus]
    for part in parts:
        n_spanned = sum(not part.isdisjoint(domain) for domain in domains)
        if n_ranks % len(domains) == 0:
            assert n_spanned == 1
        elif len(domains) % n_ranks == 0:
            assert n_spanned == len(domains) // n_ranks


def test_a_rank_per_cache() -> None:
    machine = REALISTIC["EPYC with 4 domains per socket"]
    topology = built(machine)
    parts = divide(range(machine.n_cpus), topology, 16)
    assert [set(part) for part in parts] == [set(cache) for cache in topology.caches]


@given(data=st.data(), n_ranks=st.integers(1, 20))
@settings(deadline=None)
def test_ranks_of_a_partial_node(data: st.DataObject, n_ranks: int) -> None:
    """A batch system gave some cores of both sockets: equal parts, cut at sockets if possible."""
    machine = REALISTIC["two sockets of 32 cores"]
    topology = PARTIAL_NODE
    cores = data.draw(st.sets(st.sampled_from(range(machine.n_cores)), min_size=n_ranks))
    cpus = {cpu for core in cores for cpu in machine.siblings(core)}
    parts = divide(cpus, topology, n_ranks)
    assert sorted(cpu for part in parts for cpu in part) == sorted(cpus)
    sizes = [len(topology.cores_of(part)) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    n_first = sum(machine.domain(core) == 0 for core in cores)
    spanning = [p for p in parts if len({machine.domain(c % machine.n_cores) for c in p}) > 1]
    assert len(spanning) <= 1
    if n_ranks == 2 and abs(2 * n_first - len(cores)) <= 1:
        assert not spanning


PARTIAL_NODE = built(REALISTIC["two sockets of 32 cores"])


def test_parts_begin_where_a_domain_does() -> None:
    topology = built(Machine(3, 1, 6))
    uneven = set(range(18)) - {11, 17}  # 6, 5 and 5 cores
    assert [len(part) for part in divide(uneven, topology, 3)] == [6, 5, 5]
    assert divide(uneven, topology, 3)[1] == (6, 7, 8, 9, 10)


def test_a_part_per_domain_stays_in_its_domain() -> None:
    topology = built(Machine(2, 2, 8, 2, is_interleaved=True))
    every = [cpu for core in topology.cores for cpu in core]
    parts = divide(every, topology, 4)
    assert [set(part) for part in parts] == [set(d.cpus) for d in topology.numa_domains]


@pytest.mark.parametrize(("cpus", "n_parts"), [((), 1), ((0,), 0), ((0,), -1)])
def test_nothing_to_divide(cpus: tuple[int, ...], n_parts: int) -> None:
    with pytest.raises(ValueError, match="cannot divide"):
        divide(cpus, LAPTOP, n_parts)


def test_ranks_with_one_mask_divide_it_and_ranks_with_their_own_keep_it() -> None:
    topology = LAPTOP  # cores (0,4) (1,5) (2,6) (3,7)
    everything = range(8)
    assert divide_among_ranks([everything] * 2, 1, topology) == (2, 3, 6, 7)
    assert divide_among_ranks([{0, 4}, {1, 2, 5, 6}], 1, topology) == (1, 2, 5, 6)
    assert divide_among_ranks([{0, 1, 4, 5}, {1, 2, 5, 6}, {0}], 2, topology) == (2, 6)


# --------------------------------------------------------------------------------- allocation mask

SELF = Process("self", "python", "2")


@pytest.mark.parametrize(
    "name", ["prterun", "prted", "orted", "mpirun", "mpiexec", "hydra_pmi_proxy"]
)
def test_a_launchers_binding_is_looked_behind(name: str, tmp_path: Path) -> None:
    build_processes(tmp_path, SELF, Process("77", name, "0-3"))
    assert allocation_mask(root=tmp_path) == {0, 1, 2, 3}
    assert allocation_mask(True, root=tmp_path) == {2}


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_one_shell_between(shell: str, tmp_path: Path) -> None:
    build_processes(tmp_path, SELF, Process("8", shell, "2"), Process("7", "prted", "0-7"))
    assert allocation_mask(root=tmp_path) == set(range(8))


@pytest.mark.parametrize(
    "chain",
    [
        [Process("8", "bash", "0-3"), Process("7", "sshd", "0-7")],  # bound by hand in a shell
        [Process("8", "bash", "0-3"), Process("7", "prted", "0-3")],  # taskset behind the launcher
        [Process("8", "bash", "2"), Process("7", "bash", "2"), Process("6", "prted", "0-3")],
        [Process("8", "prted", "3-4")],  # not wider: another allocation's daemon
        [Process("8", "prted", "")],  # unreadable
        [Process("8", "slurmstepd", "0-3")],  # no cpuset
        [],
    ],
)
def test_other_bindings_are_kept(chain: list[Process], tmp_path: Path) -> None:
    build_processes(tmp_path, SELF, *chain)
    assert allocation_mask(root=tmp_path) == {2}


@pytest.mark.parametrize(
    ("path", "files", "mask"),
    [
        (
            "/slurm/uid_0/job_4/step_0",
            {"/slurm/uid_0/job_4/step_0/cpuset.cpus": "0-2\n"},
            {0, 1, 2},
        ),
        ("/slurm/uid_0/job_4/step_0", {"/slurm/uid_0/job_4/cpuset.cpus": "0-4\n"}, set(range(5))),
        ("/", {"/cpuset.cpus": "0-63\n"}, {2}),  # Slurm without confinement: the host's own set
        ("/system", {"/system/cpuset.cpus": "0-63\n"}, {2}),
    ],
)
def test_an_srun_bound_rank_takes_its_steps_cpuset(
    path: str, files: dict[str, str], mask: set[int], tmp_path: Path
) -> None:
    build_processes(tmp_path, SELF, Process("9", "slurmstepd", "0-63"))
    build_cgroups(tmp_path, v1=path)
    write(tmp_path, {f"/sys/fs/cgroup/cpuset{name}": text for name, text in files.items()})
    assert allocation_mask(root=tmp_path) == mask


def test_an_srun_bound_rank_under_cgroup_version_2(tmp_path: Path) -> None:
    build_processes(tmp_path, SELF, Process("9", "slurmstepd", "0-63"))
    build_cgroups(tmp_path, v2="/system.slice/slurmstepd.scope/job_4/step_0/user/task_0")
    job = "/sys/fs/cgroup/unified/system.slice/slurmstepd.scope/job_4"
    write(
        tmp_path,
        {
            f"{job}/step_0/user/task_0/cpuset.cpus": "\n",
            f"{job}/step_0/user/task_0/cpuset.cpus.effective": "0-3\n",
            f"{job}/cpuset.cpus": "0-5\n",
            f"{job}/cpuset.cpus.effective": "0-3\n",
        },
    )
    assert allocation_mask(root=tmp_path) == {0, 1, 2, 3}


def test_an_empty_tree_grants_nothing(tmp_path: Path) -> None:
    assert allocation_mask(root=tmp_path) == frozenset()


def test_this_process() -> None:
    assert allocation_mask(True) == os.sched_getaffinity(0)
    assert allocation_mask() >= os.sched_getaffinity(0)


def test_without_proc_all_cpus_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcmb_mpi.machine.affinity.read_text", lambda path: "")
    assert allocation_mask() == set(range(os.cpu_count() or 1))


# --------------------------------------------------------------------------------------------- pin


def test_pin_in_a_child() -> None:
    script = (
        "import json, os\n"
        "from qcmb_mpi.machine.affinity import pin\n"
        "one = min(os.sched_getaffinity(0))\n"
        "print(json.dumps([pin({one}), os.sched_getaffinity(0) == {one}, pin({10**6}), pin(())]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [True, True, False, False]


@pytest.mark.parametrize("error", [PermissionError, OSError, ValueError, OverflowError])
def test_a_refused_pin_is_no_error(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cpus: set[int]) -> None:
        raise error

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert pin({0}) is False


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    script = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"
    script += "; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_is_pinned_with_all_its_threads(sleeper: subprocess.Popen[bytes]) -> None:
    one = min(os.sched_getaffinity(0))
    assert pin_process({one}, sleeper.pid) == Pinning((one,))
    threads = os.listdir(f"/proc/{sleeper.pid}/task")
    assert len(threads) == 2
    assert all(os.sched_getaffinity(int(thread)) == {one} for thread in threads)


def test_pinning_falls_back_to_what_is_allowed(sleeper: subprocess.Popen[bytes]) -> None:
    allowed = os.sched_getaffinity(0)
    some = pin_process(allowed | {10**4}, sleeper.pid)
    assert set(some.cpus) == allowed
    assert (some.is_exact, some.note) == (False, "CPUs 10000 are not in the job's cpuset")
    none = pin_process({10**4}, sleeper.pid)
    assert set(none.cpus) == allowed
    assert "refused: none of these CPUs" in none.note


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.EPERM, "another user"), (errno.EIO, "Input/output")]
)
def test_a_refusal_is_told(code: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, cpus: set[int]) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    pinning = pin_process({0})
    assert reason in pinning.note
    assert set(pinning.cpus) == os.sched_getaffinity(0)


def test_a_process_that_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert pin_process({0}, sleeper.pid) == Pinning(
        (), "pinning was refused: there is no such process"
    )


# ----------------------------------------------------------------------------------------- threads


def test_thread_environment() -> None:
    environment = thread_environment(3)
    counts = {name: value for name, value in environment.items() if name.endswith("_THREADS")}
    assert set(counts) >= {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert set(counts.values()) == {"3"}
    assert environment["OMP_DYNAMIC"] == environment["MKL_DYNAMIC"] == "FALSE"
    assert environment["OMP_PROC_BIND"] == "FALSE"
    with pytest.raises(ValueError, match="at least 1"):
        thread_environment(0)


def test_an_inherited_binding_is_undone() -> None:
    """Intel's runtime minds only its own variable, which also wins over GNU's."""
    assert thread_environment(2)["KMP_AFFINITY"] == "none"


@given(n_threads=st.integers(1, 512), memory_bytes=st.integers(0, 2**42))
def test_stacks_are_large_but_bounded(n_threads: int, memory_bytes: int) -> None:
    size = stack_bytes(n_threads, memory_bytes)
    assert 16 * 2**20 <= size <= 256 * 2**20
    assert size % 2**20 == 0
    assert size == 16 * 2**20 or not memory_bytes or size * n_threads <= memory_bytes / 4
