"""Numbers that a program is known to get wrong are told of, and only where they are."""

from __future__ import annotations

import numpy as np
import pytest
import qcengine
from qcengine.programs.base import programs

from qcmb_mpi import schema
from qcmb_mpi.programs.doubts import has_common_coordinate
from tests.edge.harness_cases import WATER, atomic_input
from tests.programs.cases import WATERS, document

PLANAR = {"symbols": ["He", "He"], "geometry": [0, 0, 0, 0, 0.5, 5], "fragments": [[0], [1]]}


def told(molecule: dict[str, object], **asked: object) -> list[str]:
    specification = {"program": "xtb", "driver": "gradient", "model": {"method": "GFN2-xTB"}}
    given = document(molecule, "gradient", specification | asked, max_nbody=1)
    given["specification"]["driver"] = given["specification"]["specification"]["(auto)"]["driver"]
    loaded = schema.load_input(given)
    return [each for each in loaded.warnings if "coordinate in common" in each]


def test_gradients_of_xtb_are_told_of() -> None:
    (line,) = told(PLANAR)
    assert "use the program xtb-cli or tblite" in line
    assert told(WATERS) == []
    assert told(PLANAR, driver="energy") == []
    assert told(PLANAR, model={"method": "GFN-FF"}) == []
    for program in ("xtb-cli", "tblite"):
        assert told(PLANAR, program=program) == []


def test_a_harness_of_the_users_own_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("Own", (type(programs["xtb"]),), {"__module__": "own"})(name="xtb")
    monkeypatch.setitem(programs, "xtb", own)
    assert told(PLANAR) == []


@pytest.mark.parametrize(
    ("second", "expected"),
    [((0, 1, 2), True), ((1e-9, 1, 2), True), ((1e-5, 1, 2), False), ((0, 1, 20), False)],
)
def test_which_atoms_have_one(second: tuple[float, float, float], expected: bool) -> None:
    positions = np.array([(0.0, 0.0, 0.0), second, (7.1, 8.2, 9.3)])
    for axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        assert has_common_coordinate(positions[:, axes]) == expected


def test_they_are_wrong_there() -> None:
    """If this fails, xtb has been mended, and the warning can go."""
    inp = atomic_input(WATER, "GFN2-xTB", None, driver="gradient")
    config = {"ncores": 1, "memory": 1.0}
    wrong, right = (
        np.reshape(qcengine.compute(inp, name, task_config=config).return_result, (3, 3))
        for name in ("xtb", "xtb-cli")
    )
    assert np.abs(wrong - right).max() > 0.01
