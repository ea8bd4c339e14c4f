from __future__ import annotations

import subprocess
import sys
import time

import pytest

from qcmb_mpi.machine import usage as usage_module
from qcmb_mpi.machine.usage import ThreadUsageStats, UsageMonitor
from tests.launch.jobs import wait_until

BUSY = "import time\nwhile time.process_time() < {s}: pass"


def child(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_figures() -> None:
    stats = ThreadUsageStats(cpu_s=6.0, wall_s=2.0, n_cores=4)
    assert (stats.n_cores_busy, stats.efficiency) == (3.0, 0.75)
    assert str(stats) == "6 CPU s in 2 s: 3.00 of 4 cores busy (75%)"
    assert ThreadUsageStats(0.0, 0.0, 4).efficiency == 0.0


@pytest.mark.parametrize("options", [{"n_cores": 0}, {"interval_s": 0.0}])
def test_nonsense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        UsageMonitor(**options)


def test_own_work_and_that_of_children_counts() -> None:
    monitor = UsageMonitor(n_cores=2)
    began_s = time.process_time()
    while time.process_time() < began_s + 0.2:
        pass
    subprocess.run(child(BUSY.format(s=0.3)), check=True)
    stats = monitor.stats()
    assert 0.45 <= stats.cpu_s <= 3.0
    assert stats.cpu_s <= stats.wall_s * 2.1
    assert stats.n_cores == 2
    monitor.restart()
    assert monitor.stats().cpu_s < 0.2


def test_a_tree_that_is_another_process() -> None:
    script = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY.format(s=0.4)!r}])"
    )
    with subprocess.Popen([*child(script + "\ninput()")], stdin=subprocess.PIPE) as process:
        monitor = UsageMonitor(process.pid)
        deadline = time.monotonic() + 60
        while monitor.stats().cpu_s < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert monitor.stats().cpu_s >= 0.3
        process.kill()
        process.wait()
        # What was seen is not taken back when its process is gone.
        assert monitor.stats().cpu_s >= 0.3


def test_the_peak_is_looked_for() -> None:
    script = BUSY.format(s=0.5)
    with UsageMonitor(interval_s=0.02) as monitor:
        processes = [subprocess.Popen(child(script)) for _ in range(3)]
        for process in processes:
            process.wait()
        stats = monitor.stats()
    assert stats.n_running_peak >= 2
    assert stats.monitor_s > 0
    assert stats.cpu_s >= 1.5


def test_a_dear_look_is_taken_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(pid: int) -> int:
        began_s = time.thread_time()
        while time.thread_time() < began_s + 0.05:
            pass
        return 7

    monkeypatch.setattr(usage_module, "_n_running", dear)
    with UsageMonitor(interval_s=0.001) as monitor:
        wait_until(lambda: monitor.stats().n_running_peak == 7)
        time.sleep(1.0)
        # Looking again after every pause of 1 ms would have taken nearly all of the time.
        assert monitor.stats().monitor_s < 0.5
