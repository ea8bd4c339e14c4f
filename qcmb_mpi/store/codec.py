"""Outcomes as rows and back: columns, bytes and checksums.

Rules of this file
------------------
1. Numbers are little-endian binary64 and come back with the same bits (except -0.0 as energy,
   which SQLite keeps as 0.0).
2. Every number that enters an answer is under a CRC-32 that also covers whose number it is.
3. Nothing here reads or writes a file.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.store.tables import DONE, FAILED, GRADIENT, HESSIAN, RECORD

_ROW = struct.Struct("<qdB")  # rank, energy, kinds
_SIZES = struct.Struct("<qq")
_ZLIB_LEVEL = 1  # the master compresses; more would cost it more than the disk gains

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Origin = tuple[str, int, int, int, str, str]
Payload = tuple[int, int, bytes]

KINDS = {"gradient": GRADIENT, "hessian": HESSIAN, "record": RECORD}
NEEDED = {"energy": 0, "gradient": GRADIENT, "hessian": HESSIAN}


@dataclass(frozen=True, slots=True, eq=False)
class BlockKey:
    """What all tasks of a block share, in any task space; compared by identity, for speed.

    Parameters
    ----------
    fingerprint : str
        Of the model chemistry, its parent molecule included.
    n_real, n_basis : int
        Real and basis fragments.
    seed : int
        CRC-32 of the three, from which the checksums of the block's rows start.
    """

    fingerprint: str
    n_real: int
    n_basis: int
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        seed = zlib.crc32(self.fingerprint.encode() + _SIZES.pack(self.n_real, self.n_basis))
        object.__setattr__(self, "seed", seed)


class Encoded(NamedTuple):
    """Outcomes of one block and one slot, ready to be written.

    Parameters
    ----------
    key : BlockKey
        Their block.
    origin : tuple
        host, MPI rank, slot, threads, program, version.
    rows : list of tuple
        rank, status, kinds, energy, checksum, start_s, seconds, cpu_s, peak_bytes, error class,
        error type, message, output tail, remedy.
    payloads : list of tuple of (kind, checksum, data)
        Arrays and record of each; empty if none has any.
    """

    key: BlockKey
    origin: Origin
    rows: list[tuple[Any, ...]]
    payloads: list[tuple[Payload, ...]]


def encode(outcome: Outcome, key: BlockKey, rank: int, driver: str) -> Encoded:
    """Make the rows of an outcome.

    Parameters
    ----------
    outcome : Outcome
        Done or failed.
    key : BlockKey
        Block of its task.
    rank : int
        Place of its task in the block.
    driver : str
        ``energy``, ``gradient`` or ``hessian``: what a done outcome must have.

    Returns
    -------
    Encoded

    Raises
    ------
    StoreError
        If a done outcome lacks what it must have, or a number is not finite, or an array is not
        of a molecule's shape.
    """
    # Conversions, because sqlite3 keeps numpy's integers as bytes.
    times = (
        float(outcome.start_s), float(outcome.seconds), float(outcome.cpu_s),
        int(outcome.peak_bytes),
    )  # fmt: skip
    origin = (
        outcome.host, outcome.rank, outcome.slot, outcome.n_threads,
        outcome.program, outcome.version,
    )  # fmt: skip
    failure = outcome.failure
    if failure is not None:
        said = (failure.error_type, failure.message, failure.output_tail)
        texts = (failure.error_class.name, *map(storable_text, said))
        return Encoded(key, origin, [(rank, FAILED, 0, None, None, *times, *texts, None)], [])
    energy = _energy(outcome)
    kinds = _kinds(outcome)
    if (energy is None and driver == "energy") or kinds & NEEDED[driver] != NEEDED[driver]:
        raise _unfit(outcome, f"has no {driver}")
    checksum = row_checksum(key, rank, energy, kinds)
    payloads = [_payloads(outcome, checksum)] if kinds else []
    remedy = storable_text(outcome.remedy) or None
    fields = (rank, DONE, kinds, energy, checksum, *times, None, None, None, None, remedy)
    return Encoded(key, origin, [fields], payloads)


def storable_text(text: str) -> str:
    """Replace lone surrogates (from undecodable output of programs), which SQLite cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _energy(outcome: Outcome) -> float | None:
    if outcome.energy_hartree is None:
        return None
    energy = float(outcome.energy_hartree) + 0.0  # -0.0 would not survive SQLite
    if not math.isfinite(energy):
        raise _unfit(outcome, f"has the energy {energy}")
    return energy


def _kinds(outcome: Outcome) -> int:
    return (
        (outcome.gradient is not None) * GRADIENT
        + (outcome.hessian is not None) * HESSIAN
        + (outcome.record is not None) * RECORD
    )


def _payloads(outcome: Outcome, checksum: int) -> tuple[tuple[int, int, bytes], ...]:
    parts: list[tuple[int, bytes]] = []
    if outcome.gradient is not None:
        parts.append((GRADIENT, _array_bytes(outcome, "gradient", outcome.gradient)))
    if outcome.hessian is not None:
        parts.append((HESSIAN, _array_bytes(outcome, "hessian", outcome.hessian)))
    if outcome.record is not None:
        parts.append((RECORD, zlib.compress(outcome.record, _ZLIB_LEVEL)))
    return tuple((kind, payload_checksum(checksum, kind, data), data) for kind, data in parts)


def _array_bytes(outcome: Outcome, name: str, array: NDArray[np.float64]) -> bytes:
    array = np.asarray(array, dtype="<f8")
    n_rows = array.shape[0] if array.ndim else 0
    width = 3 if name == "gradient" else n_rows
    if not n_rows or width % 3 or array.shape != (n_rows, width):
        raise _unfit(outcome, f"has a {name} of the shape {array.shape}")
    if not np.isfinite(array).all():
        raise _unfit(outcome, f"has a {name} that is not finite")
    return array.tobytes()


def _unfit(outcome: Outcome, what: str) -> StoreError:
    return StoreError(
        f"task {outcome.task} of space {outcome.space} {what}; it was not stored (a bug: the "
        "engine should have made this a failure)"
    )


def natural_shape(kind: int, n_numbers: int) -> tuple[int, int]:
    """Find the shape of a gradient or Hessian from its size.

    Parameters
    ----------
    kind : int
        ``GRADIENT`` or ``HESSIAN``.
    n_numbers : int
        Numbers in it.

    Returns
    -------
    tuple of int
        ``(nat, 3)`` or ``(3 nat, 3 nat)``.

    Raises
    ------
    ValueError
        If no molecule has that many.
    """
    width = 3 if kind == GRADIENT else math.isqrt(n_numbers)
    height = n_numbers // width if width else 0
    if not height or width % 3 or height * width != n_numbers:
        raise ValueError(f"{n_numbers} numbers are of no molecule")
    return height, width


def decode_array(kind: int, data: bytes) -> NDArray[np.float64]:
    """Read a gradient or Hessian back, in its natural shape and in native byte order."""
    numbers = np.frombuffer(data, dtype="<f8").astype(np.float64)
    return numbers.reshape(natural_shape(kind, len(numbers)))


def decode_failure(error_class: str, error_type: str, message: str, output_tail: str) -> Failure:
    """Read a failure back; a class of an earlier version that is no more becomes ``UNKNOWN``."""
    known = ErrorClass.__members__.get(error_class, ErrorClass.UNKNOWN)
    return Failure(known, error_type, message, output_tail)


def row_checksum(key: BlockKey, rank: int, energy: float | None, kinds: int) -> int:
    """Compute the CRC-32 of a done row: its block, rank, energy (NaN if it has none) and kinds."""
    return zlib.crc32(_ROW.pack(rank, math.nan if energy is None else energy, kinds), key.seed)


def payload_checksum(checksum: int, kind: int, data: bytes) -> int:
    """Compute the checksum of a payload, which continues that of the row it belongs to."""
    return zlib.crc32(data, zlib.crc32(bytes((kind,)), checksum))


def row_checksums(key: BlockKey, ranks: Ints, energies: Floats, kinds: Ints) -> NDArray[np.uint32]:
    """Compute :func:`row_checksum` of many rows at once.

    Parameters
    ----------
    key : BlockKey
        Their block.
    ranks : int64[m]
        Places in the block.
    energies : float64[m]
        Energies, NaN where there is none.
    kinds : int64[m]
        Payloads, 0 to 255.

    Returns
    -------
    uint32[m]
    """
    rows = np.empty(len(ranks), dtype=[("rank", "<i8"), ("energy", "<f8"), ("kinds", "u1")])
    rows["rank"] = ranks
    # Python's nan is the one that was packed, whatever nan numpy made of a NULL.
    rows["energy"] = np.where(np.isnan(energies), math.nan, energies)
    rows["kinds"] = kinds
    columns = np.ascontiguousarray(rows.view(np.uint8).reshape(len(ranks), _ROW.size).T)
    sums = np.full(len(ranks), zlib.crc32(bytes(_ROW.size), key.seed), dtype=np.uint32)
    for table, column in zip(_crc_tables(), columns, strict=True):
        sums ^= table[column]
    return sums


@lru_cache(maxsize=1)
def _crc_tables() -> tuple[NDArray[np.uint32], ...]:
    """Tabulate what each value of each byte of a row changes in its CRC, which is linear."""
    n_bytes = _ROW.size
    zeros = zlib.crc32(bytes(n_bytes))
    return tuple(
        np.array(
            [
                zlib.crc32(bytes(place) + bytes((value,)) + bytes(n_bytes - place - 1)) ^ zeros
                for value in range(256)
            ],
            dtype=np.uint32,
        )
        for place in range(n_bytes)
    )


def decode_rows(
    key: BlockKey, rows: Sequence[tuple[Any, ...]]
) -> tuple[Ints, Floats, Ints, NDArray[np.bool_]]:
    """Decode done rows and tell which of them are whole.

    Parameters
    ----------
    key : BlockKey
        Their block.
    rows : sequence of (rank, energy, kinds, checksum)
        As stored; at least one.

    Returns
    -------
    ranks : int64[m]
    energies : float64[m]
        NaN where there is none.
    kinds : int64[m]
    is_whole : bool[m]

    Raises
    ------
    TypeError, ValueError, OverflowError
        If a value is no number.
    """
    columns = tuple(zip(*rows, strict=True))
    ranks, kinds, checksums = (np.array(columns[i], dtype=np.int64) for i in (0, 2, 3))
    energies = np.array(columns[1], dtype=np.float64)
    is_whole = (checksums == row_checksums(key, ranks, energies, kinds)) & (kinds >> 3 == 0)
    return ranks, energies, kinds, is_whole
