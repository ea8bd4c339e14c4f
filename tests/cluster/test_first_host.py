"""The host of mpiexec and of the first rank is lost: all end, and another host goes on."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.jobs import KEEPALIVE, RANKS, RUN, Hosts, check, end, wait_for_work


def test_without_the_host_of_the_first_rank_all_end_and_another_host_resumes(
    cluster: Hosts, folder: Path, expected: bytes
) -> None:
    with cluster.job(folder, RUN, ranks=RANKS, variables=KEEPALIVE) as process:
        wait_for_work(process, folder)
        cluster.sh("crash", "n1")
        end(process)
    cluster.wait_until_left("n2", "n3")
    # The lock names a host that nobody can ask: it is watched for the time of its lease.
    job = cluster.run_on("n2", folder, RUN)
    assert job.returncode == 0, job.stderr
    assert "locked by" in job.stderr
    assert "on n1" in job.stderr
    check(folder, expected, n_reused_at_least=1)
