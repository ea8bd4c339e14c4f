"""What is expanded and how: BSSE treatments, levels, and the sums that they need.

Rules of this file
------------------
1. Every rule about levels is QCManyBody's (``ManyBodyCore``), in its order and with its errors.
2. Sizes only, never clusters: what is needed of a model chemistry is whole blocks, a block being
   all clusters with the same number of real and of basis fragments.
3. Stages of work are in :mod:`qcmb_mpi.expansion.graph`; their names are here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.graph import LevelGraph, NBodyDependencyGraph, Stage, released
from qcmb_mpi.expansion.system import ModelChemistry, System

__all__ = [
    "Bsse",
    "Expansion",
    "LevelGraph",
    "Levels",
    "NBodyDependencyGraph",
    "Stage",
    "Sums",
    "complete_bsse",
    "released",
]

_KEYWORDS = "specification.keywords"


class Bsse(str, Enum):
    """How basis set superposition is treated.

    ``nocp``: each cluster in its own basis. ``cp``: all in the basis of the whole system (Boys and
    Bernardi, Mol. Phys. 19, 553 (1970)). ``vmfc``: each n-body contribution in the basis of its
    own n fragments (Valiron and Mayer, Chem. Phys. Lett. 275, 46 (1997)).
    """

    nocp = "nocp"
    cp = "cp"
    vmfc = "vmfc"


@dataclass(frozen=True, slots=True)
class Levels:
    """Which model chemistry runs at which n-body levels.

    Parameters
    ----------
    model_chemistries : tuple of str
        Labels, by lowest n-body level; the supersystem's last.
    nbodies : tuple of tuple of int
        Levels of each, ascending; ``()`` for the supersystem's.
    supersystem : int, optional
        Index of the model chemistry for all that is beyond ``max_nbody``.
    """

    model_chemistries: tuple[str, ...]
    nbodies: tuple[tuple[int, ...], ...]
    supersystem: int | None = None

    @property
    def max_nbody(self) -> int:
        """Highest n-body level that is expanded."""
        return max(nbodies[-1] for nbodies in self.nbodies if nbodies)

    @classmethod
    def from_mapping(cls, levels: Mapping[int | str, str]) -> Levels:
        """Order a ``levels`` keyword as ``ManyBodyCore.nbodies_per_mc_level`` does.

        Parameters
        ----------
        levels : mapping
            n-body level (or ``"supersystem"``) to the label of a model chemistry.

        Returns
        -------
        Levels

        Raises
        ------
        InputError
            If levels are missing, or those of one model chemistry are not contiguous, or the
            supersystem shares its label with an n-body level.
        """
        per_label: dict[str, list[int]] = {}
        for nbody, label in sorted(_numbered(levels)):
            per_label.setdefault(label, []).append(nbody)
        _check_contiguous(per_label)
        supersystem = levels.get("supersystem")
        if supersystem is None:
            return cls(tuple(per_label), tuple(map(tuple, per_label.values())))
        if supersystem in per_label:
            raise InputError(
                f"{_KEYWORDS}.levels",
                "the supersystem needs a model chemistry label of its own; give the same "
                "specification a second name",
                value=supersystem,
            )
        nbodies = (*map(tuple, per_label.values()), ())
        return cls((*per_label, supersystem), nbodies, len(per_label))


def _numbered(levels: Mapping[int | str, str]) -> Iterator[tuple[int, str]]:
    for key, label in levels.items():
        if key == "supersystem":
            continue
        try:
            yield int(key), label
        except ValueError:
            raise InputError(
                f"{_KEYWORDS}.levels",
                "has an unknown level",
                value=key,
                accepted="1, 2, ..., supersystem",
            ) from None


def _check_contiguous(per_label: Mapping[str, list[int]]) -> None:
    nbodies = sorted(nbody for several in per_label.values() for nbody in several)
    highest = nbodies[-1] if nbodies else 1
    if nbodies != list(range(1, highest + 1)):
        raise InputError(
            f"{_KEYWORDS}.levels", f"Levels must be contiguous from 1 to {highest}", value=nbodies
        )
    for label, several in per_label.items():
        if several[-1] - several[0] != len(several) - 1:
            raise InputError(
                f"{_KEYWORDS}.levels",
                "N-Body levels must be contiguous within a model chemistry spec "
                f"({label}: {several}). Use an alternate spec name to accomplish this input.",
            )


def complete_bsse(bsse: Iterable[str], levels: Levels, n_fragments: int) -> tuple[Bsse, ...]:
    """Add the treatments that come for free with vmfc, as ``ManyBodyCore`` does.

    Parameters
    ----------
    bsse : iterable of str
        Treatments as asked for; the first is the one returned. Repeats are dropped.
    levels : Levels
        Levels; only with a single model chemistry is anything free.
    n_fragments : int
        Number of fragments; cp is free only in a full expansion.

    Returns
    -------
    tuple of Bsse

    Raises
    ------
    InputError
        If none is given or one is unknown.
    """
    accepted = ", ".join(Bsse.__members__)
    try:
        asked = list(dict.fromkeys(Bsse(treatment) for treatment in bsse))
    except ValueError as error:
        raise InputError(f"{_KEYWORDS}.bsse_type", str(error), accepted=accepted) from None
    if not asked:
        raise InputError(
            f"{_KEYWORDS}.bsse_type", "No BSSE correction specified", accepted=accepted
        )
    if Bsse.vmfc in asked and len(levels.model_chemistries) == 1:
        free = [Bsse.nocp] + [Bsse.cp] * (levels.max_nbody == n_fragments)
        asked += [treatment for treatment in free if treatment not in asked]
    return tuple(asked)


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums over whole blocks that one model chemistry contributes.

    Parameters
    ----------
    nocp : tuple of int
        Sizes k whose clusters are summed in their own basis.
    cp : tuple of int
        Sizes k whose clusters are summed in the basis of the whole system.
    vmfc : tuple of int
        Basis sizes b in which clusters of all sizes 1..b are summed, with alternating sign.
    has_monomers : bool
        Whether fragments in their own basis are summed, for total data.
    has_supersystem : bool
        Whether the whole system is computed for the ``supersystem`` level.
    """

    nocp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    vmfc: tuple[int, ...] = ()
    has_monomers: bool = False
    has_supersystem: bool = False

    def sizes(self, n_fragments: int) -> set[tuple[int, int]]:
        """List the blocks in these sums as (n_real, n_basis)."""
        sizes = {(k, k) for k in self.nocp} | {(k, n_fragments) for k in self.cp}
        sizes |= {(k, b) for b in self.vmfc for k in range(1, b + 1)}
        sizes |= {(1, 1)} if self.has_monomers else set()
        sizes |= {(n_fragments, n_fragments)} if self.has_supersystem else set()
        return sizes


@dataclass(frozen=True, slots=True)
class Expansion:
    """Everything the numbers depend on.

    Parameters
    ----------
    system : System
        The molecule.
    levels : Levels
        Model chemistries and their n-body levels.
    bsse : tuple of Bsse
        Treatments as :func:`complete_bsse` gives them; the first one is returned.
    return_total_data : bool
        Total instead of interaction data.
    supersystem_ie_only : bool
        Leave out the levels between the first and the last.
    driver : str
        ``energy``, ``gradient`` or ``hessian``.
    model_chemistries : tuple of ModelChemistry
        Parallel to ``levels.model_chemistries``.

    Raises
    ------
    InputError
        If the parts do not fit together.
    """

    system: System
    levels: Levels
    bsse: tuple[Bsse, ...]
    return_total_data: bool
    supersystem_ie_only: bool
    driver: str
    model_chemistries: tuple[ModelChemistry, ...]

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        n_fragments, max_nbody = self.system.n_fragments, self.levels.max_nbody
        if n_fragments < 2:
            raise InputError(
                "molecule.fragments",
                "Molecule fragmentation has not been specified through `fragments` field.",
            )
        if max_nbody > n_fragments:
            raise InputError(
                f"{_KEYWORDS}.max_nbody",
                f"max_nbody={max_nbody} should be between 1 and {n_fragments}.",
            )
        if self.supersystem_ie_only and max_nbody != n_fragments:
            raise InputError(
                f"{_KEYWORDS}.supersystem_ie_only",
                "Cannot skip intermediate n-body jobs when "
                f"max_nbody={max_nbody} != nfragments={n_fragments}.",
            )
        if self.supersystem_ie_only and len(self.levels.model_chemistries) > 1:
            raise InputError(
                f"{_KEYWORDS}.supersystem_ie_only", "allows only one model chemistry in levels"
            )
        if tuple(mc.label for mc in self.model_chemistries) != self.levels.model_chemistries:
            raise ValueError("model_chemistries and levels must name the same, in one order")

    def sums(self, model_chemistry: int) -> Sums:
        """Tell which sums a model chemistry contributes.

        Parameters
        ----------
        model_chemistry : int
            Its index.

        Returns
        -------
        Sums
        """
        if model_chemistry == self.levels.supersystem:
            through = tuple(range(1, self.levels.max_nbody + 1))
            return Sums(nocp=through, has_supersystem=True)
        nbodies = self.levels.nbodies[model_chemistry]
        sizes = tuple(range(1, nbodies[-1] + 1))
        if self.supersystem_ie_only:
            sizes = (1, nbodies[-1])
        has_nocp = Bsse.nocp in self.bsse
        # The 1-body level of cp is fragments in their own basis: in that of the whole system they
        # would only cancel, and are not run unless a higher level needs them.
        has_cp = Bsse.cp in self.bsse and nbodies[-1] > 1
        is_monomer_sum = self.return_total_data or (has_nocp and not self.supersystem_ie_only)
        return Sums(
            nocp=sizes if has_nocp else (),
            cp=sizes if has_cp else (),
            vmfc=nbodies if Bsse.vmfc in self.bsse else (),
            has_monomers=1 in nbodies and is_monomer_sum,
        )
