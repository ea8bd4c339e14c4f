#!/usr/bin/env python3
"""Make the molecular clusters that examples, tests and benchmarks use.

Monomers are packed at random, from a seed, into a sphere, and relaxed with GFN2-xTB (tblite) by
SciPy's L-BFGS-B. The cluster with a radical, which GFN2-xTB binds far too closely, is relaxed with
UHF/6-31G* (PySCF). ``python make_geometries.py`` makes every cluster again; ``--check NAME`` makes
one in memory and compares it with the file.

Rules of this file
------------------
1. Every random number comes from one ``numpy.random.Generator`` seeded in :data:`CLUSTERS`.
2. A cluster whose monomers reacted, or touch, is an error, never a file.
3. Files are written with fixed decimals, so equal runs give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one summation order: reproducible digits

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Surface = Callable[[Array], tuple[float, Array]]  # flat coordinates -> energy, flat gradient

BOHR_ANGSTROM = 0.52917721067  # CODATA 2014, the value QCElemental uses
HERE = Path(__file__).resolve().parent
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "Na": 11, "Cl": 17}
CONTACT_ANGSTROM = {True: 1.75, False: 2.6}  # smallest distance when packing; True: H is involved
SMALLEST_CONTACT_ANGSTROM = 1.5  # between relaxed monomers


@dataclass(frozen=True, slots=True)
class Monomer:
    """One kind of fragment: symbols, starting coordinates in Angstrom, charge, multiplicity."""

    symbols: tuple[str, ...]
    geometry_angstrom: tuple[tuple[float, float, float], ...]
    charge: int = 0
    multiplicity: int = 1


MONOMERS = {
    "water": Monomer(("O", "H", "H"), ((0.0, 0.0, 0.0), (0.757, 0.587, 0.0), (-0.757, 0.587, 0.0))),
    "hydroxyl": Monomer(("O", "H"), ((0.0, 0.0, 0.0), (0.97, 0.0, 0.0)), multiplicity=2),
    "sodium": Monomer(("Na",), ((0.0, 0.0, 0.0),), charge=1),
    "chloride": Monomer(("Cl",), ((0.0, 0.0, 0.0),), charge=-1),
    "methane": Monomer(
        ("C", "H", "H", "H", "H"),
        (
            (0.0, 0.0, 0.0),
            (0.629, 0.629, 0.629),
            (-0.629, -0.629, 0.629),
            (-0.629, 0.629, -0.629),
            (0.629, -0.629, -0.629),
        ),
    ),
    "methanol": Monomer(
        ("C", "O", "H", "H", "H", "H"),
        (
            (-0.047, 0.664, 0.0),
            (-0.047, -0.758, 0.0),
            (-1.093, 0.970, 0.0),
            (0.438, 1.071, 0.889),
            (0.438, 1.071, -0.889),
            (0.861, -1.057, 0.0),
        ),
    ),
    "formamide": Monomer(
        ("C", "O", "N", "H", "H", "H"),
        (
            (0.0, 0.0, 0.0),
            (1.20, 0.20, 0.0),
            (-0.94, 0.98, 0.0),
            (-0.40, -1.03, 0.0),
            (-0.64, 1.94, 0.0),
            (-1.92, 0.74, 0.0),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one cluster is made.

    Parameters
    ----------
    monomers : tuple of str
        Kinds, in order; an ion or radical comes first and sits at the centre.
    seed : int
        Seed of the packing.
    max_iterations : int
        Cap on relaxation steps.
    gradient_tolerance : float
        Largest gradient component that ends the relaxation, E_h/a0.
    accuracy : float
        tblite's: multiplies its thresholds of self-consistency.
    method : str
        ``GFN2-xTB`` or ``UHF/6-31G*``.
    """

    monomers: tuple[str, ...]
    seed: int
    max_iterations: int = 3000
    gradient_tolerance: float = 1e-9
    accuracy: float = 1e-4
    method: str = "GFN2-xTB"


CLUSTERS = {
    "water-2": Recipe(("water",) * 2, seed=2),
    "water-3": Recipe(("water",) * 3, seed=3),
    "water-6": Recipe(("water",) * 6, seed=6),
    "water-8": Recipe(("water",) * 8, seed=8),
    "water-16": Recipe(("water",) * 16, 16, 1500, 1e-4, 0.1),
    "water-32": Recipe(("water",) * 32, 32, 1500, 5e-4, 0.1),
    "water-64": Recipe(("water",) * 64, 64, 800, 5e-4, 0.1),
    "sodium-water-4": Recipe(("sodium",) + ("water",) * 4, seed=11),
    "chloride-water-3": Recipe(("chloride",) + ("water",) * 3, seed=17),
    "hydroxyl-water-2": Recipe(
        ("hydroxyl",) + ("water",) * 2, 3, gradient_tolerance=1e-6, method="UHF/6-31G*"
    ),
    "mixed-organic-4": Recipe(("formamide", "methanol", "water", "methane"), seed=4),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A finished cluster; coordinates in bohr, energy in hartree."""

    name: str
    seed: int
    monomers: tuple[Monomer, ...]
    geometry_bohr: Array
    energy_hartree: float

    @property
    def symbols(self) -> list[str]:
        return [symbol for monomer in self.monomers for symbol in monomer.symbols]

    @property
    def comment(self) -> str:
        command = f"python geometries/make_geometries.py {self.name}"
        energy = f"{CLUSTERS[self.name].method} {self.energy_hartree:.8f} E_h"
        return f"{self.name}; seed {self.seed}; {command}; {energy}"


def random_rotation(rng: np.random.Generator) -> Array:
    """Draw a rotation uniformly, from a random unit quaternion."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def pack(monomers: tuple[Monomer, ...], rng: np.random.Generator) -> Array:
    """Place monomers one by one inside a sphere, with no two in contact.

    Returns
    -------
    ndarray, shape (n_atoms, 3)
        Coordinates in Angstrom.
    """
    n_heavy = sum(symbol != "H" for monomer in monomers for symbol in monomer.symbols)
    radius = (3 * 40.0 * n_heavy / (4 * np.pi)) ** (1 / 3)  # 40 A^3 for each heavy atom
    placed: list[Array] = []
    is_hydrogen: list[bool] = []
    for monomer in monomers:
        shape = np.array(monomer.geometry_angstrom)
        hydrogens = [symbol == "H" for symbol in monomer.symbols]
        while True:
            direction = rng.normal(size=3)
            centre = direction / np.linalg.norm(direction) * radius * rng.random() ** (1 / 3)
            atoms = shape @ random_rotation(rng).T + (centre if placed else 0.0)
            if _is_clear(atoms, hydrogens, placed, is_hydrogen):
                break
        placed.extend(atoms)
        is_hydrogen.extend(hydrogens)
    return np.array(placed)


def _is_clear(
    atoms: Array, hydrogens: list[bool], placed: list[Array], is_hydrogen: list[bool]
) -> bool:
    if not placed:
        return True
    distances = np.linalg.norm(atoms[:, None] - np.array(placed)[None], axis=2)
    with_hydrogen = np.logical_or.outer(hydrogens, is_hydrogen)
    limits = np.where(with_hydrogen, CONTACT_ANGSTROM[True], CONTACT_ANGSTROM[False])
    return bool((distances > limits).all())


def relax(name: str, recipe: Recipe, start_bohr: Array) -> tuple[Array, float]:
    """Relax by the recipe's method; return coordinates in bohr and the energy in hartree."""
    from scipy.optimize import minimize

    surface = _gfn2_xtb if recipe.method == "GFN2-xTB" else _uhf
    answer = minimize(
        surface(recipe, start_bohr),
        start_bohr.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": recipe.max_iterations,
            "maxfun": 4 * recipe.max_iterations,
            "gtol": recipe.gradient_tolerance,
            "ftol": 0.0,
            "maxcor": 30,
        },
    )
    largest = np.abs(answer.jac).max()
    print(f"{name}: {answer.nit} steps, largest gradient {largest:.1e} E_h/a0", file=sys.stderr)
    return answer.x.reshape(-1, 3), float(answer.fun)


def _gfn2_xtb(recipe: Recipe, start_bohr: Array) -> Surface:
    from tblite.interface import Calculator

    monomers = [MONOMERS[kind] for kind in recipe.monomers]
    numbers = np.array([ATOMIC_NUMBERS[s] for monomer in monomers for s in monomer.symbols])
    calculator = Calculator(
        "GFN2-xTB",
        numbers,
        start_bohr,
        charge=float(sum(monomer.charge for monomer in monomers)),
        uhf=sum(monomer.multiplicity - 1 for monomer in monomers),
    )
    calculator.set("verbosity", 0)
    calculator.set("accuracy", recipe.accuracy)
    last = None

    def energy_and_gradient(flat: Array) -> tuple[float, Array]:
        nonlocal last
        calculator.update(flat.reshape(-1, 3))
        last = calculator.singlepoint(last)  # from the last density: half the time
        return float(last.get("energy")), np.ravel(last.get("gradient"))

    return energy_and_gradient


def _uhf(recipe: Recipe, start_bohr: Array) -> Surface:
    from pyscf import gto, scf

    monomers = [MONOMERS[kind] for kind in recipe.monomers]
    symbols = [symbol for monomer in monomers for symbol in monomer.symbols]
    mol = gto.M(
        atom=list(zip(symbols, start_bohr.tolist(), strict=True)),
        unit="Bohr",
        basis="6-31g*",
        charge=sum(monomer.charge for monomer in monomers),
        spin=sum(monomer.multiplicity - 1 for monomer in monomers),
        verbose=0,
    )
    last = None

    def energy_and_gradient(flat: Array) -> tuple[float, Array]:
        nonlocal last
        mol.set_geom_(flat.reshape(-1, 3), unit="Bohr")
        field = scf.UHF(mol).set(conv_tol=1e-11, conv_tol_grad=1e-6, max_cycle=50)
        energy = float(field.kernel(last))
        if not field.converged:  # the two orbitals of the odd electron are almost degenerate
            field = field.newton()
            energy = float(field.kernel())
        if not field.converged:
            raise SystemExit("the SCF did not converge; choose another seed")
        last = field.make_rdm1()
        return energy, np.ravel(field.nuc_grad_method().kernel())

    return energy_and_gradient


def make(name: str) -> Cluster:
    """Make one cluster from its recipe."""
    recipe = CLUSTERS[name]
    monomers = tuple(MONOMERS[kind] for kind in recipe.monomers)
    start = pack(monomers, np.random.default_rng(recipe.seed)) / BOHR_ANGSTROM
    geometry, energy = relax(name, recipe, start)
    geometry -= geometry.mean(axis=0)
    cluster = Cluster(name, recipe.seed, monomers, geometry, energy)
    check_chemistry(cluster)
    return cluster


def check_chemistry(cluster: Cluster) -> None:
    """Refuse a cluster whose monomers changed their bonds or overlap."""
    starts = np.vstack([np.array(monomer.geometry_angstrom) for monomer in cluster.monomers])
    owner = np.repeat(np.arange(len(cluster.monomers)), [len(m.symbols) for m in cluster.monomers])
    geometry = cluster.geometry_bohr * BOHR_ANGSTROM
    now = np.linalg.norm(geometry[:, None] - geometry[None], axis=2)
    before = np.linalg.norm(starts[:, None] - starts[None], axis=2)
    same = owner[:, None] == owner[None]
    bonded = same & (before > 0) & (before < 1.6)
    if (now[bonded] > 1.25 * before[bonded]).any():
        raise SystemExit(f"{cluster.name}: a monomer came apart; choose another seed")
    if now[~same].min() < SMALLEST_CONTACT_ANGSTROM:
        closest = f"{now[~same].min():.2f} A between two monomers"
        raise SystemExit(f"{cluster.name}: {closest}; choose another seed or method")


def as_xyz(cluster: Cluster) -> str:
    """Write as XYZ, Angstrom, eight decimals."""
    lines = [str(len(cluster.symbols)), cluster.comment]
    for symbol, xyz in zip(cluster.symbols, cluster.geometry_bohr * BOHR_ANGSTROM, strict=True):
        lines.append(f"{symbol:<2}" + "".join(f" {value + 0.0:13.8f}" for value in xyz))
    return "\n".join(lines) + "\n"


def as_json(cluster: Cluster) -> str:
    """Write as the fields of a QCSchema molecule, bohr, ten decimals."""
    bounds = np.cumsum([0] + [len(monomer.symbols) for monomer in cluster.monomers]).tolist()
    molecule = {
        "name": cluster.name,
        "comment": cluster.comment,
        "symbols": cluster.symbols,
        "geometry": [round(float(x), 10) + 0.0 for x in cluster.geometry_bohr.ravel()],
        "fragments": [list(range(a, b)) for a, b in pairwise(bounds)],
        "fragment_charges": [float(monomer.charge) for monomer in cluster.monomers],
        "fragment_multiplicities": [monomer.multiplicity for monomer in cluster.monomers],
        "molecular_charge": float(sum(monomer.charge for monomer in cluster.monomers)),
        "molecular_multiplicity": 1 + sum(m.multiplicity - 1 for m in cluster.monomers),
        "fix_com": True,
        "fix_orientation": True,
    }
    rows = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in molecule.items())
    return "{\n" + ",\n".join(rows) + "\n}\n"


def deviation_angstrom(cluster: Cluster, path: Path) -> float:
    """Compare with a file: largest displacement of an atom after superposition, Angstrom."""
    kept = np.array(json.loads(path.read_text(encoding="utf-8"))["geometry"]).reshape(-1, 3)
    made = cluster.geometry_bohr
    u, _, vt = np.linalg.svd(made.T @ kept)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return float(np.linalg.norm(made @ (u @ vt) - kept, axis=1).max() * BOHR_ANGSTROM)


def check(name: str, folder: Path, tolerance_angstrom: float) -> bool:
    """Make a cluster again and say whether the file holds the same one."""
    deviation = deviation_angstrom(make(name), folder / f"{name}.json")
    is_same = deviation <= tolerance_angstrom
    print(f"{name}: {'same' if is_same else 'DIFFERENT'}, largest deviation {deviation:.1e} A")
    return is_same


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 if all was made, or is as in the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLUSTERS)}")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files; write nothing"
    )
    parser.add_argument("--tolerance", type=float, default=1e-6, metavar="ANGSTROM")
    parser.add_argument("-o", "--output", type=Path, default=HERE, metavar="DIR")
    options = parser.parse_args(argv)
    names = options.names or list(CLUSTERS)
    for name in names:
        if name not in CLUSTERS:
            parser.error(f"no cluster {name!r}; there are {', '.join(CLUSTERS)}")
    if options.check:
        same = [check(name, options.output, options.tolerance) for name in names]
        return 0 if all(same) else 1
    for name in names:
        cluster = make(name)
        for suffix, text in ((".xyz", as_xyz(cluster)), (".json", as_json(cluster))):
            (options.output / f"{name}{suffix}").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
