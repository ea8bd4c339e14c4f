#!/usr/bin/env python3
"""Write the example inputs from the clusters in ``geometries/``.

Rules of this file
------------------
1. Everything an example holds is in :data:`EXAMPLES`; the files are never edited by hand.
2. Each file is a whole QCSchema ``ManyBodyInput``, version 2, and runs as it is.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GEOMETRIES = HERE.parent / "geometries"

HELIUM_DIMER = {
    "name": "helium-2",
    "symbols": ["He", "He"],
    "geometry": [0.0, 0.0, 0.0, 0.0, 0.0, 5.6],
    "fragments": [[0], [1]],
    "fragment_charges": [0.0, 0.0],
    "fragment_multiplicities": [1, 1],
    "molecular_charge": 0.0,
    "molecular_multiplicity": 1,
}


@dataclass(frozen=True, slots=True)
class Example:
    """One input file.

    Parameters
    ----------
    title : str
        First comment line of the file.
    cluster : str
        Name in ``geometries/``, or ``helium-2``.
    driver : str
        energy, gradient or hessian.
    keywords : dict
        QCManyBody's keywords.
    levels : dict of str to (program, method, basis)
        Model chemistries; a single one is written without a label.
    program_keywords : dict
        Passed to every program.
    """

    title: str
    cluster: str
    driver: str
    keywords: dict[str, Any]
    levels: dict[str, tuple[str, str, str | None]]
    program_keywords: dict[str, Any] = field(default_factory=dict)


EXAMPLES = {
    "helium-dimer": Example(
        "Two helium atoms, MP2, counterpoise-corrected interaction energy: 3 tasks, seconds.",
        "helium-2",
        "energy",
        {"bsse_type": ["cp"], "max_nbody": 2},
        {"": ("pyscf", "mp2", "cc-pvdz")},
    ),
    "water-dimer": Example(
        "Water dimer, all three BSSE treatments at once; shared tasks are computed once.",
        "water-2",
        "energy",
        {"bsse_type": ["nocp", "cp", "vmfc"], "max_nbody": 2, "return_total_data": True},
        {"": ("pyscf", "hf", "cc-pvdz")},
    ),
    "water-trimer-gradient": Example(
        "Gradient of the counterpoise-corrected energy of three waters.",
        "water-3",
        "gradient",
        {"bsse_type": ["cp"], "max_nbody": 2},
        {"": ("pyscf", "hf", "6-31g")},
    ),
    "water-hexamer": Example(
        "Six waters, HF/6-31G, through three-body terms: 41 tasks; what `make demo` runs.",
        "water-6",
        "energy",
        {"bsse_type": ["nocp"], "max_nbody": 3, "return_total_data": True},
        {"": ("pyscf", "hf", "6-31g")},
    ),
    "water-16": Example(
        "Sixteen waters, HF/6-31G, through three-body terms: 696 tasks, minutes on four cores.",
        "water-16",
        "energy",
        {"bsse_type": ["nocp"], "max_nbody": 3, "return_total_data": True},
        {"": ("pyscf", "hf", "6-31g")},
    ),
    "two-level": Example(
        "Four unlike fragments: one- and two-body terms with MP2, three-body terms with HF.",
        "mixed-organic-4",
        "energy",
        {"bsse_type": ["nocp"], "levels": {2: "high", 3: "low"}, "return_total_data": True},
        {"high": ("pyscf", "mp2", "6-31g*"), "low": ("pyscf", "hf", "6-31g*")},
    ),
    "supersystem": Example(
        "Eight waters: HF through two-body terms, all the rest from GFN2-xTB on the whole cluster.",
        "water-8",
        "energy",
        {
            "bsse_type": ["nocp"],
            "levels": {2: "high", "supersystem": "cheap"},
            "return_total_data": True,
        },
        {"high": ("pyscf", "hf", "6-31g*"), "cheap": ("tblite", "GFN2-xTB", None)},
    ),
    "sodium-water": Example(
        "A sodium ion and four waters: fragments with their own charges.",
        "sodium-water-4",
        "energy",
        {"bsse_type": ["cp"], "max_nbody": 2},
        {"": ("pyscf", "hf", "6-31g")},
    ),
    "hydroxyl-water": Example(
        "A hydroxyl radical and two waters: an open-shell fragment, UHF.",
        "hydroxyl-water-2",
        "energy",
        {"bsse_type": ["vmfc"], "max_nbody": 3, "return_total_data": True},
        {"": ("pyscf", "uhf", "6-31g")},
    ),
}


def molecule(cluster: str) -> dict[str, Any]:
    """Read one cluster's QCSchema fields."""
    if cluster == "helium-2":
        return HELIUM_DIMER
    data: dict[str, Any] = json.loads((GEOMETRIES / f"{cluster}.json").read_text(encoding="utf-8"))
    return {key: value for key, value in data.items() if key in HELIUM_DIMER}


def text_of(example: Example) -> str:
    """Write one example as YAML (every value is also JSON, so no YAML library is needed)."""
    atoms = dict(molecule(example.cluster))
    numbers = atoms.pop("geometry")
    rows = [", ".join(f"{x:.10f}" for x in numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    lines = [f"# {example.title}", "schema_name: qcschema_many_body_input", "schema_version: 2"]
    lines += ["specification:", f"  driver: {example.driver}", "  keywords:"]
    lines += [f"    {key}: {_flow(value)}" for key, value in example.keywords.items()]
    lines += ["  specification:"]
    for label, level in example.levels.items():
        indent = "    " + ("  " if label else "")
        lines += [f"    {label}:"] if label else []
        lines += [indent + line for line in _level_lines(example, level)]
    lines += ["molecule:"]
    lines += [f"  {key}: {_flow(value)}" for key, value in atoms.items()]
    lines += ["  geometry: [  # bohr", *(f"    {row}," for row in rows), "  ]"]
    return "\n".join(lines) + "\n"


def _level_lines(example: Example, level: tuple[str, str, str | None]) -> list[str]:
    program, method, basis = level
    model = {"method": method} if basis is None else {"method": method, "basis": basis}
    return [
        f"program: {program}",
        f"driver: {example.driver}",
        f"model: {_flow(model)}",
        f"keywords: {_flow(example.program_keywords)}",
    ]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with ``--check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file is old")
    options = parser.parse_args(argv)
    stale = []
    for name, example in EXAMPLES.items():
        path, text = HERE / f"{name}.yaml", text_of(example)
        if options.check:
            stale += [] if path.exists() and path.read_text(encoding="utf-8") == text else [name]
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print("not as make_examples.py writes them:", ", ".join(stale))
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
