"""Many outcomes as one object: columns for the plain successes, objects for the rest.

Rules of this file
------------------
1. The numbers are, bit by bit, those of the outcomes that went in.
2. What is done to a batch takes a few Python objects, however many tasks it is of.
3. Plain is a success with a finite energy, arrays as a molecule has them, and nothing else to tell.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.execution.outcome import Outcome, parts, whole

ROW = np.dtype(
    [
        *(("task", "i8"), ("peak_bytes", "i8"), ("slot", "i4"), ("n_atoms", "i4")),
        *(("start_s", "f8"), ("seconds", "f8"), ("cpu_s", "f8"), ("energy", "f8")),
    ]
)
_FLOAT = np.dtype(np.float64)
_row = struct.Struct("=qqiidddd").pack  # in a tenth of the time that numpy takes
# What a piece is: what the next rows have in common, a row with its arrays, or anything else.
_HEAD, _ROW, _WHOLE = b"H", b"R", b"W"


class Origin(NamedTuple):
    """What the tasks of a batch have in common, but for their slots."""

    host: str
    rank: int
    n_threads: int
    program: str
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Plain successes of one space.

    Parameters
    ----------
    space : int
    origin : Origin
    has_gradient, has_hessian : bool
        Whether all of them have one.
    rows : ndarray of ROW, shape (m,)
        ``n_atoms`` counts ghosts too; it is 0 if there is no array.
    numbers : ndarray of float64
        Gradient, then Hessian, of one task after the other.
    """

    space: int
    origin: Origin
    has_gradient: bool
    has_hessian: bool
    rows: NDArray[Any]
    numbers: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column as an array of its own."""
        return np.ascontiguousarray(self.rows[name])

    def arrays(self) -> Iterator[tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]]:
        """Yield gradient and Hessian of one task after the other, None where there is none."""
        for n, numbers in zip(self.rows["n_atoms"].tolist(), self._parts(), strict=True):
            cut = 3 * n * self.has_gradient
            gradient = numbers[:cut].reshape(n, 3) if self.has_gradient else None
            hessian = numbers[cut:].reshape(3 * n, 3 * n) if self.has_hessian else None
            yield gradient, hessian

    def chosen(self, places: NDArray[Any]) -> Batch:
        """Return some of it: those at `places`, or where a mask is true."""
        numbers = self.numbers
        if len(numbers):
            parts = self._parts()
            kept = [parts[i] for i in np.arange(len(self))[places].tolist()]
            numbers = np.concatenate([numbers[:0], *kept])
        return replace(self, rows=self.rows[places], numbers=numbers)

    def _parts(self) -> list[NDArray[np.float64]]:
        """Return the numbers of each task."""
        n = self.rows["n_atoms"].astype(np.int64)
        sizes = 3 * n * self.has_gradient + 9 * n * n * self.has_hessian
        ends = np.cumsum(sizes).tolist()
        return [self.numbers[a:b] for a, b in pairwise([0, *ends])]

    def __reduce__(self) -> tuple[Any, ...]:
        kind = tuple(self.origin), self.has_gradient, self.has_hessian
        return _batch, (self.space, kind, (self.rows.tobytes(), self.numbers.tobytes()))

    def __iter__(self) -> Iterator[Outcome]:
        host, rank, n_threads, program, version = self.origin
        for row, (gradient, hessian) in zip(self.rows.tolist(), self.arrays(), strict=True):
            task, peak_bytes, slot, _, start_s, seconds, cpu_s, energy = row
            yield Outcome(
                space=self.space,
                task=task,
                start_s=start_s,
                seconds=seconds,
                cpu_s=cpu_s,
                peak_bytes=peak_bytes,
                energy_hartree=energy,
                gradient=gradient,
                hessian=hessian,
                program=program,
                version=version,
                host=host,
                rank=rank,
                slot=slot,
                n_threads=n_threads,
            )


class Outcomes(Sequence[Outcome]):
    """Outcomes: first the plain successes, then the others, each in the order in which they came.

    Parameters
    ----------
    batches : sequence of Batch
    others : sequence of Outcome
    """

    __slots__ = ("batches", "others")

    def __init__(self, batches: Iterable[Batch] = (), others: Iterable[Outcome] = ()) -> None:
        self.batches = tuple(batches)
        self.others = tuple(others)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], *, space: int | None = None) -> Outcomes:
        """Put outcomes together, as those of `space` if that is given."""
        if isinstance(outcomes, Outcomes):
            return outcomes
        many = list(outcomes)
        found = cls._sorted(many, space, _is_plain)
        if all(np.isfinite(each.numbers).all() for each in found.batches):
            return found
        return cls._sorted(many, space, lambda each: _is_plain(each) and _is_finite(each))

    @classmethod
    def _sorted(
        cls, outcomes: list[Outcome], space: int | None, is_plain: Callable[[Outcome], bool]
    ) -> Outcomes:
        plain, others = [], []
        for each in outcomes:
            if is_plain(each):
                plain.append(each)
            else:
                others.append(each if space is None else replace(each, space=space))
        return cls(_batches(plain, space), others)

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Put the outcomes of several into one."""
        if len(parts) == 1:
            return parts[0]
        alike: dict[tuple[Any, ...], list[Batch]] = {}
        for each in chain.from_iterable(part.batches for part in parts):
            kind = (each.space, each.origin, each.has_gradient, each.has_hessian)
            alike.setdefault(kind, []).append(each)
        batches = (
            replace(
                many[0],
                # As bytes: numpy's own way compares the fields of all of them in Python.
                rows=_table(b"".join(each.rows.tobytes() for each in many)),
                numbers=np.concatenate([each.numbers for each in many]),
            )
            for many in alike.values()
        )
        return cls(batches, chain.from_iterable(part.others for part in parts))

    @property
    def spaces(self) -> set[int]:
        """Those that there are outcomes of."""
        return {each.space for each in self.batches} | {each.space for each in self.others}

    @property
    def failures(self) -> list[Outcome]:
        """Those without a result."""
        return [each for each in self.others if each.failure is not None]

    @property
    def n_good(self) -> int:
        """How many have a result."""
        return len(self) - len(self.failures)

    def where(self, is_wanted: Callable[[int], bool]) -> Outcomes:
        """Return those of the spaces that are wanted."""
        return Outcomes(
            (each for each in self.batches if is_wanted(each.space)),
            (each for each in self.others if is_wanted(each.space)),
        )

    def successes(self) -> Outcomes:
        """Return those with a result."""
        return Outcomes(self.batches, (each for each in self.others if each.failure is None))

    def times(self) -> list[Batch]:
        """Return all successes as batches that tell when and where they ran, and nothing else."""
        bare = [
            replace(each, energy_hartree=0.0, gradient=None, hessian=None)
            for each in self.others
            if each.failure is None
        ]
        return [*self.batches, *_batches(bare)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcomes, (self.batches, self.others)

    def __len__(self) -> int:
        return sum(map(len, self.batches)) + len(self.others)

    def __iter__(self) -> Iterator[Outcome]:
        return chain(chain.from_iterable(self.batches), self.others)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return list(self)[index]


class Parcel:
    """Outcomes of one space as a slot sends them, each written down once: what is alike in columns.

    A slot does this when calculations have filled the caches: little code is run, and pickle is
    given no object of a class. Whether arrays are finite is left to :func:`unpacked`.

    Parameters
    ----------
    space : int
        What each outcome is of, whatever it says.
    """

    def __init__(self, space: int) -> None:
        self._space = space
        self._kind: tuple[Any, ...] | None = None
        self._groups: list[tuple[tuple[Any, ...], list[bytes], list[bytes]]] = []
        self._others: list[bytes] = []
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, outcome: Outcome) -> list[bytes]:
        """Take one more; return pieces of which :func:`pieced` makes it, after those before it."""
        self._n += 1
        if not _is_plain(outcome):
            data = pickle.dumps(parts(self._space, outcome), protocol=5)
            self._others.append(data)
            return [_WHOLE + data]
        pieces, kind = [], _kind(outcome)
        if kind != self._kind:
            self._kind = kind
            self._groups.append((kind, [], []))
            pieces.append(_HEAD + pickle.dumps((self._space, kind), protocol=5))
        row, array = _written(outcome)
        _, rows, arrays = self._groups[-1]
        rows.append(row)
        arrays.append(array)
        pieces.append(_ROW + row + array)
        return pieces

    def message(self) -> Any:
        """Return what :func:`unpacked` makes them of: for pickle."""
        groups = [(kind, b"".join(rows), b"".join(arrays)) for kind, rows, arrays in self._groups]
        return self._space, groups, self._others


def unpacked(sent: Any) -> Outcomes:
    """Return what is in the message of a :class:`Parcel`."""
    space, groups, others = sent
    batches = [_batch(space, kind, columns) for kind, *columns in groups]
    found = [whole(pickle.loads(data)) for data in others]
    if not others and all(np.isfinite(each.numbers).all() for each in batches):
        return Outcomes(batches)
    return Outcomes.of([*chain.from_iterable(batches), *found])


def pieced(pieces: Iterable[bytes]) -> Iterator[Outcome]:
    """Yield the outcomes that the pieces of a :class:`Parcel` are of."""
    for piece in pieces:
        tag, data = piece[:1], piece[1:]
        if tag == _HEAD:
            space, kind = pickle.loads(data)
        elif tag == _ROW:
            yield from _batch(space, kind, (data[: ROW.itemsize], data[ROW.itemsize :]))
        else:
            yield whole(pickle.loads(data))


def _is_plain(outcome: Outcome) -> bool:
    """Tell whether columns can hold all that there is to be told of an outcome, if it is finite."""
    energy = outcome.energy_hartree
    if outcome.failure is not None or outcome.record is not None or outcome.remedy:
        return False
    if not isinstance(energy, float) or not math.isfinite(energy):
        return False
    gradient, hessian = outcome.gradient, outcome.hessian
    if gradient is None and hessian is None:
        return True
    n = _n_atoms(outcome)
    return (gradient is None or _is_fit(gradient, (n, 3))) and (
        hessian is None or _is_fit(hessian, (3 * n, 3 * n))
    )


def _is_fit(array: NDArray[Any], shape: tuple[int, int]) -> bool:
    return array.shape == shape and array.dtype == _FLOAT and array.size > 0


def _is_finite(outcome: Outcome) -> bool:
    arrays = (outcome.gradient, outcome.hessian)
    return all(array is None or bool(np.isfinite(array).all()) for array in arrays)


def _n_atoms(outcome: Outcome) -> int:
    """Return the number of atoms of a task that has an array, 0 of any other."""
    for array, n_rows in ((outcome.gradient, 1), (outcome.hessian, 3)):
        if array is not None:
            return len(array) // n_rows if array.ndim else 0
    return 0


def _kind(outcome: Outcome) -> tuple[Any, ...]:
    """Return what the tasks of a batch have in common: origin, gradient, Hessian."""
    o = outcome
    origin = o.host, o.rank, o.n_threads, o.program, o.version
    return origin, o.gradient is not None, o.hessian is not None


def _batches(outcomes: Iterable[Outcome], space: int | None = None) -> list[Batch]:
    """Put what columns can hold into batches of what is alike."""
    alike: dict[tuple[int, tuple[Any, ...]], list[Outcome]] = {}
    for each in outcomes:
        alike.setdefault((each.space if space is None else space, _kind(each)), []).append(each)
    return [_batch(of, kind, _columns(many)) for (of, kind), many in alike.items()]


def _columns(outcomes: Sequence[Outcome]) -> tuple[bytes, bytes]:
    columns = list(map(_written, outcomes))
    return b"".join(row for row, _ in columns), b"".join(array for _, array in columns)


def _written(o: Outcome) -> tuple[bytes, bytes]:
    """Return a row of the table, and the arrays."""
    array = b"" if o.gradient is None else o.gradient.tobytes()
    if o.hessian is not None:
        array += o.hessian.tobytes()
    place = o.task, o.peak_bytes, o.slot, _n_atoms(o)
    return _row(*place, o.start_s, o.seconds, o.cpu_s, o.energy_hartree), array


def _batch(space: int, kind: tuple[Any, ...], columns: Sequence[bytes]) -> Batch:
    origin, has_gradient, has_hessian = kind
    numbers = np.frombuffer(columns[1], dtype=_FLOAT)
    return Batch(space, Origin(*origin), has_gradient, has_hessian, _table(columns[0]), numbers)


def _table(data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, dtype=ROW)
