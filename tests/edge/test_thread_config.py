from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput
from qcengine.config import NodeDescriptor, get_config
from qcengine.programs.base import programs, register_program, unregister_program
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.execution.engine import AtomicRunner, SlotResources
from qcmb_mpi.execution.forkserver import clean_environment
from qcmb_mpi.machine.threads import slot_environment, thread_environment
from qcmb_mpi.programs import register, thread_config
from qcmb_mpi.programs.profiles import profile
from qcmb_mpi.programs.thread_config import can_use_cores, configure_program

GIB = 2**30
MPIEXEC = "mpirun -n {total_ranks} -N {ranks_per_node}"
THREADED = (
    *("psi4", "pyscf", "tblite", "cfour", "qchem", "mopac", "mrchem", "adcc", "openmm", "jaguar"),
    *("s-dftd3", "dftd4", "xtb-cli", "mace", "terachem", "a program nobody knows"),
)
BY_PROCESSES = ("gamess", "molpro", "orca")
SERIAL = ("xtb", "turbomole", "dftd3", "gcp", "mctc-gcp", "mp2d", "rdkit", "terachem_pbs")


@pytest.mark.parametrize("program", THREADED)
def test_threads(program: str) -> None:
    made = configure_program(program.upper(), 3, 6 * GIB, environ={})
    assert (made.program_name, made.threads_per_calculation, made.n_ranks) == (program, 3, 1)
    assert made.environment_variables["OMP_NUM_THREADS"] == "3"
    assert "OMP_THREAD_LIMIT" not in made.environment_variables
    assert made.qcengine_task_config == {"ncores": 3, "nnodes": 1, "memory": 6.0}
    assert made.reason.startswith(program)
    assert "3" in made.reason or "its own" in made.reason
    assert can_use_cores(program)


@pytest.mark.parametrize("program", BY_PROCESSES)
def test_processes_have_one_thread_each(program: str) -> None:
    made = configure_program(program, 3)
    assert (made.threads_per_calculation, made.n_ranks) == (3, 3)
    assert made.qcengine_task_config["ncores"] == 3
    assert made.environment_variables["OMP_NUM_THREADS"] == "1"
    assert made.environment_variables["OMP_THREAD_LIMIT"] == "1"


@pytest.mark.parametrize("program", SERIAL)
def test_programs_that_do_not_thread_get_one_core(program: str) -> None:
    made = configure_program(program, 8)
    assert made.threads_per_calculation == made.qcengine_task_config["ncores"] == 1
    assert made.environment_variables["MKL_NUM_THREADS"] == "1"
    assert "one core" in made.reason
    assert not can_use_cores(program)


@pytest.fixture
def no_mpi(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that nothing tells how ranks of NWChem are started."""
    monkeypatch.setattr(thread_config, "linked_mpiexec", lambda _program, _environ: None)
    thread_config._known_mpiexec.cache_clear()
    yield
    thread_config._known_mpiexec.cache_clear()


@pytest.mark.usefixtures("no_mpi")
def test_nwchem_is_parallel_by_mpi_alone() -> None:
    alone = configure_program("nwchem", 4, 8 * GIB)
    assert alone.threads_per_calculation == 1
    assert "mpiexec_command" in alone.reason
    assert not can_use_cores("nwchem")
    ranks = configure_program("nwchem", 4, 8 * GIB, mpiexec_command=MPIEXEC)
    assert (ranks.threads_per_calculation, ranks.n_ranks) == (4, 4)
    assert ranks.environment_variables["OMP_NUM_THREADS"] == "1"
    assert can_use_cores("nwchem", mpiexec_command=MPIEXEC)


def test_qcengine_starts_nwchem_with_what_it_is_given() -> None:
    made = configure_program("nwchem", 4, 8 * GIB, mpiexec_command=MPIEXEC)
    config = get_config(task_config=dict(made.qcengine_task_config))
    command = qcengine.util.create_mpi_invocation("nwchem", config)
    assert command == ["mpirun", "-n", "4", "-N", "4", "nwchem"]
    assert config.memory == 8.0
    alone = configure_program("nwchem", 1, mpiexec_command=MPIEXEC).qcengine_task_config
    assert not get_config(task_config=dict(alone)).use_mpiexec


@pytest.mark.usefixtures("no_mpi")
def test_mpiexec_of_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    node = NodeDescriptor(name="all", hostname_pattern="*", mpiexec_command=MPIEXEC)
    monkeypatch.setattr(qcengine.config, "NODE_DESCRIPTORS", {"all": node})
    assert configure_program("nwchem", 2).qcengine_task_config["mpiexec_command"] == MPIEXEC
    elsewhere = NodeDescriptor(name="x", hostname_pattern="nowhere", mpiexec_command=MPIEXEC)
    monkeypatch.setattr(qcengine.config, "NODE_DESCRIPTORS", {"x": elsewhere})
    thread_config._known_mpiexec.cache_clear()
    assert configure_program("nwchem", 2).threads_per_calculation == 1


@pytest.mark.parametrize("program", ["tblite", "xtb", "cfour", "dftd4", "psi4"])
def test_large_stacks(program: str) -> None:
    made = configure_program(program, 4, 2 * GIB, environ={})
    n_threads = made.threads_per_calculation
    assert made.environment_variables["OMP_STACKSIZE"] == f"{min(256, 512 // n_threads)}M"
    own = configure_program(program, 4, environ={"OMP_STACKSIZE": "1G"})
    assert "OMP_STACKSIZE" not in own.environment_variables


def test_tiny_memory_is_not_none() -> None:
    assert configure_program("psi4", 1, 1).qcengine_task_config["memory"] == 0.001
    assert "memory" not in configure_program("psi4", 1).qcengine_task_config


@pytest.mark.parametrize("numbers", [(0, 0), (-1, 0), (1, -1)])
def test_nonsense_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="too small"):
        configure_program("psi4", *numbers)


@pytest.mark.parametrize("name", sorted(thread_config._WAYS))
def test_the_table_agrees_with_the_preflight(name: str) -> None:
    way = thread_config._WAYS[name]
    is_one_core = way.kind in ("serial", "mpi")
    assert profile(name).is_threaded is not is_one_core


def test_the_table_agrees_with_what_harnesses_declare() -> None:
    """They declare too little (torch threads) or too much, but never processes for threads."""
    register()
    for name, way in thread_config._WAYS.items():
        if name in programs and way.kind == "threads" and not programs[name].thread_parallel:
            assert name in ("torchani", "aimnet2", "mace", "orb")
        if name in programs and way.kind == "mpi":
            assert programs[name].node_parallel
            assert not programs[name].thread_parallel


# ----------------------------------------------------------------------------- slots of an executor


def test_a_slot_is_told_of_threads_by_nobody_else() -> None:
    spoilt = {
        "OMP_NUM_THREADS": "64",
        "OMP_THREAD_LIMIT": "1",
        "OMP_WAIT_POLICY": "ACTIVE",
        "GOMP_SPINCOUNT": "infinite",
        "KMP_BLOCKTIME": "infinite",
        "MKL_DOMAIN_NUM_THREADS": "MKL_BLAS=8",
        "OPENBLAS_THREAD_TIMEOUT": "30",
    }
    made = clean_environment({"PATH": "/bin", **spoilt}, 2)
    assert {"PATH": "/bin", **thread_environment(2)}.items() <= made.items()
    assert made.keys() - thread_environment(2).keys() == {"PATH", "OMP_STACKSIZE"}
    assert clean_environment({"OMP_STACKSIZE": "1G"})["OMP_STACKSIZE"] == "1G"


def test_stacks_are_for_the_widest_calculation_that_may_come() -> None:
    made = slot_environment({}, 1, most_threads=64, memory_bytes=8 * GIB)
    assert (made["OMP_NUM_THREADS"], made["OMP_STACKSIZE"]) == ("1", "32M")


@pytest.mark.parametrize(("declared", "limit"), [("node_parallel", "1"), ("thread_parallel", None)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_processes_of_a_task_have_one_thread_each(
    declared: str, limit: str | None, n_threads: int, own_harness: Any
) -> None:
    seen = own_harness("mine", **{declared: True})
    specification = {"program": "mine", "driver": "energy", "model": {"method": "any"}}
    molecule = {"symbols": ["He"], "geometry": [0.0, 0.0, 0.0]}
    document = {"molecule": molecule, "specification": specification}
    before = dict(os.environ)
    runner = AtomicRunner(SlotResources(n_threads=n_threads))
    assert runner.run(0, "mine", lambda: AtomicInput(**document)).failure is not None
    [environ] = seen
    is_wide = n_threads > 1
    assert environ.get("OMP_THREAD_LIMIT") == (limit if is_wide else None)
    assert (environ.get("OPENBLAS_NUM_THREADS") == "1") >= (is_wide and limit == "1")
    assert dict(os.environ) == before


# ------------------------------------------------------------------------------- harnesses of users


@pytest.fixture
def own_harness() -> Iterator[Any]:
    names = []

    def make(name: str, **declared: bool) -> list[dict[str, str]]:
        seen = []

        class Harness(ProgramHarness):
            def compute(self, input_data: Any, config: Any) -> Any:
                seen.append(dict(os.environ))
                raise NotImplementedError

            @staticmethod
            def found(raise_error: bool = False) -> bool:
                return True

        facts = {"thread_parallel": False, "node_parallel": False} | declared
        fixed = {"scratch": True, "thread_safe": False, "managed_memory": True}
        register_program(Harness(name=name, **facts, **fixed))
        names.append(name)
        return seen

    yield make
    for name in names:
        unregister_program(name)


@pytest.mark.parametrize(
    ("declared", "n_cores", "n_ranks"),
    [({"thread_parallel": True}, 4, 1), ({"node_parallel": True}, 4, 4), ({}, 1, 1)],
)
@pytest.mark.parametrize("name", ["orca", "mine"])
def test_a_harness_of_the_users_own_is_believed(
    name: str, declared: dict[str, bool], n_cores: int, n_ranks: int, own_harness: Any
) -> None:
    own_harness(name, **declared)
    made = configure_program(name, 4)
    assert (made.threads_per_calculation, made.n_ranks) == (n_cores, n_ranks)
    assert "declares" in made.reason or n_cores == 1


# --------------------------------------------------------------------------------------------- page


def test_the_page_names_every_program_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/threads.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
    named = {name.strip("`") for row in rows for name in row.split(", ")}
    assert set(thread_config._WAYS) <= named
