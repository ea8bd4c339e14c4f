from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from qcmb_mpi.errors import InputError
from qcmb_mpi.machine import walltime
from qcmb_mpi.machine.walltime import batch_deadline_s, parse_walltime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("600", 600),
        ("0.5", 0.5),
        ("45:00", 2700),
        ("90:00", 5400),
        ("2:30:00", 9000),
        ("100:00:01", 360001),
        ("1-12:00:00", 129600),
        (" 1:01.5 ", 61.5),
    ],
)
def test_parse_walltime(text: str, seconds: float) -> None:
    assert parse_walltime(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-5",
        "1:75",
        "1:75:00",
        "1-25:00:00",
        "1-12",
        "1:2:3:4",
        "nan",
        "inf",
        "1h",
        ":30",
    ],
)
def test_a_wrong_walltime_names_the_option(text: str) -> None:
    with pytest.raises(InputError, match=r"--walltime: not a duration .*accepted: \[\[D-\]H:\]M:S"):
        parse_walltime(text)


@pytest.mark.parametrize("text", ["0", "0:00", "0-0:00:00"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(InputError, match="more than 0"):
        parse_walltime(text)


class Runner:
    """Answers every command with one text, and remembers the commands."""

    def __init__(self, output: str = "", error: Exception | None = None) -> None:
        self.output, self.error, self.commands, self.options = output, error, [], {}

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(" ".join(command))
        self.options = options
        if self.error is not None:
            raise self.error
        return subprocess.CompletedProcess(command, 0, self.output)


def left(environ: dict[str, str], runner: Runner, age_s: float = 100.0) -> float | None:
    return batch_deadline_s(environ, runner, now=1000.0, job_age_s=lambda name, value: age_s)


@pytest.mark.parametrize(
    ("output", "seconds"),
    [
        ("10:00\n", 600),
        ("1-00:00:01\n", 86401),
        ("1:00:00", 3600),
        ("UNLIMITED\n", None),
        ("INVALID\n", None),
        ("", None),
    ],
)
def test_slurm_without_an_end_time_is_asked(output: str, seconds: float | None) -> None:
    runner = Runner(output)
    assert left({"SLURM_JOB_ID": "12", "SLURM_CONF": "/x"}, runner) == seconds
    assert runner.commands == ["squeue -h -j 12 -o %L"]
    assert runner.options["timeout"] <= 5
    assert runner.options["env"]["SLURM_CONF"] == "/x"


def test_slurms_end_time_needs_no_question() -> None:
    runner = Runner()
    assert left({"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": "1600"}, runner) == 600
    assert left({"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": "900"}, runner) == 0
    assert runner.commands == []


@pytest.mark.parametrize(
    ("environ", "output", "seconds", "commands"),
    [
        ({"PBS_JOBID": "7.lab", "PBS_WALLTIME": "3600"}, "", 3500, []),
        (
            {"PBS_JOBID": "7.lab"},
            "Job Id: 7.lab\n    Resource_List.walltime = 00:30:00\n",
            1700,
            ["qstat -f 7.lab"],
        ),
        ({"PBS_JOBID": "7.lab"}, "nothing of it", None, ["qstat -f 7.lab"]),
        ({"LSB_JOBID": "3"}, "1:30 L\n", 5400, ["bjobs -noheader -o time_left 3"]),
        (
            {"LSB_JOBID": "3", "LSB_JOBINDEX": "2"},
            "0:30 E",
            None,
            ["bjobs -noheader -o time_left 3[2]"],
        ),
        ({"FLUX_JOB_ID": "f1"}, "42.5\n", 42.5, ["flux job timeleft"]),
        ({"FLUX_URI": "local:///x"}, "infinity\n", None, ["flux job timeleft"]),
        (
            {"SGE_ROOT": "/sge", "JOB_ID": "5"},
            "hard resource_list:         h_rt=600,mem=1G\n",
            500,
            ["qstat -j 5"],
        ),
        ({"SGE_ROOT": "/sge", "JOB_ID": "5"}, "", None, ["qstat -j 5"]),
        ({"SGE_ROOT": "/sge"}, "", None, []),
        ({}, "", None, []),
    ],
)
def test_other_batch_systems(
    environ: dict[str, str], output: str, seconds: float | None, commands: list[str]
) -> None:
    runner = Runner(output)
    assert left(environ, runner) == seconds
    assert runner.commands == commands


def test_never_below_zero() -> None:
    assert left({"PBS_JOBID": "7", "PBS_WALLTIME": "60"}, Runner()) == 0


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("squeue"),
        subprocess.TimeoutExpired("squeue", 5),
        subprocess.CalledProcessError(1, "squeue"),
    ],
)
def test_a_batch_system_that_does_not_answer_is_no_deadline(error: Exception) -> None:
    assert left({"SLURM_JOB_ID": "12"}, Runner(error=error)) is None


def test_the_jobs_age_is_that_of_its_oldest_process() -> None:
    script = (
        "import os\n"
        "from qcmb_mpi.machine.walltime import batch_deadline_s\n"
        "print(batch_deadline_s(os.environ))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=dict(os.environ, PBS_JOBID="qcmb.test", PBS_WALLTIME="1000000"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # This test's process does not carry the variable: the job is as old as the child.
    assert 1_000_000 - 3600 < float(done.stdout) <= 1_000_000


def test_processes_above_the_job_are_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied:
        def environ(self) -> dict[str, str]:
            raise psutil.AccessDenied

        def parents(self) -> list[Denied]:
            return [self]

    monkeypatch.setattr(psutil, "Process", Denied)
    environ = {"PBS_JOBID": "7", "PBS_WALLTIME": "3600"}
    assert 3500 < batch_deadline_s(environ, Runner()) <= 3600


def test_process_start_is_in_the_past_and_agrees_with_psutil() -> None:
    now = time.monotonic()
    start = walltime.process_start_s(now)
    assert start <= now
    # psutil's boot time is in whole seconds.
    assert now - start == pytest.approx(time.time() - psutil.Process().create_time(), abs=1.5)


def test_process_start_without_linux_comes_from_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    now = time.monotonic()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: time.time() - 5.0)
    assert now - walltime.process_start_s(now) == pytest.approx(5.0, abs=1.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: time.time() + 3600.0)
    assert walltime.process_start_s(now) == now  # the clock was set back since
