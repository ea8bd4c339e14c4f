"""Real many-body runs by Psi4: the numbers of sequential QCManyBody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.many_body import check_gradient, check_ions

pytestmark = [pytest.mark.qc, pytest.mark.launch]


def test_energies_and_gradients_of_three_waters(tmp_path: Path) -> None:
    check_gradient("psi4", tmp_path)


def test_charges_and_open_shells(tmp_path: Path) -> None:
    check_ions("psi4", tmp_path)
