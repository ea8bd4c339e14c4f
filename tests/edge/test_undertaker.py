"""A launcher that waits for ever is ended by whom nobody has to wait for; any other is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qcmb_mpi.execution.executors.mpi import startup_watch, undertaker
from tests.launch.jobs import TIMEOUT_S

_LAUNCHER = """
import signal, sys, time
n_left = int(sys.argv[1])
with open("/proc/self/comm", "w") as name:
    name.write(sys.argv[2])
def count(number, frame):
    global n_left
    n_left -= 1
    if not n_left:
        sys.exit(7)
signal.signal(signal.SIGTERM, count)
print(flush=True)
while True:
    time.sleep(600)
"""
_RANK = """
import sys
from qcmb_mpi.execution.executors.mpi import undertaker
undertaker.send_for(int(sys.argv[1]), patience_s=0.2)
"""


@pytest.fixture
def start() -> Iterator[object]:
    """Start launchers that leave at the n-th SIGTERM."""
    started = []

    def start_one(n_signals: int, name: str = "prterun") -> subprocess.Popen[str]:
        line = [sys.executable, "-c", _LAUNCHER, str(n_signals), name]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline()
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("n_signals", "code"), [(3, 7), (9, -signal.SIGKILL)])
def test_a_launcher_that_does_not_end_is_ended(start, n_signals: int, code: int) -> None:
    launcher = start(n_signals)
    subprocess.run([sys.executable, "-c", _RANK, str(launcher.pid)], check=True)
    assert launcher.wait(TIMEOUT_S) == code


@pytest.mark.parametrize("name", ["prte", "python", "bash"])
def test_what_serves_others_too_is_left_alone(start, name: str, monkeypatch) -> None:
    server = start(1, name)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it would be ended"))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it would be ended"))
    undertaker.send_for(server.pid)
    if name == "prte":
        startup_watch.end(server.pid)


def test_a_launcher_is_asked_to_end_the_job(start) -> None:
    launcher = start(1)
    startup_watch.end(launcher.pid)
    assert launcher.wait(TIMEOUT_S) == 7


def test_one_that_ends_by_itself_gets_no_signal() -> None:
    launcher = subprocess.Popen(["sleep", "0.1"])
    undertaker.main(os.pidfd_open(launcher.pid), TIMEOUT_S)
    assert launcher.wait() == 0


@pytest.mark.parametrize("nobody", [0, 1])
def test_process_1_is_no_launcher(nobody: int) -> None:
    undertaker.send_for(nobody)


def test_a_launcher_that_has_gone_needs_nothing() -> None:
    launcher = subprocess.Popen(["true"])
    launcher.wait()
    undertaker.send_for(launcher.pid)
