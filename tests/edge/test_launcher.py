from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.machine.launcher import (
    Launcher,
    check_world,
    child_environment,
    launcher,
    wants_mpi,
)
from tools.mpiexec import own_temporary

OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_RANK": "3",
}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}
BATCH = {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
PRTED_STEP = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (OPEN_MPI, Launcher("Open MPI", 4, 3, 2, 1)),
        (HYDRA, Launcher("MPICH", 4, 3, 2, 1)),
        (STEP | {"PMIX_RANK": "3"}, Launcher("Slurm", 5, 3, 2, 1)),
        (STEP | {"PMI_SIZE": "5", "PMI_RANK": "3"}, Launcher("Slurm", 5, 3, 2, 1)),
        (STEP, Launcher("Slurm", 5, 3, 2, 1)),
        (STEP | {"SLURM_NODEID": "2"}, Launcher("Slurm", 5, 3, 1, 1)),
        (STEP | {"SLURM_NODEID": "7"}, Launcher("Slurm", 5, 3, None, 1)),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "?"}, Launcher("Slurm", 5, 3, None, 1)),
        # the daemons of mpiexec are tasks of a step whose variables their ranks inherit
        (PRTED_STEP | OPEN_MPI, Launcher("Open MPI", 4, 3, 2, 1)),
        (PRTED_STEP | HYDRA, Launcher("MPICH", 4, 3, 2, 1)),
        # no step: a batch script, also as newer versions number it, and interactive shells
        (BATCH, None),
        (STEP | {"SLURM_STEP_ID": "4294967291"}, None),
        (STEP | {"SLURM_STEP_ID": "4294967290"}, None),
        (STEP | {"SLURM_STEP_ID": "batch"}, None),
        (STEP | {"SLURM_PTY_PORT": "4000"}, None),
        (STEP | {"SLURM_PTY_PORT": "4000", "PMIX_RANK": "3"}, Launcher("Slurm", 5, 3, 2, 1)),
        ({"PMIX_RANK": "1"}, Launcher("PMIx", None, 1)),
        ({"FLUX_JOB_ID": "f1", "PMI_SIZE": "2", "PMI_RANK": "0"}, Launcher("Flux", 2, 0)),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}, Launcher("MVAPICH", 2, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "four"}, None),
    ],
)
def test_who_started_this(environ: dict[str, str], expected: Launcher | None) -> None:
    assert launcher(environ) == expected


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        (BATCH, False),
        (OPEN_MPI, True),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, False),
        (STEP, True),
        ({"PMIX_RANK": "1"}, True),
    ],
)
def test_wants_mpi(environ: dict[str, str], wanted: bool) -> None:
    assert wants_mpi(environ) is wanted


@pytest.mark.parametrize(
    ("environ", "world_size"),
    [
        ({}, 1),
        ({}, 4),  # a launcher we do not know
        (BATCH, 1),  # plain python in a batch script with four tasks
        (OPEN_MPI, 4),
        (STEP, 5),
        ({"PMIX_RANK": "1"}, 7),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, 4),  # an unknown mpiexec inside a one-task step
    ],
)
def test_worlds_that_are_right(environ: dict[str, str], world_size: int) -> None:
    check_world(environ, world_size)


@pytest.mark.parametrize(
    ("environ", "world_size", "library", "fragments"),
    [
        (
            OPEN_MPI,
            1,
            "MPICH Version:      5.0.2\nMPICH Release date: x",
            [
                "Open MPI's launcher started 4 ranks",
                "believes it is alone",
                "MPICH Version: 5.0.2;",
            ],
        ),
        (
            HYDRA,
            1,
            "Open MPI v5.0.11\0",
            ["MPICH's launcher", "loaded Open MPI v5.0.11;", "mpiexec"],
        ),
        (STEP, 1, "", ["srun started 5 ranks", "gave no name", "srun --mpi=pmix"]),
        (STEP, 3, "", ["srun started 5 ranks", "the MPI world has 3"]),
    ],
)
def test_worlds_that_are_refused(
    environ: dict[str, str], world_size: int, library: str, fragments: list[str]
) -> None:
    with pytest.raises(TopologyError) as caught:
        check_world(environ, world_size, library)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    for fragment in fragments:
        assert fragment in message


# ------------------------------------------------------------------------------------- environment

LIB = os.pathsep.join


@pytest.mark.parametrize(
    "name",
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_MCA_num_procs",
        "PMIX_SERVER_URI41",
        "PRTE_LAUNCHED",
        "OPAL_PREFIX",
        "PMI_FD",
        "HYDI_CONTROL_FD",
        "HYDRA_HOST_FILE",
        "MPI_LOCALNRANKS",
        "MPIR_CVAR_CH4_NETMOD",
        "SLURM_STEP_ID",
        "SLURM_STEPID",
        "SLURM_JOB_ID",
        "FLUX_JOB_ID",
        "PALS_RANKID",
        "PBS_NODEFILE",
        "PE_HOSTFILE",
        "LSB_MCPU_HOSTS",
    ],
)
def test_a_child_does_not_see(name: str) -> None:
    environ = {name: "x", "HOME": "/home/me"}
    assert child_environment(environ) == {"HOME": "/home/me"}
    assert name in environ


def test_what_is_the_users_stays() -> None:
    environ = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "2",
        "PBS_O_WORKDIR": "/w",
        "LD_LIBRARY_PATH": "/opt/a::/opt/b",
        "PATH": "/usr/bin",
    }
    assert child_environment(environ) == environ


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        (["/v/lib"] * 3, None),
        (["/v/lib/", "/v/lib"], None),
        (["/v/lib"] * 3 + ["/x"], "/x"),
        (["/v/lib"] * 3 + ["/x", "/v/lib", "/y"], LIB(["/x", "/v/lib", "/y"])),
        (["/v/lib64", "/x", ""], "/x"),
        (["/x", "/v/lib"], LIB(["/x", "/v/lib"])),
    ],
)
def test_library_directories_that_mpiexec_added(paths: list[str], kept: str | None) -> None:
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        child = child_environment({"OPAL_PREFIX": "/v", name: LIB(paths)})
        assert child == ({} if kept is None else {name: kept})
    child = child_environment({"OMPI_LIBDIR_LOC": "/v/lib", "LD_LIBRARY_PATH": "/v/lib"})
    assert child == {}


# ----------------------------------------------------------------------------------- for real, once

PROBE = """
import json, os
from qcmb_mpi.machine.affinity import allocation_mask, divide_among_ranks
from qcmb_mpi.machine.launcher import child_environment, launcher
from qcmb_mpi.machine.topology import read_topology
found = launcher(os.environ)
masks = [allocation_mask()] * found.local_size
child = child_environment(os.environ)
print(json.dumps({
    "size": found.size, "rank": found.rank, "local": [found.local_rank, found.local_size],
    "mask": sorted(masks[0]),
    "share": divide_among_ranks(masks, found.local_rank, read_topology()),
    "left": [n for n in child if n.startswith(("OMPI_", "PMI", "PRTE", "OPAL", "HYD", "MPI_L"))
             and "ROOT" not in n],
    "libraries": child.get("LD_LIBRARY_PATH"),
}))
"""


def mpiexec() -> list[str]:
    """The launcher beside this Python, else the one on PATH, with room for two ranks anywhere."""
    beside = Path(sys.executable).with_name("mpiexec")
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert program, "no mpiexec: install the test extra"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    if "Open MPI) 4" in version.stdout:
        return [program, "--oversubscribe", "-n", "2"]
    if "Open MPI" in version.stdout:
        return [program, "--map-by", ":OVERSUBSCRIBE", "-n", "2"]
    return [program, "-n", "2"]


def test_a_real_launcher_tells_sizes_and_its_binding_is_undone() -> None:
    environ = child_environment(os.environ) | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with own_temporary(environ) as variables:
        done = subprocess.run(
            [*mpiexec(), sys.executable, "-c", PROBE],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    ranks = sorted(
        (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")),
        key=lambda rank: rank["rank"],
    )
    granted = os.sched_getaffinity(0)
    assert [rank["size"] for rank in ranks] == [2, 2]
    assert [rank["local"] for rank in ranks] == [[0, 2], [1, 2]]
    assert [set(rank["mask"]) for rank in ranks] == [granted, granted]
    if len(granted) > 1:
        assert {*ranks[0]["share"], *ranks[1]["share"]} == granted
    assert [rank["left"] for rank in ranks] == [[], []]
    assert {rank["libraries"] for rank in ranks} == {environ.get("LD_LIBRARY_PATH")}
