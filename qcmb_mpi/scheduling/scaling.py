"""How seconds and bytes of one task grow with its size, before anything is measured.

Rules of this file
------------------
1. Predictions need plain numbers only (basis functions, electrons, atoms, method, driver); no
   program is asked.
2. Absolute numbers are rough, a factor of several either way; ratios between sizes of one method
   are what order, placement and calibration live on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_UNKNOWN_FILLING = 0.2


@dataclass(frozen=True, slots=True)
class Term:
    """A product of powers: ``at_unit (N/100)^n (o/10)^o (v/100)^v (a/10)^atoms``.

    Parameters
    ----------
    at_unit : float
        Its value at 100 basis functions N, 10 occupied orbitals o, 100 virtual ones v and 10 atoms
        a, in seconds or bytes.
    n, o, v, atoms : float
        Exponents.
    """

    at_unit: float
    n: float = 0.0
    o: float = 0.0
    v: float = 0.0
    atoms: float = 0.0

    def value(self, size: TaskSize) -> float:
        """Return the term for a size."""
        value: float = self.at_unit * (max(1, size.n_basis_functions) / 100) ** self.n
        value *= (size.n_pairs / 10) ** self.o * (size.n_virtual / 100) ** self.v
        return value * float((size.n_grid_atoms / 10) ** self.atoms)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Cost of an energy of one method on one core.

    Parameters
    ----------
    offset_s : float
        What a calculation costs however small it is.
    work : tuple of Term
        Seconds beyond that.
    memory : tuple of Term
        Bytes beyond ``base_bytes`` that it takes if it may.
    gradient_work : tuple of Term
        Seconds of a gradient, its energy included; empty: a multiple of the energy.
    base_bytes : float
        The warm slot itself.
    floor : tuple of Term
        Bytes that it cannot do without; empty: unknown, or none.
    is_managed : bool
        Whether the program keeps to the memory that it is told, as far as it can.
    least : tuple of Term
        Bytes beyond ``base_bytes`` that it was seen to take however little it is told.
    kept : tuple of Term
        Bytes that it must be told of to keep what it would compute anew again and again.
    anew_work : tuple of Term
        Seconds of that.
    """

    offset_s: float
    work: tuple[Term, ...]
    memory: tuple[Term, ...]
    gradient_work: tuple[Term, ...] = ()
    base_bytes: float = 150e6
    floor: tuple[Term, ...] = ()
    is_managed: bool = False
    least: tuple[Term, ...] = ()
    kept: tuple[Term, ...] = ()
    anew_work: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskSize:
    """What a prediction is made from.

    Parameters
    ----------
    n_basis_functions : int
        Those of ghost atoms included: that is why a cp monomer is not small.
    method : str
        As in a QCSchema model.
    driver : str
        ``energy``, ``gradient`` or ``hessian``.
    n_atoms : int
        Atoms that are displaced (real ones); 0 when unknown.
    scaling : Scaling, optional
        A program's own; default by the family of the method.
    n_electrons : int
        Of the real atoms; 0 when unknown.
    n_ghost_atoms : int
        Atoms that have basis functions only.
    given_bytes : int
        Memory that the program is told it may use; 0 when that is not known.
    """

    n_basis_functions: int
    method: str = "hf"
    driver: str = "energy"
    n_atoms: int = 0
    scaling: Scaling | None = None
    n_electrons: int = 0
    n_ghost_atoms: int = 0
    given_bytes: int = 0

    @property
    def n_pairs(self) -> float:
        """Occupied orbitals; a fifth of the basis functions where electrons are not known."""
        known = self.n_electrons / 2 if self.n_electrons > 0 else 0.0
        return max(1.0, known or _UNKNOWN_FILLING * self.n_basis_functions)

    @property
    def n_virtual(self) -> float:
        """Virtual orbitals, at least one."""
        return max(1.0, self.n_basis_functions - self.n_pairs)

    @property
    def n_grid_atoms(self) -> float:
        """Atoms by their share of an integration grid: that of a ghost's is half as large."""
        known = self.n_atoms + 0.5 * self.n_ghost_atoms
        return max(1.0, known or self.n_basis_functions / 5)

    @property
    def rule(self) -> Scaling:
        """How it scales."""
        return self.scaling or FAMILIES[family_of(self.method)]


# Terms are the dominant steps (Helgaker, Jorgensen, Olsen: Molecular Electronic-Structure Theory,
# 2000) as PySCF 2.14 shows them on clusters of 3 to 18 atoms: an SCF grows as N^3.5 there, its
# integrals being screened. Prefactors: one 2.5 GHz core. Bytes are rough, and for what keeps the
# rest on disk or recomputes it; programs that are known better have their own.
_SCF = Term(1.7, n=3.5)
_CC = (
    *(Term(0.18, n=1), Term(2.5, n=3.5), Term(10.0, n=4, o=1)),
    *(Term(10.0, o=3, v=3), Term(1.0, o=2, v=4)),
)
_CC_GRADIENT = (Term(13.0, n=2.5), Term(33.0, o=3, v=3), Term(20.0, o=2, v=4))
FAMILIES: dict[str, Scaling] = {
    "dispersion": Scaling(0.002, (Term(0.002, n=2),), (Term(1e6, n=1),)),
    "semiempirical": Scaling(0.003, (Term(0.05, n=2.5),), (Term(2e6, n=2),)),
    "scf": Scaling(0.01, (_SCF,), (Term(20e6, n=2),), (Term(15.0, n=3.5),)),
    "dft": Scaling(
        0.015,
        (Term(4.0, n=3.5), Term(5.0, n=1, atoms=1)),
        (Term(20e6, n=2),),
        (Term(28.0, n=3.5), Term(10.0, n=1, atoms=1)),
    ),
    "mp2": Scaling(
        0.01,
        (_SCF, Term(0.4, n=4, o=1)),
        (Term(15e6, n=3),),
        (Term(22.0, n=3.5), Term(20.0, n=5)),
    ),
    "ccsd": Scaling(0.05, _CC, (Term(100e6, o=2, v=2),), _CC_GRADIENT),
    "ccsd(t)": Scaling(
        0.05,
        (*_CC, Term(18.0, o=3, v=4)),
        (Term(100e6, o=2, v=2),),
        (Term(17.0, n=2.5), Term(670.0, o=3, v=3), Term(570.0, o=3, v=4)),
    ),
}
_HARTREE_FOCK = ("hf", "rhf", "uhf", "rohf", "ghf", "scf")
_FAMILY_WORDS: tuple[tuple[str, str], ...] = (
    ("ccsd(t)", "ccsd(t)"),
    ("ccsdt", "ccsd(t)"),
    ("cc", "ccsd"),
    ("ci", "ccsd"),
    ("mp2", "mp2"),
    ("mp3", "ccsd"),
    ("mp4", "ccsd(t)"),
    ("gfn", "semiempirical"),
    ("pm", "semiempirical"),
    ("am1", "semiempirical"),
    ("mndo", "semiempirical"),
    ("xtb", "semiempirical"),
    ("d3", "dispersion"),
    ("d4", "dispersion"),
)
_DOUBLE_HYBRIDS = ("b2plyp", "dsd-", "pwpb95", "xyg3")
_GRADIENT_FACTOR = 2.5
_HESSIAN_PER_ATOM = 3.0


def family_of(method: str) -> str:
    """Return the key in ``FAMILIES`` that a method's cost behaves like.

    What is not known is taken for a density functional: there are hundreds of names.
    """
    name = method.lower()
    if name.startswith(_HARTREE_FOCK):
        return "scf"
    if name.startswith(_DOUBLE_HYBRIDS):
        return "mp2"
    for word, family in _FAMILY_WORDS:
        if name.startswith(word) or (family not in ("dispersion", "ccsd") and word in name):
            return family
    return "dft"


def driver_factor(driver: str, n_atoms: int = 0) -> float:
    """Return how many energies a task of this driver costs, where nothing better is known.

    A gradient costs about 2.5; a Hessian about three energies per atom, as coupled-perturbed
    equations for, or differences of gradients along, each of 3 ``n_atoms`` displacements.
    """
    if driver == "gradient":
        return _GRADIENT_FACTOR
    if driver == "hessian":
        return max(_GRADIENT_FACTOR * 2, _HESSIAN_PER_ATOM * max(1, n_atoms))
    return 1.0


def seconds_of(size: TaskSize) -> float:
    """Return the predicted wall seconds of a task on one core."""
    rule = size.rule
    anew_s = 0.0 if is_told_enough(size) else _sum(rule.anew_work, size)
    if size.driver == "gradient" and rule.gradient_work:
        return 2 * rule.offset_s + _sum(rule.gradient_work, size) + anew_s
    energy_s = rule.offset_s + _sum(rule.work, size) + anew_s
    return energy_s * driver_factor(size.driver, size.n_atoms)


def is_told_enough(size: TaskSize) -> bool:
    """Return whether a task need not compute again what it could keep in memory."""
    return not size.given_bytes or size.given_bytes >= _sum(size.rule.kept, size)


def bytes_of(size: TaskSize) -> int:
    """Return the predicted peak resident memory of the slot that runs a task."""
    rule = size.rule
    wanted = rule.base_bytes + _sum(rule.memory, size)
    if size.given_bytes and rule.is_managed:
        least = rule.base_bytes + max(certain_bytes(size), _sum(rule.least, size))
        wanted = min(wanted, max(size.given_bytes, least))
    return int(wanted)


def certain_bytes(size: TaskSize) -> int:
    """Return what a task cannot do without; 0 when nothing is known of that."""
    return int(_sum(size.rule.floor, size))


def _sum(terms: Iterable[Term], size: TaskSize) -> float:
    return sum(term.value(size) for term in terms)
