"""Inputs: files and models to an expansion, by stock QCManyBody's rules."""

from __future__ import annotations

import io
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qcelemental.models.v1 as elemental_v1
import qcelemental.models.v2 as elemental_v2
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
import yaml
from qcelemental.exceptions import ValidationError
from qcelemental.molparse.chgmult import validate_and_fill_chgmult
from qcmanybody.v2 import ManyBodyComputer

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.levels import Bsse
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.inputs import fields
from qcmb_mpi.inputs.charges import Known, complete
from qcmb_mpi.inputs.documents import plain, to_json
from tests.malformed import sound


def waters(n_fragments: int) -> dict[str, Any]:
    """An input of waters on a grid, nothing said of charges."""
    side = int(np.ceil(n_fragments ** (1 / 3)))
    places = [(i % side, i // side % side, i // side**2) for i in range(n_fragments)]
    water = np.array([[0.0, 0.0, 0.0], [0.0, 1.43, 1.11], [0.0, -1.43, 1.11]])
    return {
        "molecule": {
            "symbols": ["O", "H", "H"] * n_fragments,
            "geometry": np.vstack([water + 6.0 * np.array(place) for place in places]),
            "fragments": [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(n_fragments)],
        },
        "specification": {
            "driver": "energy",
            "keywords": {"max_nbody": 2},
            "specification": {
                "program": "pyscf",
                "driver": "energy",
                "model": {"method": "hf", "basis": "sto-3g"},
            },
        },
    }


# ---- what comes out ------------------------------------------------------------------------


def test_expansion_has_everything_that_stock_would_use() -> None:
    document = sound()
    document["specification"]["driver"] = "gradient"
    document["molecule"]["fix_symmetry"] = "c1"
    loaded = schema.load_input(document)
    expansion, system = loaded.expansion, loaded.expansion.system
    assert expansion.levels.model_chemistries == ("high", "low")
    assert expansion.levels.nbodies == ((1,), (2,))
    assert expansion.bsse == (Bsse.cp, Bsse.nocp)
    assert expansion.return_total_data is True
    assert expansion.supersystem_ie_only is False
    assert expansion.driver == "gradient"
    assert system.symbols == ("O", "H", "H") * 3
    assert system.atomic_numbers.tolist() == [8, 1, 1] * 3
    assert system.mass_numbers.tolist() == [16, 1, 1] * 3
    assert system.masses[0] == pytest.approx(15.9949, abs=1e-4)
    assert system.geometry_bohr.shape == (9, 3)
    assert system.fragment_sizes == (3, 3, 3)
    assert system.fragment_charges == (0.0, 0.0, 0.0)
    assert system.fragment_multiplicities == (1, 1, 1)
    assert system.name == "three waters"
    assert system.fix_symmetry == "c1"
    assert system.embedding_charges is None
    high = expansion.model_chemistries[0]
    assert (high.label, high.program, high.driver) == ("high", "pyscf", "gradient")
    assert high.specification["driver"] == "gradient", "the many-body driver overrides"
    assert high.specification["model"] == {"method": "hf", "basis": "sto-3g"}
    assert "program" not in high.specification
    assert json.loads(json.dumps(high.specification)) == high.specification
    assert not loaded.wants_records
    assert loaded.schema_version == 2
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, (Bsse.cp,)),
        ({"bsse_type": "mbe"}, (Bsse.nocp,)),
        ({"bsse_type": ["SSFC", "cp", "none"]}, (Bsse.cp, Bsse.nocp)),
        ({"bsse_type": ["vmfc"]}, (Bsse.vmfc, Bsse.nocp, Bsse.cp)),
        ({"bsse_type": ["vmfc"], "max_nbody": 2}, (Bsse.vmfc, Bsse.nocp)),
        ({"bsse_type": "VMFC", "levels": {1: "(auto)", 2: "x"}}, (Bsse.vmfc,)),
    ],
)
def test_treatments_are_completed_as_stock_does(
    keywords: dict[str, Any], expected: tuple[Bsse, ...]
) -> None:
    document = waters(3)
    atomic = document["specification"]["specification"]
    document["specification"]["specification"] = {"(auto)": atomic, "x": atomic}
    document["specification"]["keywords"] = keywords
    assert schema.load_input(document).expansion.bsse == expected


@pytest.mark.parametrize(
    ("driver", "total", "expected"),
    [
        ("energy", None, False),
        ("energy", True, True),
        ("gradient", None, True),
        ("hessian", None, True),
        ("hessian", False, False),
    ],
)
def test_total_data_by_default_for_derivatives(
    driver: str, total: bool | None, expected: bool
) -> None:
    document = waters(2)
    document["specification"]["driver"] = driver
    document["specification"]["keywords"]["return_total_data"] = total
    assert schema.load_input(document).expansion.return_total_data is expected


def test_levels_fill_in_what_lies_below_and_the_supersystem_is_last() -> None:
    document = waters(4)
    atomic = document["specification"]["specification"]
    document["specification"]["specification"] = dict.fromkeys("abc", atomic)
    document["specification"]["keywords"] = {"levels": {"supersystem": "c", "3": "b", "1": "a"}}
    levels = schema.load_input(document).expansion.levels
    assert levels.model_chemistries == ("a", "b", "c")
    assert levels.nbodies == ((1,), (2, 3), ())
    assert levels.supersystem == 2


def test_more_model_chemistries_than_letters_are_refused_before_anything_runs() -> None:
    document = waters(27)
    atomic = document["specification"]["specification"]
    names = [f"m{i}" for i in range(1, 28)]
    document["specification"]["specification"] = dict.fromkeys(names, atomic)
    levels = {i: f"m{i}" for i in range(1, 28)}
    document["specification"]["keywords"] = {"levels": levels}
    with pytest.raises(InputError, match=r"more than 26 model chemistries"):
        schema.load_input(document)


def test_labels_are_not_part_of_what_the_store_reuses() -> None:
    first, second = sound(), sound()
    text = json.dumps(second["specification"]).replace('"high"', '"renamed"')
    second["specification"] = json.loads(text)
    one, two = schema.load_input(first).expansion, schema.load_input(second).expansion
    assert [m.fingerprint for m in one.model_chemistries] == [
        m.fingerprint for m in two.model_chemistries
    ]
    assert one.model_chemistries[0].label != two.model_chemistries[0].label


# ---- charges and multiplicities ------------------------------------------------------------


def test_charges_are_completed_as_qcelemental_does() -> None:
    rng = np.random.default_rng(3)
    n_agreed = {True: 0, False: 0}
    for _ in range(3000):
        n = int(rng.integers(1, 5))
        protons = [int(z) for z in rng.choice([1, 2, 3, 7, 8, 10, 11], n)]

        def some(low: int, high: int, size: int = n) -> list[int | None]:
            share = rng.random()
            values = [int(value) for value in rng.integers(low, high, size)]
            return [value if rng.random() < share else None for value in values]

        charges, multiplicities = some(-2, 3), some(1, 5)
        charge, multiplicity = some(-3, 4, 1)[0], some(1, 8, 1)[0]
        try:
            answer = validate_and_fill_chgmult(
                np.array(protons, dtype=float),
                np.arange(1, n),
                charge,
                [None if c is None else float(c) for c in charges],
                multiplicity,
                list(multiplicities),
                verbose=0,
            )
        except ValidationError:
            answer = None
        try:
            state = complete(
                Known(protons, charge, charges, multiplicity, multiplicities, [""] * n)
            )
        except InputError:
            assert answer is None
        else:
            assert answer == {
                "molecular_charge": state.charge,
                "fragment_charges": list(state.fragment_charges),
                "molecular_multiplicity": state.multiplicity,
                "fragment_multiplicities": list(state.fragment_multiplicities),
            }
        n_agreed[answer is None] += 1
    assert min(n_agreed.values()) > 500


@pytest.mark.parametrize("n_fragments", [64, 400])
def test_many_fragments_of_which_nothing_is_said_load_at_once(n_fragments: int) -> None:
    # QCElemental alone never finishes with 32: this test would be ended by the suite's timeout.
    system = schema.load_input(waters(n_fragments)).expansion.system
    assert system.fragment_charges == (0.0,) * n_fragments
    assert system.fragment_multiplicities == (1,) * n_fragments


def test_a_charge_of_the_whole_lands_where_qcelemental_puts_it_and_is_noted() -> None:
    document = waters(3)
    document["molecule"] |= {"molecular_charge": -1, "molecular_multiplicity": 2}
    loaded = schema.load_input(document)
    expected = elemental_v2.Molecule(**document["molecule"])
    assert loaded.model.molecule == expected
    assert loaded.expansion.system.fragment_charges == (-1.0, 0.0, 0.0)
    assert loaded.warnings == (
        "the charge -1 was placed on fragment 1, as QCElemental does; write fragment_charges and "
        "fragment_multiplicities to choose",
    )
    document["molecule"] |= {"molecular_charge": 0, "molecular_multiplicity": 3}
    assert "unpaired electrons were placed on fragment 1" in schema.load_input(document).warnings[0]


def test_a_doublet_that_nobody_asked_for_is_noted() -> None:
    document = waters(3)
    document["molecule"]["molecular_charge"] = 1
    (line,) = schema.load_input(document).warnings
    assert line.startswith("the charge +1 was placed on fragment 1, as QCElemental does")
    assert (
        "fragment 1 (H2O, charge 1) has an odd number of electrons and got multiplicity 2" in line
    )
    document["molecule"]["fragment_charges"] = [0, 1, -1]
    document["molecule"]["molecular_charge"] = 0
    (line,) = schema.load_input(document).warnings
    assert line.startswith(
        "fragment 2 (H2O, charge 1), fragment 3 (H2O, charge -1) have an odd number of electrons"
    )
    document["molecule"]["fragment_multiplicities"] = [1, 2, 2]
    assert schema.load_input(document).warnings == ()


def test_a_program_that_is_missing_is_told_with_an_example() -> None:
    document = waters(3)
    model = {"method": "hf", "basis": "sto-3g"}
    document["specification"]["specification"] = {"hf": {"driver": "energy", "model": model}}
    with pytest.raises(InputError, match=r"\.hf\.program: is missing; .* program: pyscf$"):
        schema.load_input(document)


def test_radicals_and_ions_keep_what_is_written() -> None:
    document = waters(3)
    document["molecule"] |= {
        "fragment_charges": [1, None, -1],
        "fragment_multiplicities": [2, None, 2],
    }
    system = schema.load_input(document).expansion.system
    assert system.fragment_charges == (1.0, 0.0, -1.0)
    assert system.fragment_multiplicities == (2, 1, 2)


# ---- versions and models -------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_plain_data_and_models_give_one_expansion(version: int) -> None:
    document = sound(version)
    model = {1: schema_v1, 2: schema_v2}[version].ManyBodyInput(**document)
    given = [document, model, json.loads(model.model_dump_json()), model.model_dump()]
    loaded = [schema.load_input(data) for data in given]
    assert {item.schema_version for item in loaded} == {version}
    assert len({TaskSpace(item.expansion).fingerprint for item in loaded}) == 1
    assert loaded[1].original is model
    assert all(isinstance(item.model, schema_v2.ManyBodyInput) for item in loaded)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("marks", [["schema_name"], ["schema_version"]])
def test_one_mark_of_the_version_is_enough(version: int, marks: list[str]) -> None:
    document = sound(version)
    for name in {"schema_name", "schema_version"} - set(marks):
        del document[name]
    assert schema.load_input(document).schema_version == version


def test_without_marks_the_version_shows_in_the_parts() -> None:
    unmarked = sound(2)
    for name in ("schema_name", "schema_version"):
        del unmarked[name]
    del unmarked["specification"]["protocols"]
    assert schema.load_input(unmarked).schema_version == 2
    for path, value in (("protocols", {"component_results": "all"}), ("schema_version", 1)):
        document = json.loads(json.dumps(unmarked))
        document["specification"][path] = value
        assert schema.load_input(document).schema_version == 1
    unmarked["molecule"]["schema_version"] = 2
    assert schema.load_input(unmarked).schema_version == 1


def test_version_1_needs_a_python_that_still_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Placeholder:
        def __init__(self, **_: Any) -> None:
            raise RuntimeError("Reason: pydantic.v1 is unavailable on Python 3.14+. Use v2.")

    monkeypatch.setattr(schema_v1, "ManyBodyInput", Placeholder)
    with pytest.raises(InputError, match=r"^schema_version: .*Python 3\.14"):
        schema.load_input(sound(1))


def test_arrays_enumerations_and_models_may_stand_inside_a_mapping() -> None:
    document = waters(3)
    document["molecule"] = elemental_v2.Molecule(
        **document["molecule"], fragment_charges=[0, 0, 0], fragment_multiplicities=[1, 1, 1]
    )
    document["specification"] |= {
        "driver": elemental_v2.DriverEnum.gradient,
        "keywords": schema_v2.ManyBodyKeywords(bsse_type=schema_v2.BsseEnum.vmfc, max_nbody=2),
        "specification": {
            "(auto)": elemental_v2.AtomicSpecification(
                program="pyscf",
                driver="energy",
                model={"method": "hf", "basis": "sto-3g"},
                keywords={"grid": (np.int64(75), np.float64(0.5)), "cut": np.arange(2.0)},
            )
        },
    }
    expansion = schema.load_input(document).expansion
    assert expansion.driver == "gradient"
    keywords = expansion.model_chemistries[0].specification["keywords"]
    assert keywords == {"grid": [75, 0.5], "cut": [0.0, 1.0]}


def test_a_model_that_was_never_validated_is_completed() -> None:
    document = waters(24)
    bare = elemental_v2.Molecule(**plain(document["molecule"]), validate=False)
    model = schema_v2.ManyBodyInput(**{**document, "molecule": bare})
    loaded = schema.load_input(model)
    assert loaded.expansion.system.fragment_multiplicities == (1,) * 24


def test_a_claim_to_be_validated_is_not_believed() -> None:
    document = waters(2)
    document["molecule"] |= {"validated": True, "symbols": ["o", "h", "H"] * 2}
    document["molecule"]["geometry"] = document["molecule"]["geometry"] + 1e-10
    system = schema.load_input(document).expansion.system
    assert system.symbols == ("O", "H", "H") * 2
    assert np.array_equal(system.geometry_bohr, np.around(system.geometry_bohr, 8))


@pytest.mark.parametrize("data", [None, 3, "input.json", [1]])
def test_what_is_no_input_at_all_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match=r"^input: must be a ManyBodyInput"):
        schema.load_input(data)


# ---- what only the models refuse -----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("molecule.identifiers", {"smile": "O"}, r"^molecule\.identifiers"),
        ("molecule.connectivity", [[0, 1, 9.0]], r"^molecule: Connectivity bond order"),
        ("molecule.masses", [100.0] + [1.0] * 8, "^molecule: "),
        ("specification.specification.high.model.basis", {"name": "x"}, r"\.model\.basis"),
        ("specification.specification.high.extras", {"a": {"b": 1}}, None),
    ],
)
def test_refusals_of_the_models_are_one_line_too(
    path: str, value: Any, message: str | None
) -> None:
    document = sound()
    *steps, last = path.split(".")
    node: Any = document
    for step in steps:
        node = node[step]
    node[last] = value
    if message is None:
        assert schema.load_input(document).warnings == ()
        return
    with pytest.raises(InputError, match=message) as caught:
        schema.load_input(document)
    assert str(caught.value).count("\n") == 0


def test_places_in_a_refusal_of_the_models_are_the_users_own() -> None:
    shell = {"angular_momentum": [0], "exponents": [1.0], "coefficients": [[1.0]]}
    center = {"electron_shells": [{**shell, "harmonic_type": "spherical"}, shell]}
    basis = {"name": "mine", "center_data": {"all": center}, "atom_map": ["all"] * 9}
    path = "specification.specification.high.model.basis"
    for version in (1, 2):
        document = sound(version)
        document["specification"]["specification"]["high"]["model"]["basis"] = basis
        with pytest.raises(InputError) as caught:
            schema.load_input(document)
        assert caught.value.field.startswith(path)
    assert caught.value.field == f"{path}.center_data.all.electron_shells[1].harmonic_type"


def test_contradictions_of_embedding_get_stock_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCMANYBODY_EMBEDDING_CHARGES", "1")
    document = waters(2)
    charges = {"1": [0.0] * 3, "2": [0.0] * 3}
    document["specification"]["keywords"] = {
        "embedding_charges": charges,
        "return_total_data": False,
    }
    with pytest.raises(InputError, match="return_total_data: Cannot return interaction data"):
        schema.load_input(document)


# ---- the tables are those of the models ----------------------------------------------------


def accepted(version: int, *path: str) -> set[str]:
    """Fields that the tables accept at a place, told by the refusal of another."""
    document: Any = sound(version)
    node = document
    for step in path:
        node = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
    node["zzzzzz"] = 1
    with pytest.raises(InputError) as caught:
        fields.MANY_BODY_INPUT[version](document, "")
    return set(str(caught.value).partition("; accepted: ")[2].split(", "))


def names_v2(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def names_v1(model: Any) -> set[str]:
    return {field.alias for field in model.__fields__.values()}


_ATOMIC = ("specification", "specification", "high")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ((), schema_v2.ManyBodyInput),
        (("molecule",), elemental_v2.Molecule),
        (("specification",), schema_v2.ManyBodySpecification),
        (("specification", "keywords"), schema_v2.ManyBodyKeywords),
        (("specification", "protocols"), schema_v2.ManyBodyProtocols),
        (_ATOMIC, elemental_v2.AtomicSpecification),
        ((*_ATOMIC, "model"), elemental_v2.AtomicSpecification.model_fields["model"].annotation),
        ((*_ATOMIC, "protocols"), elemental_v2.AtomicProtocols),
    ],
)
def test_fields_of_version_2_are_those_of_the_models(path: tuple[str, ...], model: Any) -> None:
    assert accepted(2, *path) == names_v2(model)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ((), schema_v1.ManyBodyInput),
        (("molecule",), elemental_v1.Molecule),
        (("specification",), schema_v1.ManyBodySpecification),
        (("specification", "keywords"), schema_v1.ManyBodyKeywords),
        (("specification", "protocols"), schema_v1.ManyBodyProtocols),
        (_ATOMIC, schema_v1.AtomicSpecification),
        ((*_ATOMIC, "protocols"), elemental_v1.AtomicResultProtocols),
    ],
)
def test_fields_of_version_1_are_those_of_the_models(path: tuple[str, ...], model: Any) -> None:
    assert accepted(1, *path) == names_v1(model)


def test_stock_alone_lets_fields_of_a_model_pass() -> None:
    # Why the tables exist: this mistake costs a run with another method than meant.
    document = sound()
    document["specification"]["specification"]["high"]["model"]["basiss"] = "cc-pvqz"
    schema_v2.ManyBodyInput(**document)
    with pytest.raises(InputError, match=r"model\.basiss: .*did you mean basis\?"):
        schema.load_input(document)


def test_what_is_accepted_is_accepted_by_stock() -> None:
    for version, module in ((1, schema_v1), (2, schema_v2)):
        model = module.ManyBodyInput(**sound(version)).convert_v(2)
        core = ManyBodyComputer.from_manybodyinput(model, build_tasks=False).qcmb_core
        assert core.nbodies_per_mc_level == {"high": [1], "low": [2]}


# ---- files ---------------------------------------------------------------------------------


def written(path: Path, data: Any, *, dump: Any = json.dumps) -> str:
    path.write_text(dump(data), encoding="utf-8")
    return str(path)


def test_json_yaml_and_standard_input_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = sound()
    sources = [
        written(tmp_path / "a.json", document),
        written(tmp_path / "a.yaml", document, dump=yaml.safe_dump),
        written(tmp_path / "b.yml", document),
        written(tmp_path / "c.txt", document),
        written(tmp_path / "d.inp", document, dump=yaml.safe_dump),
    ]
    loaded = [schema.read_input(source) for source in sources]
    for dump in (json.dumps, yaml.safe_dump):
        stream = io.TextIOWrapper(io.BytesIO(dump(document).encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        loaded.append(schema.read_input("-"))
    assert len({TaskSpace(item.expansion).fingerprint for item in loaded}) == 1
    assert len({item.model.model_dump_json() for item in loaded}) == 1


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sound()).encode())
    assert schema.read_input(str(path)).expansion.system.n_fragments == 3


def test_yaml_has_numbers_with_exponents_anchors_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "input.yaml"
    path.write_text("""
molecule:
  symbols: [He, He]
  geometry: [0, 0, 0, 0, 0, 5e0]
  fragments: [[0], [1]]
specification:
  driver: energy
  keywords: {levels: {1: high, 2: low}, bsse_type: nocp}
  specification:
    high: &common
      program: pyscf
      driver: energy
      model: {method: hf, basis: 6-31g}
      keywords: &tight {conv_tol: 1e-10}
    low:
      <<: *common
      model: {method: mp2, basis: 6-31g}
      keywords: {<<: *tight, max_cycle: 30}
""")
    chemistries = schema.read_input(str(path)).expansion.model_chemistries
    assert chemistries[0].specification["keywords"] == {"conv_tol": 1e-10}
    assert chemistries[1].specification["keywords"] == {"conv_tol": 1e-10, "max_cycle": 30}
    assert chemistries[1].specification["model"]["method"] == "mp2"


def test_a_slip_in_the_name_of_a_file_is_answered(tmp_path: Path) -> None:
    (tmp_path / "cluster.xyz").touch()
    for name in ("cluser.xyz", "Cluster.xyz"):
        with pytest.raises(InputError, match=r"no such file, did you mean cluster\.xyz\?"):
            schema.read_input(str(tmp_path / name), options=schema.InputOptions(method="hf"))


def test_missing_files_directories_and_closed_doors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file$"):
        schema.read_input(str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match="is a directory"):
        schema.read_input(str(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        schema.read_input(str(tmp_path / ("x" * 300)))
    with pytest.raises(InputError, match="cannot be read: embedded null"):
        schema.read_input("a\0b")


def test_standard_input_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match=r"^standard input: is empty"):
        schema.read_input("-")


def test_options_complete_geometries_only(tmp_path: Path) -> None:
    source = written(tmp_path / "input.json", sound())
    options = schema.InputOptions(max_nbody=2, keywords=("a=1",))
    assert options.given() == ("--max-nbody", "--keyword")
    with pytest.raises(InputError, match=r"^--max-nbody: only completes an \.xyz or \.pdb file"):
        schema.read_input(source, options=options)
    assert schema.read_input(source, options=schema.InputOptions()).schema_version == 2


def test_whole_numbers_may_be_written_with_a_point() -> None:
    document = waters(2)
    document["molecule"]["fragments"] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    document["specification"]["keywords"]["max_nbody"] = 2.0
    assert schema.load_input(document).expansion.system.fragment_sizes == (3, 3)


def test_json_of_what_models_hold() -> None:
    class Colour(Enum):
        red = 1

    data = {"a": np.arange(4.0).reshape(2, 2), "b": np.int64(3), "c": Colour.red, "d": "\u00e9"}
    assert json.loads(to_json(data)) == {"a": [0.0, 1.0, 2.0, 3.0], "b": 3, "c": 1, "d": "\u00e9"}
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json({"a": object()})


def test_a_flat_specification_is_one_even_if_its_model_is_misspelt() -> None:
    document = waters(2)
    atomic = document["specification"]["specification"]
    atomic["modle"] = atomic.pop("model")
    with pytest.raises(InputError, match=r"specification\.specification\.modle: .*mean model\?"):
        schema.load_input(document)


def test_all_levels_of_many_fragments_are_noted() -> None:
    document = waters(8)
    document["specification"]["keywords"] = {}
    assert schema.load_input(document).warnings == (
        "no max_nbody: all n-body levels up to 8 will be computed",
    )
