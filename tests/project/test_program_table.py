"""The documentation's table of programs is that of the package; each program has a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.cases import ONLY_CONFIGURED, PROGRAMS
from tools import program_table

PAGES = {"dftd4": "dispersion", "s-dftd3": "dispersion"} | dict.fromkeys(
    ONLY_CONFIGURED, "configured"
)


def test_the_table_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert program_table.main(["--check"]) == 0
    assert capsys.readouterr().out == "up to date\n"


def test_an_old_table_is_noticed_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = program_table.TABLE.read_text()
    old = tmp_path / "docs" / "table.md"
    old.parent.mkdir()
    old.write_text(text.replace("| MPI ranks |", "| threads |"))
    monkeypatch.setattr(program_table, "TABLE", old)
    monkeypatch.setattr(program_table, "RECORDS", tmp_path / "none")
    assert program_table.main(["--check"]) == 1
    assert program_table.main([]) == 0
    assert old.read_text() == text


@pytest.mark.parametrize("program", [*PROGRAMS, *ONLY_CONFIGURED])
def test_each_program_has_a_page(program: str) -> None:
    path = program_table.ROOT / "docs" / "programs" / f"{PAGES.get(program, program)}.md"
    page = path.read_text()
    assert f"`{program}`" in page or f"program: {program}" in page
    assert "nstall" in page or program == "pyscf"


def test_calculated_programs_say_what_was_found() -> None:
    rows = program_table.old_columns()
    assert all(rows[name] for name in PROGRAMS)
    assert not any(rows[name] for name in ONLY_CONFIGURED)
