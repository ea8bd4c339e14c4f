"""Ranks on several hosts: the same bytes as without MPI, also after a host or its cable is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.jobs import KEEPALIVE, RANKS, RUN, Hosts, check, end, wait_for_work
from tests.launch.jobs import read
from tests.launch.test_lost_ranks import lost_ranks


def test_hosts_give_the_same_bytes(cluster: Hosts, folder: Path, expected: bytes) -> None:
    with cluster.job(folder, RUN, ranks=RANKS) as process:
        told = end(process)
    assert process.returncode == 0, told
    check(folder, expected)
    rows = read(folder / "in.run.json")["agents"]
    assert [row["host"] for row in rows] == ["n1", "n1", "n2", "n3"]


@pytest.mark.parametrize("fault", ["cut", "crash"])
def test_a_lost_host_ends_the_job_and_the_same_command_resumes(
    fault: str, cluster: Hosts, folder: Path, expected: bytes
) -> None:
    with cluster.job(folder, RUN, ranks=RANKS, variables=KEEPALIVE) as process:
        wait_for_work(process, folder)
        cluster.sh(fault, "n2")
        told = end(process)
    assert "lost communication with a remote daemon" in told
    assert "on node n2" in told
    assert not (folder / "in.result.json").exists()
    cluster.wait_until_left("n1", "n3")
    ranks = RANKS if fault == "cut" else {"n1": 2, "n3": 2}
    if fault == "cut":
        cluster.wait_until_left("n2")
        cluster.sh("join", "n2")
    with cluster.job(folder, RUN, ranks=ranks, variables=KEEPALIVE) as process:
        told = end(process)
    assert process.returncode == 0, told
    check(folder, expected, n_reused_at_least=1)


@pytest.mark.parametrize("is_tolerant", [True, False])
def test_without_keepalive_the_other_hosts_finish_and_mpiexec_is_ended(
    is_tolerant: bool, cluster: Hosts, folder: Path, expected: bytes
) -> None:
    words = [*RUN, "--heartbeat", "4"]
    with cluster.job(folder, words, ranks=RANKS, is_tolerant=is_tolerant) as process:
        wait_for_work(process, folder)
        cluster.sh("cut", "n2")
        process.wait(timeout=120)
        cluster.sh("join", "n2")  # its ssh ends, which has our pipes as well
        told = end(process)
    assert "rank 2 on n2 is lost: it has been silent for 4 s" in told
    check(folder, expected)
    assert 2 in lost_ranks(folder)
    cluster.wait_until_left("n1", "n3")
