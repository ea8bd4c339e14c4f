"""The job scripts of ``jobscripts/sge`` in a real Grid Engine of one host, which root can make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.scripts import DIARY, assert_complete, expected_result, script, warn, write_tasks
from tests.launch.diary import read_diary
from tests.launch.jobs import TIMEOUT_S, environment, read, started, unmeasured

AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
SETTINGS = ("PYTHONPATH", "OMP_NUM_THREADS", *AS_ROOT)
expected = pytest.fixture(scope="module")(expected_result)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one for each of three jobs that have run at the same time."""
    folder = tmp_path_factory.mktemp("jobs")
    slots = {"-pe (smp|mpi) [0-9]+": r"-pe smp 2"}
    one, limited, again = (folder / name for name in ("one", "limited", "again"))
    write_tasks(one, 0.1)
    script(one, "sge/single_node", *DIARY, **slots)
    write_tasks(limited, 2.2)
    script(limited, "sge/many_nodes", *DIARY, **slots, **{"s_rt=0:55:00": "s_rt=0:00:20"})
    write_tasks(again, 0.4)
    script(again, "sge/requeue", *DIARY, **slots)
    variables = unmeasured(environment())
    settings = ",".join(f"{name}={variables[name]}" for name in SETTINGS)
    submit = 'cd "$each" && qsub -sync y -v "$settings" *.sh >told 2>&1'
    everything = f"settings=$1; shift; for each; do ({submit}) & done; wait"
    script_of_host = Path(__file__).with_name("gridengine.sh")
    words = ["bash", str(script_of_host), "6", "bash", "-c", everything, "-", settings]
    with started([*words, *map(str, (one, limited, again))], cwd=folder, env=variables) as engine:
        try:
            warn(again)
        except AssertionError as error:
            raise AssertionError(f"the third job has no results:\n{said(again)}") from error
        _, told = engine.communicate(timeout=TIMEOUT_S)
    assert engine.returncode == 0, told
    return folder


def said(folder: Path) -> str:
    """Return the texts of a job's folder: what it and its launcher said."""
    names = ("told", "hosts.*", "input.o*", "input.run.json")
    return "\n".join(
        f"{path.name}: {path.read_text()}" for name in names for path in folder.glob(name)
    )


def assert_exit_code(folder: Path, code: int) -> None:
    """Assert that qsub was told that the job ended so."""
    told = (folder / "told").read_text()
    assert re.findall(r"exited with exit code (\d+)", told) == [str(code)], said(folder)


def test_one_host(jobs: Path, expected: bytes) -> None:
    assert_exit_code(jobs / "one", 0)
    assert_complete(jobs / "one", expected, n_ranks=1)


def test_the_warning_before_the_limit_reaches_the_ranks(jobs: Path) -> None:
    folder = jobs / "limited"
    assert_exit_code(folder, 75)
    summary = read(folder / "input.run.json")
    assert (summary["status"], summary["stopped"]) == ("incomplete", "SIGUSR1")
    assert len(read_diary(folder / "diary")) == summary["n_computed"] > 0


def test_a_job_that_is_stopped_goes_back_into_the_queue(jobs: Path, expected: bytes) -> None:
    folder = jobs / "again"
    assert_exit_code(folder, 0)
    assert_complete(folder, expected, n_ranks=1)
    assert read(folder / "input.run.json")["n_reused"] >= 4
