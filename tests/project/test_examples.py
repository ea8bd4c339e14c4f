"""Every file of examples/ runs, and gives the number that stands beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from qcmb_mpi import Executor, ExecutorConfig, MultiprocessingExecutor, schema
from qcmb_mpi.driver import run_expansion

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TABLE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
# 48 s on one core; benchmarks/farm.py runs all of it.
SHORTENED = {"water-16.yaml": {"max_nbody": 2}}


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with MultiprocessingExecutor(ExecutorConfig(n_threads=1)) as executor:
        yield executor


@pytest.mark.qc
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_gives_the_number_in_the_table(path: Path, pool: Executor) -> None:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    model["specification"]["keywords"].update(SHORTENED.get(path.name, {}))
    end = run_expansion(schema.load_input(model), pool)
    assert end.summary["status"] == "complete"
    row = re.search(rf"^\| `{path.name}` .*\| (-?\d+\.\d{{6}}) \| \d+ \|$", TABLE, re.MULTILINE)
    assert row is not None
    if path.name not in SHORTENED:
        found = np.linalg.norm(end.result.return_result)  # of a number: the number without its sign
        assert found == pytest.approx(abs(float(row[1])), abs=2e-6)
