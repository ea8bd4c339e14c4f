"""One line of what a program said, and what to do."""

from __future__ import annotations

import pytest

from qcmb_mpi.programs.advice import hint, in_a_line, install_hint

STAMP = "INPUT:\necho\nend\n\nSTDOUT:\n\n{out}\n\nSTDERR:\n{err}\n\nTRACEBACK:\nNoneType: None\n"
BLOCK = " " + "-" * 72 + "\n movecs_read: nothing there   0\n " + "-" * 72


@pytest.mark.parametrize(
    ("program", "message", "said"),
    [
        ("nwchem", STAMP.format(out="", err="[0] ARMCI Error: 0:input_parse: bad:"), "input_parse"),
        ("nwchem", STAMP.format(out=BLOCK, err=""), "movecs_read: nothing there"),
        ("nwchem", STAMP.format(out="", err="----\nopal_init failed\nagain"), "opal_init failed"),
        ("cfour", STAMP.format(out="", err="no such\nbasis"), "no such basis"),
        ("psi4", "Traceback\n  x\na.b.ValidationError: no\n  such thing", "no such thing"),
        ("psi4", "Traceback\nError: {'x': RuntimeError('\nFatal Error: X is bad\n')}", "X is bad"),
        ("xtb", "it failed:\n-1- did not converge", "it failed: -1- did not converge"),
        ("mopac", "short", "short"),
    ],
)
def test_in_a_line(program: str, message: str, said: str) -> None:
    found = in_a_line(program, message, "")
    assert found.startswith(said)
    assert "\n" not in found


def test_a_long_text_of_an_unknown_program_is_left_as_it_is() -> None:
    text = "line\n" * 200
    assert in_a_line("somebodys", text, "") == text


def test_hints() -> None:
    assert "raise the keyword maxiter" in hint("psi4", "convergence_error", "")
    assert "networkx" in hint("nwchem", "missing_program", "")
    assert "single atom" in hint(
        "mopac", "unknown_error", "Could not correctly parse the MOPAC output file."
    )
    assert hint("somebodys", "convergence_error", "") == install_hint("somebodys") == ""
