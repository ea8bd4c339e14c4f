"""Results: equal to stock QCManyBody's field by field, written whole, verified by stock."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import qcengine
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
import qcmanybody.v1
import qcmanybody.v2
from qcelemental.models.v2 import AtomicResult, Molecule
from qcengine.programs.model import ProgramHarness

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError, StoreError
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.schema import reading
from qcmb_mpi.schema.result import nuclear_repulsion

PROGRAM = "closedform"
BSSE = [["nocp"], ["cp"], ["vmfc"], ["nocp", "cp", "vmfc"], ["vmfc", "cp"], ["cp", "nocp"]]
LEVELS: list[dict[str, Any]] = [
    {},
    {"max_nbody": 1},
    {"max_nbody": 2},
    {"levels": {1: "high", 2: "low"}},
    {"levels": {1: "high", 3: "low"}},
    {"levels": {2: "high", "supersystem": "low"}},
    {"levels": {1: "high", 2: "middle", "supersystem": "low"}},
    {"levels": {3: "middle"}},
]


@pytest.mark.parametrize("name", ["water-64", "mixed-organic-4", "sodium-water-4"])
@pytest.mark.parametrize("n_ghosts", [0, 5])
def test_nuclear_repulsion_has_the_bits_of_qcelemental(name: str, n_ghosts: int) -> None:
    path = Path(__file__).resolve().parents[2] / "geometries" / f"{name}.json"
    molecule = Molecule(**json.loads(path.read_text(encoding="utf-8")))
    is_real = [True] * (len(molecule.symbols) - n_ghosts) + [False] * n_ghosts
    molecule = molecule.model_copy(update={"real_": np.array(is_real)})
    assert int(molecule.real.sum()) == len(is_real) - n_ghosts
    assert nuclear_repulsion(molecule) == molecule.nuclear_repulsion_energy()


# ---- a program in closed form --------------------------------------------------------------


def pair_terms(x: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of w_ij / (1 + r_ij^2 / 4) over pairs i < j, with gradient and Hessian."""
    n = len(x)
    energy, gradient, hessian = 0.0, np.zeros((n, 3)), np.zeros((n, 3, n, 3))
    for i, j in itertools.combinations(range(n), 2):
        if weights[i, j] == 0.0:
            continue
        d = x[i] - x[j]
        q = 1.0 + d @ d / 4
        energy += weights[i, j] / q
        first, second = -weights[i, j] / (4 * q**2), weights[i, j] / (8 * q**3)
        gradient[i] += 2 * first * d
        gradient[j] -= 2 * first * d
        block = 4 * second * np.outer(d, d) + 2 * first * np.eye(3)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            hessian[a, :, b] += sign * block
    return energy, gradient, hessian.reshape(3 * n, 3 * n)


def potential(molecule: Molecule, method: str) -> tuple[float, np.ndarray, np.ndarray]:
    """One-, two- and three-body terms of real atoms, and a small lowering by ghost atoms."""
    scale = 1.0 + 0.1 * len(method)
    charge = molecule.atomic_numbers * scale
    real = np.where(molecule.real, charge, 0.0)
    ghost = np.where(molecule.real, 0.0, charge)
    pairs = np.outer(real, real) - 0.01 * (np.outer(real, ghost) + np.outer(ghost, real))
    energy, gradient, hessian = pair_terms(molecule.geometry, pairs)
    energy -= float(np.sum(real**2))
    for atom, weight in enumerate(0.02 * real):
        row = np.zeros_like(pairs)
        row[atom, :] = row[:, atom] = real
        row[atom, atom] = 0.0
        density, slope, curve = pair_terms(molecule.geometry, row)
        energy += weight * density**2
        gradient += 2 * weight * density * slope
        hessian += 2 * weight * (np.outer(slope, slope) + density * curve)
    return float(energy), gradient, hessian


class ClosedForm(ProgramHarness):
    _defaults: ClassVar[dict[str, Any]] = {
        "name": PROGRAM,
        "scratch": False,
        "thread_safe": True,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        return True

    def get_version(self) -> str:
        return "1.0"

    def compute(self, input_data: Any, config: Any) -> AtomicResult:
        atomic = input_data.specification
        energy, gradient, hessian = potential(input_data.molecule, atomic.model.method)
        n_atoms = len(input_data.molecule.symbols)
        properties: dict[str, Any] = {"calcinfo_natom": n_atoms, "return_energy": energy}
        if atomic.driver.value != "energy":
            properties["return_gradient"] = gradient
        if atomic.driver.value == "hessian":
            properties["return_hessian"] = hessian
        return AtomicResult(
            input_data=input_data,
            molecule=input_data.molecule,
            properties=properties,
            return_result=properties[f"return_{atomic.driver.value}"],
            provenance={"creator": PROGRAM, "version": "1.0", "routine": "potential"},
            stdout="closed form",
            success=True,
        )


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    qcengine.register_program(ClosedForm())
    yield
    qcengine.unregister_program(PROGRAM)


def test_potential_has_the_derivatives_it_claims() -> None:
    rng = np.random.default_rng(7)
    base = Molecule(**molecule(), geometry=rng.normal(scale=3.0, size=12), validate=True)
    step = 1e-4
    for atom, axis in itertools.product(range(4), range(3)):
        moved = []
        for sign in (1, -1):
            shifted = base.geometry.copy()
            shifted[atom, axis] += sign * step
            moved.append(potential(base.model_copy(update={"geometry": shifted}), "x"))
        slope = (moved[0][0] - moved[1][0]) / (2 * step)
        curve = (moved[0][1] - moved[1][1]).ravel() / (2 * step)
        _, gradient, hessian = potential(base, "x")
        assert gradient[atom, axis] == pytest.approx(slope, abs=1e-5)
        np.testing.assert_allclose(hessian[3 * atom + axis], curve, atol=1e-5)


# ---- inputs and components -----------------------------------------------------------------


def molecule() -> dict[str, Any]:
    return {"symbols": ["He", "H", "F", "Ne"], "fragments": [[0], [1, 2], [3]]}


def document(driver: str, keywords: dict[str, Any], **specification: Any) -> dict[str, Any]:
    names = set((keywords.get("levels") or {1: "(auto)"}).values())
    return {
        "molecule": {
            **molecule(),
            "geometry": [0.0, 0.1, 0.0, 3.0, 0.5, 0.2, 3.1, 2.2, 0.3, -1.0, 3.0, 4.0],
        },
        "specification": {
            "driver": driver,
            "keywords": keywords,
            "specification": {
                name: {"program": PROGRAM, "driver": driver, "model": {"method": name}}
                for name in sorted(names)
            },
            **specification,
        },
    }


def expected_molecules(loaded: schema.LoadedInput) -> dict[str, Molecule]:
    """What stock QCManyBody would compute, by label."""
    core = reading.stock_core(loaded.model)
    return {label: cluster for _, label, cluster in core.iterate_molecules()}


class Components:
    """Results of all tasks, from the closed form at stock's own molecules."""

    def __init__(self, loaded: schema.LoadedInput, space: TaskSpace) -> None:
        driver, molecules = loaded.expansion.driver, expected_molecules(loaded)
        n_derivatives = {"energy": 1, "gradient": 2, "hessian": 3}[driver]
        names = ("energy", "gradient", "hessian")[:n_derivatives]
        self.properties = frozenset(names)
        labels = space.labels(np.arange(space.n_tasks))
        assert sorted(labels) == sorted(molecules)
        methods = [json.loads(label)[0] for label in labels]
        computed = [potential(molecules[k], m) for k, m in zip(labels, methods, strict=True)]
        self._by_task = [dict(zip(names, values, strict=False)) for values in computed]

    def energies(self, block: Block) -> np.ndarray:
        return np.array([self._by_task[task]["energy"] for task in block.ids], dtype=np.float64)

    def arrays(self, block: Block, name: str) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        for start in range(0, block.n_tasks, 2):
            ranks = np.arange(start, min(start + 2, block.n_tasks))
            yield ranks, [self._by_task[block.start + int(rank)][name] for rank in ranks]


class MemoryStore:
    """What verification asks of a store."""

    def __init__(self, loaded: schema.LoadedInput, n_missing: int = 0) -> None:
        self._loaded, self._n_missing = loaded, n_missing

    def attach(self, space_id: int, space: TaskSpace) -> None:
        self._space = space

    def done(self, space_id: int) -> np.ndarray:
        return np.arange(self._space.n_tasks - self._n_missing)

    def values(self, space_id: int) -> Components:
        return Components(self._loaded, self._space)


def ours(data: Any, **options: Any) -> tuple[schema.LoadedInput, Any]:
    loaded = schema.load_input(data)
    space = TaskSpace(loaded.expansion)
    values = Components(loaded, space)
    numbers = assemble(space, values)
    records = list(make_records(loaded, space)) if loaded.wants_records else []
    return loaded, schema.build_result(loaded, space, numbers, values, records[::-1], **options)


def make_records(loaded: schema.LoadedInput, space: TaskSpace) -> Iterator[tuple[int, bytes]]:
    specification = dict(loaded.expansion.model_chemistries[0].specification)
    labels = space.labels(np.arange(space.n_tasks))
    for label, cluster in expected_molecules(loaded).items():
        atomic = {"molecule": cluster, "specification": specification}
        result = qcengine.compute(atomic, PROGRAM, return_version=2)
        yield labels.index(label), result.model_dump_json().encode()


def stock(data: dict[str, Any], version: int = 2) -> Any:
    if version == 1:
        return qcmanybody.v1.ManyBodyComputer.from_manybodyinput(schema_v1.ManyBodyInput(**data))
    return qcmanybody.v2.ManyBodyComputer.from_manybodyinput(schema_v2.ManyBodyInput(**data))


def assert_same(found: Any, expected: Any, path: str = "result") -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict), path
        assert found.keys() == expected.keys(), path
        for key in expected.keys() - {"provenance"}:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=path, strict=True)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected), path
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        kinds = (float, int) if isinstance(expected, float) else type(expected)
        assert isinstance(found, kinds), path
        assert found == expected, path


def is_possible(keywords: dict[str, Any], bsse: list[str]) -> bool:
    # Stock has no data there: interaction of one body in the basis of all (see the next test).
    is_empty = keywords.get("max_nbody") == 1 and bsse == ["cp"]
    return not is_empty


# ---- equal to stock ------------------------------------------------------------------------


@pytest.mark.parametrize("bsse", BSSE, ids="-".join)
@pytest.mark.parametrize("keywords", LEVELS, ids=str)
@pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
def test_result_equals_stock(driver: str, keywords: dict[str, Any], bsse: list[str]) -> None:
    for total in (None, True, False) if driver == "energy" else (None,):
        if total is not True and driver == "energy" and not is_possible(keywords, bsse):
            continue
        asked = {**keywords, "bsse_type": bsse, "return_total_data": total}
        data = document(driver, asked)
        _, result = ours(data)
        assert_same(result.model_dump(), stock(data).model_dump())


@pytest.mark.parametrize("bsse", ["nocp", "cp", ["cp", "nocp"]], ids=str)
@pytest.mark.parametrize("total", [True, False])
def test_supersystem_interaction_only_equals_stock(bsse: Any, total: bool) -> None:
    keywords = {"bsse_type": bsse, "return_total_data": total, "supersystem_ie_only": True}
    data = document("gradient", keywords)
    assert_same(ours(data)[1].model_dump(), stock(data).model_dump())


@pytest.mark.parametrize("bsse", BSSE[:4], ids="-".join)
@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_version_1_input_gives_the_version_1_result_of_stock(driver: str, bsse: list[str]) -> None:
    levels = {1: "high", 2: "low", "supersystem": "middle"}
    data = document(driver, {"bsse_type": bsse, "levels": levels}, extras={"kept": [1, 2]})
    data |= {"schema_name": "qcschema_manybodyinput", "schema_version": 1, "extras": {"mine": 1}}
    loaded, result = ours(data)
    assert loaded.schema_version == 1
    assert isinstance(result, schema_v1.ManyBodyResult)
    assert_same(result.model_dump(), stock(data, 1).model_dump())


@pytest.mark.parametrize("version", [1, 2])
def test_records_are_kept_where_the_protocols_ask(version: int) -> None:
    name = {1: "component_results", 2: "cluster_results"}[version]
    data = document("gradient", {"max_nbody": 2, "bsse_type": "nocp"}, protocols={name: "all"})
    data["schema_version"] = version
    loaded, result = ours(data)
    assert loaded.wants_records
    expected = getattr(stock(data, version), name)
    kept = getattr(result, name)
    assert list(kept) != [], "there are records"
    for label, record in expected.items():
        assert_same(kept[label].model_dump(), record.model_dump(), label)
    assert list(kept) == list(
        getattr(result, {1: "component", 2: "cluster"}[version] + "_properties")
    )


@pytest.mark.parametrize("version", [1, 2])
def test_remedies_are_named_and_change_nothing_else(tmp_path: Path, version: int) -> None:
    data = document("energy", {"bsse_type": "cp"}) | {"schema_version": version}
    files = []
    for remedies in ({}, {"b": 1, "a": 2}):
        schema.write_result(ours(data, remedies=remedies)[1], tmp_path / "out.json")
        files.append((tmp_path / "out.json").read_bytes())
    plain, told = (json.loads(file)["provenance"] for file in files)
    assert told == plain | {"remedies": {"a": 2, "b": 1}}
    assert schema.strip_volatile(files[0]) == schema.strip_volatile(files[1])


def test_model_instances_give_the_same_result_as_plain_data() -> None:
    data = document("energy", {"bsse_type": ["cp", "vmfc"], "max_nbody": 2})
    plain_result = ours(data)[1].model_dump()
    loaded, result = ours(schema_v2.ManyBodyInput(**data))
    assert loaded.original is loaded.model
    assert_same(result.model_dump(), plain_result)


def test_an_expansion_without_tasks_gives_zeros() -> None:
    keywords = {"bsse_type": "cp", "max_nbody": 1, "return_total_data": False}
    _, result = ours(document("gradient", keywords))
    assert result.properties.calcinfo_nmbe == 0
    assert result.properties.return_energy == 0.0
    np.testing.assert_array_equal(result.return_result, np.zeros((4, 3)))


def test_a_single_specification_of_any_name_runs_at_all_levels_under_its_own_label() -> None:
    data = document("energy", {"max_nbody": 2})
    alone = data["specification"]["specification"]
    data["specification"]["specification"] = {"hf": alone["(auto)"] | {"model": {"method": "hf"}}}
    named = document("energy", {"levels": {2: "hf"}})
    first, second = ours(data)[1], ours(named)[1]
    assert first.properties == second.properties
    assert first.cluster_properties == second.cluster_properties
    assert '["hf", [1], [1, 2, 3]]' in first.cluster_properties


def test_embedding_charges_under_the_environment_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    charges = {"1": [0.0], "2": [0.3, -0.3], "3": [0.1]}
    keywords = {"embedding_charges": charges, "bsse_type": "nocp", "return_total_data": True}
    data = document("energy", keywords)
    with pytest.raises(InputError, match=r"embedding_charges: .*QCMANYBODY_EMBEDDING_CHARGES=1"):
        schema.load_input(data)
    monkeypatch.setenv("QCMANYBODY_EMBEDDING_CHARGES", "1")
    loaded, result = ours(data)
    assert loaded.expansion.system.embedding_charges == ((0.0,), (0.3, -0.3), (0.1,))
    assert not [name for name in result.properties.model_dump() if "interaction" in name]
    expected = reading.stock_core(loaded.model)
    space = TaskSpace(loaded.expansion)
    values = Components(loaded, space)
    labels = space.labels(np.arange(space.n_tasks))
    energies = np.concatenate([values.energies(block) for block in space.blocks]).tolist()
    analysis = expected.analyze({k: {"energy": e} for k, e in zip(labels, energies, strict=True)})
    assert result.stdout == analysis["stdout"]
    assert result.return_result == analysis["ret_energy"]


# ---- what is kept of single clusters -------------------------------------------------------


def test_cluster_properties_are_all_kept_while_they_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = document("gradient", {"max_nbody": 2, "bsse_type": "nocp"})
    assert len(ours(data)[1].cluster_properties) == 6
    monkeypatch.setattr("qcmb_mpi.results.CLUSTER_PROPERTIES_BYTES", 1000)
    assert ours(data)[1].cluster_properties == {}
    assert len(ours(data, cluster_properties="all")[1].cluster_properties) == 6
    monkeypatch.undo()
    assert ours(data, cluster_properties="none")[1].cluster_properties == {}
    with pytest.raises(InputError, match=r"--cluster-properties: .*auto, all, none"):
        ours(data, cluster_properties="some")


def test_tables_of_clusters_stand_in_canonical_order() -> None:
    loaded, result = ours(document("energy", {"bsse_type": ["nocp", "cp"]}))
    space = TaskSpace(loaded.expansion)
    assert list(result.cluster_properties) == space.labels(np.arange(space.n_tasks))


# ---- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("driver", ["energy", "hessian"])
def test_result_file_reads_back_as_the_same_model(
    tmp_path: Path, version: int, driver: str
) -> None:
    name = {1: "component_results", 2: "cluster_results"}[version]
    data = document(driver, {"bsse_type": ["cp", "vmfc"]}, protocols={name: "all"})
    data["schema_version"] = version
    _, result = ours(data)
    path = tmp_path / "out.json"
    schema.write_result(result, path)
    model = {1: schema_v1, 2: schema_v2}[version].ManyBodyResult
    again = model(**json.loads(path.read_text()))
    found, expected = again.model_dump(), result.model_dump()
    for content in (found, expected):  # return_result has no shape in QCSchema
        content["return_result"] = np.ravel(content["return_result"])
    assert_same(flat(found), flat(expected))
    schema.write_result(again, tmp_path / "again.json")
    # QCElemental's version 1 gives back what a provenance has of its own in any order.
    written = [(tmp_path / name).read_bytes() for name in ("again.json", "out.json")]
    assert schema.strip_volatile(written[0]) == schema.strip_volatile(written[1])


def flat(value: Any) -> Any:
    """Arrays as flat lists: what no field of QCSchema gives back its shape."""
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return np.ravel(value).tolist() if isinstance(value, np.ndarray) else value


def test_gradients_beyond_four_bodies_can_be_written(tmp_path: Path) -> None:
    data = document("gradient", {"bsse_type": "nocp"})
    data["molecule"] = {
        "symbols": ["He"] * 5,
        "geometry": [x for i in range(5) for x in (3.0 * i, 0.5 * i * i, 0.0)],
        "fragments": [[i] for i in range(5)],
    }
    _, result = ours(data)
    schema.write_result(result, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())["properties"]
    assert len(written["nocp_corrected_5_body_contribution_to_gradient"]) == 15


def test_equal_runs_give_equal_bytes_and_provenance_can_be_stripped(tmp_path: Path) -> None:
    data = document("gradient", {"bsse_type": "vmfc"}, protocols={"cluster_results": "all"})
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        schema.write_result(ours(data)[1], path)
    first, second = (path.read_bytes() for path in paths)
    assert first != second, "records have timings"
    assert schema.strip_volatile(first) == schema.strip_volatile(second)
    left = json.loads(schema.strip_volatile(first))
    assert "provenance" not in left
    assert "provenance" not in left["molecule"]
    assert left["stdout"].count("==> N-Body") == 3
    assert all("stdout" not in record for record in left["cluster_results"].values())


def test_result_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, result = ours(document("energy", {}))
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"out.json: cannot be written: No space left"):
        schema.write_result(result, path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["out.json"]
    monkeypatch.undo()
    schema.write_result(result, path)
    assert json.loads(path.read_text())["success"] is True


def test_result_can_go_to_a_device_and_not_into_a_missing_directory(tmp_path: Path) -> None:
    _, result = ours(document("energy", {}))
    schema.write_result(result, "/dev/null")
    assert not Path("/dev/null").is_file()
    with pytest.raises(InputError, match="No such file or directory"):
        schema.write_result(result, tmp_path / "absent" / "out.json")


def test_table_for_people_is_stock_one_for_each_treatment() -> None:
    data = document("energy", {"bsse_type": ["nocp", "cp"]})
    table = schema.n_body_table(ours(data)[1])
    assert table == stock(data).stdout
    assert "Non-Counterpoise Corrected (NoCP)" in table
    assert "Counterpoise Corrected (CP)" in table


# ---- verification --------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
@pytest.mark.parametrize("version", [1, 2])
def test_verify_agrees_with_a_right_result(tmp_path: Path, driver: str, version: int) -> None:
    keywords = {"bsse_type": ["cp", "vmfc"], "levels": {1: "high", 2: "low", "supersystem": "x"}}
    loaded, result = ours({**document(driver, keywords), "schema_version": version})
    path = tmp_path / "out.json"
    schema.write_result(result, path)
    report = schema.verify(path, MemoryStore(loaded))
    assert report.is_ok
    assert report.n_components == TaskSpace(loaded.expansion).n_tasks
    assert report.n_properties > 10
    assert report.max_difference < 1e-12
    assert " agree with stock QCManyBody's " in str(report)


def test_verify_finds_a_wrong_number_and_a_missing_one(tmp_path: Path) -> None:
    loaded, result = ours(document("energy", {"bsse_type": "nocp"}))
    path = tmp_path / "out.json"
    schema.write_result(result, path)
    content = json.loads(path.read_text())
    content["properties"]["nocp_corrected_2_body_contribution_to_energy"] += 1e-6
    path.write_text(json.dumps(content))
    report = schema.verify(path, MemoryStore(loaded))
    assert not report.is_ok
    assert " DIFFER from stock QCManyBody's " in str(report)
    assert report.worst == "nocp_corrected_2_body_contribution_to_energy"
    assert report.max_difference == pytest.approx(1e-6, rel=1e-3)
    del content["properties"]["return_energy"]
    path.write_text(json.dumps(content))
    assert schema.verify(path, MemoryStore(loaded)).worst == "return_energy"


def test_verify_needs_a_result_and_all_components(tmp_path: Path) -> None:
    loaded, result = ours(document("energy", {}))
    path = tmp_path / "out.json"
    schema.write_result(result, path)
    with pytest.raises(StoreError, match="the store has 6 of the 7 components"):
        schema.verify(path, MemoryStore(loaded, n_missing=1))
    path.write_text("{}")
    with pytest.raises(InputError, match="is not a ManyBodyResult"):
        schema.verify(path, MemoryStore(loaded))


def test_labels_are_taken_apart() -> None:
    assert schema.fragments_of_label('["(auto)", [2], [1, 2, 3]]') == ((2,), (1, 2, 3))
