"""What surrounds the package: geometries, examples, README, packaging and the benchmark."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from qcmanybody.models.v2 import ManyBodyInput
from qcmanybody.v2 import ManyBodyComputer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "geometries").glob("*.json"))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.qc
def test_make_geometries_makes_the_kept_file_again() -> None:
    # 1e-5, not the command's 1e-6: other processors round otherwise.
    done = python("geometries/make_geometries.py", "--check", "water-3", "--tolerance", "1e-5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("water-3: same")


def test_make_geometries_notices_another_geometry(tmp_path: Path) -> None:
    kept = json.loads((ROOT / "geometries" / "water-2.json").read_text())
    kept["geometry"][0] += 0.01
    (tmp_path / "water-2.json").write_text(json.dumps(kept))
    done = python("geometries/make_geometries.py", "--check", "water-2", "-o", str(tmp_path))
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_kept_cluster_has_separate_whole_fragments(path: Path) -> None:
    cluster = json.loads(path.read_text())
    geometry = np.array(cluster["geometry"]).reshape(-1, 3) * 0.52917721067
    assert sorted(atom for fragment in cluster["fragments"] for atom in fragment) == list(
        range(len(cluster["symbols"]))
    )
    distances = np.linalg.norm(geometry[:, None] - geometry[None], axis=2)
    owner = np.zeros(len(geometry), dtype=int)
    for index, fragment in enumerate(cluster["fragments"]):
        owner[fragment] = index
    between = distances[owner[:, None] != owner[None]]
    assert between.min() > 1.5
    rows = path.with_suffix(".xyz").read_text().splitlines()[2:]
    assert [row.split()[0] for row in rows] == cluster["symbols"]
    xyz = np.array([[float(x) for x in row.split()[1:]] for row in rows])
    np.testing.assert_allclose(xyz, geometry, atol=1e-7)


@pytest.mark.parametrize(("contact_angstrom", "is_refused"), [(1.45, True), (1.55, False)])
def test_make_geometries_refuses_a_close_contact(contact_angstrom: float, is_refused: bool) -> None:
    make_geometries = runpy.run_path(str(ROOT / "geometries" / "make_geometries.py"))
    water = make_geometries["MONOMERS"]["water"]
    first = np.array(water.geometry_angstrom)
    second = -first + [0.757 + contact_angstrom, 0.587, 0.0]  # its O beside an H
    second[1:] = second[0] + [[0.757, 0.587, 0.0], [0.757, -0.587, 0.0]]
    geometry = np.vstack([first, second]) / make_geometries["BOHR_ANGSTROM"]
    cluster = make_geometries["Cluster"]("near", 0, (water, water), geometry, 0.0)
    refusal = pytest.raises(SystemExit, match="between two monomers")
    with refusal if is_refused else contextlib.nullcontext():
        make_geometries["check_chemistry"](cluster)


def test_examples_are_as_their_script_writes_them() -> None:
    done = python("examples/make_examples.py", "--check")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_an_input_of_qcmanybody_with_the_number_of_tasks_in_the_readme(
    path: Path,
) -> None:
    model = ManyBodyInput(**yaml.safe_load(path.read_text()))
    core = ManyBodyComputer.from_manybodyinput(model, build_tasks=False).qcmb_core
    compute_map = core.compute_map
    n_tasks = sum(len(set().union(*levels["all"].values())) for levels in compute_map.values())
    readme = (ROOT / "examples" / "README.md").read_text()
    row = re.search(rf"^\| `{path.name}` .*\| (\d+) \|$", readme, re.MULTILINE)
    assert row is not None
    assert n_tasks == int(row[1])


def test_every_example_is_in_the_readme_table() -> None:
    named = re.findall(r"^\| `(.+?)`", (ROOT / "examples" / "README.md").read_text(), re.MULTILINE)
    geometries = [*(ROOT / "examples").glob("*.xyz"), *(ROOT / "examples").glob("*.pdb")]
    assert sorted(named) == sorted(path.name for path in (*EXAMPLES, *geometries))


def test_readme_names_only_files_that_exist() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (ROOT / target).exists(), target


def test_changelog_names_the_version_or_is_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[(Unreleased|\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"version: {version[1]}" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.qc
@pytest.mark.launch
def test_benchmark_smoke_run_prints_its_table_and_keeps_its_numbers(tmp_path: Path) -> None:
    output = tmp_path / "farm.json"
    done = python("benchmarks/farm.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    contenders = report["measured"][0]["contenders"]
    for name, data in contenders.items():
        assert f"| {name} |" in done.stdout
        assert min(data["wall_s"]) > 0
    assert report["measured"][0]["ceiling"][0] > 0
    assert contenders["qcmb_mpi, mpiexec"]["summary"]["n_tasks"] == 3
