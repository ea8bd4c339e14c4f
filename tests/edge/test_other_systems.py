"""macOS and Windows: counts from psutil, no pinning, and nothing that needs Linux to be imported.

Each system is played in a fresh Python by taking away what it does not have.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qcmb_mpi

PACKAGE = Path(qcmb_mpi.__file__).parent
MODULES = sorted(path.stem for path in (PACKAGE / "machine").glob("[!_]*.py"))

_NO_LINUX = """
import os, pathlib, signal, sys, time
for name in ("sched_setaffinity", "sched_getaffinity", "sched_getscheduler"):
    delattr(os, name)
is_file = pathlib.Path.read_text
def read_text(path, *arguments, **options):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return is_file(path, *arguments, **options)
pathlib.Path.read_text = read_text
all_entries = pathlib.Path.iterdir
def iterdir(path):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return all_entries(path)
pathlib.Path.iterdir = iterdir
import psutil
"""
_MACOS = _NO_LINUX + "sys.platform = 'darwin'\n"
_WINDOWS = (
    _NO_LINUX
    + """
n_cpus = psutil.cpu_count()
psutil.cpu_count = lambda logical=True: n_cpus
for name in ("sysconf", "geteuid", "getuid", "killpg", "getpgid", "fork", "wait4"):
    delattr(os, name)
for name in ("SIGKILL", "SIGSTOP", "SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
delattr(time, "CLOCK_BOOTTIME")
sys.modules["resource"] = sys.modules["fcntl"] = None
sys.platform = "win32"
"""
)
SYSTEMS = pytest.mark.parametrize("system", [_MACOS, _WINDOWS], ids=["macOS", "Windows"])


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def package(system: str) -> str:
    """Play a system once the package itself, with its programs, has been imported."""
    return f"import qcmb_mpi, psutil\n{system}"


@SYSTEMS
def test_every_module_can_be_imported(system: str) -> None:
    imports = "".join(f"import qcmb_mpi.machine.{name}\n" for name in MODULES)
    run(f"{package(system)}\n{imports}")


@SYSTEMS
def test_counts_and_no_pinning(system: str) -> None:
    asked = """
from qcmb_mpi.machine.affinity import allocation_mask, can_pin, pin, pin_process, pinned
from qcmb_mpi.machine.limits import read_limits
from qcmb_mpi.machine.topology import read_topology
topology, limits = read_topology(environ={}), read_limits(environ={})
assert topology.source == "psutil" and not topology.is_detailed
assert topology.n_cpus == psutil.cpu_count() == limits.n_cpus == len(allocation_mask())
assert limits.memory_bytes == psutil.virtual_memory().total
assert not can_pin() and not pin({0})
assert "threads are not pinned" in pin_process({0}).note
with pinned({0}):
    pass
"""
    run(package(system) + asked)


def test_threads_are_configured_and_measured_without_linux() -> None:
    asked = """
from qcmb_mpi import QCThreadManager
manager = QCThreadManager()
assert manager.configure_qc_threads("psi4").threads_per_calculation == manager.n_cores
allocation = manager.allocate_thread_resources(costs=[1.0] * 50)
assert allocation.fragment_workers == manager.n_cores
assert "not pinned" in manager.set_thread_affinity(0, [0]).note
with manager.monitoring(interval_s=0.05) as usage:
    sum(range(10**6))
assert usage.stats().cpu_s >= 0
"""
    run(package(_MACOS) + asked)
