"""Fast decoding of what has no gaps: all rows of a complete block, payloads of equal length.

Rules of this file
------------------
1. Nothing is reported from here: whatever is not as expected is left to the decoder of single
   rows, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from qcmb_mpi.store.codec import BlockKey, Floats, Ints, natural_shape, row_checksums
from qcmb_mpi.store.tables import DONE

PAGE_ROWS = 16384
_KIND_BITS = 3
_TOO_LARGE = float(1 << 32 + _KIND_BITS)

# Every column costs; where no rank is missing, ranks need not be read.
ROWS = (
    f"SELECT energy, (checksum << {_KIND_BITS}) + kinds FROM component "
    f"WHERE block = ? AND status = {DONE} AND rank >= ? AND rank < ? ORDER BY rank"
)


def decode_run(
    key: BlockKey, ranks: Ints, rows: Sequence[tuple[Any, ...]]
) -> tuple[Floats, Ints, Ints] | None:
    """Decode consecutive rows, if they are whole and none is missing.

    Parameters
    ----------
    key : BlockKey
        Their block.
    ranks : int64[m]
        The ranks that were asked for.
    rows : sequence of (energy, checksum and kinds)
        What :data:`ROWS` gave.

    Returns
    -------
    energies : float64[m]
    kinds : int64[m]
    checksums : int64[m]
        Or None, if anything is not as expected.
    """
    if len(rows) != len(ranks):
        return None
    try:  # NULL becomes NaN, in either column
        numbers = np.fromiter(chain.from_iterable(rows), np.float64, 2 * len(rows))
    except (TypeError, ValueError, OverflowError):
        return None
    energies, codes = numbers[::2], _exact(numbers[1::2])
    if codes is None:
        return None
    checksums, kinds = codes >> _KIND_BITS, codes & (1 << _KIND_BITS) - 1
    if not (checksums == row_checksums(key, ranks, energies, kinds)).all():
        return None
    return energies, kinds, checksums


def _exact(numbers: Floats) -> Ints | None:
    """Return whole numbers of so few bits as such."""
    is_sound = (numbers >= 0) & (numbers < _TOO_LARGE)
    return numbers.astype(np.int64) if is_sound.all() else None


def decode_stack(kind: int, blobs: Sequence[bytes]) -> Floats | None:
    """Read gradients or Hessians of equal size back as one array.

    Parameters
    ----------
    kind : int
        ``GRADIENT`` or ``HESSIAN``.
    blobs : sequence of bytes
        As stored, at least one.

    Returns
    -------
    float64[m, ...]
        Each in its natural shape, in native byte order; None if they are not of one size.
    """
    n_bytes = len(blobs[0])
    if set(map(len, blobs)) != {n_bytes} or n_bytes % 8:
        return None
    shape = natural_shape(kind, n_bytes // 8)
    numbers = np.frombuffer(bytearray().join(blobs), dtype="<f8")
    return numbers.astype(np.float64, copy=False).reshape(-1, *shape)
