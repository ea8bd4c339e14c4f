"""From a checked ManyBodyInput to an expansion: what needs no import of QCManyBody.

Rules of this file
------------------
1. Models of QCManyBody and QCElemental come in as objects; only their fields are used.
2. Refusals name the path in the user's own document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.levels import Bsse, Expansion, Levels
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.expansion.system import ModelChemistry, System, fingerprint
from qcmb_mpi.inputs import checks
from qcmb_mpi.inputs.documents import plain
from qcmb_mpi.inputs.fields import is_single, suggest

_SCHEMA_NAMES = {"qcschema_manybodyinput": 1, "qcschema_many_body_input": 2}
_MANY_LEVELS = 6  # from here on an expansion to all levels deserves a warning
_MAX_MODEL_CHEMISTRIES = 26  # QCManyBody's tables know them by one letter


@dataclass(frozen=True, slots=True, eq=False)
class LoadedInput:
    """An input that passed every check that needs no program.

    Parameters
    ----------
    expansion : Expansion
        What to compute.
    model : qcmanybody.models.v2.ManyBodyInput
        The input as QCSchema version 2, fragment charges and multiplicities written out.
    schema_version : int
        Version of what was given, 1 or 2: a result has the same.
    wants_records : bool
        Whether the protocols ask for the whole results of single tasks.
    original : ManyBodyInput
        The input in its own version; goes into the result.
    warnings : tuple of str
        Choices made where the input leaves one, each a line.
    permutation : tuple of int, optional
        Of a geometry file: the place in the file (from 0) of each atom of the expansion.
    """

    expansion: Expansion
    model: Any
    schema_version: int
    wants_records: bool
    original: Any
    warnings: tuple[str, ...] = ()
    permutation: tuple[int, ...] | None = None

    @property
    def order(self) -> tuple[int, ...] | None:
        """The permutation, None if atoms are computed as they stand in the file."""
        is_moved = self.permutation is not None and list(self.permutation) != sorted(
            self.permutation
        )
        return self.permutation if is_moved else None


def version_of(document: Mapping[str, Any]) -> int:
    """Return the QCSchema version, 1 or 2, that a document says it has or looks like.

    Raises
    ------
    InputError
        It is something else than a ManyBodyInput, or contradicts itself.
    """
    name, version = document.get("schema_name"), document.get("schema_version")
    if name is not None and (not isinstance(name, str) or name not in _SCHEMA_NAMES):
        hint = "; give its input_data" if "result" in str(name) else ""
        message = f"this is not a ManyBodyInput{hint}{suggest(name, _SCHEMA_NAMES)}"
        raise InputError("schema_name", message, value=name, accepted=", ".join(_SCHEMA_NAMES))
    if version is not None and (isinstance(version, bool) or version not in (1, 2)):
        message = "there is no such version of a ManyBodyInput"
        raise InputError("schema_version", message, value=version, accepted="1 or 2")
    if name is not None and version not in (None, _SCHEMA_NAMES[name]):
        message = f"{name} has version {_SCHEMA_NAMES[name]}"
        raise InputError("schema_version", message, value=version)
    if name is not None:
        return _SCHEMA_NAMES[name]
    return int(version) if version is not None else 1 if _looks_like_version_1(document) else 2


def _looks_like_version_1(document: Mapping[str, Any]) -> bool:
    specification = _object(document.get("specification"))
    molecule = _object(document.get("molecule"))
    return (
        specification.get("schema_version") == 1
        or molecule.get("schema_version") == 2
        or "component_results" in _object(specification.get("protocols"))
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def check_keywords(specification: Mapping[str, Any], fragments: list[list[int]]) -> None:
    """Check the many-body keywords against the molecule and the specifications."""
    keywords, path = specification["keywords"], "specification.keywords"
    checks.expansion_levels(keywords, len(fragments), path)
    checks.embedding_charges(
        keywords.get("embedding_charges"), fragments, f"{path}.embedding_charges"
    )
    atomic = specification["specification"]
    by_label = {"(auto)": atomic} if is_single(atomic) else atomic
    checks.labels(by_label, keywords, "specification")


def warnings(document: Mapping[str, Any], note: str | None) -> tuple[str, ...]:
    """Return the choices that the input leaves open, each a line."""
    notes = [note] if note else []
    keywords, n_fragments = (
        document["specification"]["keywords"],
        len(document["molecule"]["fragments"]),
    )
    if n_fragments >= _MANY_LEVELS and not (keywords.get("levels") or keywords.get("max_nbody")):
        notes.append(f"no max_nbody: all n-body levels up to {n_fragments} will be computed")
    return tuple(notes)


def no_tasks(expansion: Expansion) -> list[str]:
    """Tell if there is nothing to compute; refuse what is too much."""
    if TaskSpace(expansion).n_tasks or expansion.levels.max_nbody != 1:
        return []
    return [
        "no tasks: an interaction energy through 1-body is zero by definition; use --total "
        "(return_total_data: true)"
    ]


def as_input_error(error: Exception, document: Any) -> InputError:
    """One line of what a model's validator said, with the path in the user's own document."""
    if not hasattr(error, "errors"):
        lines = str(error).splitlines() or [type(error).__name__]
        is_version = "Python 3.14" in lines[0]  # which has no version 1 models any more
        return InputError("schema_version" if is_version else "molecule", lines[0])
    first = max(error.errors(), key=lambda item: len(item["loc"]))  # of a union the likeliest
    path, node = "", document
    for part in first["loc"]:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            path, node = f"{path}[{part}]", node[part]
        elif isinstance(node, dict) and part in node:
            path, node = f"{path}.{part}" if path else str(part), node[part]
    if "missing" in str(first["type"]):
        path = f"{path}.{first['loc'][-1]}"
    message = str(first["msg"]).removeprefix("Value error, ").splitlines()[0]
    return InputError(path or "input", message)


def system_from_molecule(
    molecule: Any, embedding_charges: Mapping[int, Iterable[float]] | None = None
) -> System:
    """Take what an expansion needs from a QCElemental molecule.

    Parameters
    ----------
    molecule : qcelemental.models.v2.Molecule
        With contiguous fragments.
    embedding_charges : mapping, optional
        Fragment (from 1) to the charges of its atoms.

    Returns
    -------
    System
    """
    charges = None
    if embedding_charges:
        charges = tuple(tuple(embedding_charges[key]) for key in sorted(embedding_charges))
    return System(
        symbols=tuple(map(str, molecule.symbols)),
        atomic_numbers=np.asarray(molecule.atomic_numbers, dtype=np.int64),
        masses=np.asarray(molecule.masses, dtype=np.float64),
        mass_numbers=np.asarray(molecule.mass_numbers, dtype=np.int64),
        geometry_bohr=np.asarray(molecule.geometry, dtype=np.float64),
        fragment_sizes=tuple(len(atoms) for atoms in molecule.fragments),
        fragment_charges=tuple(map(float, molecule.fragment_charges)),
        fragment_multiplicities=tuple(molecule.fragment_multiplicities),
        name=molecule.name or "",
        fix_symmetry=molecule.fix_symmetry,
        embedding_charges=charges,
    )


def expansion(model: Any, core: Any) -> Expansion:
    """Make an expansion of a version 2 input and stock's own reading of it (a ManyBodyCore)."""
    levels = Levels.from_mapping(core.levels)
    if len(levels.model_chemistries) > _MAX_MODEL_CHEMISTRIES:
        message = f"has more than {_MAX_MODEL_CHEMISTRIES} model chemistries"
        raise InputError("specification.keywords.levels", message)
    system = system_from_molecule(model.molecule, core.embedding_charges)
    driver = model.specification.driver.value
    return Expansion(
        system=system,
        levels=levels,
        bsse=tuple(Bsse(treatment.value) for treatment in core.bsse_type),
        return_total_data=core.return_total_data,
        supersystem_ie_only=bool(core.supersystem_ie_only),
        driver=driver,
        model_chemistries=tuple(
            _model_chemistry(label, model.specification.specification[label], driver, system)
            for label in levels.model_chemistries
        ),
    )


def labelled(model: Any) -> Any:
    """With a single specification of another name than ``(auto)``: let it run at all levels.

    Stock QCManyBody fails with a KeyError there. Labels are then those of the same input with
    ``levels={max_nbody: name}``.
    """
    specification = model.specification
    names, keywords = list(specification.specification), specification.keywords
    if keywords.levels is not None or "(auto)" in names:
        return model
    highest = keywords.max_nbody or len(model.molecule.fragments)
    keywords = keywords.model_copy(update={"levels": {highest: names[0]}})
    specification = specification.model_copy(update={"keywords": keywords})
    return model.model_copy(update={"specification": specification})


def _model_chemistry(label: str, atomic: Any, driver: str, system: System) -> ModelChemistry:
    dump = plain(atomic.model_dump())
    specification = {
        "driver": driver,  # the many-body driver overrides, as in stock
        **{name: dump[name] for name in ("model", "keywords", "protocols", "extras")},
    }
    program = atomic.program
    name = fingerprint(system, program, driver, specification)
    return ModelChemistry(label, program, driver, specification, name)
