"""The watch beside starting ranks: it ends a job that lost one, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qcmb_mpi.execution.executors.mpi import startup_watch
from qcmb_mpi.execution.executors.mpi.startup_watch import Roll
from tests.launch.jobs import wait_until

_LAUNCHER = """
import os, subprocess, sys, time
with open("/proc/self/comm", "w") as name:
    name.write(sys.argv[1])
ranks = [] if sys.argv[1] != "prte" else [subprocess.Popen(["sleep", "600"])]  # somebody else's
n_others = len(ranks)
os.environ["PMIX_NAMESPACE"] = "a job"
while True:
    wanted = int(sys.stdin.readline())
    while len(ranks) < wanted + n_others:
        ranks.append(subprocess.Popen(["sleep", "600"]))
    print(ranks[-1].pid, flush=True)
"""


class FakeLauncher:
    """A process that starts ranks when it is told to."""

    def __init__(self, name: str = "prterun") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, n_ranks: int) -> int:
        """Have so many ranks; return the last one's process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{n_ranks}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it and its ranks."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def launcher() -> Iterator[FakeLauncher]:
    """Start a launcher without ranks."""
    made = FakeLauncher()
    yield made
    made.close()


def watch(launcher: FakeLauncher, n_ranks: int, limit_s: float) -> subprocess.Popen[str]:
    """Watch over so many ranks of a launcher."""
    words = [str(launcher.process.pid), "a job", str(n_ranks), str(limit_s)]
    command = [sys.executable, "-I", "-S", startup_watch.__file__, *words]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={}
    )


def test_ranks_may_start_one_after_the_other(launcher: FakeLauncher) -> None:
    launcher.start(1)
    with watch(launcher, 3, limit_s=600.0) as watcher:
        time.sleep(5.0)  # longer than a doubt lasts
        assert watcher.poll() is None
        launcher.start(3)
        _, told = watcher.communicate("well")
    assert told == ""
    assert launcher.process.poll() is None


def test_a_rank_that_dies_ends_the_job(launcher: FakeLauncher) -> None:
    last = launcher.start(3)
    with watch(launcher, 3, limit_s=600.0) as watcher:
        time.sleep(1.0)
        os.kill(last, signal.SIGKILL)
        wait_until(lambda: launcher.process.poll() is not None)
        _, told = watcher.communicate()
    assert "start it again" in told
    assert launcher.process.returncode == -signal.SIGTERM


def test_ranks_of_a_server_are_ended_and_nothing_else() -> None:
    server = FakeLauncher("prte")
    try:
        last = server.start(3)
        other, *ranks = (process.pid for process in psutil.Process(server.process.pid).children())
        with watch(server, 3, limit_s=600.0) as watcher:
            time.sleep(1.0)
            os.kill(last, signal.SIGKILL)
            _, told = watcher.communicate()
        assert "start it again" in told
        assert {psutil.Process(pid).status() for pid in ranks} == {psutil.STATUS_ZOMBIE}
        assert psutil.Process(other).status() == psutil.STATUS_SLEEPING
        assert server.process.poll() is None
    finally:
        server.close()


def test_a_start_that_takes_too_long_ends_the_job(launcher: FakeLauncher) -> None:
    launcher.start(3)
    with watch(launcher, 3, limit_s=1.0) as watcher:
        wait_until(lambda: launcher.process.poll() is not None)
        _, told = watcher.communicate()
    assert "start it again" in told


def count(roll: Roll, *seen: tuple[float, int]) -> list[bool]:
    """Tell at which looks (time, ranks) one was missing."""
    return [roll.is_one_missing(n_here, now) for now, n_here in seen]


def test_none_is_missing_while_they_come() -> None:
    looks = [(0.0, 0), (20.0, 1), (45.0, 2), (70.0, 3), (500.0, 3)]
    assert not any(count(Roll(3, 0.0), *looks))


def test_one_that_was_there_is_missing_but_not_for_a_moment() -> None:
    roll = Roll(4, 0.0)
    assert not any(count(roll, (0.0, 2), (1.0, 1), (2.0, 1), (2.5, 2), (4.0, 1), (5.0, 1)))
    assert roll.is_one_missing(1, 6.0)


def test_one_that_never_came_is_missing_in_the_end() -> None:
    assert count(Roll(4, 0.0), (0.0, 3), (29.0, 3), (31.0, 3)) == [False, False, True]


def test_who_sees_no_ranks_misses_none() -> None:
    assert not any(count(Roll(4, 0.0), (0.0, 0), (100.0, 0)))


def test_python_finds_its_libraries_and_is_no_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n/usr/bin/env > {tmp_path}/variables\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    environ = {"LD_LIBRARY_PATH": "/opt/python/lib", "PATH": "/opt/bin", "PMIX_NAMESPACE": "x"}
    with startup_watch.kept(environ, 1):
        pass
    given = (tmp_path / "variables").read_text().splitlines()
    assert "LD_LIBRARY_PATH=/opt/python/lib" in given
    assert "PATH=/opt/bin" in given
    assert not [line for line in given if "PMIX" in line]


def test_a_parent_that_goes_while_we_look_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(os, "getppid", lambda: gone.pid)
    monkeypatch.setattr(startup_watch, "_environment", lambda _: [b"PMIX_NAMESPACE=a job"])
    assert startup_watch.launcher_of("a job") == gone.pid


@pytest.mark.parametrize("pid", [0, 1])
def test_process_1_is_no_launcher(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: signalled.append(pid))
    startup_watch.end(pid)
    assert signalled == []
