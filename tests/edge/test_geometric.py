"""The engine for geomeTRIC: the steps of sequential QCManyBody, to the last bit that counts."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geometric.optimize
import numpy as np
import pytest

from qcmb_mpi import MultiprocessingExecutor
from qcmb_mpi.geometric import ManyBodyEngine
from tests.stock import StockEngine, waters


@pytest.fixture(scope="module")
def pool() -> Iterator[MultiprocessingExecutor]:
    """One pool for all tests here."""
    with MultiprocessingExecutor() as made:
        yield made


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Give the root logger back, which geomeTRIC takes."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def optimised(engine: Any, folder: Path, **options: Any) -> tuple[list[float], np.ndarray]:
    """Return the energies of all steps and the last positions, in Angstrom."""
    folder.mkdir()
    path = geometric.optimize.run_optimizer(
        customengine=engine, input=str(folder / "waters"), prefix=str(folder / "w"), **options
    )
    return path.qm_energies, path.xyzs[-1]


@pytest.mark.qc
def test_counterpoise_corrected_steps_are_those_of_qcmanybody(
    pool: MultiprocessingExecutor, tmp_path: Path
) -> None:
    document = waters(2, "pyscf", "hf", "sto-3g", "cp")
    # A step limit ends in an exception of geomeTRIC's; these thresholds are met soon.
    loose = {"convergence_set": "GAU_LOOSE", "convergence_grms": 1e-2, "convergence_gmax": 2e-2}
    loose |= {"convergence_drms": 0.5, "convergence_dmax": 0.5, "convergence_energy": 1.0}
    ours = optimised(ManyBodyEngine(document, pool), tmp_path / "ours", **loose)
    theirs = optimised(StockEngine(document), tmp_path / "theirs", **loose)
    assert len(ours[0]) == len(theirs[0]) > 1
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-6)


@pytest.mark.qc
def test_a_minimum_is_that_of_qcmanybody(pool: MultiprocessingExecutor, tmp_path: Path) -> None:
    document = waters(3, "tblite", "GFN2-xTB", None, "nocp")
    ours = optimised(ManyBodyEngine(document, pool), tmp_path / "ours")
    theirs = optimised(StockEngine(document), tmp_path / "theirs")
    assert len(ours[0]) == len(theirs[0]) > 5
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-6)
    assert ours[0][-1] < ours[0][0]


def test_its_molecule_is_that_of_the_input_and_copies_share_the_pool(
    pool: MultiprocessingExecutor,
) -> None:
    document = waters(2, "pyscf", "hf", "sto-3g", "nocp")
    engine = ManyBodyEngine(document, pool)
    engine.M.build_topology()
    assert len(engine.M.molecules) == 2
    assert copy.deepcopy(engine).potential is engine.potential
    ours, theirs = engine.M, StockEngine(document).M
    assert ours.elem == theirs.elem
    np.testing.assert_allclose(ours.xyzs[0], theirs.xyzs[0], rtol=0, atol=1e-12)


def test_the_log_of_geometric_is_its_own(
    pool: MultiprocessingExecutor, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = ManyBodyEngine(waters(2, "tblite", "GFN2-xTB", None, "nocp"), pool)
    geometry = engine.potential.geometry_bohr.ravel()
    with caplog.at_level(logging.INFO):
        engine.calc_new(geometry, str(tmp_path))
        assert not caplog.records
        logging.getLogger("qcmb_mpi").setLevel(logging.INFO)
        engine.calc_new(geometry, str(tmp_path))
        logging.getLogger("qcmb_mpi").setLevel(logging.NOTSET)
        assert any("layout" in record.message for record in caplog.records)
