"""Benchmarks of memory, watching and reports still run, and say what is wrong if they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.project.test_frame import python
from tools.memory_group import MemoryGroup

pytestmark = [pytest.mark.qc, pytest.mark.launch]


def can_limit_memory() -> bool:
    try:
        MemoryGroup(2**30).__exit__(None, None, None)
    except OSError:
        return False
    return True


def test_the_smoke_run_of_memory_keeps_its_limit_or_says_that_it_cannot_set_one(
    tmp_path: Path,
) -> None:
    output = tmp_path / "memory.json"
    done = python("benchmarks/memory.py", "--smoke", "-o", str(output))
    if not can_limit_memory():
        assert done.returncode == 2
        assert "--group" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(output.read_text())["measured"]
    assert {name: run["n_kills"] > 0 for name, run in measured["runs"].items()} == {
        "automatic": False,
        "4 slots": False,
        "6 slots, no limit": True,
        "6 slots, no limit, no retry": True,
    }
    assert all(f"| {name} |" in done.stdout for name in measured["runs"])


def test_a_folder_where_no_group_can_be_made_is_refused(tmp_path: Path) -> None:
    done = python("benchmarks/memory.py", "--smoke", "--group", str(tmp_path))
    assert done.returncode == 2
    assert "--group" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_smoke_run_of_monitoring_prints_its_tables(tmp_path: Path) -> None:
    output = tmp_path / "monitoring.json"
    done = python("benchmarks/monitoring.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert min(report["run"]["n_looks"].values()) > 0
    assert min(report["run"]["spent_s"].values()) > 0
    for name in (*report["run"]["shares"], *report["fixed_ms"]):
        assert f"| {name} |" in done.stdout


def test_the_smoke_run_of_pages_opens_the_report_in_a_browser(tmp_path: Path) -> None:
    output = tmp_path / "pages.json"
    done = python("benchmarks/pages.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(output.read_text())["measured"]
    assert "| 41 | 0." in done.stdout
    assert [each["n_plots"] for each in measured["seen"]] == [8]
    assert all(each["n_bytes"] > 0 for each in measured["made"].values())
    assert output.with_suffix(".svg").exists()
