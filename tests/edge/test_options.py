"""A slip on the command line is answered by what was meant."""

from __future__ import annotations

import pytest

from qcmb_mpi.errors import InputError
from qcmb_mpi.options import parse
from qcmb_mpi.programs.names import did_you_mean


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("run x.xyz --methd hf", "--methd: there is no such option, did you mean --method?"),
        ("x.xyz -method hf", "-method: there is no such option, did you mean --method?"),
        (
            "plan x.xyz --max-nbdy=3",
            "--max-nbdy: there is no such option, did you mean --max-nbody?",
        ),
        ("run x.xyz --bsse cp nocp", "'nocp' has no place (several values of an option are joined"),
        ("status a b", "'b' has no place (see qcmb-mpi status --help)"),
        ("doctor --nonsense", "--nonsense: there is no such option (see qcmb-mpi doctor --help)"),
    ],
)
def test_a_slip_is_answered(line: str, answer: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(line.split())
    assert answer in str(raised.value)


def test_without_a_word_there_is_an_example() -> None:
    with pytest.raises(InputError, match=r"e\.g\. qcmb-mpi run INPUT"):
        parse([])


def test_a_basis_behind_the_method_is_answered() -> None:
    answer = did_you_mean("mp2/cc-pvdz", ("hf", "mp2"))
    assert answer == "; did you mean method mp2 and basis cc-pvdz?"


@pytest.mark.parametrize("words", [("--charge", "-1,0"), ("--charge=-1,0",)])
def test_the_first_charge_may_be_negative(words: tuple[str, ...]) -> None:
    assert parse(["x.xyz", *words, "--method", "hf"]).charge == "-1,0"
