"""Never more runnable threads of calculations than cores, seen from outside while real runs go."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from qcmb_mpi.machine.processes import descendants
from tests.edge.agent_cases import slots_of
from tests.launch.jobs import ROOT, command, environment, read, started, unmeasured

pytestmark = [pytest.mark.qc, pytest.mark.launch]

N_CORES = len(os.sched_getaffinity(0))
FEW = sorted(os.sched_getaffinity(0))[:2]
N_LOOKS = 40
N_MORE_LOOKS, PAUSE_S = 3, 0.005  # threads that spin in vain do so for a tenth of a second
# What a user's shell may say: more threads than anybody has cores, and let them spin.
SHELL = {
    "OMP_NUM_THREADS": "16",
    "OPENBLAS_NUM_THREADS": "16",
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "1000000000",
    "OPENBLAS_THREAD_TIMEOUT": "30",
}
MODELS: dict[str, dict[str, Any]] = {
    "pyscf": {"method": "mp2", "basis": "6-31g*"},
    "tblite": {"method": "GFN2-xTB"},
    "dftd4": {"method": "b3lyp"},
    "s-dftd3": {"method": "b3lyp-d3bj"},
}


def waters(n: int, program: str, **keywords: Any) -> dict[str, Any]:
    """Return an input of `n` waters."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "supersystem.yaml").read_text())
    molecule = document["molecule"]
    for name in ("fragments", "fragment_charges", "fragment_multiplicities"):
        molecule[name] = molecule[name][:n]
    molecule["symbols"] = molecule["symbols"][: 3 * n]
    molecule["geometry"] = molecule["geometry"][: 9 * n]
    chosen = {"program": program, "driver": "energy", "model": MODELS[program], "keywords": {}}
    document["specification"]["keywords"] = {"bsse_type": ["nocp"], **keywords}
    names = set(keywords.get("levels", {}).values()) or {"(auto)"}
    document["specification"]["specification"] = dict.fromkeys(names, chosen)
    return document


def cluster(program: str) -> dict[str, Any]:
    """Return an input that keeps a program busy for a moment."""
    if program == "pyscf":
        return waters(5, program, max_nbody=2)
    return waters(8, program, max_nbody=4)


@dataclass
class Samples:
    """How many threads of slots and of their programs were runnable, look by look."""

    counts: list[int] = field(default_factory=list)
    excesses: list[list[str]] = field(default_factory=list)

    def look(self, slots: Sequence[int], n_cores: int) -> None:
        """Look once; what seems too many is looked at again, for no look is instantaneous."""
        seen = runnable(slots)
        self.counts.append(len(seen))
        for _ in range(N_MORE_LOOKS):
            if len(seen) <= n_cores:
                return
            time.sleep(PAUSE_S)
            seen &= runnable(slots)
        if len(seen) > n_cores:
            self.excesses.append(sorted(seen))


def runnable(slots: Sequence[int]) -> set[str]:
    """Return the threads that compute: they run or wait for a core, not for the first time.

    BLAS libraries start threads that go to sleep at once where a program does not use them; on a
    busy machine they wait for a core to do so.
    """
    found = set()
    for slot in slots:
        for pid in (slot, *descendants(slot)):
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    found |= {f"{pid}/{thread}"} if is_computing(pid, thread) else set()
    return found


def is_computing(pid: int, thread: str) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
        return stat[0] == "R" and int(stat[11]) + int(stat[12]) > 0  # ticks, user and system
    return False


def masters(pid: int) -> list[int]:
    """Return the processes of the package itself, of which slots descend: one, or the ranks."""
    found = []
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            found += [each] if line[0] == os.fsencode(sys.executable) and b"-m" in line else []
    return found


def sampled(
    folder: Path, document: dict[str, Any], *words: str, n_cores: int = N_CORES, n_ranks: int = 0
) -> tuple[Samples, dict[str, Any]]:
    """Run an input and look at its slots until it ends."""
    source = folder / "in.json"
    source.write_text(json.dumps(document))
    masked = ["taskset", "-c", ",".join(map(str, FEW))] if n_cores < N_CORES else []
    words = ("run", str(source), "--no-store", "--no-progress", *words)
    line = [*masked, *command(*words, n_ranks=n_ranks)]
    samples = Samples()
    with started(line, cwd=folder, env=unmeasured(environment(**SHELL))) as job:
        while job.poll() is None:
            slots = []
            with contextlib.suppress(psutil.Error):  # it ends meanwhile
                slots = [slot.pid for master in masters(job.pid) for slot in slots_of(master)]
            for _ in range(50 if slots else 0):
                samples.look(slots, n_cores)
        assert job.returncode == 0, job.stderr and job.stderr.read()
    return samples, read(folder / "in.run.json")


def assert_within(samples: Samples) -> None:
    """Assert that there were enough looks, that they saw threads, and never too many."""
    assert len(samples.counts) > N_LOOKS
    assert max(samples.counts) > 0
    assert samples.excesses == []


@pytest.mark.parametrize("n_threads", sorted({1, min(2, N_CORES), N_CORES}))
@pytest.mark.parametrize("program", MODELS)
def test_fixed_threads_leave_each_thread_a_core(
    tmp_path: Path, program: str, n_threads: int
) -> None:
    document = cluster(program)
    samples, summary = sampled(tmp_path, document, "--threads", str(n_threads))
    [agent] = summary["agents"]
    assert (agent["slots"], agent["threads"]) == (N_CORES // n_threads, n_threads)
    assert_within(samples)


def test_wide_tasks_leave_each_thread_a_core(tmp_path: Path) -> None:
    document = waters(7, "pyscf", levels={1: "low", "supersystem": "high"})
    samples, summary = sampled(tmp_path, document)
    assert f" x {N_CORES} threads" in summary["layout"]
    assert_within(samples)


def test_ranks_leave_each_thread_a_core(tmp_path: Path) -> None:
    document = waters(5, "pyscf", max_nbody=2)
    samples, summary = sampled(tmp_path, document, n_ranks=2)
    assert sum(agent["slots"] * agent["threads"] for agent in summary["agents"]) <= N_CORES
    assert_within(samples)


@pytest.mark.parametrize("program", MODELS)
def test_only_the_granted_cores_are_used(tmp_path: Path, program: str) -> None:
    document = cluster(program)
    samples, summary = sampled(tmp_path, document, n_cores=len(FEW))
    assert summary["agents"][0]["cores"] == len(FEW)
    assert_within(samples)
