"""What starts ``mpiexec`` for ``make``, tests and benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.jobs import environment, mpiexec
from tools.mpiexec import find_mpiexec, is_open_mpi, own_temporary

pytestmark = pytest.mark.launch


def test_a_jobs_temporary_folder_is_its_own_and_goes_with_it() -> None:
    with own_temporary({"TMPDIR": "/elsewhere", "KEPT": "1"}) as variables:
        folder = Path(variables["TMPDIR"])
        (folder / "left").mkdir()
        assert variables["KEPT"] == "1"
        assert len(str(folder)) < 60 + len(os.environ.get("TMPDIR", ""))
    assert not folder.exists()


def test_what_a_killed_launcher_left_hinders_none_of_the_same_number(tmp_path: Path) -> None:
    assert is_open_mpi(find_mpiexec())
    # The shell becomes mpiexec, so that it knows the number of its process.
    script = 'mkdir "$0/ompi.$$"; >"$0/ompi.$$/pmix.$(hostname).tool.$$"; exec "$@"'
    line = ["bash", "-c", script, str(tmp_path), *mpiexec(1), sys.executable, "-c", ""]
    shared = environment(TMPDIR=str(tmp_path))
    assert subprocess.run(line, env=shared, capture_output=True, check=False).returncode != 0
    with own_temporary(shared) as variables:
        done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("ompi.*/*")) != []
