"""What ``scale.py`` plans and runs: fragments on a cubic grid, and tasks without work.

Rules of this file
------------------
1. Standard library only: the program that measures does not import what it measures.
"""

from __future__ import annotations

from typing import Any

SHAPES = {
    "water": (["O", "H", "H"], [[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [-0.4, 1.7, 0.0]]),
    "hydrogen fluoride": (["F", "H"], [[0.0, 0.0, 0.0], [1.7, 0.0, 0.0]]),
    "neon": (["Ne"], [[0.0, 0.0, 0.0]]),
}
KINDS = {"waters": ["water"], "mixed": list(SHAPES)}
_STEP_BOHR = 6.0


def document(n_fragments: int, driver: str = "energy", kind: str = "waters") -> dict[str, Any]:
    """Make the input of fragments on a cubic grid: nocp, through 3-body, tasks without work."""
    symbols: list[str] = []
    geometry: list[list[float]] = []
    fragments = []
    for i in range(n_fragments):
        names, shape = SHAPES[KINDS[kind][i % len(KINDS[kind])]]
        origin = [_STEP_BOHR * place for place in (i % 8, i // 8 % 8, i // 64)]
        fragments.append(list(range(len(symbols), len(symbols) + len(names))))
        symbols += names
        geometry += [[x + shift for x, shift in zip(atom, origin, strict=True)] for atom in shape]
    model = {"program": "spin", "driver": driver, "model": {"method": "any"}}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {"symbols": symbols, "geometry": geometry, "fragments": fragments},
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp"], "max_nbody": 3, "return_total_data": True},
            "specification": {"(auto)": {**model, "keywords": {"spin_s": 0.0}}},
        },
    }
