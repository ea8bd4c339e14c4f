"""Random component values through our assembly and through stock ``ManyBodyCore.analyze``."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from qcelemental.models.v2 import Molecule
from qcmanybody.core import ManyBodyCore
from qcmanybody.utils import labeler

from qcmb_mpi.expansion.assembly import ManyBodyNumbers, assemble, expand
from qcmb_mpi.expansion.plan import TaskSpace
from tests.expansion_cases import Components, make_space, random_case, random_components


@functools.cache
def molecule(sizes: tuple[int, ...]) -> Molecule:
    ends = np.cumsum(sizes)
    n_atoms = int(ends[-1])
    return Molecule(
        symbols=["He"] * n_atoms,
        geometry=[[0.0, 0.0, 4.0 * atom] for atom in range(n_atoms)],
        fragments=[list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)],
        fragment_charges=[0.0] * len(sizes),
        fragment_multiplicities=[1] * len(sizes),
        molecular_charge=0.0,
        molecular_multiplicity=1,
    )


def stock_core(case: dict[str, Any]) -> ManyBodyCore:
    return ManyBodyCore(
        molecule(case["sizes"]),
        list(case["bsse"]),
        case["levels"],
        return_total_data=case["is_total"],
        supersystem_ie_only=case["is_ends_only"],
        embedding_charges={},
    )


def stock_labels(core: ManyBodyCore) -> set[str]:
    return {
        labeler(mc, real, basis)
        for mc, lists in core.compute_map.items()
        for clusters in lists["all"].values()
        for real, basis in clusters
    }


def stock_results(core: ManyBodyCore, space: TaskSpace, components: Components) -> dict[str, Any]:
    as_stock = {"energy": float, "gradient": np.asarray, "hessian": np.asarray}
    return core.analyze(
        {
            label: {name: as_stock[name](rows[task]) for name, rows in components.values.items()}
            for task, label in enumerate(space.labels(np.arange(space.n_tasks)))
        }
    )


def assert_same_energies(numbers: ManyBodyNumbers, stock: dict[str, Any]) -> None:
    ours = {
        f"{nbody}{bsse}": value
        for bsse, through in numbers.body_dict["energy"].items()
        for nbody, value in through.items()
    }
    assert numbers.ret["energy"] == stock["ret_energy"]
    assert ours == stock["energy_body_dict"]
    assert list(ours) == list(stock["energy_body_dict"])


def assert_close_arrays(numbers: ManyBodyNumbers, stock: dict[str, Any], name: str) -> None:
    np.testing.assert_allclose(numbers.ret[name], stock[f"ret_{name}"], rtol=0, atol=1e-12)
    assert numbers.body_dict[name].keys() == stock[f"{name}_body_dict"].keys()
    for bsse, through in numbers.body_dict[name].items():
        assert through.keys() == stock[f"{name}_body_dict"][bsse].keys()
        for nbody, value in through.items():
            reference = stock[f"{name}_body_dict"][bsse][nbody]
            np.testing.assert_allclose(value, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_energies_have_the_same_bits_and_the_tasks_are_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(80):
        case: dict[str, Any] = random_case(rng)
        core, space = stock_core(case), make_space(**case)
        labels = space.labels(np.arange(space.n_tasks))
        assert len(labels) == len(set(labels))
        assert set(labels) == stock_labels(core)
        assert list(space.expansion.levels.model_chemistries) == list(core.nbodies_per_mc_level)
        assert [bsse.value for bsse in space.expansion.bsse] == [b.value for b in core.bsse_type]
        components = random_components(space, rng)
        stock = stock_results(core, space, components)
        assert_same_energies(assemble(space, components), stock)


@pytest.mark.parametrize("seed", range(10))
def test_gradients_agree(seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    for _ in range(40):
        case: dict[str, Any] = random_case(rng)
        space = make_space(**case)
        if space.n_tasks == 0:
            continue
        components = random_components(space, rng, ["energy", "gradient"])
        numbers = assemble(space, components)
        stock = stock_results(stock_core(case), space, components)
        assert_same_energies(numbers, stock)
        assert_close_arrays(numbers, stock, "gradient")


@pytest.mark.parametrize("seed", range(10))
def test_hessians_agree(seed: int) -> None:
    rng = np.random.default_rng([seed, 2])
    for _ in range(4):
        case: dict[str, Any] = random_case(rng)
        case["sizes"] = tuple(min(size, 2) for size in case["sizes"])
        space = make_space(**case)
        if space.n_tasks == 0:
            continue
        components = random_components(space, rng, ["energy", "gradient", "hessian"])
        numbers = assemble(space, components)
        stock = stock_results(stock_core(case), space, components)
        assert_close_arrays(numbers, stock, "gradient")
        assert_close_arrays(numbers, stock, "hessian")


def test_padded_arrays_are_those_of_the_component_properties() -> None:
    case: dict[str, Any] = {
        "sizes": (1, 3, 2),
        "levels": {1: "hi", 2: "hi"},
        "bsse": ("vmfc", "cp"),
        "is_total": True,
        "is_ends_only": False,
    }
    space = make_space(**case)
    components = random_components(
        space, np.random.default_rng(5), ["energy", "gradient", "hessian"]
    )
    stock = stock_results(stock_core(case), space, components)["component_properties"]
    for task, label in enumerate(space.labels(np.arange(space.n_tasks))):
        block = space.blocks[int(space.block_of([task])[0])]
        for name in ("gradient", "hessian"):
            padded = expand(space, block, task - block.start, components.values[name][task])
            np.testing.assert_array_equal(padded, stock[label][f"return_{name}"])


def test_an_expansion_without_tasks_gives_the_zeros_of_stock() -> None:
    case: dict[str, Any] = {
        "sizes": (1, 1, 1),
        "levels": {1: "hi"},
        "bsse": ("cp",),
        "is_total": False,
        "is_ends_only": False,
    }
    space = make_space(**case)
    assert space.n_tasks == 0
    numbers = assemble(space, random_components(space, np.random.default_rng(0)))
    assert_same_energies(numbers, stock_core(case).analyze({}))


@pytest.mark.parametrize("label", ['a "quoted" name', "hf/6-31G*", "é§_(1)", "(auto)", "a@b"])
def test_labels_are_those_of_labeler_whatever_the_name(label: str) -> None:
    space = make_space((1, 2, 1), {1: label, 2: label}, ["vmfc", "cp"])
    ids = np.arange(space.n_tasks)
    clusters = space.clusters(ids)
    expected = [
        labeler(label, real, basis)
        for real, basis in zip(clusters.real, clusters.basis, strict=True)
    ]
    assert space.labels(ids) == expected
    assert space.ids_of_labels(expected).tolist() == ids.tolist()
