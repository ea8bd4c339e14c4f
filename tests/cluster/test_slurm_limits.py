"""A real Slurm's limits of time and memory, and its warning before the time is over."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import hungry
from tests.cluster.scripts import (
    DIARY,
    expected_result,
    script,
    write,
    write_tasks,
)
from tests.cluster.slurm import (
    Job,
    Slurm,
    a_slurm,
    assert_ends_well,
    four_nodes,
    has_control_groups,
    two_nodes,
)
from tests.launch.diary import read_diary
from tests.launch.jobs import read, wait_until

slurm = pytest.fixture(scope="module")(four_nodes)
expected = pytest.fixture(scope="module")(expected_result)


@pytest.fixture(scope="module", autouse=True)
def short(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of a minute that has work for longer; submitted first, looked at last.

    Slurm looks for jobs to warn twice a minute: this one at half time.
    """
    folder = tmp_path_factory.mktemp("short")
    write_tasks(folder, 2.8)
    edits = {"--time=1:00:00": "--time=1", "USR1@300": "USR1@25", "0:55:00": "0:00:58"}
    return slurm.submit(two_nodes(folder, "requeue", "--workers", "1", *DIARY, **edits))


@pytest.mark.parametrize("name", ["many_nodes", "srun"])
def test_a_warning_reaches_the_ranks_on_both_nodes(slurm: Slurm, tmp_path: Path, name: str) -> None:
    """As Slurm sends it before the limit: to the script, in whose place the launcher is."""
    write_tasks(tmp_path, 0.4)
    job = slurm.submit(two_nodes(tmp_path, name, "--workers", "1", *DIARY))
    wait_until(lambda: len(read_diary(tmp_path / "diary")) >= 4)
    slurm.ask("scancel", "-s", "USR1", "-b", job.number)
    assert job.end() == "75", job.told()
    summary = read(tmp_path / "input.run.json")
    assert (summary["status"], summary["stopped"]) == ("incomplete", "SIGUSR1")
    assert summary["n_computed"] == len(read_diary(tmp_path / "diary"))


def test_the_jobs_memory_is_kept_to(slurm: Slurm, tmp_path: Path) -> None:
    """Two tasks at once would be too much: Slurm ends the job that is told it may."""
    jobs = {}
    for name, words in (("told", ("--memory", "1TB")), ("asked", ())):
        folder = tmp_path / name
        write(folder, hungry.document(3, 600_000_000, 2.0))
        options = (*words, "--workers", "2", "--import", "benchmarks.hungry")
        path = script(folder, "slurm/single_node", *options, **{"--mem=0": "--mem=1000"})
        jobs[name] = slurm.submit(path)
    assert jobs["asked"].end() == "0", jobs["asked"].told()
    (agent,) = read(tmp_path / "asked" / "input.run.json")["agents"]
    assert agent["memory_limit_bytes"] == int(0.8 * 1000 * 2**20)
    assert jobs["told"].end() == "0:9"
    assert "exceeded memory limit" in jobs["told"].told()


@pytest.mark.parametrize("memory_by", ["cgroup"] if has_control_groups() else [])
def test_the_kernel_keeps_to_the_jobs_memory(memory_by: str, tmp_path: Path) -> None:
    """Two tasks at once are too much: the kernel ends one, which runs again alone."""
    with a_slurm(1, 2, MEMORY_BY=memory_by) as slurm:
        write(tmp_path, hungry.document(3, 600_000_000, 2.0))
        options = ("--memory", "1TB", "--workers", "2", "--import", "benchmarks.hungry")
        path = script(tmp_path, "slurm/single_node", *options, **{"--mem=0": "--mem=1000"})
        job = slurm.submit(path)
        assert job.end() == "0:125", job.told()
        assert job.shown()["JobState"] == "OUT_OF_MEMORY"
        told = slurm.ask(
            "srun", "--mem=300", sys.executable, "-m", "qcmb_mpi", "doctor", "--json"
        ).stdout
    summary = read(tmp_path / "input.run.json")
    assert (summary["status"], summary["n_computed"]) == ("complete", 3)
    assert summary["n_retries"] >= 1
    found = {each["name"]: each["found"] for each in json.loads(told)["findings"]}
    assert re.search(r"300 MiB by \S*/slurm_\S*memory\.limit_in_bytes", found["memory granted"])


def test_a_walltime_too_short_is_warned_requeued_and_resumed(short: Job, expected: bytes) -> None:
    folder = short.log.parent
    assert_ends_well(short, expected)
    assert int(short.shown()["Restarts"]) >= 1
    told = short.told()
    assert "stopped early: SIGUSR1" in told
    first = re.search(r"incomplete: 28 tasks: (\d+) computed, 0 reused, 0 failed", told)
    assert first is not None, told
    assert read(folder / "input.run.json")["n_reused"] >= int(first[1]) > 0
