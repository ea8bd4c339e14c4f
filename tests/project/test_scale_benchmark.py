"""The benchmark of very many tasks still runs, and says what breaks its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.launch
def test_the_smoke_run_agrees_with_stock_and_with_itself(tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/scale.py", "--smoke", "-o", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    judged = [row["name"] for row in report["rows"] if row["limit"] is not None]
    assert judged == [
        "the same energy from its store",
        "gradients of 8 waters: difference",
        "Hessians of 4 waters: difference",
    ]
    planning = report["planning"]
    runs = [*planning["runs"].values(), *planning["small"].values()]
    assert len(runs) == 4
    for each in runs:
        assert each["first_s"] > 0
        assert each["peak_bytes"] > 0
    resumed = report["assembly"]["all_done"]["resumed"]
    assert (resumed["status"], resumed["n_computed"]) == ("complete", 100)
    assert all(f"| {row['name']} |" in done.stdout for row in report["rows"])


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale

    yield scale
    for name in ("farm", "mpiexec", "scale", "scale_inputs"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("value", "limit", "is_least", "is_kept"),
    [
        (4.9, 5, False, True),
        (5.1, 5, False, False),
        (51, 50, True, True),
        (49, 50, True, False),
        (float("inf"), 1e-12, False, False),
        (float("nan"), 1e-12, False, False),
        (7, None, False, True),
    ],
)
def test_a_broken_limit_is_told(
    scale: ModuleType, value: float, limit: float | None, is_least: bool, is_kept: bool
) -> None:
    row = scale.Row("what", value, "s", limit, is_least=is_least)
    assert row.is_kept is is_kept
    assert ("**broken**" in scale.table([row])) is not is_kept
