"""What to change so that a calculation that did not converge converges: ``--remedies``.

A remedy changes how the solution is looked for, never what is solved: the equations, thresholds,
grids and basis are those of the input. It may still lead to another solution of the same SCF
equations.

Rules of this file
------------------
1. One fixed order for each program and kind of equations: every slot does the same.
2. A keyword that the user set is the user's: a remedy that would change it is left out.
3. No threshold is touched, and nothing that changes the equations (such as a temperature).
4. A table holds for the harness it was written for; of a harness of the user's own nothing is
   known, and nothing is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcmb_mpi.programs.bare import is_ours
from qcmb_mpi.programs.names import OURS

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicSpecification

Keywords = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Keywords to add to those of the input.

    Parameters
    ----------
    keywords : mapping
        None of them is set by the user.
    """

    keywords: Keywords

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.keywords.items())

    def applied(self, specification: AtomicSpecification) -> AtomicSpecification:
        """Return `specification` with these keywords."""
        keywords = {**specification.keywords, **self.keywords}
        return specification.model_copy(update={"keywords": keywords})


# What is changed, and room for it to work: left alone where the user has set it.
_Step = tuple[Keywords, Keywords]
_PYSCF_ROOM = {"max_cycle": 300}
_TABLE: dict[tuple[str, str], tuple[_Step, ...]] = {
    # From what stays nearest to the plain iteration to what leaves it altogether.
    ("pyscf", "scf"): (
        ({"max_cycle": 300}, {}),
        ({"level_shift": 0.3}, _PYSCF_ROOM),
        ({"newton": True}, {}),
        ({"newton": True, "init_guess": "huckel"}, {}),
        ({"newton": True, "init_guess": "hcore"}, _PYSCF_ROOM),
    ),
    ("pyscf", "cc"): (
        ({"cc_max_cycle": 400}, {}),
        ({"cc_diis_space": 12}, {"cc_max_cycle": 400}),
        ({"cc_level_shift": 0.3}, {"cc_max_cycle": 400}),
    ),
    # A smaller mixer_damping mixes in less of the new charges.
    ("tblite", "scf"): (
        ({"max_iterations": 1000}, {}),
        ({"mixer_damping": 0.2}, {"max_iterations": 1000}),
        ({"mixer_damping": 0.05}, {"max_iterations": 4000}),
    ),
    # https://psicode.org/psi4manual/master/scf.html, "Convergence stabilization"
    ("psi4", "scf"): (
        ({"maxiter": 400}, {}),
        ({"damping_percentage": 20.0}, {"maxiter": 400}),
        ({"soscf": True}, {"maxiter": 400}),
        ({"guess": "huckel", "damping_percentage": 20.0}, {"maxiter": 400}),
    ),
    # QCEngine itself has raised the iterations by then (nwchem/errors.py), by less.
    ("nwchem", "scf"): (({"scf__maxiter": 400}, {}),),
    ("nwchem", "dft"): (({"dft__iterations": 400}, {}),),
    ("nwchem", "cc"): (({"ccsd__maxiter": 400}, {}),),
    ("nwchem", "tce"): (({"tce__maxiter": 1000}, {}),),
    # https://manual.q-chem.com, "Converging SCF Calculations"
    ("qchem", "scf"): (
        ({"max_scf_cycles": 400}, {}),
        ({"scf_algorithm": "diis_gdm"}, {"max_scf_cycles": 400}),
        ({"scf_algorithm": "gdm"}, {"max_scf_cycles": 400}),
    ),
    # GAMESS manual, $CONTRL (MAXIT at most 200) and $SCF
    ("gamess", "scf"): (
        ({"contrl__maxit": 200}, {}),
        ({"scf__damp": True}, {"contrl__maxit": 200}),
        ({"scf__shift": True}, {"contrl__maxit": 200}),
    ),
    ("mopac", "scf"): (({"ITER": 1000}, {}), ({"PULAY": False}, {"ITER": 1000})),
    ("turbomole", "scf"): (({"scf_iters": 500}, {}),),
    ("terachem", "scf"): (({"maxit": 400}, {}),),
    ("xtb", "scf"): (({"max_iterations": 1000}, {}),),
    ("xtb-cli", "scf"): (({"max_iterations": 1000}, {}),),
}
_ALIASES = {
    "pyscf": {"soscf": "newton"},
    "nwchem": {"dft__maxiter": "dft__iterations"},
    "qchem": {"scf_max_cycles": "max_scf_cycles"},
}


def remedies(
    program: str, specification: AtomicSpecification, message: str = ""
) -> Iterator[Remedy]:
    """Give the remedies for a calculation that did not converge, in the order to try them.

    Parameters
    ----------
    program : str
        QCEngine's name of it.
    specification : AtomicSpecification
        What was asked for.
    message : str
        Of the failure, for which equations it was.

    Yields
    ------
    Remedy
        None for a program that nothing is known of.
    """
    name = program.lower()
    if not is_harness_known(name):
        return
    taken = {_canonical(name, each) for each in specification.keywords}
    equations = _equations(name, specification, message)
    for change, room in _TABLE.get((name, equations), ()):
        if not any(_canonical(name, each) in taken for each in change):
            spare = {k: v for k, v in room.items() if _canonical(name, k) not in taken}
            yield Remedy({**change, **spare})


def is_harness_known(name: str) -> bool:
    """Tell whether QCEngine's harness of a program, lower case, is its own or one of ours."""
    if is_ours(name):
        return True
    from qcengine.programs.base import programs

    harness = programs.get(name)
    if harness is None:
        return name in OURS  # which are not registered before QCEngine is needed
    home = type(harness).__module__.split(".")[0]
    return home == "qcmb_mpi" or (home == "qcengine" and name not in OURS)


def _canonical(program: str, keyword: str) -> str:
    lower = keyword.lower()
    if program == "psi4":
        lower = lower.rpartition("__")[2]  # a module may come before it: scf__maxiter
    return _ALIASES.get(program, {}).get(lower, lower)


def _equations(program: str, specification: AtomicSpecification, message: str) -> str:
    if program == "pyscf":
        is_cc = "coupled-cluster" in message or "lambda" in message
        return "cc" if is_cc else "scf"
    method = str(specification.model.method).lower()
    if program != "nwchem" or method in ("scf", "hf", "mp2"):
        return "scf"
    if specification.keywords.get("qc_module"):
        return "tce"
    return "cc" if method.startswith("cc") else "dft"
