#!/usr/bin/env python3
"""What PBS and LSF do with a job script, on this host: called as ``qsub`` or ``bsub``.

Rules of this file
------------------
1. Stricter than the real ones: a directive that they would silently ignore is refused.
2. A job has their variables and a clean environment, and runs at once.
3. Standard library only.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HOST = socket.gethostname()
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "OMP_NUM_THREADS")
KEPT += ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "STANDIN_LOG")


def directives(text: str, mark: str) -> list[str]:
    """Return the directives at the top; more below are refused."""
    lines = text.splitlines()
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    late = [line for line in lines[body:] if line.startswith(mark)]
    if late:
        sys.exit(f"ignored, because it comes after a command: {late[0]}")
    return [line.removeprefix(mark).strip() for line in lines[:body] if line.startswith(mark)]


def hosts(folder: Path, *names: str) -> str:
    """Write the list of a job's hosts; all names are this one's."""
    path = folder / "hosts"
    path.write_text("".join(f"{name}\n" for name in names))
    return str(path)


def run(text: str, cwd: Path, variables: dict[str, str]) -> int:
    """Run a job; as on some sites, the shell reads its script as input."""
    environ = {name: os.environ[name] for name in KEPT if name in os.environ} | variables
    with Path(os.environ["STANDIN_LOG"]).open("a") as log:
        print(f"begins in {cwd}", file=log, flush=True)
        job = subprocess.run(
            ["bash", "-s"], input=text, text=True, cwd=cwd, env=environ, stdout=log, stderr=log
        )
        print(f"ended with {job.returncode}", file=log, flush=True)
    return job.returncode


def qsub(words: list[str], folder: Path) -> int:
    """Run a PBS job, which begins in the home directory."""
    *options, script = words
    text = Path(script).read_text()
    asked = "\n".join(directives(text, "#PBS "))
    if not re.search(r"-l select=\d+:ncpus=\d+:mpiprocs=1$", asked, re.M):
        sys.exit("no size that can be read")
    more = dict(pair.split("=") for pair in options[1::2])
    variables = {
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": f"{os.getpid()}.here",
        "PBS_JOBNAME": "input",
        "PBS_O_WORKDIR": str(Path.cwd()),
        "PBS_NODEFILE": hosts(folder, HOST, HOST),
        "NCPUS": "2",
    }
    return run(text, Path.home(), variables | more)


def bsub(words: list[str], folder: Path) -> int:
    """Run an LSF job, which begins where it was submitted; again if its exit code says so."""
    text = sys.stdin.read()
    asked = "\n".join(directives(text, "#BSUB "))
    again = {int(code) for code in re.findall(r'^-Q "(\d+)"$', asked, re.M)}
    if words or not re.search(r"^-n \d+$", asked, re.M):
        sys.exit("no size that can be read")
    variables = {
        "LSB_JOBID": str(os.getpid()),
        "LSB_DJOB_HOSTFILE": hosts(folder, "localhost", "localhost", HOST, HOST),
        "LSB_DJOB_NUMPROC": "4",
        "LSB_MCPU_HOSTS": f"localhost 2 {HOST} 2",
    }
    code = run(text, Path.cwd(), variables)
    while code in again:
        code = run(text, Path.cwd(), variables)
    return code


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        system = {"qsub": qsub, "bsub": bsub}[Path(sys.argv[0]).name]
        sys.exit(system(sys.argv[1:], Path(own)))
