"""What is known of every program before it runs, and the preflight that uses it.

Rules of this file
------------------
1. The table holds facts about QCEngine's harnesses, read in their source (QCEngine 0.52).
2. A harness of the user's own is trusted: no fact of the table is held against it, whatever its
   name.
3. QCEngine is imported inside functions; no QC program is started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import InputError, TopologyError
from qcmb_mpi.programs import register
from qcmb_mpi.programs.advice import install_hint
from qcmb_mpi.programs.bare import bare_program
from qcmb_mpi.programs.basis_size import n_basis_functions
from qcmb_mpi.programs.names import RequestError, did_you_mean
from qcmb_mpi.programs.preflight import check_specification
from qcmb_mpi.scheduling.cost import family_of

if TYPE_CHECKING:
    from qcmb_mpi.expansion.system import ModelChemistry, System

__all__ = ["Profile", "check_request", "method_family", "n_basis_functions", "profile"]

_MB = 10**6
_LIKE = 0.65  # gaussian and gamess are not slips of each other
_LACKING_MODULE = re.compile(r"Python module '?([\w.]+?)'? not found")
_ALL = frozenset({"energy", "gradient", "hessian"})
_GRADIENT = frozenset({"energy", "gradient"})
_ENERGY = frozenset({"energy"})
_SILENT = "its harness silently takes them for real atoms"
_REFUSED = "its harness refuses them"
_MEANINGLESS = "a method without basis set has no use for them"


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts about one program.

    Parameters
    ----------
    program : str
        QCEngine's name, lower case.
    has_ghosts : bool, optional
        Whether ghost atoms work through its harness; None: unknown, trusted.
    is_threaded : bool
        Whether one calculation uses more than one thread.
    drivers : frozenset of str
        What it computes; for unknown programs everything.
    family : str, optional
        Key of :data:`~qcmb_mpi.scheduling.cost.FAMILIES` that all its methods behave like; None:
        by the method.
    base_memory_bytes : int
        Resident memory before the molecule counts.
    ghost_reason : str
        Why ghosts do not work.
    """

    program: str
    has_ghosts: bool | None = None
    is_threaded: bool = True
    drivers: frozenset[str] = field(default=_ALL)
    family: str | None = None
    base_memory_bytes: int = 150 * _MB
    ghost_reason: str = ""


def _qc(program: str, memory_mb: int, **facts: Any) -> Profile:
    return Profile(program, **{"has_ghosts": True, **facts}, base_memory_bytes=memory_mb * _MB)


def _no_ghosts(
    program: str, memory_mb: int, family: str | None, reason: str, **facts: Any
) -> Profile:
    return Profile(
        program,
        has_ghosts=False,
        family=family,
        ghost_reason=reason,
        base_memory_bytes=memory_mb * _MB,
        **facts,
    )


_SEMI, _DISP = "semiempirical", "dispersion"
_TABLE: dict[str, Profile] = {
    each.program: each
    for each in (
        _qc("pyscf", 220),
        _qc("psi4", 250),
        _qc("nwchem", 150, is_threaded=False),
        _qc("cfour", 100),
        _qc("molpro", 150, drivers=_GRADIENT),
        _qc("terachem", 500, drivers=_GRADIENT),
        _qc("jaguar", 200),
        _qc("adcc", 250, drivers=_ENERGY),
        _no_ghosts("gamess", 150, None, _REFUSED),
        _no_ghosts("qchem", 150, None, _SILENT),
        _no_ghosts("turbomole", 150, None, _SILENT, is_threaded=False),
        _no_ghosts("terachem_fe", 500, None, _SILENT, drivers=_GRADIENT),
        _no_ghosts("terachem_pbs", 500, None, _SILENT, drivers=_GRADIENT, is_threaded=False),
        _no_ghosts("mrchem", 500, None, _SILENT, drivers=_GRADIENT),
        _no_ghosts("qcore", 150, None, _SILENT),
        _no_ghosts("entos", 150, None, _SILENT),
        _no_ghosts("mopac", 50, _SEMI, _SILENT, drivers=_GRADIENT),
        _no_ghosts("xtb", 100, _SEMI, _SILENT, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("xtb-cli", 50, _SEMI, _MEANINGLESS, drivers=_GRADIENT),
        _no_ghosts("tblite", 120, _SEMI, _MEANINGLESS, drivers=_GRADIENT),
        _no_ghosts("dftd3", 20, _DISP, _MEANINGLESS, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("s-dftd3", 100, _DISP, _SILENT),
        _no_ghosts("dftd4", 100, _DISP, _SILENT, drivers=_GRADIENT),
        _no_ghosts("mp2d", 20, _DISP, _MEANINGLESS, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("gcp", 20, _DISP, _MEANINGLESS, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("mctc-gcp", 20, _DISP, _MEANINGLESS, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("rdkit", 150, _DISP, _SILENT, is_threaded=False, drivers=_GRADIENT),
        _no_ghosts("openmm", 250, _DISP, _SILENT, drivers=_GRADIENT),
        _no_ghosts("torchani", 500, _SEMI, _SILENT),
        _no_ghosts("aimnet2", 500, _SEMI, _SILENT, drivers=_GRADIENT),
        _no_ghosts("mace", 700, _SEMI, _SILENT, drivers=_GRADIENT),
        _no_ghosts("orb", 700, _SEMI, _SILENT, drivers=_GRADIENT),
    )
}


def profile(program: str) -> Profile:
    """Return what is known of a program; unknown ones are trusted with everything."""
    name = program.lower()
    return _TABLE.get(name, Profile(name))


def method_family(program: str, method: str) -> str:
    """Return the key of ``scheduling.cost.FAMILIES`` that a calculation's cost behaves like."""
    return profile(program).family or family_of(method)


def check_request(
    model_chemistry: ModelChemistry, *, needs_ghosts: bool, system: System | None = None
) -> None:
    """Check, without running anything, that this node can do what a model chemistry asks.

    Parameters
    ----------
    model_chemistry : ModelChemistry
    needs_ghosts : bool
        Whether any of its tasks has ghost atoms (cp, vmfc).
    system : System, optional
        The molecule, for the elements that the basis set must have.

    Raises
    ------
    InputError
        The program is unknown, or cannot take this driver, method, basis set, keyword or ghosts.
    TopologyError
        The program is known but not installed here.
    """
    field_name = f"specification.specification.{model_chemistry.label}"
    symbols = system.symbols if system else ()
    if bare_program(model_chemistry.program) is not None:
        _check_facts(model_chemistry, field_name, system, needs_ghosts=needs_ghosts)
        _check_specification(model_chemistry, field_name, symbols)
        return
    harness = _harness(model_chemistry.program, field_name)
    if _is_known(harness):
        _check_facts(model_chemistry, field_name, system, needs_ghosts=needs_ghosts)
    _check_found(model_chemistry.program, harness)
    if _is_known(harness):
        _check_specification(model_chemistry, field_name, symbols)


def _check_facts(
    model_chemistry: ModelChemistry,
    field_name: str,
    system: System | None,
    *,
    needs_ghosts: bool,
) -> None:
    facts = profile(model_chemistry.program)
    if needs_ghosts and facts.has_ghosts is False:
        raise InputError(
            f"{field_name}.program",
            f"cp and vmfc need ghost atoms, but {facts.program} cannot be given any: "
            f"{facts.ghost_reason}; use bsse_type nocp (--bsse nocp), or another program",
        )
    if system is not None and system.embedding_charges is not None and facts.program != "psi4":
        raise InputError(
            f"{field_name}.program",
            "embedding charges can be given to psi4 only, as in QCManyBody, not to "
            f"{facts.program}",
        )
    if model_chemistry.driver not in facts.drivers:
        raise InputError(
            f"{field_name}.driver",
            f"{facts.program} has no {model_chemistry.driver}",
            accepted=", ".join(sorted(facts.drivers)),
        )


def _harness(program: str, field_name: str) -> Any:
    register()
    from qcengine.programs.base import list_available_programs, programs

    if program.lower() not in programs:
        near = did_you_mean(program, programs, cutoff=_LIKE)
        raise InputError(
            f"{field_name}.program",
            f"QCEngine has no program {program!r}{near} (installed here: "
            f"{', '.join(sorted(list_available_programs()))}; a harness of your own is brought in "
            "by --import MODULE)",
        )
    return programs[program.lower()]


def _check_found(program: str, harness: Any) -> None:
    hint = ""
    ours = install_hint(program) if _is_known(harness) else ""
    try:
        if harness.found():
            return
        harness.found(raise_error=True)
    except Exception as error:  # which kind is the harness' own choice
        hint = f": {' '.join(str(error).split())}"
        if lacking := _LACKING_MODULE.search(hint):
            raise TopologyError(
                f"program {program!r} lacks the Python module {lacking[1]!r} on this node: "
                f"pip install {lacking[1]}" + (f" (the program itself: {ours})" if ours else "")
            ) from None
    hint += f" ({ours})" if ours else ""
    raise TopologyError(f"program {program!r} is not installed on this node{hint}")


def _is_known(harness: Any) -> bool:
    return type(harness).__module__.split(".")[0] in ("qcengine", "qcmb_mpi")


def _check_specification(
    chemistry: ModelChemistry, field_name: str, symbols: Sequence[str]
) -> None:
    try:
        check_specification(chemistry.program, chemistry.specification, chemistry.driver, symbols)
    except RequestError as error:
        raise InputError(f"{field_name}.{error.part}", str(error)) from error
