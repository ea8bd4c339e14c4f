"""Jobs that are told to end: what is finished is safe, and the same command goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from qcmb_mpi import driver, schema
from qcmb_mpi.errors import IllegalEvent, StoreError
from qcmb_mpi.report.events import read_events
from qcmb_mpi.scheduling.scheduler import Scheduler
from tests.launch.calls import call
from tests.launch.calls import write as write_here
from tests.launch.diary import read_diary
from tests.launch.jobs import TIMEOUT_S, command, read, run, started, wait_until
from tests.launch.test_run import FLAKY, _n_done, helium, write

DIARY = ("--import", "tests.launch.diary")
N_TASKS = 2 * (5 + 10 + 10)


def result(folder: Path, name: str = "in") -> bytes:
    """Return a result without what differs from run to run."""
    return schema.strip_volatile((folder / f"{name}.result.json").read_bytes())


@pytest.mark.parametrize("n_ranks", [0, 3])
def test_nothing_that_ended_a_second_before_sigterm_is_computed_again(
    tmp_path: Path, n_ranks: int
) -> None:
    """Under mpiexec the ranks are killed half a second later."""
    diary = tmp_path / "diary"
    document = helium(6, program="diary", sleep=0.15, diary=str(diary))
    words = command("run", write(tmp_path, document), "--workers", "1", *DIARY, n_ranks=n_ranks)
    old = tmp_path / "in.run.json"
    old.write_text('{"status": "complete"}')
    with started(words, cwd=tmp_path) as job:
        wait_until(lambda: has_entry_before(diary, time.monotonic() - 1.5))
        at_s = time.monotonic()
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) in ((1, 75, 128 + signal.SIGTERM) if n_ranks else (75,))
    assert not old.exists() or read(old)["status"] == "incomplete"
    first = read_diary(diary)
    again = run(words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    second = read_diary(diary)[len(first) :]
    safe = {entry.task for entry in first if entry.ended_s < at_s - 1.0}
    assert safe
    assert safe & {entry.task for entry in second} == set()
    summary = read(tmp_path / "in.run.json")
    assert summary["n_computed"] == len(second)
    assert summary["n_reused"] == summary["n_tasks"] - len(second) >= len(safe)
    fresh = run(command("run", "in.json", "-o", "fresh.result.json", *DIARY), cwd=tmp_path)
    assert fresh.returncode == 0, fresh.stderr
    assert result(tmp_path) == result(tmp_path, "fresh")


def has_entry_before(diary: Path, moment_s: float) -> bool:
    return any(entry.ended_s < moment_s for entry in read_diary(diary))


def test_sigterm_gives_running_tasks_a_moment_and_no_more(tmp_path: Path) -> None:
    """A task that hangs is cut off; all that had ended before are kept."""
    mark = tmp_path / "mark"
    document = helium(5, faults={"2": "hang"}, once=str(mark))
    words = command("run", write(tmp_path, document), "--workers", "2", *FLAKY)
    with started(words, cwd=tmp_path) as job:
        wait_until(lambda: mark.exists() and _n_done(tmp_path / "in.store.sqlite") >= 10)
        job.send_signal(signal.SIGTERM)
        _, told = job.communicate(timeout=60)
        assert job.returncode == 75, told
    assert "SIGTERM: stopping; running tasks get 2 s to finish (once more: at once)" in told
    assert "stopped early: SIGTERM" in told
    summary = read(tmp_path / "in.run.json")
    assert (summary["status"], summary["stopped"]) == ("incomplete", "SIGTERM")
    n_done = summary["n_computed"]
    assert 10 <= n_done < N_TASKS
    again = run(words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    summary = read(tmp_path / "in.run.json")
    assert (summary["n_reused"], summary["n_computed"]) == (n_done, N_TASKS - n_done)
    fresh = run(command("run", "in.json", "-o", "fresh.result.json", *FLAKY), cwd=tmp_path)
    assert fresh.returncode == 0, fresh.stderr
    assert result(tmp_path) == result(tmp_path, "fresh")


@pytest.mark.parametrize("n_ranks", [0, 2])
def test_the_deadline_cuts_off_and_says_so(tmp_path: Path, n_ranks: int) -> None:
    document = helium(faults={"1": "hang"})
    words = ("--walltime", "8", "--workers", "2", *FLAKY)
    job = run(command("run", write(tmp_path, document), *words, n_ranks=n_ranks), cwd=tmp_path)
    assert job.returncode == 75, job.stderr
    summary = read(tmp_path / "in.run.json")
    assert (summary["status"], summary["stopped"]) == ("incomplete", "deadline")
    n_done = summary["n_computed"]
    assert n_done >= 1  # all but those that hang
    assert _n_done(tmp_path / "in.store.sqlite") == n_done < summary["n_tasks"]


def test_sigterm_to_every_process_of_a_job_makes_no_task_fail(tmp_path: Path) -> None:
    """As batch systems send it: programs die of it, slots do not."""
    mark = tmp_path / "mark"
    document = helium(5, program="outside", mark=str(mark))
    words = ("--workers", "2", "--retries", "0", "--import", "tests.launch.outside")
    with started(command("run", write(tmp_path, document), *words), cwd=tmp_path) as job:
        wait_until(lambda: mark.exists() and _n_done(tmp_path / "in.store.sqlite") >= 10)
        for process in (psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        _, told = job.communicate(timeout=60)
        assert job.returncode == 75, told
    summary = read(tmp_path / "in.run.json")
    assert (summary["status"], summary["n_failed"]) == ("incomplete", 0)
    assert _n_done(tmp_path / "in.store.sqlite") == summary["n_computed"] < N_TASKS
    again = run(command("run", "in.json", *words), cwd=tmp_path)
    assert again.returncode == 0, again.stderr


SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])


@SIGNALS
def test_a_signal_while_a_lock_is_watched_ends_the_job(
    tmp_path: Path, signum: signal.Signals
) -> None:
    (tmp_path / "in.store.sqlite.lock").write_text("somebody, somewhere")
    words = command("run", write(tmp_path, helium()), *FLAKY)
    with started(words, cwd=tmp_path) as job:
        assert job.stderr is not None
        assert any("locked by" in line for line in job.stderr)
        job.send_signal(signum)
        _, told = job.communicate(timeout=30)
        assert job.returncode == 75, told
    assert f"stopped while opening the store: {signum.name}" in told
    assert "Traceback" not in told


@SIGNALS
def test_a_signal_while_the_input_is_read_ends_the_job(
    tmp_path: Path, signum: signal.Signals
) -> None:
    words = command("run", "-", "-o", "in.result.json", *FLAKY)
    with started(words, cwd=tmp_path) as job:
        assert job.stdin is not None
        job.stdin.write(" " * 2**20)  # more than a pipe holds: once it is written, it is being read
        job.stdin.flush()
        wait_until(lambda: psutil.Process(job.pid).status() == psutil.STATUS_SLEEPING)
        job.send_signal(signum)
        wait_until(lambda: job.poll() is not None)
        assert job.returncode == 75
        assert job.stderr is not None
        told = job.stderr.read()
    assert f"stopped while reading the input: {signum.name}" in told
    assert "Traceback" not in told


@SIGNALS
def test_a_signal_before_anything_is_read_ends_the_job(
    tmp_path: Path, signum: signal.Signals
) -> None:
    with started(command("run", "-", *FLAKY), cwd=tmp_path) as job:
        wait_until(lambda: is_heard(job.pid, signum))
        job.send_signal(signum)
        wait_until(lambda: job.poll() is not None)
        assert job.returncode == 75
        assert job.stderr is not None
        assert f"stopped while starting: {signum.name}" in job.stderr.read()


def is_heard(pid: int, signum: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False


def test_the_event_log_of_a_real_run_replays_to_the_same_commands(tmp_path: Path) -> None:
    document = helium(5, faults={"3": "random"}, once=str(tmp_path / "mark"), sleep=0.01)
    source = write(tmp_path, document)
    words = ("--workers", "3", "--events", "in.events", *FLAKY)
    job = run(command("run", source, *words), cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    steps = list(read_events(tmp_path / "in.events"))
    again = Scheduler()
    for step in steps:
        assert tuple(again.step(step.event, step.now)) == step.commands
    assert again.is_finished
    assert [type(step.event).__name__ for step in steps].count("TaskFailed") == 1
    assert read(tmp_path / "in.run.json")["n_retries"] == 1


@pytest.mark.parametrize("blocked", ["in.result.json", "in.run.json"])
@pytest.mark.usefixtures("here")
def test_an_end_that_cannot_be_written_is_no_bug_and_can_be_repeated(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    """The disk fills up when all is computed."""
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == blocked:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    words = ("run", write_here(helium(3)), "--executor", "serial", *FLAKY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, err = call(capfd, *words)
    assert code == 75
    assert f"{blocked}" in err
    assert "No space left on device; make room, then run the same command again" in err.replace(
        f": '{blocked}'", ""
    )
    assert "Traceback" not in err
    assert call(capfd, *words)[0] == 0
    assert read(Path("in.run.json"))["n_computed"] == 0


@pytest.mark.parametrize(
    ("error", "code"), [(IllegalEvent("agent 7 never joined"), 70), (StoreError("damaged"), 2)]
)
@pytest.mark.usefixtures("here")
def test_what_ends_in_the_same_way_again_has_a_code_of_its_own_and_a_summary(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
) -> None:
    """Job scripts run again what ends with 75."""

    def fail(*_: object) -> None:
        raise error

    words = ("run", write_here(helium(3)), "--executor", "serial", *FLAKY)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "assemble", fail)
        ended, _, err = call(capfd, *words)
    assert ended == code
    assert ("Traceback" in err, "this is a bug" in err) == (code == 70, code == 70)
    assert str(error) in read(Path("in.run.json"))["stopped"]
    assert call(capfd, "status", "in.store.sqlite")[1].startswith("in: stopped early")
    assert call(capfd, *words)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_it_starts_ends_it_with_75(tmp_path: Path, number: int) -> None:
    source = write(tmp_path, helium(3, sleep=1.0))
    with started(command("run", source, *FLAKY), cwd=tmp_path) as job:
        # Handlers are there before the fork server, its first child.
        wait_until(lambda: bool(psutil.Process(job.pid).children()))
        job.send_signal(number)
        _, told = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 75
    assert "Traceback" not in told
