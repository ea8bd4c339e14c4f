"""Geometry files, completed by options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qcelemental import constants
from qcelemental.models.v2 import Molecule

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.levels import Bsse
from qcmb_mpi.inputs import fragments

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.467], [0.0, -0.757, -0.467]])


def rows(n_waters: int) -> list[str]:
    """Atom lines of waters 3 angstrom apart."""
    lines = []
    for number in range(n_waters):
        for symbol, (x, y, z) in zip("OHH", WATER, strict=True):
            lines.append(f"{symbol} {x + 3.0 * number:.6f} {y:.6f} {z:.6f}")
    return lines


def xyz(path: Path, lines: list[str]) -> str:
    n_atoms = sum(not line.startswith("--") for line in lines)
    path.write_text("\n".join([str(n_atoms), "comment", *lines, ""]))
    return str(path)


def test_empty_lines_of_an_xyz_file_are_no_atoms(tmp_path: Path) -> None:
    source = xyz(tmp_path / "w.xyz", rows(2))
    Path(source).write_text(Path(source).read_text() + "\n  \n")
    assert read(source).expansion.system.n_atoms == 6


def read(source: str, **options: Any) -> schema.LoadedInput:
    chosen = {"method": "hf", "basis": "sto-3g", **options}
    return schema.read_input(source, options=schema.InputOptions(**chosen))


def test_xyz_is_in_angstrom_and_keeps_its_frame(tmp_path: Path) -> None:
    loaded = read(xyz(tmp_path / "w.xyz", rows(3)))
    system = loaded.expansion.system
    assert system.n_fragments == 3
    assert system.fragment_sizes == (3, 3, 3)
    third = (WATER + np.array([6.0, 0.0, 0.0])) / constants.bohr2angstroms
    np.testing.assert_allclose(system.geometry_bohr[6:], third, atol=1e-7)
    assert loaded.model.molecule.fix_com
    assert loaded.model.molecule.fix_orientation
    assert loaded.permutation == tuple(range(9))
    assert loaded.warnings == ()
    assert loaded.schema_version == 2


def test_same_fragments_as_qcelemental_finds_in_its_own_format(tmp_path: Path) -> None:
    lines = rows(2)
    ours = read(xyz(tmp_path / "w.xyz", lines)).model.molecule
    theirs = Molecule.from_data("\n".join([*lines[:3], "--", *lines[3:], "units angstrom"]))
    assert [f.tolist() for f in ours.fragments] == [f.tolist() for f in theirs.fragments]
    np.testing.assert_allclose(ours.geometry, theirs.geometry, atol=2e-8)


def test_options_become_the_input(tmp_path: Path) -> None:
    source = xyz(tmp_path / "w.XYZ", rows(3))
    loaded = read(
        source,
        program="tblite",
        method="GFN2-xTB",
        basis=None,
        driver="gradient",
        bsse="nocp, cp",
        max_nbody=2,
        total=False,
        keywords=("accuracy=0.01", "solvent=water", "flag=true", "list=[1, 2]"),
    )
    expansion = loaded.expansion
    assert expansion.bsse == (Bsse.nocp, Bsse.cp)
    assert expansion.driver == "gradient"
    assert expansion.levels.nbodies == ((1, 2),)
    assert expansion.return_total_data is False
    chemistry = expansion.model_chemistries[0]
    assert (chemistry.label, chemistry.program) == ("(auto)", "tblite")
    assert chemistry.specification["model"] == {"method": "GFN2-xTB", "basis": None}
    assert chemistry.specification["keywords"] == {
        "accuracy": 0.01,
        "solvent": "water",
        "flag": True,
        "list": [1, 2],
    }
    by_name = read(source, keywords={"conv_tol": 1e-9}).expansion.model_chemistries[0]
    assert by_name.program == "pyscf"
    assert by_name.specification["keywords"] == {"conv_tol": 1e-9}


def test_separators_in_the_file_say_the_fragments_unless_told_otherwise(tmp_path: Path) -> None:
    lines = rows(3)
    source = xyz(tmp_path / "w.xyz", [*lines[:6], "--", *lines[6:]])
    assert read(source).expansion.system.fragment_sizes == (6, 3)
    assert read(source, fragment="auto").expansion.system.fragment_sizes == (3, 3, 3)
    assert read(source, fragment="1-3,4-9").expansion.system.fragment_sizes == (3, 6)


def test_interleaved_atoms_are_reordered_with_a_warning_where_it_matters(tmp_path: Path) -> None:
    lines = rows(2)
    mixed = [lines[i] for i in (0, 3, 1, 4, 2, 5)]
    loaded = read(xyz(tmp_path / "w.xyz", mixed))
    assert loaded.permutation == (0, 2, 4, 1, 3, 5)
    assert loaded.expansion.system.symbols == ("O", "H", "H") * 2
    assert not loaded.warnings
    [note] = read(xyz(tmp_path / "w.xyz", mixed), driver="gradient").warnings
    assert "gradients and Hessians are in the order of the file" in note
    tidy = read(xyz(tmp_path / "t.xyz", lines)).expansion.system
    np.testing.assert_array_equal(loaded.expansion.system.geometry_bohr, tidy.geometry_bohr)
    by_hand = read(xyz(tmp_path / "w.xyz", mixed), fragment="1+3+5,2+4+6")
    assert by_hand.permutation == loaded.permutation


def test_connected_groups_are_found_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    positions = rng.uniform(0, 12, size=(60, 3))
    radii = np.full(60, 0.8)
    whole = fragments.connected_groups(positions, radii)
    monkeypatch.setattr(fragments, "_PAIR_BLOCK", 100)
    assert fragments.connected_groups(positions, radii) == whole
    assert sorted(atom for group in whole for atom in group) == list(range(60))
    assert 5 < len(whole) < 60
    assert [group[0] for group in whole] == sorted(group[0] for group in whole)


# ---- charges -------------------------------------------------------------------------------


def ion_lines() -> list[str]:
    return [*rows(1), "Cl 4.0 0.0 0.0", "Na -4.0 0.0 0.0"]


def test_alkali_ions_are_fragments_however_near_the_water_is(tmp_path: Path) -> None:
    source = xyz(tmp_path / "na.xyz", [*rows(2), "Na 1.5 0.0 1.9"])
    loaded = read(source, charge="0,0,1")
    assert loaded.expansion.system.fragment_sizes == (3, 3, 1)
    assert loaded.warnings == ("each Na was taken as a fragment of its own, an ion",)
    assert read(source, charge="0,1", fragment="1-3,4-7").warnings == ()


def test_a_charge_that_makes_a_doublet_is_noted(tmp_path: Path) -> None:
    source = xyz(tmp_path / "w2.xyz", rows(2))
    (line,) = read(source, charge="0,-1").warnings
    assert line.startswith("fragment 2 (H2O, charge -1) has an odd number of electrons")
    assert read(source, charge="0,-1", multiplicity="1,2").warnings == ()


def test_a_charge_for_each_fragment(tmp_path: Path) -> None:
    source = xyz(tmp_path / "ion.xyz", ion_lines())
    system = read(source, charge="0,-1,1").expansion.system
    assert system.fragment_charges == (0.0, -1.0, 1.0)
    assert system.fragment_multiplicities == (1, 1, 1)
    radical = read(source, multiplicity="3, 2, 2").expansion.system
    assert radical.fragment_multiplicities == (3, 2, 2)
    neutral = read(source, charge="0").expansion.system
    assert neutral.fragment_charges == (0.0, 0.0, 0.0)
    assert neutral.fragment_multiplicities == (1, 2, 2)
    assert read(source, multiplicity="3").expansion.system.fragment_multiplicities == (1, 2, 2)


def test_an_example_has_as_many_charges_as_there_are_fragments(tmp_path: Path) -> None:
    waters = rows(3)
    source = xyz(tmp_path / "na.xyz", [*waters[:6], "Na 3.0 0.0 4.0", *waters[6:]])
    listed = r"1 H2O, 2 H2O, 3 Na, 4 H2O"
    with pytest.raises(InputError, match=rf"\({listed}\), e\.g\. --charge 0,0,1,0$"):
        read(source, charge="1")
    with pytest.raises(InputError, match=rf"has 3 values for 4 fragments: {listed} \(got"):
        read(source, charge="0,0,1")
    with pytest.raises(InputError, match=r"or --charge 0 for a neutral atom$"):
        read(source)
    many = xyz(tmp_path / "many.xyz", rows(9))
    with pytest.raises(InputError, match=r"one value for each of the 9 fragments$"):
        read(many, charge="1", max_nbody=2)
    with pytest.raises(InputError, match=r"for 9 fragments: 1 H2O, .*, 8 H2O, \.\.\. \(got"):
        read(many, charge="1,0", max_nbody=2)


def test_a_neutral_metal_is_not_called_an_ion(tmp_path: Path) -> None:
    source = xyz(tmp_path / "na.xyz", [*rows(2), "Na 1.5 0.0 1.9"])
    alone, odd = read(source, charge="0").warnings
    assert alone == "each Na was taken as a fragment of its own"
    assert odd.startswith("fragment 3 (Na, charge 0) has an odd number of electrons")
    _, odd = read(source, charge="0,1,0").warnings
    assert odd.startswith("fragment 2 (H2O, charge 1), fragment 3 (Na, charge 0) have an odd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"charge": "-1"}, r"^--charge: does not say on which fragment .*--charge 0,0,-1$"),
        ({"multiplicity": "5"}, "^--multiplicity: does not say on which .*--multiplicity 1,1,5$"),
        ({"charge": "0,-1"}, r"^--charge: has 2 values for 3 fragments: 1 H2O, 2 Cl, 3 Na"),
        ({"charge": "0,minus,1"}, "^--charge: cannot be read .*--charge 0,0,0$"),
        ({"charge": "0,0.5,0"}, "^--charge: cannot be read"),
        (
            {"charge": "0,0,-1", "multiplicity": "1,2,2"},
            r"^--multiplicity: does not fit fragment 3",
        ),
        ({"multiplicity": "1,1,1"}, "^--multiplicity: does not fit fragment 2"),
        ({"multiplicity": "2"}, "^--multiplicity: does not fit 38 electrons"),
        ({"fragment": "1-3,4"}, "^--fragment: atom 5 is in no fragment"),
        ({"fragment": "1-3,3-5"}, "^--fragment: atom 3 is in more than one fragment"),
        ({"fragment": "1-3,4-9"}, "^--fragment: there are no such atoms .*1 to 5"),
        ({"fragment": "3-1,4,5"}, "^--fragment: there are no such atoms"),
        ({"fragment": "water"}, "^--fragment: cannot be read"),
        ({"fragment": "1-5"}, "^--fragment: .*fragmentation has not been specified"),
        ({"method": None}, "^--method: is missing"),
        ({"method": ""}, "^--method: must be text"),
        ({"driver": "force"}, "^--driver: is not known"),
        ({"bsse": "cp,nopc"}, r"^--bsse: is not known, did you mean nocp\?"),
        ({"max_nbody": 4}, "^--max-nbody: max_nbody=4 should be between 1 and 3"),
        ({"max_nbody": 0}, "^--max-nbody: "),
        ({"keywords": ("conv_tol",)}, "^--keyword: must be NAME=VALUE"),
        ({"keywords": ("=1",)}, "^--keyword: must be NAME=VALUE"),
        ({"keywords": ("a=1", "a=2")}, "^--keyword: a is given twice"),
        ({"keywords": ("a=NaN",)}, "^--keyword: is not a finite number"),
        ({"program": ""}, "^--program: "),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(xyz(tmp_path / "ion.xyz", ion_lines()), **options)


def test_atoms_that_overlap_are_named_by_their_place_in_the_file(tmp_path: Path) -> None:
    lines = [rows(2)[i] for i in (0, 3, 1, 4, 2, 5, 0)]
    with pytest.raises(InputError, match=r"w\.xyz: atoms 1 \(O\) and 7 \(O\) are 0 bohr apart"):
        read(xyz(tmp_path / "w.xyz", lines))


# ---- PDB -----------------------------------------------------------------------------------


def pdb_line(number: int, name: str, place: np.ndarray, element: str = "", alt: str = " ") -> str:
    x, y, z = place
    return (
        f"HETATM{number:5d} {name:<4s}{alt}HOH A{(number + 2) // 3:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2s}"
    )


def pdb_waters(n_waters: int, element: bool = True) -> list[str]:
    lines = []
    for number in range(n_waters):
        for index, symbol in enumerate("OHH"):
            name = f" {symbol}{index or ''}"
            place = WATER[index] + np.array([3.0 * number, 0, 0])
            lines.append(pdb_line(3 * number + index + 1, name, place, symbol if element else ""))
    return lines


@pytest.mark.parametrize("element", [True, False])
@pytest.mark.parametrize("suffix", [".pdb", ".ent"])
def test_pdb_by_columns_with_and_without_elements(
    tmp_path: Path, element: bool, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_text("\n".join(["HEADER", *pdb_waters(2, element), "ENDMDL", "END", ""]))
    loaded = read(str(path))
    assert loaded.expansion.system.symbols == ("O", "H", "H") * 2
    assert loaded.expansion.system.fragment_sizes == (3, 3)
    expected = (WATER + np.array([3.0, 0, 0])) / constants.bohr2angstroms
    np.testing.assert_allclose(loaded.expansion.system.geometry_bohr[3:], expected, atol=1e-7)
    assert loaded.warnings == ()


def test_pdb_first_model_and_first_location_only(tmp_path: Path) -> None:
    waters = pdb_waters(2)
    other = pdb_line(1, " O", WATER[0] + np.array([0.1, 0, 0]), "O", alt="B")
    path = tmp_path / "w.pdb"
    text = ["MODEL        1", *waters, other, "ENDMDL", "MODEL        2", *waters, "ENDMDL"]
    path.write_text("\n".join(text))
    loaded = read(str(path))
    assert loaded.expansion.system.n_atoms == 6
    assert loaded.warnings == (
        "alternate locations other than the first are left out",
        "only MODEL 1 of the file is used",
    )


def test_too_large_an_expansion_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--max-nbody: gives more than"):
        read(xyz(tmp_path / "w.xyz", [f"He {4 * i} 0 0" for i in range(70)]))
