"""Several programs in one run and one pool: the numbers of sequential QCManyBody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.programs.cases import (
    IONS,
    PROGRAMS,
    TOLERANCE,
    WATERS,
    computed,
    difference,
    document,
    sequential,
)

pytestmark = [pytest.mark.qc, pytest.mark.launch]


def pyscf(method: str, basis: str, **keywords: Any) -> dict[str, Any]:
    model = {"method": method, "basis": basis}
    return {"program": "pyscf", "model": model, "keywords": keywords}


STUDIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # Dispersion beyond the pairs that a density functional has seen.
    "dispersion": (
        WATERS,
        {
            "pbe": pyscf("pbe", "sto-3g", grids_level=0),
            "d4": PROGRAMS["dftd4"].specification("energy"),
        },
        {"levels": {2: "pbe", "supersystem": "d4"}},
    ),
    "coupled cluster, MP2, HF": (
        WATERS,
        {
            "cc": pyscf("ccsd(t)", "sto-3g"),
            "mp2": pyscf("mp2", "sto-3g"),
            "hf": pyscf("hf", "3-21g"),
        },
        {"levels": {2: "cc", 3: "mp2", "supersystem": "hf"}, "bsse_type": ["cp"]},
    ),
    "four programs": (
        WATERS,
        {
            "hf": PROGRAMS["nwchem"].specification("energy"),
            "pm7": PROGRAMS["mopac"].specification("energy"),
            "gfn2": PROGRAMS["tblite"].specification("energy"),
            "d3": PROGRAMS["s-dftd3"].specification("energy"),
        },
        {"levels": {1: "hf", 2: "pm7", 3: "gfn2", "supersystem": "d3"}},
    ),
    "charged, open-shell": (
        IONS,
        {"hf": pyscf("uhf", "sto-3g"), "gfn2": PROGRAMS["xtb"].specification("energy")},
        {"levels": {1: "hf", "supersystem": "gfn2"}},
    ),
}


@pytest.mark.parametrize("study", STUDIES)
def test_studies(study: str, tmp_path: Path) -> None:
    molecule, specifications, keywords = STUDIES[study]
    labelled = {name: {"driver": "energy", **each} for name, each in specifications.items()}
    inp = document(molecule, "energy", labelled, **keywords)
    found, summary = computed(tmp_path, inp)
    assert difference(found, sequential(inp)) <= TOLERANCE
    assert {each["model_chemistry"] for each in summary["levels"]} == set(specifications)
