"""What programs are told, and see: threads, memory, scratch, ranks, no launcher of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.programs.cases import (
    PROGRAMS,
    TOLERANCE,
    WATERS,
    Json,
    computed,
    difference,
    document,
    keep,
    notes,
    sequential,
    spies,
)

pytestmark = [pytest.mark.qc, pytest.mark.launch]

LAUNCHERS = ("OMPI_", "PMIX_", "PRTE_", "OPAL_", "PMI_", "SLURM_")
# NWChem prints a dozen decimals, and its ranks add up in any order: the last one may differ, and
# the interaction energy of three waters is a sum of three dimers less twice three monomers.
LAST_DIGITS = 9 * TOLERANCE


def test_threads_memory_and_scratch_of_programs_that_are_started(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    levels = {1: "psi4", 2: "mopac", "supersystem": "xtb-cli"}
    names = ("psi4", "mopac", "xtb")
    specifications = {name: PROGRAMS[name].specification("energy") for name in levels.values()}
    inp = document(WATERS, "energy", specifications, levels=levels)
    layout = ("--workers", "1", "--threads", "2", "--memory", "1GiB", "--scratch", str(scratch))
    computed(tmp_path, inp, layout=layout, n_ranks=2, env=dict(spies(tmp_path, *names)))
    calculations = ("--json", "dispatch", "coord")
    jobs = [each for each in notes(tmp_path) if any(word in each[0] for word in calculations)]
    assert {Path(line.split()[0]).name for line, _, _ in jobs} == set(names)
    for line, where, environ in jobs:
        assert scratch in Path(where).parents, line
        assert environ["OMP_NUM_THREADS"] == "2"
        seen = [name for name in environ if name.startswith(LAUNCHERS)]
        assert all(name.startswith("OMPI_ALLOW_RUN_AS_ROOT") for name in seen)
        assert "--json" not in line or f"--scratch {scratch}" in line
        assert "coord" not in line or "--parallel 2" in line
    assert list(scratch.iterdir()) == []


@pytest.fixture(scope="module")
def nwchem() -> tuple[Json, Any]:
    """Return an input that keeps whole outputs, and what sequential QCManyBody makes of it."""
    specification = PROGRAMS["nwchem"].specification("energy", protocols={"stdout": True})
    inp = document(WATERS, "energy", specification, max_nbody=2)
    inp["specification"]["protocols"] = {"cluster_results": "all"}
    return inp, sequential(inp)


@pytest.mark.parametrize("n_program_ranks", [1, 2])
def test_nwchem_of_another_open_mpi_inside_our_mpi_job(
    n_program_ranks: int, nwchem: tuple[Json, Any], tmp_path: Path
) -> None:
    inp, expected = nwchem
    layout = ("--workers", "1", "--threads", str(n_program_ranks), "--memory", "3GiB")
    found, summary = computed(tmp_path, inp, layout=layout, n_ranks=3)
    assert summary["n_ranks"] == 3
    told = [_told(each["stdout"]) for each in found["cluster_results"].values()]
    assert {n_ranks for n_ranks, _ in told} == {n_program_ranks}
    # each of our three ranks has a gibibyte, which the ranks of the program share
    assert {mib for _, mib in told} == {1024 // n_program_ranks}
    for label, each in found["cluster_results"].items():
        one = each["return_result"] - expected.cluster_results[label].return_result
        assert abs(one) <= 1.001 * TOLERANCE, label
    off = difference(found, expected)
    assert off <= (TOLERANCE if n_program_ranks == 1 else LAST_DIGITS)
    keep(
        "nwchem",
        f"energy with {n_program_ranks} of its ranks",
        difference=off,
        n_tasks=summary["n_tasks"],
    )


def _told(stdout: str) -> tuple[int, int]:
    """Return the number of ranks and the mebibytes of each that NWChem prints."""
    n_ranks = re.search(r"nproc\s*=\s*(\d+)", stdout)
    n_doubles = re.search(r"total\s*=\s*(\d+) doubles", stdout)
    assert n_ranks is not None
    assert n_doubles is not None
    return int(n_ranks[1]), round(int(n_doubles[1]) * 8 / 2**20)
