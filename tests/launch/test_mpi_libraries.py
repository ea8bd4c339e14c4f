"""Several MPI libraries, of which mpi4py loads the one it is told: the same bytes as without."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.launch.jobs import command, environment, read, run, unmeasured
from tests.launch.test_lost_ranks import result_of
from tests.launch.test_run import FLAKY, helium, write

_INSTALLED = "`make test` and `.ci/run` install it"


def _open_mpi_4() -> tuple[list[str], Path]:
    """Debian's."""
    mpiexec = shutil.which("mpiexec.openmpi", path="/usr/bin")
    assert mpiexec is not None, _INSTALLED
    library = next(Path("/usr/lib").glob("*/libmpi.so.40"))
    return [mpiexec, "--oversubscribe"], library


def _mpich(folder: str) -> tuple[list[str], Path]:
    prefix = Path(sys.prefix, folder)
    mpiexec = prefix / "bin" / "mpiexec"
    assert mpiexec.exists(), _INSTALLED
    return [str(mpiexec)], prefix / "lib" / "libmpi.so.12"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of a run without MPI."""
    folder = tmp_path_factory.mktemp("serial")
    write(folder, helium())
    job = run(command("run", "in.json", "--executor", "serial", *FLAKY), cwd=folder)
    assert job.returncode == 0, job.stderr
    return result_of(folder)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("Open MPI v4.1", ""), ("MPICH 4", "mpich-4"), ("MPICH 5", "other-mpi")],
)
def test_a_library_gives_the_same_bytes(
    name: str, folder: str, tmp_path: Path, expected: bytes
) -> None:
    launcher, library = _mpich(folder) if folder else _open_mpi_4()
    assert library.exists(), library
    variables = unmeasured(environment(MPI4PY_LIBMPI=str(library)))
    script = "from mpi4py import MPI; print(MPI.Get_library_version())"
    told = run([*launcher, "-n", "1", sys.executable, "-c", script], cwd=tmp_path, env=variables)
    assert name in told.stdout.replace("Version:      ", "")
    write(tmp_path, helium())
    line = [*launcher, "-n", "3", *command("run", "in.json", "--workers", "1", *FLAKY)]
    job = run(line, cwd=tmp_path, env=variables)
    assert job.returncode == 0, job.stderr
    assert len(read(tmp_path / "in.run.json")["agents"]) == 3
    assert result_of(tmp_path) == expected
