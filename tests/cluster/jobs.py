"""Several hosts on this machine, and jobs of ranks on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.launch.jobs import environment, mpiexec, read, run, started, unmeasured, wait_until
from tests.launch.test_lost_ranks import result_of
from tests.launch.test_run import FLAKY, _n_done

HOSTS_SH = Path(__file__).with_name("hosts.sh")
# A host that no longer answers is noticed after 3 + 3 x 1 s, where mpiexec would wait 8 minutes.
KEEPALIVE = {
    "PRTE_MCA_oob_tcp_keepalive_time": "3",
    "PRTE_MCA_oob_tcp_keepalive_intvl": "1",
    "PRTE_MCA_oob_tcp_keepalive_probes": "3",
}
N_TASKS = 2 * (5 + 10 + 10)
RANKS = {"n1": 2, "n2": 1, "n3": 1}
RUN = (sys.executable, "-m", "qcmb_mpi", "run", "in.json", "--workers", "1", *FLAKY)
_MARK = "QCMB_TEST_JOB"


class Hosts:
    """Hosts n1, n2, ... that share this machine's files.

    The first sees all processes of the machine, so ``mpiexec`` there can start daemons on others.
    """

    def __init__(self, folder: Path, n_hosts: int) -> None:
        self.mark = uuid.uuid4().hex
        self._variables = unmeasured(environment(HOSTS_DIR=str(folder)))
        self.names = [f"n{number}" for number in range(1, n_hosts + 1)]

    def up(self) -> None:
        """Start them."""
        self.sh("up", *self.names)

    def sh(self, *words: str) -> None:
        """Call hosts.sh."""
        subprocess.run([HOSTS_SH, *words], env=self._variables, check=True, timeout=60)

    @contextlib.contextmanager
    def job(
        self,
        folder: Path,
        command: Sequence[str],
        *,
        ranks: Mapping[str, int],
        variables: Mapping[str, str] | None = None,
        is_tolerant: bool = False,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command under ``mpiexec`` on n1, with so many ranks on each host."""
        line = mpiexec(sum(ranks.values()), is_tolerant=is_tolerant)
        line[1:1] = ["--prtemca", "plm_ssh_agent", f"{HOSTS_SH} ssh", "--bind-to", "none"]
        line[1:1] = ["--host", ",".join(f"{host}:{n}" for host, n in ranks.items())]
        given = {"PYTHONPATH": self._variables["PYTHONPATH"], _MARK: self.mark, **(variables or {})}
        for name in given:
            line[-2:-2] = ["-x", name]
        words = [str(HOSTS_SH), "exec", "n1", *line, *command]
        with started(words, cwd=folder, env=self._variables | given) as process:
            yield process

    def run_on(
        self, host: str, folder: Path, command: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on one host to its end."""
        words = [str(HOSTS_SH), "exec", host, *command]
        return run(words, cwd=folder, env=self._variables)

    def processes(self, *names: str) -> set[int]:
        """Return what lives of the jobs on these hosts."""
        spaces = {_network(self._keeper(name)) for name in names}
        return {pid for pid in _marked(self.mark) if _network(pid) in spaces}

    def _keeper(self, name: str) -> int:
        return int((Path(self._variables["HOSTS_DIR"]) / f"{name}.pid").read_text())

    def wait_until_left(self, *names: str) -> None:
        """Wait until nothing of the jobs is left on these hosts."""
        wait_until(lambda: not self.processes(*names), 60)


@contextlib.contextmanager
def hosts(n_hosts: int = 3) -> Iterator[Hosts]:
    """Start hosts; end them with all that runs there."""
    assert os.geteuid() == 0, "hosts of their own need root (namespaces)"
    # A short path: the daemons have sockets there.
    with tempfile.TemporaryDirectory(prefix="qh-", ignore_cleanup_errors=True) as folder:
        made = Hosts(Path(folder), n_hosts)
        try:
            made.up()
            yield made
        finally:
            made.sh("down")


def wait_for_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until results are in the store."""
    store = folder / "in.store.sqlite"
    wait_until(lambda: process.poll() is not None or _n_done(store) >= 1)
    assert process.poll() is None, process.communicate()


def end(process: subprocess.Popen[str]) -> str:
    """Wait for mpiexec, and return what was said; without a keepalive it would be 8 minutes."""
    out, told = process.communicate(timeout=120)
    return out + told


def check(folder: Path, expected: bytes, *, n_reused_at_least: int = 0) -> None:
    """Compare with the run without MPI."""
    summary = read(folder / "in.run.json")
    assert summary["status"] == "complete"
    assert summary["n_computed"] + summary["n_reused"] == N_TASKS
    assert summary["n_reused"] >= n_reused_at_least
    assert result_of(folder) == expected


def _marked(mark: str) -> Iterator[int]:
    pair = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and pair in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
