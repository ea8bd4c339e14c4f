"""Every code block of the documentation runs, or says why it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qcmb_mpi.errors import InputError
from tests.project.blocks import KNOWN, ROOT, RUN, Block, Runner, blocks

PAGES = [
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "programs").glob("*.md")),
]
WITH_CODE = {str(page.relative_to(ROOT)): found for page in PAGES if (found := blocks(page))}


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = Runner(tmp_path)
    runner.prepare()
    for block in WITH_CODE[name]:
        assert block.language in KNOWN, f"{block}\nname its language: {', '.join(sorted(KNOWN))}"
        runner.run(block)
    if name == "docs/geometry-optimization.md":
        assert (tmp_path / "waters.log").exists()
        minima = re.findall(r"(-\d+\.\d+) hartree", runner.said)
        assert len(minima) == 6, "three optimisers on two ranks"
        assert [float(each) for each in minima] == pytest.approx([-151.98] * 6, abs=0.01)


@pytest.mark.parametrize("name", WITH_CODE)
def test_files_of_a_page_are_used_by_it(name: str) -> None:
    found = WITH_CODE[name]
    for at, block in enumerate(found):
        if block.mark == "file":
            assert any(block.value in later.code for later in found[at + 1 :]), str(block)
        assert block.mark != "exit" or block.language in RUN


@pytest.mark.parametrize(
    ("language", "mark", "value", "code"),
    [
        ("bash", "", "", "qcmb-mpi-misspelt run input.yaml"),
        ("bash", "not run", "", "true"),
        ("bash", "not run", "there is no such cluster here", "if true"),
        ("bash", "not run", "there is no such cluster here", "qcmb-mpi run x.yaml --walltme 1:00"),
        ("bash", "not run", "there is no such cluster here", "python tools/mpiexec.py --rank 2"),
        ("bash", "as in", "README.md", "qcmb-mpi what-is-not-there"),
        ("python", "", "", "import qcmb_mpi\nqcmb_mpi.run"),
        ("python", "not run", "there is no such cluster here", "a b"),
        ("yaml", "", "", "specification: {driver: enrgy}"),
        ("yaml", "", "", "hostname_pattern: a"),
        ("json", "not run", "there is no such cluster here", "{"),
        ("text", "output", "", "another ... output"),
    ],
)
def test_a_block_that_is_wrong_is_found(
    tmp_path: Path, language: str, mark: str, value: str, code: str
) -> None:
    runner = Runner(tmp_path, said="one output")
    (tmp_path / ".bin").mkdir()
    with pytest.raises((AssertionError, AttributeError, SyntaxError, InputError, yaml.YAMLError)):
        runner.run(Block("page.md", 1, language, code, mark, value))
