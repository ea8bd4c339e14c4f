"""Geometry files as people have them: each is read, or refused in a line that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qcelemental import constants

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from tests.edge.test_geometry_files import WATER, pdb_line, pdb_waters, rows, xyz

BOHR = 1.0 / constants.bohr2angstroms
DIMER = rows(2)
ENERGY = "E = -152.13 Eh, 25 °C"
EXTENDED = (
    'Lattice="9 0 0 0 9 0 0 0 9" Properties=id:I:1:pos:R:3:species:S:1:forces:R:3 pbc="T T T"'
)
EXTENDED_ROWS = [f"{i} {' '.join(r.split()[1:])} {r.split()[0]} 0 0 0" for i, r in enumerate(DIMER)]


AMMONIUM = ["H .6 .6 9.6", "H -.6 -.6 9.6", "H -.6 .6 8.4", "H .6 -.6 8.4"]


def text(lines: Sequence[str], comment: str = "", count: object = None) -> str:
    return "\n".join([str(len(lines) if count is None else count), comment, *lines, ""])


def read(path: Path | str, **options: Any) -> schema.LoadedInput:
    return schema.read_input(str(path), options=schema.InputOptions(method="hf", **options))


def moved(words: str) -> list[str]:
    """Water with every atom's line changed by a format of symbol and coordinates."""
    return [words.format(*row.split()) for row in DIMER]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(text(DIMER).replace("\n", "\r\n").encode(), id="Windows"),
        pytest.param(text(DIMER).replace("\n", "\r").encode(), id="old Macs"),
        pytest.param(text(DIMER).encode("utf-16"), id="PowerShell"),
        pytest.param(text(DIMER).encode("utf-8-sig"), id="byte order mark"),
        pytest.param(text(DIMER, ENERGY).encode("latin-1"), id="Latin-1"),
        pytest.param(text(DIMER, ENERGY).encode(), id="energy in the comment"),
        pytest.param(text(moved("{0}\t{1}\t{2}\t{3}")).encode(), id="tabs"),
        pytest.param(text(DIMER).lower().encode(), id="lower case"),
        pytest.param(text(DIMER).replace("O", "8").replace("H", "1").encode(), id="numbers"),
        pytest.param(text(moved("{0}1 {1} {2} {3}")).encode(), id="labels"),
        pytest.param(text(moved("{0} {1}D+00 {2}d0 {3}E0")).encode(), id="Fortran"),
        pytest.param(text(moved("{0} {1} {2} {3} -0.4 0 0 0")).encode(), id="more columns"),
        pytest.param(text(EXTENDED_ROWS, EXTENDED).encode(), id="extended XYZ"),
        pytest.param(f"\n\n{text(DIMER)}\n\n".encode(), id="empty lines"),
        pytest.param(text(["# first", *DIMER], count="  6 ").encode(), id="remarks"),
        pytest.param(f"{text(DIMER)}\nfrequencies: none\n".encode(), id="text below"),
        pytest.param("\n".join(DIMER).encode(), id="no number of atoms"),
    ],
)
def test_a_water_dimer_is_a_water_dimer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.xyz"
    path.write_bytes(content)
    loaded = read(path)
    second = WATER + np.array([3.0, 0.0, 0.0])
    np.testing.assert_allclose(loaded.expansion.system.geometry_bohr[3:], second * BOHR, atol=1e-7)
    assert loaded.expansion.system.symbols == ("O", "H", "H") * 2
    assert loaded.expansion.system.fragment_sizes == (3, 3)


def psi4(unit: float = 1.0, units: str = "angstrom") -> str:
    rows_in_unit = [
        f"{s} {' '.join(map(str, unit * xyz))}" for s, xyz in zip("OHH", WATER, strict=True)
    ]
    head = f"units {units}\nno_com\nsymmetry c1\n\n0 1\n"
    tail = f"\n--\n+1 1\nK {9 * unit} 0 0 # the ion\n--\nF 0 0 {9 * unit}"
    return head + "\n".join(rows_in_unit) + tail


@pytest.mark.parametrize(("unit", "units"), [(1.0, "angstrom"), (BOHR, "bohr"), (BOHR, "au")])
def test_a_molecule_as_psi4_writes_it(tmp_path: Path, unit: float, units: str) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(psi4(unit, units))
    system = read(path, charge=None, multiplicity=None).expansion.system
    assert system.fragment_sizes == (3, 1, 1)
    assert system.fragment_charges == (0.0, 1.0, 0.0)
    assert system.fragment_multiplicities == (1, 1, 2)
    np.testing.assert_allclose(system.geometry_bohr[:3], WATER * BOHR, atol=1e-7)
    assert read(path, charge="0,1,-1").expansion.system.fragment_multiplicities == (1, 1, 1)


def test_a_total_charge_before_the_first_separator_is_that_of_all(tmp_path: Path) -> None:
    path = tmp_path / "w.xyz"
    path.write_text("-1 1\n--\n0 1\n" + "\n".join(rows(1)) + "\n--\nF 0 0 9\n")
    assert read(path).expansion.system.fragment_charges == (0.0, -1.0)
    path.write_text("-2 1\n" + "\n".join(rows(2)) + "\n")
    with pytest.raises(InputError, match=r"^--charge: does not say on which fragment .*got -2"):
        read(path)


def test_charges_of_the_file_are_not_those_of_other_fragments(tmp_path: Path) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(psi4())
    with pytest.raises(InputError, match=r"^--charge: is missing: the file's charges are those of"):
        read(path, fragment="auto")
    assert read(path, fragment="1-4,5", charge="1,-1").expansion.system.n_fragments == 2


@pytest.mark.parametrize(
    ("atoms", "charges"),
    [
        (["Na+ 0 0 0", "Cl- 2.4 0 0"], (1.0, -1.0)),
        (["Ca2+ 0 0 0", "CL-1 2.7 0 0", "cl- -2.7 0 0"], (2.0, -1.0, -1.0)),
        (["Zn++ 0 0 2.0", *rows(1)], (2.0, 0.0)),
        (["Fe+3 0 0 2.0", *rows(1)], (3.0, 0.0)),
        (["N+ 0 0 9", *AMMONIUM, *rows(1)], (1.0, 0.0)),
    ],
)
def test_charges_may_stand_beside_the_symbols(
    tmp_path: Path, atoms: list[str], charges: tuple[float, ...]
) -> None:
    loaded = read(xyz(tmp_path / "ions.xyz", atoms), multiplicity=None)
    assert loaded.expansion.system.fragment_charges == charges
    assert loaded.warnings[0].startswith("charges as written in the file: ")


def test_units_are_what_the_option_says(tmp_path: Path) -> None:
    lines = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip("OHH", WATER * BOHR, strict=True)]
    path = xyz(tmp_path / "w.xyz", [*lines, "He 9 0 0"])
    assert "is the file in bohr? Then say --units bohr" in read(path).warnings[0]
    loaded = read(path, units="bohr")
    assert loaded.expansion.system.fragment_sizes == (3, 1)
    assert loaded.warnings == ()
    np.testing.assert_allclose(loaded.expansion.system.geometry_bohr[:3], WATER * BOHR, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (text(DIMER) * 2, {}, r"w.xyz line 9: a second geometry begins here; .*head -n 8"),
        (text(DIMER, count=5), {}, "line 8: more atoms follow than the 5 announced"),
        (text(DIMER, count=7), {}, "line 1: announces 7 atoms, 6 follow"),
        (text(DIMER, count=-6), {}, "line 1: must be the number of atoms .*'-6'"),
        (text(DIMER, count="6 atoms"), {}, "line 1: must be the number of atoms, or the first"),
        ("water dimer\n" + "\n".join(DIMER), {}, "line 1: must be the number of atoms, or"),
        (text([*DIMER, DIMER[0]]), {}, r"w.xyz: atoms 1 \(O\) and 7 \(O\) are 0 bohr apart"),
        (text(["He 0 0 0"]), {}, "--fragment: there is one atom only"),
        (text(DIMER[:3]), {}, "--fragment: all 3 atoms are connected: one molecule"),
        (text(["X 0 0 0", *DIMER]), {}, "line 3: is not a chemical element .*'X'.*no dummy"),
        (text([*DIMER, "@He 0 0 9"]), {}, "line 9: is not a chemical element .*'@He'"),
        (text(["HO1 0 0 9", *DIMER]), {}, "line 3: HO may be Ho, or H with a label .*'HO1'"),
        (text(moved("{0} {1} {2} nan")), {}, "line 3: cannot be read .*three coordinates"),
        (text(moved("{0} {1} {2} 1e9")), {}, "line 3: cannot be read .*each below"),
        (text(moved("{0} {1}, {2}, {3}")), {}, "line 3: cannot be read"),
        (text(moved("{0} {1} ******** {3}")), {}, "line 3: cannot be read"),
        (text(moved("{0} {1} {2}")), {}, "line 3: cannot be read"),
        (text(DIMER, "coordinates in Bohr"), {}, "line 2: the comment speaks of bohr.*--units"),
        (text(DIMER, "Properties=pos:R:3"), {}, "line 2: Properties cannot be read"),
        (text(DIMER), {"units": "nm"}, "--units: is not known .*angstrom, bohr"),
        ("units nm\n" + "\n".join(DIMER), {}, "line 1: is no unit of length .*'nm'"),
        ("0 1\n0 1\n" + "\n".join(DIMER), {}, "line 2: a charge and a multiplicity stand before"),
        ("# nothing\n", {}, "w.xyz: has no atoms"),
        (text(["Na 0 0 0", "Cl 2.4 0 0"]), {}, r"--charge: fragment 1 is one Na .*--charge 1,-1,"),
        (text([*DIMER, "Mg 0 0 2.1"]), {}, r"--charge: fragment 3 is one Mg .*or Mg2\+ in the"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "w.xyz").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "w.xyz", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("comment", "atoms", "note"),
    [
        (EXTENDED, EXTENDED_ROWS, "the cell of the file (Lattice) is not used"),
        ("charge=-1 mult=1", DIMER, "not read, but in the comment: charge=-1; --charge says it"),
        ("", ["Zn 0 0 2.0", *DIMER], "the metal Zn (atom 1) is in one fragment with the atoms"),
        ("", [*DIMER, "", "energy -152"], "line 10 and those below it are no atoms"),
    ],
)
def test_what_is_doubtful_is_noted(
    tmp_path: Path, comment: str, atoms: list[str], note: str
) -> None:
    n_atoms = sum(len(line.split()) > 3 for line in atoms)
    (tmp_path / "w.xyz").write_text(text(atoms, comment, n_atoms))
    assert any(line.startswith(note) for line in read(tmp_path / "w.xyz").warnings)


# ---- PDB -----------------------------------------------------------------------------------


def pdb(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_pdb_file_with_all_its_records(tmp_path: Path) -> None:
    first, second = pdb_waters(2)[:3], pdb_waters(2)[3:]
    other = second[0][:16] + "B" + second[0][17:]
    lines = ["HEADER", "CRYST1   10.000", *first, "ANISOU" + first[0][6:], "TER"]
    lines += [second[0][:16] + "A" + second[0][17:], other, *second[1:], "CONECT    1    2    3"]
    loaded = read(pdb(tmp_path / "w.pdb", [*lines, "MASTER", "END"]))
    assert loaded.expansion.system.fragment_sizes == (3, 3)
    assert loaded.warnings == ("alternate locations other than the first are left out",)
    only_b = [line[:16] + "B" + line[17:] for line in second]
    assert read(pdb(tmp_path / "b.pdb", [*first, *only_b])).expansion.system.n_atoms == 6


def test_a_pdb_file_has_charges_of_ions(tmp_path: Path) -> None:
    ions = [
        pdb_line(9, "NA", np.array([0, 0, -4.0]), "NA") + "1+",
        pdb_line(12, "CL", np.array([6.0, 0, 0]), "CL") + "1-",
    ]
    loaded = read(pdb(tmp_path / "w.pdb", [*ions, *pdb_waters(1)]))
    assert loaded.expansion.system.fragment_charges == (1.0, -1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [(" OW ", "O"), ("1HW ", "H"), ("HW21", "H"), ("HG21", "H"), (" CA ", "C"), ("OXT", "O")],
)
def test_elements_are_found_in_atom_names(tmp_path: Path, name: str, symbol: str) -> None:
    lines = [pdb_line(1, name, np.array([9.0, 0, 0])), *pdb_waters(1)]
    assert read(pdb(tmp_path / "w.pdb", lines)).expansion.system.symbols[0] == symbol


def test_an_element_of_two_letters_in_an_atom_name_is_noted(tmp_path: Path) -> None:
    lines = [pdb_line(1, "CA", np.array([9.0, 0, 0])), *pdb_waters(1)]
    (note, *_) = read(pdb(tmp_path / "w.pdb", lines), charge="2,0").warnings
    assert note == "columns 77-78 are empty: CA was taken as Ca"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["HEADER", "END"], "w.pdb: has no atoms; accepted: ATOM and HETATM lines"),
        (["ATOM 1 O HOH 1 0.0 0.0 0.117"], "line 1: cannot be read .*x, y, z in 31 to 54"),
        ([pdb_line(1, " X", WATER[0], "X")], "line 1: is not a chemical element"),
        ([pdb_line(1, " EP", WATER[0])], "line 1: is not a chemical element"),
    ],
)
def test_what_is_no_pdb_file_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(pdb(tmp_path / "w.pdb", lines))


SODIUM = "0 1\nO 0 0 0\nH 0 .76 .59\nH 0 -.76 .59\n--\n{} 0 0 5\n"


def test_signs_of_atoms_count_beside_charge_lines(tmp_path: Path) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(SODIUM.format("Na+"))
    assert read(path).model.molecule.fragment_charges == [0.0, 1.0]
    path.write_text(SODIUM.format("0 1\nNa+"))
    with pytest.raises(InputError, match="0 in the line of a fragment and 1 by its atoms"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        text(["0 0 0"], "Properties=pos:R:3:species:S:1"),
        f"{'9' * 5000}\n\n{DIMER[0]}\n",
        f"{'9' * 5000} 1\n{DIMER[0]}\n",
    ],
)
def test_nonsense_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(content)
    with pytest.raises(InputError, match=r"w\.xyz"):
        read(path)


@pytest.mark.parametrize(
    "comment", ["Niels Bohr Institute", "gradient in hartree, bohr-1", "species:S:1:pos:R:3:x:"]
)
def test_comments_that_say_no_unit_do_no_harm(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(text(DIMER, comment.replace("species", "Properties=species")))
    assert not read(path).warnings


def test_a_charge_in_the_comment_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "w.xyz"
    path.write_text(text(DIMER, "-1 1"))
    assert "not read, but in the comment: -1 1" in read(path).warnings[0]
