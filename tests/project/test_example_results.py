"""Every file of examples/ runs, and gives the number that stands beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from qcmb_mpi import Executor, ExecutorConfig, MultiprocessingExecutor, schema
from qcmb_mpi.driver import run_expansion
from tests.launch.jobs import command, read, run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TABLE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
GEOMETRIES = re.findall(r"^\| `(\S+\.(?:xyz|pdb))` \|.*`(--.+?)` \| (\d+) \|$", TABLE, re.MULTILINE)
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


@pytest.mark.qc
@pytest.mark.launch
@pytest.mark.parametrize(("name", "options", "n_tasks"), GEOMETRIES)
def test_geometry_runs_with_the_options_in_the_table(
    tmp_path: Path, name: str, options: str, n_tasks: str
) -> None:
    done = run(command("run", ROOT / "examples" / name, *shlex.split(options)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "==> N-Body: " in done.stdout
    summary = read(tmp_path / f"{Path(name).stem}.run.json")
    assert (summary["status"], summary["n_computed"]) == ("complete", int(n_tasks))


def test_every_geometry_is_in_the_table() -> None:
    files = {each.name for each in (ROOT / "examples").iterdir() if each.suffix in (".xyz", ".pdb")}
    assert {name for name, *_ in GEOMETRIES} == files
