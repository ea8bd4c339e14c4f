"""What every program has to do, whichever file of tests runs it."""

from __future__ import annotations

from pathlib import Path

from tests.programs.cases import (
    IONS,
    PROGRAMS,
    TOLERANCE,
    WATERS,
    computed,
    difference,
    document,
    keep,
    sequential,
)


def check_gradient(name: str, folder: Path) -> None:
    """Compare energies and gradients of three waters, with ghost atoms where there are any."""
    program = PROGRAMS[name]
    treatment = "cp" if program.has_ghosts else "nocp"
    inp = document(
        WATERS, "gradient", program.specification("gradient"), bsse_type=[treatment], max_nbody=2
    )
    _compare(name, folder, f"gradient {treatment}", inp)


def check_ions(name: str, folder: Path) -> None:
    """Compare energies of a cation and a radical."""
    program = PROGRAMS[name]
    inp = document(IONS, "energy", program.specification("energy"), max_nbody=2)
    _compare(name, folder, "ions", inp)


def _compare(name: str, folder: Path, case: str, inp: dict[str, object]) -> None:
    found, summary = computed(folder, inp)
    off = difference(found, sequential(inp))
    assert summary["n_computed"] == summary["n_tasks"]
    assert off <= TOLERANCE
    keep(name, case, difference=off, n_tasks=summary["n_tasks"])
