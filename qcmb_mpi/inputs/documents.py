"""Files to plain data and back: JSON, YAML, standard input; results written at one stroke.

Rules of this file
------------------
1. What comes out of :func:`read_document` and :func:`plain` is dict, list, str, bool, int, finite
   float or None, at most :data:`MAX_DEPTH` deep; whatever else came in is an :class:`InputError`.
2. A key written twice, a reference that grows without bound and text after the end are errors:
   nothing in an input is dropped in silence.
3. A file that is replaced is replaced whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from qcmb_mpi.errors import InputError

MAX_DEPTH = 64
YAML_SUFFIXES = (".yaml", ".yml")
_VOLATILE = frozenset({"provenance"})
_VOLATILE_OUTPUT = frozenset({"provenance", "stdout", "stderr"})


def read_text(source: str, *, is_any_encoding: bool = False) -> str:
    """Read a whole text file, or standard input for ``-``.

    Parameters
    ----------
    source : str
        Path of a file, or ``-``.
    is_any_encoding : bool
        Take what is not UTF-8 too: UTF-16 by its mark, anything else as Latin-1.

    Returns
    -------
    str
        The text, without byte order mark.

    Raises
    ------
    InputError
        The file is missing, a directory, unreadable, empty or not UTF-8 text.
    """
    name = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except FileNotFoundError:
        raise InputError(name, f"no such file{_neighbour(source)}") from None
    except IsADirectoryError:
        raise InputError(name, "is a directory, not an input file") from None
    except (OSError, ValueError) as error:
        raise InputError(name, f"cannot be read: {getattr(error, 'strerror', error)}") from None
    try:
        is_utf16 = is_any_encoding and data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        if not is_any_encoding:
            raise InputError(name, f"is not UTF-8 text (byte {error.start})") from None
        text = data.decode("latin-1")
    if "\0" in text:
        raise InputError(name, f"is a binary file, not text (byte {text.index(chr(0))} is zero)")
    if not text.strip():
        raise InputError(name, "is empty")
    return text


def _neighbour(source: str) -> str:
    """Return ``, did you mean ...?`` if a file beside `source` has nearly its name."""
    from qcmb_mpi.inputs.fields import suggest  # which imports this module

    given = Path(source)
    try:
        names = [each.name for each in given.parent.iterdir() if each.is_file()]
    except OSError:
        return ""
    return suggest(given.name, names)


def read_document(source: str) -> dict[str, Any]:
    """Read a JSON or YAML file, or standard input for ``-``, whose top level is an object.

    A name ending in ``.yaml`` or ``.yml`` is YAML, one in ``.json`` is JSON; anything else is JSON
    if it begins with a bracket, and YAML otherwise.

    Raises
    ------
    InputError
        The text cannot be read as one object of plain data.
    """
    return parse_document(read_text(source), source)


def parse_document(text: str, source: str) -> dict[str, Any]:
    """As :func:`read_document`, from text; `source` names it in errors and chooses the format."""
    name = "standard input" if source == "-" else source
    suffix = Path(source).suffix.lower()
    is_json = suffix == ".json" or (
        suffix not in YAML_SUFFIXES and text.lstrip().startswith(("{", "["))
    )
    try:
        data = _parse_json(text, name) if is_json else _parse_yaml(text, name)
    except RecursionError:
        raise too_deep(name) from None
    if not isinstance(data, dict):
        message = f"the top level is a {_kind(data)}, not an object with named fields"
        raise InputError(name, message, accepted="a ManyBodyInput as JSON or YAML")
    return data


def plain(value: Any, path: str = "", depth: int = 0) -> Any:
    """Reduce models, arrays, enumerations and tuples to plain data.

    Parameters
    ----------
    value : object
        What a file or a Python caller gave.
    path : str
        Where it stands, dotted, for errors.

    Returns
    -------
    object
        New dicts and lists of plain scalars.

    Raises
    ------
    InputError
        A number is not finite, a key is not text, or a value is of a kind that JSON has not.
    """
    if depth > MAX_DEPTH:
        raise too_deep(path.partition(".")[0])
    value = _unwrap(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(path, "is not a finite number", value=value)
        return value
    if isinstance(value, Mapping):
        pairs = ((_key(key, path), item) for key, item in value.items())
        return {key: plain(item, join(path, key), depth + 1) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InputError(path or "input", f"a value of type {type(value).__name__} cannot be used here")


def join(path: str, key: object) -> str:
    """Return the dotted path of `key` inside `path`."""
    return f"{path}.{key}" if path else str(key)


def _unwrap(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_unset=True)
    return value


def _key(key: Any, path: str) -> str | int:
    key = _unwrap(key)
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
    raise InputError(path or "input", "a field name must be text", value=key)


def too_deep(path: str) -> InputError:
    """Return the error for what is nested too deeply."""
    return InputError(path or "input", f"is nested more than {MAX_DEPTH} levels deep")


def _kind(data: object) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "true/false value"}
    return names.get(type(data), "null value" if data is None else type(data).__name__)


def _parse_json(text: str, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(name, f"the key {key!r} appears twice in one object")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        at_end = " (is the file cut off?)" if error.pos >= len(text.rstrip()) - 1 else ""
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(name, f"is not valid JSON at {where}: {error.msg}{at_end}") from None
    except ValueError as error:
        raise InputError(name, f"is not valid JSON: {error}") from None


def _parse_yaml(text: str, name: str) -> Any:
    from qcmb_mpi.inputs import yaml_text  # PyYAML is slow to import

    return yaml_text.parse(text, name)


def to_json(data: Any) -> bytes:
    """Encode a dumped model: equal contents give equal bytes, arrays are flat as in QCSchema."""
    text = json.dumps(data, default=_encode, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    if isinstance(value, (np.generic, Enum)):
        return _unwrap(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new.

    Raises
    ------
    InputError
        The file cannot be written; an existing one is left as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        _replace(target, data)
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}") from None


def _replace(target: Path, data: bytes) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(scratch, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def strip_volatile(result_json: bytes | str) -> bytes:
    """Return a RESULT file without what differs from run to run, for comparison byte by byte.

    Removed are every ``provenance`` and, inside the records of single tasks, the text that
    programs printed (it has dates and timings in it).
    """
    data = json.loads(result_json)
    for name in ("cluster_results", "component_results"):
        if name in data:
            data[name] = _without(data[name], _VOLATILE_OUTPUT.__contains__)
    return to_json(_without(data, _VOLATILE.__contains__))


def _without(data: Any, is_dropped: Callable[[str], bool]) -> Any:
    if isinstance(data, dict):
        return {k: _without(v, is_dropped) for k, v in data.items() if not is_dropped(k)}
    if isinstance(data, list):
        return [_without(item, is_dropped) for item in data]
    return data
