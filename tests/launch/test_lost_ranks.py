"""Ranks that die, stop or are left without a launcher: the others finish, nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcmb_mpi import schema
from tests.launch.jobs import (
    command,
    environment,
    mpiexec,
    read,
    run,
    started,
    unmeasured,
    wait_until,
)
from tests.launch.test_run import FLAKY, helium, write

_MARK = "QCMB_TEST_JOB"
_HEARTBEAT = ("--heartbeat", "3")
_N_TASKS = 2 * (5 + 10 + 10)


class Job:
    """A job and all its processes: they share a variable of their environment."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.launcher = process
        self._mark = f"{_MARK}={mark}".encode()

    def processes(self) -> dict[int, dict[bytes, bytes]]:
        """Return the environment of each that is alive."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    pairs = (entry / "environ").read_bytes().split(b"\0")
                    if self._mark in pairs:
                        found[int(entry.name)] = dict(p.split(b"=", 1) for p in pairs if b"=" in p)
        return found

    def ranks(self) -> dict[int, int]:
        """Return the process of each rank."""
        return {
            int(variables[b"OMPI_COMM_WORLD_RANK"]): pid
            for pid, variables in self.processes().items()
            if b"OMPI_COMM_WORLD_RANK" in variables
        }

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a rank."""
        os.kill(self.ranks()[rank], number)

    def end(self) -> tuple[int, str]:
        """Wait until the launcher ends and no process is left; return its code and errors."""
        _, told = self.launcher.communicate(timeout=90)
        wait_until(lambda: not self.processes(), 30)
        return self.launcher.returncode, told


@contextlib.contextmanager
def job_of(folder: Path, *words: str, n_ranks: int = 4, is_tolerant: bool = True) -> Iterator[Job]:
    """Start a job of which ranks will be lost; whatever is left at the end is killed."""
    mark = uuid.uuid4().hex
    line = command(
        *("run", "in.json", "--workers", "1", *FLAKY, *words),
        n_ranks=n_ranks,
        is_tolerant=is_tolerant,
    )
    with started(line, cwd=folder, env=unmeasured(environment(**{_MARK: mark}))) as process:
        job = Job(process, mark)
        try:
            yield job
        finally:
            for pid in job.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of an undisturbed run without MPI."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write(folder, helium(5, sleep=0.1))
    job = run(command("run", "in.json", "--workers", "4", *FLAKY), cwd=folder)
    assert job.returncode == 0, job.stderr
    return result_of(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an input of five seconds of work."""
    write(tmp_path, helium(5, sleep=0.1))
    return tmp_path


def result_of(folder: Path) -> bytes:
    """Return what must be the same in every run."""
    return schema.strip_volatile((folder / "in.result.json").read_bytes())


def lost_ranks(folder: Path) -> set[int]:
    """Return the ranks that the summary calls lost."""
    return {agent["rank"] for agent in read(folder / "in.run.json")["agents"] if agent["lost"]}


def wait_for_work(folder: Path) -> None:
    """Wait until results are in the store."""
    from tests.launch.test_run import _n_done

    wait_until(lambda: _n_done(folder / "in.store.sqlite") >= 1)


def resume(folder: Path, expected: bytes) -> None:
    """Run the same command again, undisturbed: it computes what is missing."""
    with job_of(folder, is_tolerant=False) as job:
        code, told = job.end()
    assert code == 0, told
    summary = read(folder / "in.run.json")
    assert summary["n_computed"] + summary["n_reused"] == _N_TASKS
    assert summary["n_reused"] > 0
    assert result_of(folder) == expected


@pytest.mark.parametrize("victims", [(1, 3), (1, 2, 3)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_workers_that_die_are_done_without(
    folder: Path, expected: bytes, victims: tuple[int, ...], number: int
) -> None:
    moments = random.Random(f"{victims} {number}")
    with job_of(folder) as job:
        wait_for_work(folder)
        for rank in victims:
            time.sleep(moments.uniform(0.0, 0.1))
            job.kill(rank, number)
        code, told = job.end()
    assert code == 0, told
    assert lost_ranks(folder) == set(victims)
    assert result_of(folder) == expected


def test_a_rank_that_dies_before_it_has_started_ends_the_job(folder: Path) -> None:
    with job_of(folder) as job:
        wait_until(lambda: len(job.ranks()) == 4)
        job.kill(2)
        code, told = job.end()
    assert code != 0
    assert "a rank on " in told
    assert "start it again" in told
    assert not (folder / "in.result.json").exists()


@pytest.mark.parametrize("delay_s", [0.7, 2.0])
def test_a_rank_that_dies_while_it_starts_ends_the_job_or_is_done_without(
    folder: Path, expected: bytes, delay_s: float
) -> None:
    with job_of(folder) as job:
        wait_until(lambda: len(job.ranks()) == 4)
        time.sleep(delay_s)
        job.kill(2)
        code, told = job.end()
    if code == 0:
        assert (folder / "in.result.json").exists(), told
        assert result_of(folder) == expected
    else:  # if it dies just when the others share memory with it, MPI ends the job first
        assert "start it again" in told or "MPI_Init" in told
        assert not (folder / "in.result.json").exists()


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_without_the_master_all_end_and_the_same_command_resumes(
    folder: Path, expected: bytes, is_tolerant: bool
) -> None:
    with job_of(folder, is_tolerant=is_tolerant) as job:
        wait_for_work(folder)
        job.kill(0)
        code, told = job.end()
    assert code != 0
    if is_tolerant:
        assert "leaves: rank 0 has died; the same command resumes" in told
    resume(folder, expected)


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_a_worker_that_stops_is_done_without(
    folder: Path, expected: bytes, is_tolerant: bool
) -> None:
    with job_of(folder, *_HEARTBEAT, is_tolerant=is_tolerant) as job:
        wait_for_work(folder)
        job.kill(2, signal.SIGSTOP)
        code, told = job.end()
    assert code == 0, told
    assert "silent for 3 s" in told
    assert lost_ranks(folder) == {2}
    assert result_of(folder) == expected


def test_a_worker_that_wakes_up_too_late_retires(tmp_path: Path) -> None:
    write(tmp_path, helium(5, sleep=0.5))
    with job_of(tmp_path, *_HEARTBEAT, n_ranks=3, is_tolerant=False) as job:
        wait_for_work(tmp_path)
        stopped = job.ranks()[2]
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(stopped, signal.SIGCONT)
        code, told = job.end()
    assert code == 0, told
    assert "takes no more part: it was given up, because it has been silent for 3 s" in told
    assert lost_ranks(tmp_path) == {2}


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_a_master_that_stops_is_left(folder: Path, expected: bytes, is_tolerant: bool) -> None:
    with job_of(folder, *_HEARTBEAT, is_tolerant=is_tolerant) as job:
        wait_for_work(folder)
        job.kill(0, signal.SIGSTOP)
        code, told = job.end()
    assert code != 0
    assert "leaves: rank 0 has been silent for 12 s" in told
    resume(folder, expected)


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_a_master_that_stalls_is_waited_for(
    folder: Path, expected: bytes, is_tolerant: bool
) -> None:
    with job_of(folder, *_HEARTBEAT, is_tolerant=is_tolerant) as job:
        wait_for_work(folder)
        master = job.ranks()[0]
        os.kill(master, signal.SIGSTOP)
        time.sleep(6.0)
        os.kill(master, signal.SIGCONT)
        code, told = job.end()
    assert code == 0, told
    assert "leaves" not in told
    assert lost_ranks(folder) == set()
    assert result_of(folder) == expected


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_without_the_launcher_all_end_and_the_same_command_resumes(
    folder: Path, expected: bytes, is_tolerant: bool
) -> None:
    with job_of(folder, is_tolerant=is_tolerant) as job:
        wait_for_work(folder)
        job.launcher.kill()
        job.end()
    resume(folder, expected)


SCRIPT = """
import os, sys
from qcmb_mpi import ExecutorConfig, MPIExecutor, ParallelManyBodyComputer
from tests.launch.test_run import helium

compute = ParallelManyBodyComputer.from_manybodyinput
with MPIExecutor(ExecutorConfig(n_workers=1, imports=("tests.flaky",))) as pool:
    first = compute(helium(4), executor=pool)
    if pool.comm.rank == 2:
        os.kill(os.getpid(), 9)
    second = compute(helium(4), executor=pool)
    assert first.properties == second.properties
    if sys.argv[1] == "raise":
        raise RuntimeError("as ordered")
    if pool.is_master:
        print("master was here")
"""


def run_script(
    folder: Path, text: str, *words: str, is_tolerant: bool = True
) -> tuple[int, str, str]:
    """Run a script of the user's on four ranks; return mpiexec's code and what was printed."""
    (folder / "script.py").write_text(text)
    mark = uuid.uuid4().hex
    line = [*mpiexec(4, is_tolerant=is_tolerant), sys.executable, "script.py", *words]
    with started(line, cwd=folder, env=unmeasured(environment(**{_MARK: mark}))) as process:
        job = Job(process, mark)
        out, told = process.communicate(timeout=90)
        wait_until(lambda: not job.processes(), 30)
    return process.returncode, out, told


@pytest.mark.parametrize(("ending", "code"), [("return", 0), ("raise", 1)])
def test_a_script_goes_on_after_a_loss_and_ends(tmp_path: Path, ending: str, code: int) -> None:
    ended, out, told = run_script(tmp_path, SCRIPT, ending)
    assert ended == code, told
    assert ("master was here" in out) == (code == 0)


BUSY_AFTERWARDS = """
import os, signal, threading, time
from pathlib import Path
from qcmb_mpi import ExecutorConfig, MPIExecutor, ParallelManyBodyComputer
from tests.launch.test_run import helium

compute = ParallelManyBodyComputer.from_manybodyinput
config = ExecutorConfig(n_workers=1, imports=("tests.flaky",), heartbeat_s=3.0)
with MPIExecutor(config) as pool:
    compute(helium(4), executor=pool)
    rank = pool.comm.rank
    if rank == 2:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    compute(helium(5, sleep=0.1), executor=pool)
if rank:
    time.sleep(16.0)  # longer than rank 0 takes to end its slots, the stopped rank's among them
Path(f"done.{rank}").touch()
"""


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_the_other_ranks_may_go_on_after_a_loss(tmp_path: Path, is_tolerant: bool) -> None:
    code, _, told = run_script(tmp_path, BUSY_AFTERWARDS, is_tolerant=is_tolerant)
    assert code == 0, told
    assert {path.name for path in tmp_path.glob("done.*")} == {"done.0", "done.1", "done.3"}
