"""Small systems and expansions for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcmb_mpi.expansion.levels import Bsse, Expansion, Levels
from qcmb_mpi.expansion.system import ModelChemistry, System


def helium(n_fragments: int) -> System:
    """Return a row of helium atoms, each a fragment."""
    n = n_fragments
    return System(
        symbols=("He",) * n,
        atomic_numbers=np.full(n, 2),
        masses=np.full(n, 4.00260325413),
        mass_numbers=np.full(n, 4),
        geometry_bohr=np.arange(3.0 * n).reshape(n, 3),
        fragment_sizes=(1,) * n,
        fragment_charges=(0.0,) * n,
        fragment_multiplicities=(1,) * n,
        name="He row",
    )


def toy_expansion(
    n_fragments: int = 6,
    *,
    levels: Mapping[int | str, str] | None = None,
    bsse: Sequence[str] = ("nocp",),
    program: str = "toy",
) -> Expansion:
    """Return an expansion over helium atoms."""
    chosen = Levels.from_mapping(levels or {1: "toy", 2: "toy", 3: "toy"})
    return Expansion(
        system=helium(n_fragments),
        levels=chosen,
        bsse=tuple(Bsse(name) for name in bsse),
        return_total_data=True,
        supersystem_ie_only=False,
        driver="energy",
        model_chemistries=tuple(
            ModelChemistry(label, program, "energy", {}, f"fingerprint of {label}")
            for label in chosen.model_chemistries
        ),
    )
