"""Many geometries on one warm pool of ranks, step by step or as one piece of shared work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import (
    ExecutorConfig,
    InputError,
    ManyBodyPotential,
    MPIExecutor,
    SequentialExecutor,
)
from tests.edge.task_cases import IMPORTS, many_body_input, molecule
from tests.mpi.together import error_of, parallel_assert, processes, same_everywhere

pytestmark = pytest.mark.mpi

START = np.array(molecule(4)["geometry"])


@pytest.fixture(scope="module")
def executor() -> Iterator[MPIExecutor]:
    """Give one warm pool to all tests here."""
    with MPIExecutor(ExecutorConfig(n_workers=1, imports=IMPORTS)) as made:
        assert isinstance(made, MPIExecutor)
        yield made


def descend(potential: ManyBodyPotential) -> str:
    """Go a few steps downhill; return the path with all its digits."""
    geometry, path = START.copy(), []
    for _ in range(4):
        energy, gradient = potential.gradient(geometry)
        path.append((energy, geometry.tolist()))
        geometry = geometry - 0.5 * gradient
    return repr(path)


def serial() -> str:
    """Return the path that one process goes."""
    with SequentialExecutor(ExecutorConfig(imports=IMPORTS)):
        return descend(ManyBodyPotential(many_body_input(4)))


@pytest.mark.parametrize("is_whole", [False, True])
def test_all_ranks_go_the_path_of_one_process(executor: MPIExecutor, is_whole: bool) -> None:
    potential = ManyBodyPotential(many_body_input(4))
    before: Any = None
    expected = serial()
    for _ in range(2):
        path = executor.share(lambda: descend(potential)) if is_whole else descend(potential)
        same_everywhere(executor.comm, path)
        parallel_assert(executor.comm, path == expected)
        now = processes(executor.comm)
        parallel_assert(executor.comm, before in (None, now), (before, now))
        before = now
    parallel_assert(executor.comm, (potential.end is not None) == executor.is_master)


def test_an_error_inside_shared_work_is_rank_0_s_to_mend(executor: MPIExecutor) -> None:
    potential = ManyBodyPotential(many_body_input(4))

    def mended() -> float:
        assert isinstance(error_of(lambda: potential.energy(START[:3])), InputError)
        return potential.energy(START)

    found = executor.share(mended)
    parallel_assert(executor.comm, found == potential.energy(START), found)
    error = error_of(lambda: executor.share(lambda: potential.energy(START[:3])))
    parallel_assert(executor.comm, isinstance(error, InputError), error)
    parallel_assert(executor.comm, found == potential.energy(START))
