"""A name that does not exist is answered by what was meant."""

from __future__ import annotations

from qcmb_mpi.programs.names import did_you_mean


def test_a_basis_behind_the_method_is_answered() -> None:
    answer = did_you_mean("mp2/cc-pvdz", ("hf", "mp2"))
    assert answer == "; did you mean method mp2 and basis cc-pvdz?"
