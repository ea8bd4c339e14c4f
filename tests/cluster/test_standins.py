"""The job scripts for PBS and LSF, which Debian has not: real ranks, a stand-in for the rest."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.scripts import (
    DIARY,
    assert_complete,
    expected_result,
    folder_of_tasks,
    script,
    warn,
    write_tasks,
)
from tests.launch.jobs import TIMEOUT_S, environment, read, started, unmeasured

SUBMIT = {"pbs": "qsub {script}", "lsf": "bsub <{script}"}
expected = pytest.fixture(scope="module")(expected_result)
folder = pytest.fixture(folder_of_tasks)


@contextlib.contextmanager
def submitted(folder: Path, system: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script by its stand-in."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name in ("qsub", "bsub"):
        (bin_ / name).symlink_to(Path(__file__).with_name("standin.py"))
    variables = unmeasured(environment(STANDIN_LOG=str(folder / "log")))
    variables["PATH"] = f"{bin_}:{variables['PATH']}"
    line = SUBMIT[system].format(script=path.name)
    with started(["bash", "-c", line], cwd=folder, env=variables) as job:
        yield job


@pytest.mark.parametrize("system", SUBMIT)
def test_two_ranks(system: str, folder: Path, expected: bytes) -> None:
    with submitted(folder, system, script(folder, f"{system}/many_nodes", *DIARY)) as job:
        job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 0, (folder / "log").read_text()
    assert_complete(folder, expected, n_ranks=2)


@pytest.mark.parametrize("system", SUBMIT)
def test_a_job_that_is_stopped_is_submitted_again(
    system: str, tmp_path: Path, expected: bytes
) -> None:
    write_tasks(tmp_path, 0.4)
    path = script(tmp_path, f"{system}/requeue", "--workers", "1", *DIARY)
    with submitted(tmp_path, system, path) as job:
        warn(tmp_path)
        job.communicate(timeout=TIMEOUT_S)
    log = (tmp_path / "log").read_text()
    assert log.count("begins in") == 2, log
    assert "stopped early: SIGUSR1" in log
    assert_complete(tmp_path, expected, n_ranks=2)
    assert read(tmp_path / "input.run.json")["n_reused"] >= 4
