"""Optimisers that QCEngine drives, with ``program: qcmb_mpi`` in the ``ManyBodySpecification``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qcengine
from qcengine.procedures.base import procedures
from qcengine.procedures.geometric import GeometricProcedure

from qcmb_mpi import MultiprocessingExecutor, warm
from qcmb_mpi.programs.optimizer import ManyBodyGeometricProcedure
from tests.stock import gradient, waters

pytestmark = pytest.mark.qc


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[MultiprocessingExecutor]:
    """One pool for all tests here."""
    with MultiprocessingExecutor() as made:
        yield made


@pytest.fixture(autouse=True)
def loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the root logger back, which geomeTRIC takes; it also writes where it is."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def document(bsse: str = "nocp", **keywords: Any) -> dict[str, Any]:
    """Return an input whose energies, not gradients, are asked for; of interaction by default."""
    program = ("pyscf", "hf", "sto-3g") if bsse == "cp" else ("tblite", "GFN2-xTB", None)
    found = waters(2, *program, bsse)
    found["specification"]["driver"] = "energy"
    found["specification"]["keywords"] |= keywords
    return found


def optimise(optimizer: str, inp: dict[str, Any], **keywords: Any) -> Any:
    """Return QCEngine's answer."""
    name = "qcschema_many_body_specification"
    inner = inp["specification"] | {"schema_name": name, "program": "qcmb_mpi"}
    specification = {
        "specification": inner,
        "keywords": keywords,
        "protocols": {"trajectory_results": "all"},
    }
    question = {"initial_molecule": inp["molecule"], "specification": specification}
    return qcengine.compute(question, optimizer)


@pytest.mark.parametrize(
    ("optimizer", "keywords"),
    [
        ("geometric", {"convergence_set": "GAU_LOOSE"}),
        ("berny", {"maxsteps": 3}),
    ],
)
def test_every_step_has_the_gradient_of_qcmanybody_and_one_pool_serves_all(
    optimizer: str, keywords: dict[str, Any], pool: MultiprocessingExecutor
) -> None:
    started = pool.transport
    inp = document(return_total_data=optimizer == "berny")
    if optimizer == "berny":  # which leaves the driver as it is
        inp["specification"]["driver"] = "gradient"
    answer = optimise(optimizer, inp, **keywords)
    assert answer.success, answer.error.error_message
    assert pool.transport is started
    assert warm._own is None
    path = answer.trajectory_results
    assert len(path) > 2
    for step in (path[0], path[-1]):
        energy, slope = gradient(inp, step.molecule.geometry)
        assert step.properties.return_energy == pytest.approx(energy, abs=1e-8)
        found = np.reshape(step.return_result, (-1, 3))
        np.testing.assert_allclose(found, slope, rtol=0, atol=1e-7)
    assert path[-1].properties.return_energy < path[0].properties.return_energy
    np.testing.assert_array_equal(answer.final_molecule.geometry, path[-1].molecule.geometry)


def test_counterpoise_corrected_optimisation_and_constraints() -> None:
    loose = {"convergence_grms": 1e-2, "convergence_gmax": 2e-2, "convergence_drms": 0.5}
    loose |= {"convergence_dmax": 0.5, "convergence_energy": 1.0}
    distance = {"type": "distance", "indices": [0, 3]}
    inp = document("cp")
    answer = optimise("geometric", inp, **loose, constraints={"freeze": [distance]})
    assert answer.success, answer.error.error_message
    first, last = (answer.trajectory_results[i] for i in (0, -1))
    energy, _ = gradient(inp, last.molecule.geometry)
    assert answer.properties.return_gradient.shape == (6, 3)
    assert answer.properties.return_energy == pytest.approx(energy, abs=1e-8)
    assert last.molecule.measure([0, 3]) == pytest.approx(first.molecule.measure([0, 3]), abs=2e-3)


def test_what_is_not_ours_is_left_to_qcengine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(procedures["geometric"]) is ManyBodyGeometricProcedure
    told = []
    monkeypatch.setattr(GeometricProcedure, "compute", lambda *_: told.append("stock") or 1 / 0)
    inp = document()
    atomic = inp["specification"]["specification"]
    question = {"initial_molecule": inp["molecule"], "specification": {"specification": atomic}}
    assert not qcengine.compute(question, "geometric").success
    assert told == ["stock"]


def test_a_gradient_that_fails_is_told() -> None:
    inp = document("cp")
    inp["specification"]["specification"]["keywords"] = {"max_cycle": 1, "conv_tol": 1e-14}
    answer = optimise("geometric", inp)
    assert not answer.success
    assert "failed for good" in answer.error.error_message
