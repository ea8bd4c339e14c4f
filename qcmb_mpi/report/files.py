"""The files of a run: where they are by convention, and how they are written and read.

Rules of this file
------------------
1. Names are those of the command line: RESULT, and beside it ``<stem>.run.json`` and
   ``<stem>.store.sqlite``, or what the summary names; a stem may keep or drop the ``.result`` of
   ``name.result.json``.
2. A file is written beside its target and moved over it, so that readers never see a part.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcmb_mpi.errors import InputError

SUMMARY_SUFFIX = ".run.json"
STORE_SUFFIX = ".store.sqlite"
_INPUT_SUFFIXES = (".yaml", ".yml", ".xyz", ".pdb", ".ent")
_IS_INPUT = "is an input, not a result; give the RESULT or STORE that its run wrote"
_SQLITE_MAGIC = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run that exist.

    Parameters
    ----------
    result, summary, store : Path, optional
        ``*.result.json``, ``*.run.json`` and ``*.store.sqlite``.
    """

    result: Path | None = None
    summary: Path | None = None
    store: Path | None = None


def find_files(path: Path | str) -> RunFiles:
    """Find a run's files from any one of them.

    Parameters
    ----------
    path : Path or str
        RESULT, STORE or summary. RESULT itself may be missing (a run that is not complete) as
        long as one of the others is there.

    Returns
    -------
    RunFiles

    Raises
    ------
    InputError
        If none of them exists.
    """
    given = Path(path)
    stem = given.name
    for suffix in (SUMMARY_SUFFIX, STORE_SUFFIX, given.suffix):
        if suffix and stem.endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    stems = [stem, stem.removesuffix(".result"), stem + ".result", given.name]
    store = given if _is_sqlite(given) else _first(given.parent, stems, STORE_SUFFIX)
    is_summary = given.name.endswith(SUMMARY_SUFFIX)
    summary = given if is_summary else _first(given.parent, stems, SUMMARY_SUFFIX)
    is_other = given.is_file() and given not in (store, summary)
    if is_other and given.suffix.lower() in _INPUT_SUFFIXES:
        raise InputError(str(given), _IS_INPUT)
    result = given if is_other else _first_result(given.parent, stems)
    summary = summary if summary and summary.is_file() else None
    found = RunFiles(result, summary, store or _named_store(summary))
    if found == RunFiles():
        accepted = f"a result, its {SUMMARY_SUFFIX} or its {STORE_SUFFIX} file"
        raise InputError("RESULT|STORE", "no such run", value=str(given), accepted=accepted)
    return found


def _named_store(summary: Path | None) -> Path | None:
    """Return the store that a summary names (``--store``), if it is still there."""
    if summary is None:
        return None
    try:
        named = (read_json(summary).get("files") or {}).get("store")
    except InputError:  # whoever wants the summary will say so
        return None
    places = [Path(named), summary.parent / named] if isinstance(named, str) else []
    return next((place for place in places if _is_sqlite(place)), None)


def _first(folder: Path, stems: list[str], suffix: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for stem in stems)
    return next((path for path in candidates if path.is_file()), None)


def _first_result(folder: Path, stems: list[str]) -> Path | None:
    """Find a result by name; ``<stem>.json`` may be the input and has to prove itself."""
    names = [stem if stem.endswith(".result") else f"{stem}.result" for stem in stems[:1]]
    named = _first(folder, names, ".json")
    if named is not None:
        return named
    other = _first(folder, stems, ".json")
    return other if other is not None and is_result(read_json(other)) else None


def is_result(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a ``ManyBodyResult`` of either version."""
    return "success" in document and isinstance(document.get("properties"), Mapping)


def refuse_input(document: Mapping[str, Any], path: Path) -> None:
    """Raise if a JSON object is a ``ManyBodyInput``, which people give for its result."""
    if {"molecule", "specification"} <= document.keys() and not is_result(document):
        raise InputError(str(path), _IS_INPUT)


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file cannot be read or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(str(path), "is not a JSON object", value=type(found).__name__)
    return found


def write_summary(summary: Mapping[str, Any], path: Path | str) -> None:
    """Write a summary as JSON; the file is replaced as a whole.

    Parameters
    ----------
    summary : mapping
        Of :meth:`RunSummary.finish`.
    path : Path or str

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then left as it was.
    """
    text = json.dumps(_finite(summary), indent=2, allow_nan=False, default=_plain)
    replace_file(path, text)


def replace_file(path: Path | str, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    replace_lines(path, text.splitlines())


def replace_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write a text file line by line, and put it in place when it is whole."""
    with part_of(path) as part, part.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


@contextmanager
def part_of(path: Path | str) -> Iterator[Path]:
    """Give a name to write a file under; it is put in place when the block ends without error."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for (NaN, infinity) by None, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    is_odd = isinstance(value, float) and not math.isfinite(value)
    return None if is_odd else value


def _plain(value: Any) -> Any:
    """Write numpy's values as Python's, and anything else (a path) as text."""
    return _finite(value.tolist()) if isinstance(value, np.generic | np.ndarray) else str(value)
