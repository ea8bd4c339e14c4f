"""The benchmark of predictions, in the small: what it prints and writes, no figure of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.qc, pytest.mark.launch]


def test_the_smoke_run_predicts_what_it_did_not_learn_from(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/prediction.py", "--smoke", "-o", str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a claim does not hold, which is no matter
    assert "larger sizes" in done.stdout
    measured = json.loads(output.read_text())
    assert set(measured["figures"]) == {"hf", "mp2"}
    for row in measured["rows"]:
        is_held_out = row["n_real"] + row["n_ghost"] > 2
        assert (row["predicted_s"] is not None) == is_held_out
    kept = json.loads((ROOT / "tests" / "pure" / "measured_costs.json").read_text())
    assert list(measured["families"]) == ["hf|6-31g|energy|water-6", "mp2|6-31g|energy|water-6"]
    for name, rows in measured["families"].items():
        known = {tuple(row[:6]) for row in kept["families"][name]}
        assert {tuple(row[:6]) for row in rows} <= known
        assert all(len(row) == len(kept["columns"]) and len(row[6]) == 3 for row in rows)
