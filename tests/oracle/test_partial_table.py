"""The table of a run that lacks results, against QCManyBody's own sums of what there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qcmanybody.utils import modelchem_labels, print_nbody_energy

from qcmb_mpi import schema
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.schema.result import n_body_tables
from tests.expansion_cases import Components, make_space, random_case, random_components
from tests.oracle.test_core_random import stock_core, stock_results

COLUMNS = re.compile(r"missing|N/A|-?\d+\.\d{12}")


@dataclass
class Partial:
    """Energies of which some are NaN."""

    energy: NDArray[np.float64]

    def energies(self, block: Block, *, allow_missing: bool = False) -> NDArray[np.float64]:
        assert allow_missing
        return self.energy[block.start : block.ids.stop]


def drawn(rng: np.random.Generator) -> tuple[dict[str, Any], TaskSpace, Components]:
    """Draw an expansion with tasks and their energies, of a size that real ones have."""
    while True:
        case: dict[str, Any] = random_case(rng)
        space = make_space(**case)
        if space.n_tasks:
            components = random_components(space, rng)
            energies = rng.normal(size=space.n_tasks) - 10.0
            components.values = {"energy": [np.float64(each) for each in energies]}  # type: ignore[dict-item]
            return case, space, components


def with_missing(components: Components, missing: NDArray[np.int64]) -> NDArray[np.float64]:
    energies = np.array(components.values["energy"], dtype=np.float64)
    energies[missing] = np.nan
    return energies


def some(rng: np.random.Generator, space: TaskSpace) -> NDArray[np.int64]:
    """Draw tasks that are missing: often few, sometimes a whole block."""
    if rng.random() < 0.3:
        block = space.blocks[int(rng.integers(len(space.blocks)))]
        return np.arange(block.start, block.ids.stop)
    n_missing = int(rng.integers(1, 1 + min(4, space.n_tasks)))
    return rng.choice(space.n_tasks, n_missing, replace=False)


def stock_tables(case: dict[str, Any], space: TaskSpace, components: Components) -> str:
    """Print the tables from stock's own analysis."""
    core = stock_core(case)
    bodies: dict[str, dict[int, float]] = {}
    for key, value in stock_results(core, space, components)["energy_body_dict"].items():
        nbody, bsse = re.fullmatch(r"(\d+)(\w+)", key).groups()  # type: ignore[union-attr]
        bodies.setdefault(bsse, {})[int(nbody)] = value
    beyond = max(n for n in case["levels"] if n != "supersystem")
    return "".join(
        print_nbody_energy(
            bodies[bsse.value],
            f"{bsse.formal()} ({bsse.abbr()})",
            core.nfragments,
            modelchem_labels(core.nbodies_per_mc_level, presorted=True),
            False,
            case["is_ends_only"],
            beyond if "supersystem" in case["levels"] else None,
        )
        for bsse in core.bsse_type
    )


def entries(table: str) -> list[str]:
    """Return the columns of all rows, in order."""
    rows = [line for line in table.splitlines() if re.match(r" .{17}\d  ", line)]
    return [column for row in rows for column in COLUMNS.findall(row)]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_is_what_stock_can_compute(seed: int) -> None:
    rng = np.random.default_rng([seed, 7])
    for _ in range(20):
        case, space, components = drawn(rng)
        energies = with_missing(components, some(rng, space))
        found = schema.partial_table(space, Partial(energies))
        lacking = Components(space, {"energy": list(energies)})
        stock = stock_tables(case, space, lacking)
        assert found.startswith(stock.replace(" " * 17 + "nan", f"{'missing':>20}"))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_is_that_of_the_complete_table_and_depends_on_nothing_missing(
    seed: int,
) -> None:
    rng = np.random.default_rng([seed, 8])
    n_shown = n_hidden = 0
    for _ in range(20):
        _, space, components = drawn(rng)
        missing = some(rng, space)
        partial = entries(schema.partial_table(space, Partial(with_missing(components, missing))))
        complete = entries(n_body_tables(space.expansion, assemble(space, components)))
        moved = with_missing(components, missing)
        moved[missing] = rng.normal(size=len(missing)) * 1e3
        changed = entries(
            n_body_tables(
                space.expansion, assemble(space, Components(space, {"energy": list(moved)}))
            )
        )
        assert len(partial) == len(complete) == len(changed)
        for shown, whole, other in zip(partial, complete, changed, strict=True):
            if shown == "missing":
                n_hidden += 1
            else:
                n_shown += shown != "N/A"
                assert shown == whole == other
    assert n_shown > 50
    assert n_hidden > 50


@pytest.mark.parametrize("bsse", [("nocp",), ("cp",), ("vmfc",), ("nocp", "cp", "vmfc")])
def test_every_hidden_total_changes_with_what_is_missing(bsse: tuple[str, ...]) -> None:
    rng = np.random.default_rng(3)
    space = make_space((1, 2, 1, 1, 1), dict.fromkeys((1, 2, 3), "mc"), bsse)
    components = random_components(space, rng)
    whole = assemble(space, components).body_dict["energy"]
    for task in range(space.n_tasks):
        moved = np.array(components.values["energy"], dtype=np.float64)
        moved[task] += 1e6
        lacking = with_missing(components, np.array([task]))
        changed, partial = (
            assemble(space, Components(space, {"energy": list(each)})).body_dict["energy"]
            for each in (moved, lacking)
        )
        for name, through in whole.items():
            for nbody, energy in through.items():
                is_hidden = bool(np.isnan(partial[name][nbody]))
                assert is_hidden == (abs(changed[name][nbody] - energy) > 1.0)


def test_with_nothing_missing_it_is_the_complete_table() -> None:
    rng = np.random.default_rng(11)
    for _ in range(50):
        case, space, components = drawn(rng)
        energies = np.array(components.values["energy"], dtype=np.float64)
        complete = n_body_tables(space.expansion, assemble(space, components))
        assert schema.partial_table(space, Partial(energies)) == complete
        assert complete == stock_tables(case, space, components)


def test_what_is_missing_is_named() -> None:
    levels = {1: "hi", 2: "lo", "supersystem": "ss"}
    space = make_space((1,) * 5, levels, ("cp",))  # type: ignore[arg-type]
    energies = np.full(space.n_tasks, -1.0)
    wanted = {}
    for block in space.blocks:
        energies[block.start] = np.nan
        label = space.expansion.model_chemistries[block.model_chemistry].label
        wanted[label, block.n_real, block.n_basis] = block.n_tasks
    table = schema.partial_table(space, Partial(energies))
    notes = [line for line in table.splitlines() if line.startswith("   missing")]
    assert len(notes) == len(wanted)
    assert '   missing 1 of 10 results: "lo", 2-body with the basis functions of 3 more' in notes
    assert '   missing 1 of 1 results: "ss", supersystem' in notes
    assert '   missing 1 of 5 results: "hi", 1-body' in notes
