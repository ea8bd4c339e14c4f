"""Real many-body runs by programs that take a moment: the numbers of sequential QCManyBody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.many_body import check_gradient, check_ions

pytestmark = [pytest.mark.qc, pytest.mark.launch]

PROGRAMS = ("pyscf", "tblite", "xtb", "xtb-cli", "mopac", "dftd4", "s-dftd3")


@pytest.mark.parametrize("program", PROGRAMS)
def test_energies_and_gradients_of_three_waters(program: str, tmp_path: Path) -> None:
    check_gradient(program, tmp_path)


@pytest.mark.parametrize("program", PROGRAMS)
def test_charges_and_open_shells(program: str, tmp_path: Path) -> None:
    check_ions(program, tmp_path)
