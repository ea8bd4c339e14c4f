"""The job scripts for PBS and LSF, which Debian has not: real ranks, a stand-in for the rest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cluster.jobs import DIARY, assert_complete, script, write_tasks
from tests.launch.jobs import TIMEOUT_S, environment, read, unmeasured

SUBMIT = {"pbs": "qsub {script}", "lsf": "bsub <{script}"}


def submit(folder: Path, system: str, path: Path) -> str:
    """Run a script by its stand-in; return what was logged."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name in ("qsub", "bsub"):
        (bin_ / name).symlink_to(Path(__file__).with_name("standin.py"))
    variables = unmeasured(environment(STANDIN_LOG=str(folder / "log")))
    variables["PATH"] = f"{bin_}:{variables['PATH']}"
    line = SUBMIT[system].format(script=path.name)
    subprocess.run(["bash", "-c", line], cwd=folder, env=variables, timeout=TIMEOUT_S, check=False)
    return (folder / "log").read_text()


@pytest.mark.parametrize("system", SUBMIT)
def test_two_ranks(system: str, folder: Path, expected: bytes) -> None:
    log = submit(folder, system, script(folder, f"{system}/many_nodes", *DIARY))
    assert log.endswith("ended with 0\n"), log
    assert_complete(folder, expected, n_ranks=2)


@pytest.mark.parametrize("system", SUBMIT)
def test_a_job_without_time_is_submitted_again(
    system: str, tmp_path: Path, expected: bytes
) -> None:
    write_tasks(tmp_path, 0.8)
    words = ("--workers", "1", *DIARY)
    path = script(tmp_path, f"{system}/requeue", *words, **{"=0:55:00": "=0:00:08"})
    log = submit(tmp_path, system, path)
    assert log.count("begins in") >= 2, log
    assert_complete(tmp_path, expected, n_ranks=2)
    assert read(tmp_path / "input.run.json")["n_reused"] > 0
