"""The job scripts of ``jobscripts/slurm`` in a real Slurm, on one and on two of its nodes.

The nodes are daemons on this host, so what is true of several hosts is tested elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.scripts import (
    DIARY,
    expected_result,
    folder_of_tasks,
    result,
    script,
    write,
    write_tasks,
)
from tests.cluster.slurm import Slurm, assert_ends_well, four_nodes, two_nodes
from tests.launch.jobs import command, read, run, wait_until
from tests.launch.test_run import helium

MPICH = Path(sys.prefix, "other-mpi")
slurm = pytest.fixture(scope="module")(four_nodes)
expected = pytest.fixture(scope="module")(expected_result)
folder = pytest.fixture(folder_of_tasks)


def test_one_node(slurm: Slurm, folder: Path, expected: bytes) -> None:
    job = slurm.submit(script(folder, "slurm/single_node", *DIARY))
    assert_ends_well(job, expected, n_ranks=1)


@pytest.mark.parametrize("name", ["many_nodes", "srun"])
def test_two_nodes(slurm: Slurm, folder: Path, expected: bytes, name: str) -> None:
    job = slurm.submit(two_nodes(folder, name, *DIARY))
    assert_ends_well(job, expected)


@pytest.mark.parametrize("name", ["many_nodes", "srun"])
def test_two_nodes_with_mpich(slurm: Slurm, folder: Path, expected: bytes, name: str) -> None:
    pmi2 = {"pmi=pmix": "pmi=pmi2"} if name == "srun" else {}
    path = two_nodes(folder, name, *DIARY, **{"PATH=": f"PATH={MPICH}/bin:"} | pmi2)
    job = slurm.submit(path, MPI4PY_LIBMPI=str(MPICH / "lib" / "libmpi.so.12"))
    assert_ends_well(job, expected)


def test_a_wrong_mpi_is_refused(slurm: Slurm, folder: Path) -> None:
    job = slurm.submit(two_nodes(folder, "srun", *DIARY, **{"pmi=pmix": "pmi=none"}))
    assert job.end() == "2", job.told()
    (line,) = [line for line in job.told().splitlines() if "qcmb-mpi" in line]
    assert "srun started 2 ranks but each rank believes it is alone" in line
    assert "use `srun --mpi=pmix`" in line
    assert {path.name for path in folder.iterdir()} == {"input.json", "srun.sh", "job.log"}


@pytest.mark.parametrize(("kind", "status"), [("none", "problem"), ("pmix", "ok")])
def test_the_doctor_tells_a_wrong_mpi(slurm: Slurm, tmp_path: Path, kind: str, status: str) -> None:
    words = ("srun", "--nodes=2", "--ntasks=2", f"--mpi={kind}", "--chdir", tmp_path)
    job = slurm.ask(*words, sys.executable, "-m", "qcmb_mpi", "doctor", "--json")
    found = {each["name"]: each for each in json.loads(job.stdout)["findings"]}
    started, hosts = found["started by"], found["hosts"]
    assert (started["status"], hosts["status"]) == (status, status), job
    assert started["found"].startswith("Slurm, 2 ranks, as rank 0")
    if status == "problem":
        assert "each rank would be alone" in started["found"]
        assert started["advice"].startswith("srun --mpi=pmix (Open MPI)")
        assert "each rank believes it is alone" in hosts["found"]
        assert job.returncode != 0


def test_an_array_has_a_job_for_each_input(slurm: Slurm, tmp_path: Path, expected: bytes) -> None:
    inputs = tmp_path / "inputs"
    for name in ("a", "b"):
        write_tasks(inputs, 0.0)
        (inputs / "input.json").rename(inputs / f"{name}.json")
    path = script(
        tmp_path, "slurm/array", "--workers", "1", *DIARY, **{"array=0-9%10": "array=0-1"}
    )
    job = slurm.submit(path)
    wait_until(lambda: not slurm.ask("squeue", "-h", "-j", job.number).stdout.strip(), 60)
    for name in ("a", "b"):
        assert read(tmp_path / f"{name}.run.json")["status"] == "complete", job.told()
        assert result(tmp_path, name) == expected


@pytest.fixture(scope="module")
def by_nwchem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two atoms by NWChem, without any launcher."""
    folder = tmp_path_factory.mktemp("nwchem")
    document = helium(2, program="pyscf")
    document["specification"]["specification"]["(auto)"]["program"] = "nwchem"
    document["specification"]["keywords"]["max_nbody"] = 2
    document["specification"]["protocols"] = {"cluster_results": "all"}
    write(folder, document)
    done = run(command("run", "input.json", "--workers", "2"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.qc
@pytest.mark.parametrize("name", ["many_nodes", "srun"])
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_nwchem_starts_its_own_mpi(
    slurm: Slurm, by_nwchem: Path, tmp_path: Path, name: str, n_ranks: int
) -> None:
    """On both nodes of a job, with as many ranks of its own as threads were asked for."""
    shutil.copy(by_nwchem / "input.json", tmp_path)
    job = slurm.submit(two_nodes(tmp_path, name, "--threads", str(n_ranks)))
    assert job.end() == "0", job.told()
    agents = read(tmp_path / "input.run.json")["agents"]
    assert [agent["n_tasks"] > 0 for agent in agents] == [True, True]
    records = read(tmp_path / "input.result.json")["cluster_results"].values()
    told = [re.search(r"nproc *= *([0-9]+)", record["stdout"]) for record in records]
    assert [found and int(found[1]) for found in told] == [n_ranks] * 5
    # Of each of five tasks the last decimal that is printed may differ with two ranks.
    limit = 1e-12 if n_ranks == 1 else 5e-12
    assert energies(tmp_path) == pytest.approx(energies(by_nwchem), abs=limit)
    assert energies(tmp_path)["cp_corrected_total_energy"] < -5.6


def energies(folder: Path) -> dict[str, float]:
    """Return the numbers of a result by name."""
    properties = read(folder / "input.result.json")["properties"]
    return {n: v for n, v in properties.items() if isinstance(v, float)}
