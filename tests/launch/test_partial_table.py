"""Runs that do not complete print the n-body table all the same: what there is, and what is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.launch.jobs import command, read, run
from tests.launch.test_run import FLAKY, helium, write

_ENTRY = re.compile(r"missing|N/A|-?\d+\.\d{12}")


def entries(table: str) -> list[str]:
    """Return the columns of all rows, in order."""
    rows = [line for line in table.splitlines() if re.match(r" .{17}\d  ", line)]
    return [column for row in rows for column in _ENTRY.findall(row)]


def assert_part_of(partial: str, complete: str) -> int:
    """Check that what is shown is that of the complete table; return how many are missing."""
    shown, whole = entries(partial), entries(complete)
    assert len(shown) == len(whole) > 0
    assert "missing" not in whole
    different = [one for one, other in zip(shown, whole, strict=True) if one != other]
    assert set(different) <= {"missing"}
    return len(different)


@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_a_failed_task_hides_what_needs_it(tmp_path: Path, driver: str) -> None:
    mark = tmp_path / "mark"
    document = helium(driver=driver, faults={"3": "raise"}, once=str(mark))
    write(tmp_path, document)
    words = command("run", "in.json", "--workers", "1", "--retries", "0", *FLAKY)
    failed = run(words, cwd=tmp_path)
    assert failed.returncode == 1, failed.stderr
    assert mark.exists()
    assert not (tmp_path / "in.result.json").exists()
    assert read(tmp_path / "in.run.json")["n_failed"] == 1
    notes = [line for line in failed.stdout.splitlines() if line.startswith("   missing")]
    assert len(notes) == 1
    assert re.fullmatch(r'   missing 1 of 4 results: "\(auto\)", 3-body( with .*)?', notes[0])
    complete = run(words, cwd=tmp_path)
    assert complete.returncode == 0, complete.stderr
    assert assert_part_of(failed.stdout, complete.stdout) == 5  # the last row of one treatment


def test_a_run_stopped_early_shows_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, helium(sleep=0.5))
    words = command("run", "in.json", "--workers", "2", *FLAKY)
    stopped = run([*words, "--walltime", "6"], cwd=tmp_path)
    assert stopped.returncode == 75, stopped.stderr
    summary = read(tmp_path / "in.run.json")
    n_left = summary["n_tasks"] - summary["n_computed"]
    numbers = re.findall(r"^   missing (\d+) of \d+ results", stopped.stdout, re.M)
    assert sum(map(int, numbers)) == n_left > 0
    complete = run(words, cwd=tmp_path)
    assert complete.returncode == 0, complete.stderr
    assert assert_part_of(stopped.stdout, complete.stdout) > 0


def test_quiet_stays_quiet(tmp_path: Path) -> None:
    write(tmp_path, helium(faults={"3": "raise"}))
    job = run(command("run", "in.json", "--quiet", *FLAKY), cwd=tmp_path)
    assert (job.returncode, job.stdout) == (1, "")
