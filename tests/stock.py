"""What sequential QCManyBody gives at a geometry, and optimisers' interfaces to that."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator
from geometric.engine import Engine
from geometric.molecule import Molecule
from geometric.nifty import bohr2ang
from qcmanybody.models.v2 import ManyBodyInput
from qcmanybody.v2 import ManyBodyComputer

ROOT = Path(__file__).resolve().parents[1]


def waters(n: int, program: str, method: str, basis: str | None, bsse: str) -> dict[str, Any]:
    """Return an input of some waters, not at their minimum."""
    cluster = json.loads((ROOT / "geometries" / f"water-{n}.json").read_text())
    away = 0.05 * np.sin(np.arange(9.0 * n))
    cluster["geometry"] = np.round(np.array(cluster["geometry"]) + away, 8).tolist()
    names = ("symbols", "geometry", "fragments")
    return {
        "molecule": {name: cluster[name] for name in names},
        "specification": {
            "driver": "gradient",
            "keywords": {"bsse_type": [bsse], "max_nbody": n},
            "specification": {
                "program": program,
                "driver": "gradient",
                "model": {"method": method, "basis": basis},
            },
        },
    }


def gradient(document: dict[str, Any], geometry_bohr: Any) -> tuple[float, np.ndarray]:
    """Return total energy (hartree) and gradient (hartree/a0) by sequential QCManyBody."""
    inp = copy.deepcopy(document)
    inp["molecule"]["geometry"] = np.asarray(geometry_bohr).ravel().tolist()
    inp["specification"]["driver"] = "gradient"
    inp["specification"]["keywords"]["return_total_data"] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QCENGINE_NCORES", "1")  # ours run on one each, too
        result = ManyBodyComputer.from_manybodyinput(ManyBodyInput(**inp))
    return result.properties.return_energy, np.asarray(result.return_result).reshape(-1, 3)


class StockEngine(Engine):
    """geomeTRIC's way to it."""

    def __init__(self, document: dict[str, Any]) -> None:
        molecule = Molecule()
        molecule.elem = list(document["molecule"]["symbols"])
        geometry = np.asarray(document["molecule"]["geometry"], dtype=float)
        molecule.xyzs = [geometry.reshape(-1, 3) * bohr2ang]
        super().__init__(molecule)
        self._document = document

    def calc_new(self, coords: np.ndarray, dirname: str) -> dict[str, Any]:
        """Return energy and gradient."""
        energy, found = gradient(self._document, coords)
        return {"energy": energy, "gradient": found.ravel()}


class StockCalculator(Calculator):
    """ASE's way to it."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as in ASE)

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__()
        self._document = document

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """Compute energy and forces."""
        super().calculate(*args, **kwargs)
        energy, found = gradient(self._document, self.atoms.get_positions() / units.Bohr)
        self.results = {
            "energy": energy * units.Hartree,
            "forces": -found * (units.Hartree / units.Bohr),
        }
