"""Memory of programs that is known better than by the family of their methods.

Rules of this file
------------------
1. Terms are the arrays that a program's source allocates, their number as measured peaks show it;
   what is missing here is rough, and refuses nothing.
2. A floor is what a program cannot do without, whatever it is told that it has. It is for all
   electrons: of a calculation with frozen orbitals nothing is certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qcmb_mpi.scheduling.scaling import FAMILIES, Scaling, Term

_Needs = tuple[Term, ...]

# PySCF 2.14. Two-electron integrals, N^4 bytes, are kept if they are within its memory and
# computed anew in every cycle otherwise. One array o^2 v^2 is 8e6 bytes at unit, o^3 v^3 is 8e9.
_INTEGRALS = Term(100e6, n=4)
_MATRICES = Term(0.8e6, n=2)
_CC = (_INTEGRALS, Term(210e6, o=2, v=2), Term(500e6, v=4))
# PySCF makes the lambda equations and densities of (T) from five arrays o^3 v^3, in blocks if it is
# told of less; those v^4 and o v^3 of its densities are whole, two and a quarter and two of them.
_TRIPLES = Term(40e9, o=3, v=3)
_DENSITIES = (Term(1.8e9, v=4), Term(160e6, o=1, v=3))
_PYSCF: dict[str, _Needs] = {
    "scf": (_INTEGRALS,),
    # Orbitals and their derivatives at a block of grid points.
    "dft": (_INTEGRALS, Term(340e6, n=1)),
    "mp2": (_INTEGRALS, Term(40e6, n=3, o=1), Term(8e6, o=2, v=2)),
    "ccsd": _CC,
    "ccsd(t)": _CC,
}
_PYSCF_GRADIENT: dict[str, _Needs] = {
    "dft": (_INTEGRALS, Term(840e6, n=1)),
    # Two-particle densities in atomic orbitals, in blocks of an N^4 array and its transforms.
    "mp2": (Term(800e6, n=4), Term(40e6, n=3, o=1)),
    "ccsd": (*_CC, Term(200e6, n=4)),
    "ccsd(t)": (*_CC[:2], _TRIPLES, *_DENSITIES),
}
# What the harness leaves PySCF for buffers, and what it takes for itself: MP2's integrals of a few
# pairs of orbitals, a shell of the densities of gradients, blocks of CC's transformed integrals.
_BUFFERS = Term(32e6)
_PYSCF_LEAST: dict[tuple[str, str], _Needs] = {
    ("mp2", "energy"): (Term(16e6, n=2, o=1), Term(8e6, o=2, v=2)),
    ("mp2", "gradient"): (Term(200e6, n=3), Term(16e6, o=2, v=2)),
    ("ccsd", "energy"): (_BUFFERS, Term(250e6, n=2.5), Term(40e6, o=2, v=2)),
    ("ccsd", "gradient"): (_BUFFERS, Term(250e6, n=2.5), Term(60e6, o=2, v=2)),
    ("ccsd(t)", "energy"): (_BUFFERS, Term(250e6, n=2.5), Term(40e6, o=2, v=2)),
    ("ccsd(t)", "gradient"): (_BUFFERS, Term(250e6, n=2.5), Term(60e6, o=2, v=2), *_DENSITIES),
}
# It keeps the integrals of an SCF within 95 % of what it is told, 200 MB less; computed anew in
# every cycle they take five times as long.
_KEPT = (Term(210.6e6), Term(105.3e6, n=4))
_ANEW = (Term(6.8, n=3.5),)
_PYSCF_FLOOR: dict[tuple[str, str], _Needs] = {
    ("ccsd", "energy"): (_MATRICES, Term(24e6, o=2, v=2)),
    ("ccsd", "gradient"): (_MATRICES, Term(40e6, o=2, v=2)),
    ("ccsd(t)", "energy"): (_MATRICES, Term(24e6, o=2, v=2)),
    ("ccsd(t)", "gradient"): (_MATRICES, *_DENSITIES),
}


def scaling_of(
    program: str, family: str, driver: str, base_bytes: int, keywords: Mapping[str, Any]
) -> Scaling:
    """Return how a program's calculation scales, with all that is known of its memory.

    Parameters
    ----------
    program : str
        QCEngine's name, lower case.
    family : str
        Key of :data:`~qcmb_mpi.scheduling.scaling.FAMILIES`.
    driver : str
    base_bytes : int
        The program's slot before it has a molecule.
    keywords : mapping
        Of the calculation.
    """
    scaling = replace(FAMILIES[family], base_bytes=base_bytes)
    if program != "pyscf" or family not in _PYSCF:
        return scaling
    memory = _PYSCF[family]
    if driver != "energy":
        memory = _PYSCF_GRADIENT.get(family, memory)
    is_certain = not any(name.lower().startswith(("frozen", "density_fit")) for name in keywords)
    floor = _PYSCF_FLOOR.get((family, driver), (_MATRICES,)) if is_certain else ()
    is_fitted = any(name.lower().startswith("density_fit") for name in keywords)
    return replace(
        scaling,
        memory=memory,
        floor=floor,
        is_managed=True,
        least=(_MATRICES, *_PYSCF_LEAST.get((family, driver), (_BUFFERS,))),
        kept=() if is_fitted else _KEPT,
        anew_work=_ANEW,
    )
