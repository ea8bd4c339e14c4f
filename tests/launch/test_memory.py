"""A run whose tasks together exceed the memory there is: it keeps to it, and nobody is killed.

Where control groups can be made (by root) the kernel enforces the limit and counts; elsewhere
``--memory`` says the same number, and the run's own log tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hungry
from qcmb_mpi.report.events import read_events
from qcmb_mpi.scheduling import messages as m
from tests.launch.jobs import command, environment, read, run
from tools.memory_group import MemoryGroup

pytestmark = pytest.mark.launch

IMPORT = ("--import", "benchmarks.hungry")
N_TASKS, N_SLOTS, HOLD_S = 6, 4, 1.5
SLOT_BYTES = 150_000_000  # before it has a task
GRANTED = 0.8


@pytest.fixture(scope="module")
def need_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return what a task is predicted to need."""
    folder = tmp_path_factory.mktemp("plan")
    source = write(folder, hungry.document(N_TASKS, 0, 0.0))
    job = run(command("plan", source, "--json", *IMPORT), cwd=folder)
    return int(json.loads(job.stdout)["memory_bytes"])


@pytest.fixture
def source(tmp_path: Path, need_bytes: int) -> Path:
    """Write an input whose tasks hold what they are predicted to."""
    return write(tmp_path, hungry.document(N_TASKS, need_bytes - SLOT_BYTES, HOLD_S))


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "in.json"
    path.write_text(json.dumps(document))
    return path


class Limited:
    """Runs commands within a limit: the kernel's where we may set one, else only a told one."""

    def __init__(self, limit_bytes: int) -> None:
        self.told: tuple[str, ...] = ()
        self.group: MemoryGroup | None = None
        try:
            self.group = MemoryGroup(limit_bytes)
        except OSError:
            self.told = ("--memory", str(int(GRANTED * limit_bytes)))

    def run(self, folder: Path, *words: str | Path) -> tuple[int, str]:
        """Run a command; return exit code and standard error."""
        line = command(*words, *self.told)
        job = run(self.group.around(line) if self.group else line, cwd=folder, env=environment())
        return job.returncode, job.stderr

    @property
    def n_kills(self) -> int:
        """How many processes the kernel has killed."""
        if self.group is None:
            return 0
        self.group.read()
        return self.group.n_kills


@pytest.fixture
def limited(need_bytes: int) -> Iterator[Limited]:
    """Give a limit that two tasks at once keep to, and three exceed."""
    found = Limited(int(2.2 * need_bytes / GRANTED))
    yield found
    if found.group is not None:
        found.group.__exit__(None, None, None)


def most_at_once(log: Path, n_slots: int) -> int:
    """Return the most that was predicted for what an agent held to run at the same time."""
    sizes: dict[int, int] = {}
    held: set[int] = set()
    most = 0
    for step in read_events(log):
        if isinstance(step.event, m.SpaceAdded):
            sizes = {int(i): each.memory_bytes for each in step.event.classes for i in each.ids}
        if isinstance(step.event, m.TasksDone | m.TasksReturned):
            held -= set(map(int, step.event.ids))
        for each in step.commands:
            held |= set(map(int, each.ids)) if isinstance(each, m.Assign) else set()
        most = max(most, sum(sorted(sizes[i] for i in held)[-n_slots:]))
    return most


@pytest.mark.parametrize("options", [(), ("--workers", str(N_SLOTS))], ids=["automatic", "slots"])
def test_tasks_that_together_exceed_the_limit_take_turns(
    limited: Limited, source: Path, need_bytes: int, options: tuple[str, ...]
) -> None:
    folder, log = source.parent, source.parent / "events.jsonl"
    words = ("run", source, "--no-store", *IMPORT, "--events", str(log), *options)
    code, err = limited.run(folder, *words)
    assert code == 0, err
    summary = read(folder / "in.run.json")
    assert (summary["n_computed"], summary["n_retries"], limited.n_kills) == (N_TASKS, 0, 0)
    [agent] = summary["agents"]
    most = most_at_once(log, agent["slots"])
    assert need_bytes <= most <= agent["memory_limit_bytes"] < N_TASKS * need_bytes


def test_without_the_rule_tasks_are_lost_to_the_kernel(limited: Limited, source: Path) -> None:
    """What the limit is worth, where there is one: ``--memory`` beyond it says that there is."""
    limited.told = ("--memory", "1TB")
    words = ("--workers", str(N_SLOTS), "--retries", "0")
    code, err = limited.run(source.parent, "run", source, "--no-store", *IMPORT, *words)
    assert (code == 1) == (limited.n_kills > 0) == (limited.group is not None), err
    failed = read(source.parent / "in.run.json")["failed"]
    assert {each["error_type"] for each in failed} <= {"out_of_memory"}


def test_what_never_fits_is_refused_before_anything_runs(limited: Limited, tmp_path: Path) -> None:
    """PySCF keeps arrays v^4 for a gradient of CCSD(T), whatever it is told."""
    specification = {
        "program": "pyscf",
        "driver": "gradient",
        "model": {"method": "ccsd(t)", "basis": "cc-pvqz"},
    }
    document = hungry.document(2, 0, 0.0)
    document["specification"]["driver"] = "gradient"
    document["specification"]["specification"] = {"(auto)": specification}
    code, err = limited.run(tmp_path, "run", write(tmp_path, document))
    assert code == 2, err
    assert re.fullmatch(r"qcmb-mpi: error: memory: task .* needs at least .* GB.*\n", err)
    assert [each.name for each in tmp_path.iterdir()] == ["in.json"]
