"""Ready job scripts, edited as their users would, and what they must give."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from qcmb_mpi import schema
from tests.launch.diary import read_diary
from tests.launch.jobs import ROOT, command, read, run, wait_until
from tests.launch.test_run import helium

DIARY = ("--import", "tests.launch.diary")
N_TASKS = 2 * (4 + 6 + 4)


def write(folder: Path, document: dict[str, Any]) -> None:
    """Write an input file, named as the scripts have it."""
    folder.mkdir(exist_ok=True)
    (folder / "input.json").write_text(json.dumps(document))


def write_tasks(folder: Path, seconds: float) -> None:
    """Write an input of tasks that take a while and are put down in a diary."""
    write(folder, helium(program="diary", sleep=seconds, diary=str(folder / "diary")))


def expected_result(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the result of those tasks, computed without any batch system: a fixture's work."""
    folder = tmp_path_factory.mktemp("expected")
    write_tasks(folder, 0.0)
    done = run(command("run", "input.json", "--workers", "2", *DIARY), cwd=folder)
    assert done.returncode == 0, done.stderr
    return result(folder)


def folder_of_tasks(tmp_path: Path) -> Path:
    """Return a folder with tasks that last until the second rank is there: a fixture's work."""
    write_tasks(tmp_path, 0.3)
    return tmp_path


def script(folder: Path, name: str, *options: str, **edits: str) -> Path:
    """Copy a ready script, say ``slurm/srun``, and replace what `edits` matches."""
    text = (ROOT / "jobscripts" / f"{name}.sh").read_text()
    ours = {
        r"\$HOME/qcmb/bin": str(Path(sys.executable).parent),
        r"options=\(\)": f"options=({' '.join(options)})",
    }
    for old, new in (ours | edits).items():
        text, n_found = re.subn(old, new.replace("\\", "\\\\"), text)
        assert n_found, old
    path = folder / Path(f"{name}.sh").name
    path.write_text(text)
    return path


def result(folder: Path, name: str = "input") -> bytes:
    """Return a result without what differs from run to run, and without the diary's keywords."""
    text = schema.strip_volatile((folder / f"{name}.result.json").read_bytes())
    return re.sub(rb"\{[^{}]*diary[^{}]*\}", b"", text)


def warn(folder: Path) -> None:
    """Once a run there has some results, warn its launcher as a batch system would."""
    wait_until(lambda: len(read_diary(folder / "diary")) >= 4)
    launchers = [process for process in psutil.process_iter() if _launches_in(process, folder)]
    assert len(launchers) == 1
    launchers[0].send_signal(signal.SIGUSR1)


def _launches_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() in ("mpiexec", "prterun") and process.cwd() == str(folder)
    except psutil.Error:  # another job's, and gone
        return False


def assert_complete(folder: Path, expected: bytes, n_ranks: int) -> None:
    """Assert that a run ended well on all ranks, and computed everything once."""
    summary = read(folder / "input.run.json")
    assert (summary["status"], summary["n_ranks"]) == ("complete", n_ranks)
    assert [agent["n_tasks"] > 0 for agent in summary["agents"]] == [True] * n_ranks
    assert result(folder) == expected
    counts = Counter(entry.task for entry in read_diary(folder / "diary"))
    assert len(counts) == N_TASKS
    assert set(counts.values()) == {1}
