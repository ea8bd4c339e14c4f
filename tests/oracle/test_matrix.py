"""Real calculations through warm slots equal sequential stock QCManyBody in everything returned.

Energies, tables and whole results of tasks are compared bit by bit, arrays to 1e-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import qcengine
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
import qcmanybody.v1
import qcmanybody.v2

from qcmb_mpi import ExecutorConfig, InputError, MultiprocessingExecutor, ParallelManyBodyComputer
from tests.oracle import matrix_cases as cases
from tests.oracle.matrix_cases import Case

pytestmark = pytest.mark.qc

TOLERANCE = 1e-12
INPUTS = {1: schema_v1.ManyBodyInput, 2: schema_v2.ManyBodyInput}
STOCK = {1: qcmanybody.v1.ManyBodyComputer, 2: qcmanybody.v2.ManyBodyComputer}
RECORDS = {1: "component_results", 2: "cluster_results"}
KINDS = {np.float64: float}
PROPERTIES = {1: "component_properties", 2: "cluster_properties"}


# ---- both sides ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MultiprocessingExecutor]:
    cache = tmp_path_factory.mktemp("cache")
    with MultiprocessingExecutor(ExecutorConfig(n_workers=2, n_threads=1, cache_dir=cache)) as pool:
        yield pool


@pytest.fixture(scope="module", autouse=True)
def _sequential() -> Iterator[None]:
    """Let stock run on one thread, in this process, each distinct calculation once."""
    compute, known = qcengine.compute, {}

    def compute_once(inp: Any, program: str, **options: Any) -> Any:
        is_version_2 = inp.schema_version == 2
        key = (program, inp.model_dump_json() if is_version_2 else inp.json(), str(options))
        if key not in known:
            known[key] = compute(inp, program, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QCENGINE_NCORES", "1")
        patch.setattr(qcengine, "compute", compute_once)
        yield


def stock(case: Case, inp: Any) -> Any:
    return STOCK[case.version].from_manybodyinput(inp)


def ours(inp: Any, executor: MultiprocessingExecutor) -> Any:
    return ParallelManyBodyComputer.from_manybodyinput(inp, executor=executor)


# ---- comparison ----------------------------------------------------------------------------


def differences(found: Any, expected: Any, path: str) -> Iterator[str]:
    """Say where two values differ: floats by a bit, arrays by more than the tolerance."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() != expected.keys():
            yield f"{path}: keys {sorted(map(str, found.keys() ^ expected.keys()))}"
        for key in expected.keys() & found.keys():
            yield from differences(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, np.ndarray):
        if type(found) is not np.ndarray or found.shape != expected.shape:
            yield f"{path}: {type(found).__name__} of shape {np.shape(found)}"
        elif found.dtype != expected.dtype:
            yield f"{path}: {found.dtype} for {expected.dtype}"
        elif expected.dtype.kind != "f":
            if not np.array_equal(found, expected):
                yield f"{path}: {found} for {expected}"
        elif not np.abs(found - expected).max(initial=0.0) <= TOLERANCE:
            yield f"{path}: off by {np.abs(found - expected).max()}"
    elif isinstance(expected, (list, tuple)) and type(found) is type(expected):
        if len(found) != len(expected):
            yield f"{path}: {len(found)} items for {len(expected)}"
        for index, pair in enumerate(zip(found, expected, strict=False)):
            yield from differences(*pair, f"{path}[{index}]")
    elif not isinstance(found, KINDS.get(type(expected), type(expected))) or found != expected:
        yield f"{path}: {found!r} for {expected!r}"


def record(result: Any) -> dict[str, Any]:
    """Return the result of one task without the time and place where it was made.

    Programs print sets in any order, and stock's molecules leave out mass numbers that are usual.
    """
    found: dict[str, Any] = result.model_dump()
    made, molecules = found.pop("provenance"), [(found, result)]
    if "input_data" in found:
        molecules.append((found["input_data"], result.input_data))
    for holder, owner in molecules:
        del holder["molecule"]["provenance"]
        holder["molecule"]["mass_numbers"] = owner.molecule.mass_numbers.tolist()
    return found | {
        "made": [made[name] for name in ("creator", "version", "routine")],
        "stdout": sorted(re.findall(r"[^\s{},]+", result.stdout or "")),
        "stderr": sorted((result.stderr or "").split()),
    }


def content(result: Any, version: int) -> dict[str, Any]:
    """Return everything in a result, with properties that are not set as None."""
    records = getattr(result, RECORDS[version])
    clusters = getattr(result, PROPERTIES[version])
    whole = {name: value for name, value in result.model_dump().items() if name != "provenance"}
    return whole | {
        "properties": dict(result.properties),
        PROPERTIES[version]: {label: dict(each) for label, each in clusters.items()},
        RECORDS[version]: {label: record(each) for label, each in records.items()},
    }


def check(case: Case, executor: MultiprocessingExecutor) -> None:
    """Compare with stock, or see that both refuse."""
    inp = INPUTS[case.version](**case.document())
    given = case.document() if case.is_plain else inp
    if case.is_refused:
        with pytest.raises((ValueError, RuntimeError)):
            stock(case, inp)
        with pytest.raises(InputError):
            ours(given, executor)
        return
    expected, found = stock(case, inp), ours(given, executor)
    assert type(found) is type(expected)
    assert found.properties.calcinfo_nmbe == len(getattr(found, PROPERTIES[case.version])) > 0
    assert bool(getattr(expected, RECORDS[case.version])) is case.has_records
    here, there = content(found, case.version), content(expected, case.version)
    wrong = list(differences(here, there, "result"))
    assert not wrong, "\n".join(wrong[:20])


def each(group: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(group), ids=str)


# ---- the cases -----------------------------------------------------------------------------


@each(cases.matrix())
def test_matrix(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.hessians())
def test_hessians(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.version_1())
def test_schema_version_1(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.orders())
def test_orders_of_treatments(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.truncated())
def test_truncated_expansions(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@pytest.mark.filterwarnings("ignore:remove_linear_dep_:DeprecationWarning")
@each(cases.rich())
def test_rich_specifications(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.two_programs())
def test_two_programs(case: Case, executor: MultiprocessingExecutor) -> None:
    check(case, executor)


@each(cases.charged())
def test_embedding_charges(
    case: Case, executor: MultiprocessingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cases.SWITCH, case.switch)
    check(case, executor)


def test_a_warm_pool_goes_on_after_refusals(executor: MultiprocessingExecutor) -> None:
    known = {case.name: case for case in cases.two_programs()}
    for _ in range(5):
        check(known["xtb-then-hf-vmfc-total-True-energy"], executor)
        check(known["xtb-then-hf-nocp-total-True-energy"], executor)


def test_the_matrix_is_whole() -> None:
    matrix = list(cases.matrix())
    compared = [case for case in matrix if not case.is_refused]
    assert len({case.name for case in matrix}) == len(matrix) == 6 * 4 * 2 * 4 * 2
    assert len(compared) == len(matrix) - 6 * 2 * 2 * 2
    assert len(compared) >= 150


# ---- the comparison itself -----------------------------------------------------------------


def test_comparison_sees_a_bit_and_what_is_missing() -> None:
    energy, array = -75.3, np.array([1.0, 2.0])
    good = {"energy": energy, "array": array, "text": ["a", None]}
    assert not list(differences(good, good, ""))
    off = 2e-12
    for changed in (
        {"energy": np.nextafter(energy, 0.0).item()},
        {"energy": float("nan")},
        {"energy": None},
        {"array": array + off},
        {"array": array * float("nan")},
        {"array": array[None]},
        {"array": array.tolist()},
        {"array": array.astype(np.float32)},
        {"text": ["a", None, None]},
        {"text": ["a", 0]},
        {"more": 1},
    ):
        assert list(differences(good | changed, good, "")), changed
