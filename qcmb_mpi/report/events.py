"""The event log: every event and decision of the scheduler as JSON lines, and their way back.

Rules of this file
------------------
1. One line per event with the commands that answered it, so that a log can be replayed.
2. What is read equals what was written: tuples, ranges, arrays with their types, enumerations.
3. A log may end in the middle of a line (a killed job): that line never happened.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError

_LOG = logging.getLogger(__name__)
MIN_RUN = 4


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """One step of the scheduler.

    Parameters
    ----------
    now : float
        On the run's monotonic clock.
    event : dataclass
        What happened.
    commands : tuple of dataclass
        What was decided.
    """

    now: float
    event: Any
    commands: tuple[Any, ...]


class EventLog:
    """Writes steps to a file as they happen.

    A disk that is full must not end a run: after the first error the log says so and is silent.

    Parameters
    ----------
    path : Path or str
        Replaced if it exists.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._stream: TextIO | None = self._path.open("w", encoding="utf-8")

    def write(self, event: Any, commands: Sequence[Any], now: float) -> None:
        """Log one step; an idle tick (no command) is left out."""
        if self._stream is None or (not commands and type(event).__name__ == "Ticked"):
            return
        step = {"now": now, "event": encode(event), "commands": [encode(c) for c in commands]}
        try:
            # Whole lines: what a reader finds after a crash is a prefix of what happened.
            self._stream.write(json.dumps(step, separators=(",", ":")) + "\n")
            self._stream.flush()
        except OSError as error:
            _LOG.warning("the event log %s ends here: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                stream.close()
            except OSError as error:
                _LOG.warning("the event log %s may lack its end: %s", self._path, error)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def encode(value: Any) -> Any:
    """Write a value as JSON that :func:`decode` turns back.

    Parameters
    ----------
    value : object
        Dataclasses, enumerations, ranges, arrays, tuples, sets, lists, mappings with text keys
        and JSON's own values, in any depth.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(value, enum.Enum):
        return {"$enum": type(value).__name__, "name": value.name}
    if is_dataclass(value) and not isinstance(value, type):
        inside = {item.name: encode(getattr(value, item.name)) for item in fields(value)}
        return {"$type": type(value).__name__, **inside}
    if isinstance(value, np.ndarray):
        return _encode_array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return {"$range": [value.start, value.stop, value.step]}
    if isinstance(value, tuple):
        return {"$tuple": [encode(each) for each in value]}
    if isinstance(value, frozenset | set):
        return {"$set": sorted(encode(each) for each in value)}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, Mapping):
        return {"$map": {str(key): encode(each) for key, each in value.items()}}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"an event log cannot hold {type(value).__name__}")


def _encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Write an array; runs of consecutive integers, which ids mostly are, as pairs."""
    kind = {"$array": str(array.dtype)}
    if array.ndim != 1:
        return kind | {"shape": list(array.shape), "list": array.ravel().tolist()}
    if np.issubdtype(array.dtype, np.integer) and len(array) >= MIN_RUN:
        breaks = np.flatnonzero(np.diff(array) != 1)
        if 2 * (len(breaks) + 1) < len(array):
            firsts = array[np.concatenate(([0], breaks + 1))]
            lasts = array[np.append(breaks, len(array) - 1)]
            return kind | {"runs": np.stack([firsts, lasts], axis=1).tolist()}
    return kind | {"list": array.tolist()}


def decode(value: Any, types: Mapping[str, type]) -> Any:
    """Turn back what :func:`encode` wrote.

    Parameters
    ----------
    value : object
    types : mapping of name to class
        The dataclasses and enumerations that may occur.

    Returns
    -------
    object

    Raises
    ------
    KeyError
        For a type that is not known.
    """
    if isinstance(value, list):
        return [decode(each, types) for each in value]
    if not isinstance(value, dict):
        return value
    if "$enum" in value:
        return types[value["$enum"]][value["name"]]  # type: ignore[index]
    if "$type" in value:
        inside = {key: decode(each, types) for key, each in value.items() if key != "$type"}
        return types[value["$type"]](**inside)
    if "$array" in value:
        return _decode_array(value)
    if "$range" in value:
        return range(*value["$range"])
    if "$map" in value:
        return {key: decode(each, types) for key, each in value["$map"].items()}
    kind = tuple if "$tuple" in value else frozenset
    (inside_list,) = value.values()
    return kind(decode(each, types) for each in inside_list)


def _decode_array(value: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(value["$array"])
    if "runs" in value:
        return np.concatenate([np.arange(a, b + 1, dtype=dtype) for a, b in value["runs"]])
    array = np.array(value["list"], dtype=dtype)
    return array.reshape(value["shape"]) if "shape" in value else array


def message_types() -> dict[str, type]:
    """Give the scheduler's messages and enumerations by name."""
    from qcmb_mpi.scheduling import messages

    return {name: each for name, each in vars(messages).items() if isinstance(each, type)}


def read_events(path: Path | str, types: Iterable[type] | None = None) -> Iterator[LoggedStep]:
    """Read a log back, to replay it.

    Parameters
    ----------
    path : Path or str
    types : iterable of type, optional
        Dataclasses and enumerations that may occur; by default the scheduler's messages.

    Yields
    ------
    LoggedStep
        All that were written whole.

    Raises
    ------
    InputError
        If a line other than a torn last one is not of an event log.
    """
    known = message_types() if types is None else {each.__name__: each for each in types}
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith("\n"):
                return
            try:
                raw = json.loads(line)
                event = decode(raw["event"], known)
                commands = tuple(decode(each, known) for each in raw["commands"])
                step = LoggedStep(float(raw["now"]), event, commands)
            except (ValueError, KeyError, TypeError) as error:
                message = f"is not of an event log: {type(error).__name__}: {error}"
                raise InputError(f"{path}, line {number}", message) from error
            yield step
