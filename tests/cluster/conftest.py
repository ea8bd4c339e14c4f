"""Three hosts, a calculation for them, and its result without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qcmb_mpi import schema
from tests.cluster.jobs import Hosts, hosts
from tests.launch.jobs import command, run
from tests.launch.test_run import FLAKY, helium, write


@pytest.fixture
def cluster() -> Iterator[Hosts]:
    """Three hosts."""
    with hosts() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an input of some seconds of work."""
    (tmp_path / "job").mkdir()
    write(tmp_path / "job", helium(5, sleep=0.4))
    return tmp_path / "job"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of a run without MPI."""
    folder = tmp_path_factory.mktemp("alone")
    write(folder, helium(5, sleep=0.4))
    job = run(command("run", "in.json", "--workers", "8", *FLAKY), cwd=folder)
    assert job.returncode == 0, job.stderr
    return schema.strip_volatile((folder / "in.result.json").read_bytes())
