"""Process trees: found, measured and ended, also when they hide or vanish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qcmb_mpi.machine import processes
from qcmb_mpi.machine.cgroups import oom_counter
from tests.edge.agent_cases import is_alive, wait_until

_NOBODY = 2**22 + 1  # above the largest process id


@pytest.fixture(params=["/proc", "psutil"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give a shell with a child and a grandchild, as each way of looking at them sees it."""
    if request.param == "psutil":
        monkeypatch.setattr(processes, "_HAS_CHILDREN", False)
        monkeypatch.setattr(processes, "_IS_LINUX", False)
    words = ["sh", "-c", "sh -c 'sleep 600; :' & sleep 600"]
    shell = subprocess.Popen(words, start_new_session=True)
    wait_until(lambda: len(psutil.Process(shell.pid).children(recursive=True)) == 3)
    yield shell.pid
    os.killpg(shell.pid, signal.SIGKILL) if shell.poll() is None else None
    shell.wait()


def test_descendants(tree: int) -> None:
    seen = {each.pid for each in psutil.Process(tree).children(recursive=True)}
    assert set(processes.descendants(tree)) == seen
    assert set(processes.children(tree)) < seen
    assert tree in processes.children(os.getpid())


def test_measures_are_those_of_the_whole_tree(tree: int) -> None:
    alone = psutil.Process(tree).memory_info().rss
    assert processes.resident_bytes(tree) > alone
    assert 0 < processes.proportional_bytes(tree) <= processes.resident_bytes(tree)
    assert processes.cpu_s(tree) < 10.0


def test_the_whole_tree_is_killed(tree: int) -> None:
    seen = [psutil.Process(tree), *psutil.Process(tree).children(recursive=True)]
    processes.kill_tree(tree)
    wait_until(lambda: not any(is_alive(each) for each in seen))


def test_processor_time_is_counted() -> None:
    before = processes.cpu_s(os.getpid())
    while processes.cpu_s(os.getpid()) < before + 0.05:
        pass


@pytest.mark.parametrize("is_fast", [True, False])
def test_who_is_not_there_uses_nothing(is_fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HAS_CHILDREN", is_fast)
    monkeypatch.setattr(processes, "_IS_LINUX", is_fast)
    assert processes.descendants(_NOBODY) == []
    assert processes.resident_bytes(_NOBODY) == 0
    assert processes.proportional_bytes(_NOBODY) == 0
    assert processes.cpu_s(_NOBODY) == 0.0
    processes.kill_tree(_NOBODY)


_ORPHANS = """
import os, subprocess, sys, time
from qcmb_mpi.machine import processes
processes.adopt_orphans()
spared = subprocess.Popen(["sleep", "600"])
subprocess.run(["sh", "-c", "setsid sleep 600 & setsid sleep 600 & :"])
while len(processes.children(os.getpid())) < 3:
    time.sleep(0.01)
processes.end_children(spared=[spared.pid])
while len(processes.children(os.getpid())) > 1:
    processes.reap_strays()
    time.sleep(0.01)
assert spared.poll() is None
processes.end_children()
spared.wait()
processes.reap_strays()
print("done")
"""


def test_orphans_are_adopted_and_ended() -> None:
    job = subprocess.run(
        [sys.executable, "-c", _ORPHANS], capture_output=True, text=True, timeout=100, check=False
    )
    assert (job.stdout, job.stderr) == ("done\n", "")


def test_the_kernels_kills_are_counted(tmp_path: Path) -> None:
    """In the process's own memory group, version 1 or 2; in all of the host where there is none."""
    assert oom_counter(tmp_path)() == 0
    _write(tmp_path / "proc/vmstat", "pgfault 12\noom_kill 5\n")
    assert oom_counter(tmp_path)() == 5
    _write(tmp_path / "proc/self/cgroup", "4:memory:/job\n0::/job\n")
    one = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    _write(tmp_path / "proc/self/mountinfo", one)
    group = tmp_path / "sys/fs/cgroup/memory/job"
    _write(group / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert oom_counter(tmp_path)() == 3
    two = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    _write(tmp_path / "proc/self/mountinfo", two)
    _write(tmp_path / "sys/fs/cgroup/job/memory.events", "low 0\noom 2\noom_kill 2\n")
    assert oom_counter(tmp_path)() == 2
    count = oom_counter(tmp_path)
    _write(tmp_path / "sys/fs/cgroup/job/memory.events", "low 0\noom 2\noom_kill 9\n")
    assert count() == 9


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
