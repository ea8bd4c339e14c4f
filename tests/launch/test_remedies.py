"""``--remedies``: what did not converge does, and the run says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.launch.jobs import command, read, run
from tests.launch.test_run import write


def waters(**keywords: Any) -> dict[str, Any]:
    """Return an input of two water molecules, 2-body, cp."""
    one = [[0.0, 0.0, 0.0], [0.0, 0.1, 1.8], [1.7, 0.0, -0.5]]
    model = {"method": "hf", "basis": "sto-3g"}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": ["O", "H", "H"] * 2,
            "geometry": [*one, *([x, y, z + 6.0] for x, y, z in one)],
            "fragments": [[0, 1, 2], [3, 4, 5]],
        },
        "specification": {
            "driver": "energy",
            "keywords": {"bsse_type": ["cp"], "max_nbody": 2, "return_total_data": True},
            "specification": {
                "(auto)": {
                    "program": "pyscf",
                    "driver": "energy",
                    "model": model,
                    "keywords": keywords,
                }
            },
        },
    }


def energy(folder: Path) -> float:
    """Return the energy in the result."""
    return float(read(folder / "in.result.json")["return_result"])


def test_remedies_are_asked_for_and_told(tmp_path: Path) -> None:
    words = command("run", "in.json", "--workers", "2")
    folders = [tmp_path / name for name in ("plain", "slow")]
    for folder in folders:
        folder.mkdir()
    write(folders[0], waters())
    plain = run([*words, "--remedies"], cwd=folders[0])
    assert plain.returncode == 0, plain.stderr
    assert read(folders[0] / "in.run.json")["n_remedied"] == 0
    assert "--remedies" not in plain.stderr

    write(folders[1], waters(diis=False, level_shift=10.0))
    failed = run(words, cwd=folders[1])
    assert failed.returncode == 1, failed.stderr
    assert {row["error_type"] for row in read(folders[1] / "in.run.json")["failed"]} == {
        "convergence_error"
    }
    helped = run([*words, "--remedies"], cwd=folders[1])
    assert helped.returncode == 0, helped.stderr
    summary = read(folders[1] / "in.run.json")
    assert summary["remedies"] == {"max_cycle=300": summary["n_remedied"]}
    assert summary["n_remedied"] == summary["n_computed"] > 0
    assert helped.stderr.count("converged only with other keywords") == 1
    again = run(words, cwd=folders[1])
    reused = read(folders[1] / "in.run.json")
    assert reused["n_reused"] == summary["n_computed"], again.stderr
    assert reused["remedies"] == summary["remedies"]
    assert again.stderr.count("converged only with other keywords") == 1
    told = read(folders[1] / "in.result.json")["provenance"]
    assert told["remedies"] == summary["remedies"]
    assert "remedies" not in read(folders[0] / "in.result.json")["provenance"]
    assert energy(folders[1]) == pytest.approx(energy(folders[0]), abs=1e-8)
