from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from qcmb_mpi.errors import InputError
from qcmb_mpi.machine.affinity import divide_among_ranks
from qcmb_mpi.machine.limits import format_memory, parse_memory, read_limits
from qcmb_mpi.machine.topology import read_topology
from tests.edge.fake_machine import (
    REALISTIC,
    Machine,
    Process,
    build_cgroups,
    build_processes,
    write,
)

MIB, GIB = 2**20, 2**30
V1, V2 = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host ``n1`` with 8 CPUs and 16 GiB, nothing limited."""
    Machine(n_cores_per_domain=8).build(tmp_path)
    build_processes(tmp_path, Process("self", "python", "0-7"), Process("5", "bash", "0-7"))
    limits = (
        "Limit Soft Hard Units\nMax address space         unlimited            unlimited bytes\n"
    )
    return write(
        tmp_path,
        {"proc/sys/kernel/hostname": "n1.cluster.org\n", "proc/self/limits": limits},
    )


def granted(root: Path, **environ: str) -> tuple[int, int]:
    limits = read_limits(root, environ)
    return limits.n_cpus, limits.memory_bytes


def test_nothing_limited(root: Path) -> None:
    limits = read_limits(root, {})
    assert limits.cpus == set(range(8))
    assert limits.is_mask_exact
    assert limits.notes == ("8 CPUs by the affinity mask 0-7", "16 GiB by the machine's total")
    assert granted(root) == (8, 16 * GIB)


def test_nothing_known(tmp_path: Path) -> None:
    limits = read_limits(tmp_path, {})
    assert (limits.n_cpus, limits.memory_bytes) == (1, psutil.virtual_memory().total)


def test_this_process() -> None:
    limits = read_limits()
    assert 1 <= limits.n_cpus <= len(limits.cpus)
    assert limits.memory_bytes > 2**26


# ----------------------------------------------------------------------------------------- cgroups

JOB = "/slurm/uid_0/job_4"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({f"cpu{JOB}/step_0/cpu.cfs_quota_us": "150000"}, (2, 16 * GIB)),
        ({f"cpu{JOB}/step_0/cpu.cfs_quota_us": "-1"}, (8, 16 * GIB)),
        ({f"cpu{JOB}/step_0/cpu.cfs_quota_us": "1000"}, (1, 16 * GIB)),
        ({"cpu/slurm/cpu.cfs_quota_us": "300000"}, (3, 16 * GIB)),
        (
            {f"cpu{JOB}/cpu.cfs_quota_us": "500000", "cpu/slurm/cpu.cfs_quota_us": "400000"},
            (4, 16 * GIB),
        ),
        ({f"memory{JOB}/step_0/memory.limit_in_bytes": "9223372036854771712"}, (8, 16 * GIB)),
        ({f"memory{JOB}/memory.limit_in_bytes": str(300 * MIB)}, (8, 300 * MIB)),
        (
            {
                f"memory{JOB}/step_0/memory.limit_in_bytes": "9223372036854771712",
                f"memory{JOB}/memory.limit_in_bytes": str(300 * MIB),
                "memory/slurm/memory.limit_in_bytes": str(200 * MIB),
                "memory/memory.limit_in_bytes": "not a number",
            },
            (8, 200 * MIB),
        ),
    ],
)
def test_version_1(files: dict[str, str], expected: tuple[int, int], root: Path) -> None:
    build_cgroups(root, v1=f"{JOB}/step_0")
    periods = {
        f"{V1}/{name.replace('quota', 'period')}": "100000\n" for name in files if "quota" in name
    }
    write(root, {f"{V1}/{name}": text + "\n" for name, text in files.items()} | periods)
    assert granted(root) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, (8, 16 * GIB)),
        ({"a/b/cpu.max": "250000 100000", "a/memory.max": str(GIB)}, (3, GIB)),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, (2, 16 * GIB)),
        ({"a/cpu.max": "50000 100000"}, (1, 16 * GIB)),
        ({"a/b/memory.max": str(3 * GIB), "a/memory.max": str(2 * GIB)}, (8, 2 * GIB)),
        ({"a/b/cpu.max": "", "a/b/memory.max": "0"}, (8, 16 * GIB)),
    ],
)
def test_version_2(files: dict[str, str], expected: tuple[int, int], root: Path) -> None:
    build_cgroups(root, v2="/a/b")
    write(root, {f"{V2}/{name}": text + "\n" for name, text in files.items()})
    assert granted(root) == expected


def test_both_versions_at_once(root: Path) -> None:
    build_cgroups(root, v1="/job", v2="/job")
    write(root, {f"{V1}/memory/job/memory.limit_in_bytes": f"{GIB}\n"})
    write(root, {f"{V2}/job/cpu.max": "100000 100000\n"})
    limits = read_limits(root, {})
    assert (limits.n_cpus, limits.memory_bytes) == (1, GIB)
    assert limits.notes[0] == "1 CPUs by /sys/fs/cgroup/unified/job/cpu.max"
    assert limits.notes[2] == "1 GiB by /sys/fs/cgroup/memory/job/memory.limit_in_bytes"


def test_a_limit_that_only_slows_down_counts(root: Path) -> None:
    build_cgroups(root, v2="/user/job")
    write(root, {f"{V2}/user/memory.high": f"{2 * GIB}\n", f"{V2}/user/job/memory.max": "max\n"})
    assert granted(root) == (8, 2 * GIB)


def test_version_1_tells_of_ancestors_that_a_container_hides(root: Path) -> None:
    build_cgroups(root, v1="/docker/abc", mount_root="/docker/abc")
    write(
        root,
        {
            f"{V1}/memory/memory.limit_in_bytes": "9223372036854771712\n",
            f"{V1}/memory/memory.stat": f"cache 1\nhierarchical_memory_limit {3 * GIB}\n",
        },
    )
    limits = read_limits(root, {})
    assert limits.memory_bytes == 3 * GIB
    assert "3 GiB by /sys/fs/cgroup/memory/memory.stat" in limits.notes


@pytest.mark.parametrize(
    ("path", "mount_root"),
    [
        ("/docker/abc/job", "/docker/abc"),  # a container that sees its own part of the tree
        ("/", "/"),
        ("/../..", "/"),  # another cgroup namespace's path
        ("/elsewhere", "/docker/abc"),
    ],
)
def test_containers(path: str, mount_root: str, root: Path) -> None:
    build_cgroups(root, v2=path, mount_root=mount_root)
    write(root, {f"{V2}/memory.max": f"{GIB}\n"})
    assert granted(root) == (8, GIB)


# ------------------------------------------------------------------------------------------- batch


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "4"}, (4, 16 * GIB)),
        ({"SLURM_JOB_ID": "1", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}, (4, 16 * GIB)),
        ({"SLURM_JOB_ID": "1", "SLURM_JOB_CPUS_PER_NODE": "4,2"}, (8, 16 * GIB)),
        ({"SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "300"}, (8, 300 * MIB)),
        ({"SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "0"}, (8, 16 * GIB)),
        (
            {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "2"},
            (2, 1000 * MIB),
        ),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "300"}, (8, 16 * GIB)),  # no job
        ({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "many"}, (8, 16 * GIB)),
        ({"PBS_JOBID": "1.lab", "NCPUS": "3"}, (3, 16 * GIB)),
        ({"NCPUS": "3"}, (8, 16 * GIB)),
        ({"PBS_JOBID": "1.lab", "PBS_NODEFILE": "/nodes"}, (2, 16 * GIB)),
        ({"PBS_JOBID": "1.lab", "PBS_NODEFILE": "/nodes", "NCPUS": "6"}, (6, 16 * GIB)),
        ({"PBS_JOBID": "1.lab", "PBS_NODEFILE": "/missing"}, (8, 16 * GIB)),
        ({"LSB_DJOB_NUMPROC": "5"}, (5, 16 * GIB)),
        ({"LSB_DJOB_NUMPROC": "9", "LSB_MCPU_HOSTS": "n2 6 n1 3"}, (3, 16 * GIB)),
        ({"LSB_DJOB_NUMPROC": "4", "LSB_MCPU_HOSTS": "alias 4"}, (4, 16 * GIB)),
        ({"LSB_DJOB_NUMPROC": "4", "LSB_MCPU_HOSTS": "n2 2 n3 2"}, (8, 16 * GIB)),
        ({"NSLOTS": "3", "JOB_ID": "7"}, (3, 16 * GIB)),
        ({"NSLOTS": "3"}, (8, 16 * GIB)),
        ({"NSLOTS": "6", "NHOSTS": "2", "PE_HOSTFILE": "/pe"}, (4, 16 * GIB)),
        ({"NSLOTS": "6", "NHOSTS": "2", "JOB_ID": "7"}, (8, 16 * GIB)),
    ],
)
def test_batch_systems(environ: dict[str, str], expected: tuple[int, int], root: Path) -> None:
    write(
        root,
        {
            "nodes": "n1.cluster.org\nn1.cluster.org\nn2\n",
            "pe": "n1.cluster.org 4 all.q@n1 UNDEFINED\nn2 2 all.q@n2 UNDEFINED\nbroken\n",
        },
    )
    assert granted(root, **environ) == expected


def test_fewer_cpus_than_the_mask_are_not_pinned_to(root: Path) -> None:
    limits = read_limits(root, {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "4"})
    assert len(limits.cpus) == 8
    assert not limits.is_mask_exact
    assert limits.notes[0] == "4 CPUs by Slurm (SLURM_CPUS_ON_NODE)"


def test_address_space_limit(root: Path) -> None:
    write(root, {"proc/self/limits": f"Max address space   {GIB}   unlimited   bytes\n"})
    limits = read_limits(root, {})
    assert limits.memory_bytes == GIB
    assert "1 GiB by RLIMIT_AS (ulimit -v)" in limits.notes


def test_data_size_limit(root: Path) -> None:
    write(root, {"proc/self/limits": f"Max data size   {GIB}   unlimited   bytes\n"})
    assert "1 GiB by RLIMIT_DATA (ulimit -d)" in read_limits(root, {}).notes


# ------------------------------------------------------------------------------- realistic machines


def whole_node(name: str, root: Path, mask: str = "", memory: str = "") -> Path:
    machine = REALISTIC[name]
    machine.build(root)
    mask = mask or f"0-{machine.n_cpus - 1}"
    build_processes(root, Process("self", "python", mask, memory), Process("5", "bash", mask))
    return write(root, {"proc/sys/kernel/hostname": "n1\n"})


@pytest.mark.parametrize("name", REALISTIC)
def test_a_whole_node_is_granted(name: str, tmp_path: Path) -> None:
    machine = REALISTIC[name]
    limits = read_limits(whole_node(name, tmp_path), {})
    assert limits.is_mask_exact
    assert limits.n_cpus == machine.n_cpus
    assert limits.memory_bytes == machine.n_domains * machine.memory_kib_per_domain * 1024


def test_memory_of_gpus_is_not_counted_on(tmp_path: Path) -> None:
    limits = read_limits(whole_node("Grace with a GPU", tmp_path), {})
    assert limits.memory_bytes == 480 * GIB
    assert "480 GiB by the NUMA domains allowed that have CPUs (0)" in limits.notes


def test_memory_that_the_cpuset_forbids(tmp_path: Path) -> None:
    whole_node("EPYC with 4 domains per socket", tmp_path, "0-15,128-143", "0,2")
    limits = read_limits(tmp_path, {})
    assert (limits.n_cpus, limits.memory_bytes) == (32, 128 * GIB)
    assert "128 GiB by the NUMA domains allowed that have CPUs (0,2)" in limits.notes


def test_a_container_of_version_2(tmp_path: Path) -> None:
    """``docker run --cpus 1.5`` in a group with a memory limit, on a large node."""
    whole_node("EPYC with 4 domains per socket", tmp_path)
    build_cgroups(tmp_path, v2="/machine.slice/c1/job")
    group = f"{V2}/machine.slice"
    write(
        tmp_path,
        {
            f"{group}/memory.max": f"{6 * GIB}\n",
            f"{group}/c1/memory.max": "max\n",
            f"{group}/c1/cpu.max": "150000 100000\n",
            f"{group}/c1/job/cpu.max": "max 100000\n",
        },
    )
    limits = read_limits(tmp_path, {})
    assert (limits.n_cpus, limits.memory_bytes) == (2, 6 * GIB)
    assert not limits.is_mask_exact


def test_a_part_of_a_node_by_slurm(tmp_path: Path) -> None:
    """Some cores of both sockets, memory limited on the job alone, ranks bound to one core."""
    whole_node("two sockets of 32 cores", tmp_path, "0-127")
    step = "/slurm/uid_0/job_4/step_batch/task_0"
    build_processes(
        tmp_path,
        Process("self", "python", "28"),
        Process("9", "prterun", "28-35,92-99"),
        Process("5", "slurmstepd", "0-127"),
    )
    build_cgroups(tmp_path, v1=step)
    unlimited = "9223372036854771712\n"
    write(
        tmp_path,
        {
            f"{V1}/memory{step}/memory.limit_in_bytes": unlimited,
            f"{V1}/memory/slurm/uid_0/job_4/memory.limit_in_bytes": f"{40 * GIB}\n",
            f"{V1}/memory/slurm/uid_0/memory.limit_in_bytes": unlimited,
            f"{V1}/cpuset{step}/cpuset.cpus": "28-35,92-99\n",
        },
    )
    environ = {
        "SLURM_JOB_ID": "4",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_MEM_PER_CPU": "4096",
    }
    limits = read_limits(tmp_path, environ)
    assert limits.cpus == {*range(28, 36), *range(92, 100)}
    assert (limits.n_cpus, limits.memory_bytes) == (16, 40 * GIB)
    assert limits.is_mask_exact
    topology = read_topology(tmp_path)
    parts = [divide_among_ranks([limits.cpus] * 2, rank, topology) for rank in range(2)]
    assert parts == [(28, 29, 30, 31, 92, 93, 94, 95), (32, 33, 34, 35, 96, 97, 98, 99)]


def test_a_binding_can_be_respected(root: Path) -> None:
    build_processes(root, Process("self", "python", "3"), Process("5", "prted", "0-7"))
    assert read_limits(root, {}).n_cpus == 8
    assert read_limits(root, {}, is_binding_respected=True).cpus == {3}


def test_limits_travel_between_ranks(root: Path) -> None:
    limits = read_limits(root, {})
    assert pickle.loads(pickle.dumps(limits)) == limits


# ------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8GB", 8 * 10**9),
        ("900MiB", 900 * MIB),
        ("4G", 4 * GIB),
        ("4g", 4 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("512k", 512 * 1024),
        ("2TB", 2 * 10**12),
        ("123", 123),
        (" 123B ", 123),
        (4096, 4096),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_parse_memory(text: str | int, n_bytes: int) -> None:
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "8 apples", "8GBs", "1e9", "nan", "0", "0.1", 0, -5, "８GB x"]
)
def test_a_wrong_memory_size_names_the_option(text: str | int) -> None:
    with pytest.raises(InputError, match=r"--memory: .*accepted: a number of bytes") as caught:
        parse_memory(text)
    assert caught.value.exit_code == 2


def test_format_memory() -> None:
    assert [format_memory(n) for n in (0, 1023, 1536, 5 * MIB, 24 * GIB, 3 * 2**40)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5 MiB",
        "24 GiB",
        "3 TiB",
    ]


@pytest.mark.parametrize(("n_files", "soft"), [(10, 600), (400, 912), (10**6, 2000)])
def test_the_limit_of_open_files_rises_as_far_as_it_may(n_files: int, soft: int) -> None:
    lines = (
        "import resource, sys",
        "from qcmb_mpi.machine.processes import allow_open_files",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (600, 2000))",
        "allow_open_files(int(sys.argv[1]))",
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))",
    )
    words = [sys.executable, "-c", "\n".join(lines), str(n_files)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told.split() == [str(soft), "2000"]
