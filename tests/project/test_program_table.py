"""The documentation's table of programs is that of the package and of a run; all have a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.programs.cases import KEPT, ONLY_CONFIGURED, PROGRAMS, TOLERANCE
from tools import program_table

PAGES = {"dftd4": "dispersion", "s-dftd3": "dispersion", "xtb-cli": "xtb"} | dict.fromkeys(
    ONLY_CONFIGURED, "configured"
)


def test_the_table_is_what_the_command_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert program_table.main(["--check"]) == 0
    assert capsys.readouterr().out == "up to date\n"


@pytest.mark.parametrize(
    "change", [("| MPI ranks |", "| threads |"), ("energy with 2 of", "many of")]
)
def test_an_old_table_is_noticed_and_written_anew(
    change: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = program_table.TABLE.read_text()
    assert change[0] in text
    old = tmp_path / "table.md"
    old.write_text(text.replace(*change))
    monkeypatch.setattr(program_table, "TABLE", old)
    assert program_table.main(["--check"]) == 1
    assert program_table.main([]) == 0
    assert old.read_text() == text


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_is_kept_if_all_its_tests_pass(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests leave is put there by a stand-in for pytest."""
    left = tmp_path / "left"

    def tests(*_words: object, **_options: object) -> object:
        left.mkdir()
        for name in PROGRAMS:
            facts = {"case": "ions", "version": "7", "n_tasks": 3, "difference": 2.5e-13}
            (left / f"{name}.ions.json").write_text(json.dumps(facts))
        return type("Done", (), {"returncode": code})

    monkeypatch.setattr(program_table.subprocess, "run", tests)
    for name, path in (("RECORDS", left), ("KEPT", tmp_path / "r"), ("TABLE", tmp_path / "t")):
        monkeypatch.setattr(program_table, name, path)
    assert program_table.main(["--run"]) == code
    assert (tmp_path / "r").exists() == (tmp_path / "t").exists() == (code == 0)
    if code == 0:
        rows = (tmp_path / "t").read_text().splitlines()
        assert sum("| 7, 20" in row and "| ions 3: 2e-13 |" in row for row in rows) == len(PROGRAMS)


@pytest.mark.parametrize("program", [*PROGRAMS, *ONLY_CONFIGURED])
def test_each_program_has_a_page(program: str) -> None:
    path = program_table.ROOT / "docs" / "programs" / f"{PAGES.get(program, program)}.md"
    page = path.read_text()
    assert f"`{program}`" in page or f"program: {program}" in page
    assert "nstall" in page or program == "pyscf"


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_was_kept_is_of_all_cases_and_within_the_limit(program: str) -> None:
    treatment = "cp" if PROGRAMS[program].has_ghosts else "nocp"
    cases = json.loads(KEPT.read_text())[program]["cases"]
    several = {"energy with 1 of its ranks", "energy with 2 of its ranks"}
    expected = {f"gradient {treatment}", "ions"} | (several if program == "nwchem" else set())
    assert cases.keys() == expected
    assert all(
        each["difference"] <= (9 * TOLERANCE if " 2 " in case else TOLERANCE)
        for case, each in cases.items()
    )
