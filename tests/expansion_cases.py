"""Small systems, expansions and component values for the tests of the expansion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion.levels import Expansion, Levels, complete_bsse
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.system import ModelChemistry, System

ALL = frozenset({"energy", "gradient", "hessian"})
TREATMENTS = ("nocp", "cp", "vmfc")
BSSE_CHOICES = [order for size in (1, 2, 3) for order in itertools.permutations(TREATMENTS, size)]


def make_system(
    sizes: Sequence[int], *, symbols: Sequence[str] | None = None, **changes: object
) -> System:
    """Make fragments of helium (or given) atoms on a line."""
    n_atoms = sum(sizes)
    geometry = np.zeros((n_atoms, 3))
    geometry[:, 2] = 4.0 * np.arange(n_atoms)
    fields: dict[str, object] = {
        "symbols": tuple(symbols or ["He"] * n_atoms),
        "atomic_numbers": np.full(n_atoms, 2),
        "masses": np.full(n_atoms, 4.00260325413),
        "mass_numbers": np.full(n_atoms, 4),
        "geometry_bohr": geometry,
        "fragment_sizes": tuple(sizes),
        "fragment_charges": (0.0,) * len(sizes),
        "fragment_multiplicities": (1,) * len(sizes),
    }
    return System(**(fields | changes))  # type: ignore[arg-type]


def make_space(
    sizes: Sequence[int],
    levels: Mapping[int | str, str],
    bsse: Sequence[str] = ("nocp",),
    *,
    is_total: bool = True,
    is_ends_only: bool = False,
    driver: str = "energy",
    system: System | None = None,
) -> TaskSpace:
    """Plan an expansion whose model chemistries have made-up fingerprints."""
    system = system or make_system(sizes)
    ordered = Levels.from_mapping(levels)
    chemistries = tuple(
        ModelChemistry(label, "toy", driver, {}, f"fingerprint of {label}")
        for label in ordered.model_chemistries
    )
    treatments = complete_bsse(bsse, ordered, system.n_fragments)
    return TaskSpace(
        Expansion(system, ordered, treatments, is_total, is_ends_only, driver, chemistries)
    )


class Components:
    """Component values in memory, given out in portions of any size."""

    def __init__(
        self,
        space: TaskSpace,
        values: Mapping[str, list[NDArray[np.float64]]],
        *,
        portion: int = 7,
    ) -> None:
        self.space = space
        self.values = values
        self.portion = portion
        self.properties = frozenset(values)

    def energies(self, block: Block) -> NDArray[np.float64]:
        """Give a block's energies."""
        return np.array(self.values["energy"][block.start : block.ids.stop], dtype=np.float64)

    def arrays(
        self, block: Block, name: str
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float64]]]]:
        """Give a block's arrays portion by portion."""
        for start in range(0, block.n_tasks, self.portion):
            ranks = np.arange(start, min(start + self.portion, block.n_tasks))
            yield ranks, [self.values[name][block.start + rank] for rank in ranks.tolist()]


def random_components(
    space: TaskSpace, rng: np.random.Generator, properties: Sequence[str] = ("energy",)
) -> Components:
    """Draw values of natural size for every task."""
    sizes = np.array(space.expansion.system.fragment_sizes)
    ids = np.arange(space.n_tasks)
    n_atoms = [int(sizes[np.array(basis) - 1].sum()) for basis in space.clusters(ids).basis]
    shapes: dict[str, Callable[[int], tuple[int, ...]]] = {
        "energy": lambda _: (),
        "gradient": lambda n: (n, 3),
        "hessian": lambda n: (3 * n, 3 * n),
    }
    values = {
        name: [np.asarray(rng.normal(size=shapes[name](n))) for n in n_atoms] for name in properties
    }
    if "energy" in values and space.n_tasks:
        # Many orders of magnitude, so that any difference of order or rounding shows.
        scale = 10.0 ** rng.uniform(-6, 3, size=space.n_tasks)
        values["energy"] = list(np.array(values["energy"]) * scale)
    return Components(space, values)


def cluster_energies(space: TaskSpace, energy: Callable[[tuple[int, ...]], float]) -> Components:
    """Evaluate a potential that knows only the real fragments."""
    real = space.clusters(np.arange(space.n_tasks)).real
    return Components(space, {"energy": [np.float64(energy(row)) for row in real]})  # type: ignore[misc]


def random_case(rng: np.random.Generator) -> dict[str, object]:
    """Draw the parameters of an expansion that stock QCManyBody accepts."""
    n_fragments = int(rng.integers(2, 7))
    sizes = tuple(rng.integers(1, 4, size=n_fragments).tolist())
    max_nbody = int(rng.integers(1, n_fragments + 1))
    n_labels = int(rng.integers(1, max_nbody + 1)) if rng.random() < 0.6 else 1
    cuts = np.sort(rng.choice(np.arange(1, max_nbody), size=n_labels - 1, replace=False))
    names = rng.permutation([f"mc{letter}" for letter in "abcdef"]).tolist()
    levels: dict[int | str, str] = {
        nbody: names[int(np.searchsorted(cuts, nbody, side="left"))]
        for nbody in range(1, max_nbody + 1)
    }
    if rng.random() < 0.3:
        levels["supersystem"] = "ss"
    may_skip = max_nbody == n_fragments and len(set(levels.values())) == 1
    return {
        "sizes": sizes,
        "levels": levels,
        "bsse": BSSE_CHOICES[int(rng.integers(len(BSSE_CHOICES)))],
        "is_total": bool(rng.random() < 0.5),
        "is_ends_only": may_skip and bool(rng.random() < 0.5),
    }
