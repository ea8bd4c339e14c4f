"""Plain successes on their way into the store: arrays until they are written.

Rules of this file
------------------
1. Rows, payloads and checksums are, bit by bit, those that :func:`~qcmb_mpi.store.codec.encode`
   makes of one outcome.
2. No Python object for a task before it is written, and but a few then.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import StoreError
from qcmb_mpi.execution.outcomes import ROW, Batch
from qcmb_mpi.store.codec import NEEDED, BlockKey, Ints, Origin, row_checksums
from qcmb_mpi.store.tables import GRADIENT, HESSIAN

_MASK = 0xFFFFFFFF
_TIMES = ("start_s", "seconds", "cpu_s", "peak_bytes")


class Columns(NamedTuple):
    """Plain successes of one block.

    Parameters
    ----------
    key : BlockKey
        Their block.
    batch : Batch
    ranks : int64[m]
        Their places in the block.
    """

    key: BlockKey
    batch: Batch
    ranks: Ints

    @classmethod
    def of(cls, key: BlockKey, batch: Batch, ranks: Ints, driver: str) -> Columns:
        """Take a batch.

        Parameters
        ----------
        key : BlockKey
            The block of all its tasks.
        batch : Batch
        ranks : int64[m]
            Their places in it.
        driver : str
            ``energy``, ``gradient`` or ``hessian``: what each must have.

        Raises
        ------
        StoreError
            If they lack what they must have.
        """
        columns = cls(key, batch, ranks)
        if columns.kinds & NEEDED[driver] != NEEDED[driver]:
            raise StoreError(f"{len(batch)} outcomes of space {batch.space} have no {driver}")
        return columns

    @property
    def rows(self) -> NDArray[Any]:
        """What is told of each task besides its arrays."""
        return self.batch.rows

    @property
    def kinds(self) -> int:
        """The payloads that each has, summed up."""
        return self.batch.has_gradient * GRADIENT + self.batch.has_hessian * HESSIAN

    def origins(self, number: Callable[[Origin], int]) -> list[int]:
        """Return the number of where each was computed."""
        host, rank, n_threads, program, version = self.batch.origin
        slots = self.rows["slot"].tolist()
        found = {s: number((host, rank, s, n_threads, program, version)) for s in set(slots)}
        return [found[slot] for slot in slots]

    def arrays(self) -> dict[int, list[memoryview]]:
        """Return the bytes of all arrays by kind."""
        widths = 3 * self.rows["n_atoms"].astype(np.int64)
        sizes = {GRADIENT: widths, HESSIAN: widths * widths}
        present = [kind for kind in sizes if self.kinds & kind]
        if not present:
            return {}
        data = np.ascontiguousarray(self.batch.numbers, dtype="<f8").data.cast("B")
        cuts = 8 * np.cumsum(np.stack([sizes[kind] for kind in present], axis=1).ravel())
        parts = [data[a:b] for a, b in pairwise([0, *cuts.tolist()])]
        return {kind: parts[i :: len(present)] for i, kind in enumerate(present)}


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is written at once: successes of one block with the same payloads, by rank.

    Parameters
    ----------
    key : BlockKey
    kinds : int
    columns : tuple of list
        rank, energy, checksum, origin, start_s, seconds, cpu_s, peak_bytes.
    payloads : mapping of int to (list of int, list of memoryview)
        Checksums and bytes by kind.
    """

    key: BlockKey
    kinds: int
    columns: tuple[list[Any], ...]
    payloads: Mapping[int, tuple[list[int], list[memoryview]]]

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def ranks(self) -> list[int]:
        """Their places in the block, ascending."""
        return self.columns[0]

    def part(self, which: slice) -> Sheet:
        """Return some of it."""
        payloads = {kind: (s[which], d[which]) for kind, (s, d) in self.payloads.items()}
        return Sheet(self.key, self.kinds, tuple(c[which] for c in self.columns), payloads)

    def payload_rows(self, index: int) -> list[tuple[int, int, bytes]]:
        """Return kind, checksum and bytes of each array of one task."""
        return [(kind, s[index], bytes(d[index])) for kind, (s, d) in self.payloads.items()]


def sheets(parts: Iterable[Columns], number: Callable[[Origin], int]) -> Iterator[Sheet]:
    """Put together what can be written at once.

    Parameters
    ----------
    parts : iterable of Columns
    number : callable
        Gives the number of an origin.

    Yields
    ------
    Sheet
    """
    alike: dict[tuple[BlockKey, int], list[Columns]] = {}
    for each in parts:
        alike.setdefault((each.key, each.kinds), []).append(each)
    for (key, kinds), many in alike.items():
        yield _sheet(key, kinds, many, number)


def _sheet(
    key: BlockKey, kinds: int, many: list[Columns], number: Callable[[Origin], int]
) -> Sheet:
    # As bytes: numpy's own way compares the fields of all of them in Python.
    rows = np.frombuffer(b"".join(each.rows.tobytes() for each in many), dtype=ROW)
    ranks = np.concatenate([each.ranks for each in many])
    order = ranks.argsort(kind="stable")
    places = order.tolist()
    rows, ranks = rows[order], ranks[order]
    energies = rows["energy"] + 0.0  # -0.0 would not survive SQLite
    sums = row_checksums(key, ranks, energies, np.full(len(ranks), kinds))
    origins = [origin for each in many for origin in each.origins(number)]
    times = (rows[name].tolist() for name in _TIMES)
    columns = (ranks.tolist(), energies.tolist(), sums.tolist(), [origins[i] for i in places])
    arrays = [each.arrays() for each in many]
    payloads = {}
    for kind in arrays[0]:
        data = [part for each in arrays for part in each[kind]]
        data = [data[place] for place in places]
        payloads[kind] = (_payload_checksums(sums, kind, data), data)
    return Sheet(key, kinds, (*columns, *times), payloads)


def _payload_checksums(sums: NDArray[np.uint32], kind: int, data: list[memoryview]) -> list[int]:
    """Compute :func:`~qcmb_mpi.store.codec.payload_checksum` of one array after the other."""
    # One byte more: what zlib.crc32 does to its complement.
    inverse = ~sums
    first = ~(_crc_table()[(inverse ^ np.uint32(kind)) & 0xFF] ^ (inverse >> 8))
    return [zlib.crc32(part, start) for part, start in zip(data, first.tolist(), strict=True)]


@lru_cache(maxsize=1)
def _crc_table() -> NDArray[np.uint32]:
    """Tabulate what a byte does to a CRC-32."""
    sums = [zlib.crc32(bytes((value,)), _MASK) ^ _MASK for value in range(256)]
    return np.array(sums, dtype=np.uint32)
