"""What programs cannot do is refused before anything runs; what they refuse is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.launch.calls import assert_refused, call, write
from tests.launch.conftest import here  # noqa: F401
from tests.launch.jobs import read
from tests.programs.cases import IONS, PROGRAMS, WATERS, document

pytestmark = [pytest.mark.qc, pytest.mark.usefixtures("here")]

WITHOUT_GHOSTS = [name for name, each in PROGRAMS.items() if not each.has_ghosts]
REFUSED = [
    ("nwchem", {"model": {"method": "hff", "basis": "sto-3g"}}, "no method 'hff'"),
    ("nwchem", {"model": {"method": "hf"}}, "needs a basis set"),
    ("nwchem", {"model": {"method": "mp3", "basis": "sto-3g"}}, "no method 'mp3'"),
    ("mopac", {"model": {"method": "PM77"}}, "did you mean PM7"),
    ("mopac", {"model": {"method": "PM7", "basis": "sto-3g"}}, "leave it out"),
    ("mopac", {"keywords": {"ITTER": 5}}, "did you mean ITER"),
    ("xtb", {"model": {"method": "gfn7"}}, "GFN2-xTB"),
    ("xtb", {"keywords": {"acuracy": 1.0}}, "did you mean accuracy"),
    ("xtb-cli", {"model": {"method": "gfn7"}}, "GFN2-xTB"),
    ("xtb-cli", {"keywords": {"acuracy": 1.0}}, "did you mean accuracy"),
    ("xtb-cli", {"keywords": {"alpb": 1}}, "must be the name of a solvent"),
    ("tblite", {"model": {"method": "gfn7"}}, "GFN2-xTB"),
    ("pyscf", {"model": {"method": "hf", "basis": "nonsense"}}, "nonsense"),
    ("pyscf", {"keywords": {"conv_toll": 1}}, "did you mean conv_tol"),
]
FAILED = [
    ("nwchem", {"model": {"method": "hf", "basis": "nonsense"}}, "input_error", "basis file"),
    ("nwchem", {"keywords": {"scf__nonsense": 1}}, "input_error", "unrecognized directive"),
    ("psi4", {"model": {"method": "hff", "basis": "sto-3g"}}, "input_error", "Did you mean? hf"),
    ("psi4", {"model": {"method": "hf", "basis": "nonsense"}}, "input_error", "NONSENSE"),
    ("psi4", {"keywords": {"nonsense": 1}}, "input_error", "NONSENSE is not a valid option"),
    ("psi4", {"keywords": {"maxiter": 2}}, "convergence_error", "raise the keyword maxiter"),
    ("xtb", {"keywords": {"max_iterations": 2}}, "convergence_error", "keyword max_iterations"),
    ("xtb-cli", {"keywords": {"max_iterations": 2}}, "convergence_error", "keyword max_iterations"),
    ("xtb-cli", {"keywords": {"alpb": "nonsense"}}, "input_error", "is not parametrized"),
    ("dftd4", {"model": {"method": "nonsense"}}, "input_error", "'nonsense' not known"),
    ("s-dftd3", {"model": {"method": "nonsense"}}, "input_error", "'nonsense'"),
    ("tblite", {"keywords": {"max_iterations": 1}}, "convergence_error", "max_iterations"),
    ("pyscf", {"keywords": {"max_cycle": 1}}, "convergence_error", "max_cycle"),
]


def asked(
    program: str, changes: dict[str, Any], *, molecule: dict[str, Any] = WATERS, **keywords: Any
) -> str:
    specification = PROGRAMS[program].specification("energy", **changes)
    return write(document(molecule, "energy", specification, **{"max_nbody": 1} | keywords))


@pytest.mark.parametrize("treatment", ["cp", "vmfc"])
@pytest.mark.parametrize("program", WITHOUT_GHOSTS)
def test_ghosts(program: str, treatment: str, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(
        capfd, "run", "--executor", "serial", asked(program, {}, bsse_type=[treatment], max_nbody=2)
    )
    assert_refused(answer, "cp and vmfc need ghost atoms", program, "nocp")


@pytest.mark.parametrize(("program", "changes", "words"), REFUSED)
def test_before_anything_runs(
    program: str, changes: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(call(capfd, "run", "--executor", "serial", asked(program, changes)), words)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_missing_programs(
    program: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcengine.programs.base import programs

    harness = type(programs[program])
    monkeypatch.setattr(harness, "found", staticmethod(lambda raise_error=False: False))
    answer = call(capfd, "run", asked(program, {}), "--executor", "serial")
    assert_refused(answer, f"program '{program}' is not installed on this node", "install")


@pytest.mark.parametrize(("program", "changes", "kind", "words"), FAILED)
def test_by_the_program(
    program: str,
    changes: dict[str, Any],
    kind: str,
    words: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    source = asked(program, changes, molecule=IONS)
    code, _, err = call(capfd, "run", source, "--executor", "serial", "--threads", "1")
    assert code == 1, err
    for row in read(tmp_path / "in.run.json")["failed"]:
        assert row["error_type"] == kind
        assert words in row["message"]
        assert len(row["message"].splitlines()) == 1
        assert row["attempts"] == 1
