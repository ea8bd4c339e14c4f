"""The benchmark of short tasks still runs, and relates the right figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.project.test_frame import ROOT, python


@pytest.mark.qc
@pytest.mark.launch
def test_the_smoke_run_measures_every_way(tmp_path: Path) -> None:
    output = tmp_path / "native.json"
    done = python("benchmarks/native.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(output.read_text())["measured"]
    names = {"native", "through QCEngine", "QCManyBody"}
    names |= {f"{loop} loop{s}" for loop in ("tblite", "qcengine") for s in ("", "s")}
    assert set(measured["runs"]) == names
    assert all(f"| {name} |" in done.stdout for name in (*names, *measured["ratios"]))


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import native

    yield native
    for name in ("farm", "mpiexec", "native", "overhead"):
        sys.modules.pop(name, None)


def runs(native: ModuleType, **changes: float) -> dict[str, list[dict[str, float]]]:
    """Make figures of one repeat on four cores."""
    made: dict[str, list[dict[str, float]]] = {"QCManyBody": [{"wall_s": 50.0, "value": -1.0}]}
    for loop, way in native.WAYS.items():
        made[f"{loop} loop"] = [{"rate": 10.0, "sum": -7.0}]
        made[f"{loop} loops"] = [{"rate": 30.0, "sum": -7.0}]
        made[way] = [{"rate": 38.0, "sum": -7.0, "wall_s": 10.0, "value": -1.0}]
    made["native"][0].update(changes)
    return made


def test_rates_are_related_to_cores_ceiling_and_qcmanybody(native: ModuleType) -> None:
    found = native.ratios(runs(native), 4)
    assert found["native / cores x bare"] == [38 / 40]
    assert found["native / ceiling"] == [38 / 30]
    assert found["tblite ceiling / cores x bare"] == [30 / 40]
    assert found["QCManyBody / native, end to end"] == [5.0]
    assert native.is_met({"ratios": found, "n_cores": 4})
    slow = native.ratios(runs(native, rate=35.0), 4)
    assert not native.is_met({"ratios": slow, "n_cores": 4})


@pytest.mark.parametrize(("name", "off"), [("sum", 1e-6), ("value", 1e-6), ("value", 1e-12)])
def test_other_numbers_are_not_compared(native: ModuleType, name: str, off: float) -> None:
    native.check(runs(native))
    base = {"sum": -7.0, "value": -1.0}[name]
    with pytest.raises(SystemExit, match=r"agree|differ"):
        native.check(runs(native, **{name: base + off}))
