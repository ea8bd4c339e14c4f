"""Every malformed input is answered by one clear line that names the field."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from tests.malformed import Case, cases, sound

CASES = cases()


def answer(case: Case, tmp_path: Path) -> InputError:
    options = schema.InputOptions(method="hf") if case.kind == "geometry" else None
    if case.kind == "document":
        with pytest.raises(InputError) as caught:
            schema.load_input(case.payload)
    else:
        path = tmp_path / f"input{case.suffix}"
        path.write_bytes(case.as_bytes())
        with pytest.raises(InputError) as caught:
            schema.read_input(str(path), options=options)
    return caught.value


@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "preflight"], ids=lambda c: c.name)
def test_malformed_input_is_answered_by_one_line(case: Case, tmp_path: Path) -> None:
    error = answer(case, tmp_path)
    text = str(error)
    assert case.field in text
    assert text.splitlines() == [text]
    assert len(text) < 700
    assert "Traceback" not in text
    assert "errors.pydantic.dev" not in text
    assert error.exit_code == 2


def test_corpus_is_large_and_always_the_same() -> None:
    kinds = Counter(case.kind for case in CASES)
    assert len(CASES) - kinds["preflight"] >= 320
    assert kinds["preflight"] >= 8
    assert [case.name for case in cases()] == [case.name for case in CASES]
    assert [case.as_bytes() for case in cases()] == [case.as_bytes() for case in CASES]


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_corpus_starts_from_is_sound(version: int) -> None:
    assert schema.load_input(sound(version)).schema_version == version


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "preflight"], ids=lambda c: c.name)
def test_programs_are_not_judged_here(case: Case) -> None:
    loaded = schema.load_input(case.payload)
    assert (
        loaded.expansion.model_chemistries[0].program
        == (case.payload["specification"]["specification"]["high"]["program"])
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "document"], ids=lambda c: c.name)
def test_an_input_is_never_changed_in_place(case: Case) -> None:
    before = copy.deepcopy(case.payload)
    with pytest.raises(InputError):
        schema.load_input(case.payload)
    assert repr(case.payload) == repr(before)


@pytest.mark.parametrize(
    ("path", "wrong", "right"),
    [
        ("specification.keywords", "max_nbdy", "max_nbody"),
        ("specification.keywords", "bsse", "bsse_type"),
        ("specification.keywords", "return_total_dat", "return_total_data"),
        ("molecule", "symbol", "symbols"),
        ("molecule", "fragment_charge", "fragment_charges"),
        ("specification.specification.high", "keyword", "keywords"),
        ("specification.specification.high.model", "Basis", "basis"),
        ("specification.protocols", "cluster_result", "cluster_results"),
    ],
)
def test_misspelt_field_is_answered_with_the_right_one(path: str, wrong: str, right: str) -> None:
    document: Any = sound()
    node = document
    for step in path.split("."):
        node = node[step]
    node[wrong] = node.get(right)
    with pytest.raises(InputError, match=rf"^{path}\.{wrong}: .*did you mean {right}\?"):
        schema.load_input(document)


def test_free_fields_are_free() -> None:
    document = sound()
    atomic = document["specification"]["specification"]["high"]
    atomic["keywords"] = {"conv_toll": 1e-9, "nested": {"list": [1, "a", None, True]}}
    atomic["extras"] = {"anything": [1, 2]}
    document["specification"]["extras"] = {"mine": {"and": "yours"}}
    chemistry = schema.load_input(document).expansion.model_chemistries[0]
    assert chemistry.specification["keywords"] == atomic["keywords"]
    assert chemistry.specification["extras"] == atomic["extras"]


def test_an_answer_names_value_and_what_is_accepted() -> None:
    document = sound()
    document["specification"]["keywords"]["bsse_type"] = "nopc"
    with pytest.raises(InputError) as caught:
        schema.load_input(json.loads(json.dumps(document)))
    assert str(caught.value) == (
        "specification.keywords.bsse_type: is not known, did you mean nocp? (got 'nopc'); "
        "accepted: nocp, cp, vmfc, ssfc, mbe, none"
    )


def test_levels_that_repeat_a_name_are_answered_with_what_to_write() -> None:
    document = sound()
    keywords = document["specification"]["keywords"]
    del keywords["max_nbody"]
    keywords["levels"] = {1: "high", 2: "high", 3: "high"}
    with pytest.raises(InputError, match=r"Cannot have duplicate.* write \{3: 'high'\}"):
        schema.load_input(document)
    keywords["levels"] = {1: "high", 2: "low", 3: "high"}
    with pytest.raises(InputError, match="second name"):
        schema.load_input(document)
