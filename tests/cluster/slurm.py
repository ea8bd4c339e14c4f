"""A throw-away Slurm, and its jobs as their users see them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.scripts import assert_complete, script
from tests.launch.jobs import environment, unmeasured, wait_until

TIMEOUT_S = 120.0
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Slurm:
    """One that runs.

    Parameters
    ----------
    environ : mapping
        In which its commands are called, and its jobs run.
    """

    environ: Mapping[str, str]

    def ask(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Call one of its commands."""
        return subprocess.run(
            [str(word) for word in words],
            env={**self.environ, **more},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def submit(self, script: Path, *options: str, **more: str) -> Job:
        """Submit a script, to run where it is."""
        words = ["sbatch", "--parsable", "--chdir", str(script.parent), *options]
        log = script.parent / "job.log"
        done = self.ask(*words, "--output", log, script, **more)
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip(), log)


@dataclass(frozen=True)
class Job:
    """One job."""

    slurm: Slurm
    number: str
    log: Path

    def shown(self) -> dict[str, str]:
        """Return what Slurm tells of it (of all elements of an array the first)."""
        done = self.slurm.ask("scontrol", "-o", "show", "job", self.number)
        return dict(re.findall(r"(\w+)=(\S*)", done.stdout.split("\n")[0]))

    def waited(self, is_so: Callable[[dict[str, str]], bool], timeout_s: float) -> dict[str, str]:
        """Wait for a state of it and return what Slurm tells then."""
        last: dict[str, str] = {}

        def look() -> bool:
            last.clear()
            last.update(self.shown())
            return is_so(last)

        try:
            wait_until(look, timeout_s)
        except AssertionError:
            raise AssertionError(f"{last}\n{self.told()}") from None
        return last

    def end(self, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for its end; return its exit code, or ``0:9`` with a signal."""
        shown = self.waited(lambda now: now.get("JobState") in _OVER, timeout_s)
        code, signal = shown["ExitCode"].split(":")
        return code if signal == "0" else shown["ExitCode"]

    def told(self) -> str:
        """Return what it has printed."""
        return self.log.read_text() if self.log.exists() else ""


@contextlib.contextmanager
def a_slurm(n_nodes: int, n_cpus: int, **settings: str) -> Iterator[Slurm]:
    """Start one; it ends itself when its standard input does, so also when this process dies.

    `settings` are those of ``slurm.sh``.
    """
    words = ["bash", str(Path(__file__).with_name("slurm.sh")), str(n_nodes), str(n_cpus)]
    variables = unmeasured(environment())
    with subprocess.Popen(
        [*words, "bash", "-c", 'echo "$SLURM_CONF"; cat'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables | settings,
    ) as server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stderr is not None
            conf = server.stdout.readline().strip()
            assert conf, server.stderr.read()
            folder = Path(conf).parent / "tmp"
            yield Slurm({**variables, "SLURM_CONF": conf, "TMPDIR": str(folder)})
        finally:
            server.communicate(timeout=60)


def has_control_groups() -> bool:
    """Tell whether a Slurm here can limit memory by control groups, those of version 1."""
    root = Path("/sys/fs/cgroup")
    needed = [root / kind / "cgroup.procs" for kind in ("memory", "freezer", "cpuset")]
    return os.geteuid() == 0 and all(os.access(path, os.W_OK) for path in needed)


def four_nodes() -> Iterator[Slurm]:
    """Start one of four nodes of two CPUs: a fixture's work."""
    with a_slurm(4, 2) as one:
        yield one


def two_nodes(folder: Path, name: str, *options: str, **edits: str) -> Path:
    """Copy a ready script for four nodes and edit it for two."""
    return script(folder, f"slurm/{name}", *options, **{"--nodes=4": "--nodes=2"} | edits)


def assert_ends_well(job: Job, expected: bytes, n_ranks: int = 2) -> None:
    """Assert that a job ended well, and computed everything once."""
    assert job.end() == "0", job.told()
    assert_complete(job.log.parent, expected, n_ranks)
