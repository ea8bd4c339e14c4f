"""A corpus of malformed inputs: what people get wrong, generated from right ones.

Each case is a name, a payload (plain data, or the bytes of a file with its suffix), and a part of
the one line that must answer it: the field, or the file. The generator has a seed and no other
source of chance.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

INF, NAN = float("inf"), float("nan")
_SEED = 20


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Parameters
    ----------
    name : str
        Unique.
    kind : str
        ``document`` (plain data), ``file`` (bytes, named ``input`` + suffix), ``geometry`` (the
        same, to be completed by ``--method hf``) or ``preflight`` (a sound document that a check
        of programs must refuse).
    payload : dict or bytes
    field : str
        Part of the answer.
    suffix : str
        Of a file.
    """

    name: str
    kind: str
    payload: Any
    field: str
    suffix: str = ".json"

    def as_bytes(self) -> bytes:
        """Return the content of the file that has this case."""
        if isinstance(self.payload, bytes):
            return self.payload
        return json.dumps(self.payload).encode()


def sound(version: int = 2) -> dict[str, Any]:
    """Return an input without fault: three waters, two levels."""
    atomic = {
        "program": "pyscf",
        "driver": "energy",
        "model": {"method": "hf", "basis": "sto-3g"},
        "keywords": {"conv_tol": 1e-9},
        "protocols": {"stdout": True, "wavefunction": "none", "native_files": "none"},
        "extras": {},
    }
    records = {1: "component_results", 2: "cluster_results"}[version]
    water = [[0.0, 0.0, 0.0], [0.0, 1.43, 1.11], [0.0, -1.43, 1.11]]
    return {
        "schema_name": {1: "qcschema_manybodyinput", 2: "qcschema_many_body_input"}[version],
        "schema_version": version,
        "specification": {
            "driver": "energy",
            "keywords": {
                "bsse_type": ["cp", "nocp"],
                "levels": {"1": "high", "2": "low"},
                "max_nbody": 2,
                "return_total_data": True,
                "supersystem_ie_only": False,
            },
            "specification": {"high": atomic, "low": copy.deepcopy(atomic)},
            "protocols": {records: "none"},
            "extras": {},
        },
        "molecule": {
            "symbols": ["O", "H", "H"] * 3,
            "geometry": [x for i in range(3) for a in water for x in (a[0] + 6.0 * i, *a[1:])],
            "fragments": [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
            "fragment_charges": [0.0, 0.0, 0.0],
            "fragment_multiplicities": [1, 1, 1],
            "molecular_charge": 0.0,
            "molecular_multiplicity": 1,
            "fix_com": True,
            "fix_orientation": True,
            "name": "three waters",
        },
    }


def cases() -> list[Case]:
    """Return all cases, names unique, always the same."""
    rng = random.Random(_SEED)
    found: list[Case] = []
    for make in (
        _missing,
        _misspelt,
        _wrong_types,
        _not_finite,
        _overlaps,
        _fragments,
        _electrons,
        _bsse,
        _levels,
        _schemas,
        _broken_files,
        _repeated_keys,
        _yaml,
        _geometries,
        _programs,
    ):
        found.extend(make(rng))
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "names are unique"
    return found


# ---- changes of a sound document -----------------------------------------------------------

_KEYWORDS = "specification.keywords"
_ATOMIC = "specification.specification.high"


def changed(path: str, value: Any, version: int = 2) -> dict[str, Any]:
    """Return a sound document with one value replaced or added."""
    document = sound(version)
    parent, key = _parent(document, path)
    parent[key] = value
    return document


def _parent(document: dict[str, Any], path: str) -> tuple[Any, Any]:
    *steps, last = path.split(".")
    node: Any = document
    for step in steps:
        node = node[step]
    return node, last


def _molecule_with(**fields: Any) -> dict[str, Any]:
    """Return a sound document with fields of the molecule replaced; None takes a field away."""
    document = sound()
    for name, value in fields.items():
        if value is None:
            document["molecule"].pop(name)
        else:
            document["molecule"][name] = value
    return document


def _keywords_with(**fields: Any) -> dict[str, Any]:
    document = sound()
    for name, value in fields.items():
        if value is None:
            document["specification"]["keywords"].pop(name)
        else:
            document["specification"]["keywords"][name] = value
    return document


def _missing(rng: random.Random) -> Iterator[Case]:
    required = (
        "molecule",
        "molecule.symbols",
        "molecule.geometry",
        "molecule.fragments",
        "specification",
        "specification.driver",
        "specification.keywords",
        "specification.specification",
        f"{_ATOMIC}.program",
        f"{_ATOMIC}.driver",
        f"{_ATOMIC}.model",
        f"{_ATOMIC}.model.method",
    )
    for version in (1, 2):
        for path in required:
            document = sound(version)
            parent, key = _parent(document, path)
            del parent[key]
            yield Case(f"v{version} without {path}", "document", document, path)


def _typo(name: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(name))
    kind = rng.randrange(3)
    if kind == 0:
        return name[:place] + name[place] + name[place:]
    if kind == 1:
        return name[:place] + name[place + 1 :]
    return name[:place] + "z" + name[place + 1 :]


def _misspelt(rng: random.Random) -> Iterator[Case]:
    for version in (1, 2):
        document = sound(version)
        objects = ("molecule", "specification", _KEYWORDS, _ATOMIC, f"{_ATOMIC}.model")
        objects += (f"{_ATOMIC}.protocols", "specification.protocols")
        for where in ("", *objects):
            parent: Any = document
            for step in filter(None, where.split(".")):
                parent = parent[step]
            for name in parent:
                wrong = _typo(name, rng)
                broken = sound(version)
                node: Any = broken
                for step in filter(None, where.split(".")):
                    node = node[step]
                node[wrong] = node.pop(name)
                path = f"{where}.{wrong}".lstrip(".")
                yield Case(f"v{version} {path} for {name}", "document", broken, path)
    yield Case(
        "camel case", "document", changed(f"{_KEYWORDS}.maxNbody", 2), f"{_KEYWORDS}.maxNbody"
    )
    for key in ("colour", "nproc", "basis_set", ""):
        yield Case(
            f"stray model.{key}",
            "document",
            changed(f"{_ATOMIC}.model.{key}", 1),
            f"{_ATOMIC}.model",
        )


def _wrong_types(rng: random.Random) -> Iterator[Case]:
    wrong: dict[str, tuple[Any, ...]] = {
        "molecule": ([], "water", 3, None),
        "molecule.symbols": ("OHH", 9, None, [8, 1, 1], [], ["O", ""]),
        "molecule.geometry": ("0 0 0", None, {}, 7, ["0.0"] * 27, [[0, 0]] * 9, [0.0] * 26, []),
        "molecule.fragments": ("0-2", 3, [0, 1, 2], [["a"]], [[0.5, 1]], None),
        "molecule.fragment_charges": (0, "neutral", ["0"], [0.5, 0, 0], [0, 0], {"1": 0}),
        "molecule.fragment_multiplicities": (1, ["1", "1", "1"], [1.5, 1, 1], [1, 1], [True] * 3),
        "molecule.molecular_charge": ("zero", [0], 0.5, True),
        "molecule.molecular_multiplicity": ("singlet", 0, -1, 1.5, [1]),
        "molecule.fix_com": ("yes", 1, []),
        "molecule.real": ([1] * 9, "all", [True] * 8),
        "molecule.masses": (["heavy"] * 9, 16.0, [1.0] * 8),
        "molecule.atomic_numbers": ([8, 1, 1], ["O"] * 9),
        "molecule.connectivity": ("none", [0, 1, 1]),
        "specification": ([], "hf", None),
        "specification.driver": ("forces", "properties", "Energy", 1, None, ["energy"], ""),
        _KEYWORDS: ([], "cp", None),
        f"{_KEYWORDS}.max_nbody": ("two", 1.5, True, [2], {}),
        f"{_KEYWORDS}.return_total_data": ("yes", 1, [], "True"),
        f"{_KEYWORDS}.supersystem_ie_only": ("no", 0, {}),
        f"{_KEYWORDS}.levels": ([], "hf", 2, {}),
        f"{_KEYWORDS}.embedding_charges": ([], 0.1, {"1": 0.1}),
        "specification.specification": ([], "hf", {}, None),
        _ATOMIC: ("hf", [], None, 1),
        f"{_ATOMIC}.program": (1, "", None, ["pyscf"]),
        f"{_ATOMIC}.driver": ("force", 1, None),
        f"{_ATOMIC}.model": ("hf", [], None),
        f"{_ATOMIC}.model.method": (1, "", None, ["hf"]),
        f"{_ATOMIC}.model.basis": (631, ["sto-3g"], True),
        f"{_ATOMIC}.keywords": ([], "tight", None, 1),
        f"{_ATOMIC}.protocols": ([], "all", None),
        f"{_ATOMIC}.protocols.stdout": ("yes", 1),
        f"{_ATOMIC}.protocols.wavefunction": ("everything", True),
        f"{_ATOMIC}.extras": ([], "more"),
        "specification.protocols.cluster_results": ("some", True, None, "max_nbody"),
        "specification.extras": ([], 1),
        "id": (1, []),
    }
    for path, values in wrong.items():
        for value in values:
            yield Case(f"{path} = {value!r}"[:90], "document", changed(path, value), path)


def _not_finite(rng: random.Random) -> Iterator[Case]:
    for value in (NAN, INF, -INF):
        place = rng.randrange(27)
        document = sound()
        document["molecule"]["geometry"][place] = value
        field = f"molecule.geometry[{place}]"
        yield Case(f"geometry {value}", "document", document, field)
        yield Case(f"geometry {value} in a file", "file", json.dumps(document).encode(), field)
        for name in ("molecular_charge", "molecular_multiplicity"):
            document = _molecule_with(**{name: value})
            yield Case(f"{name} {value}", "document", document, f"molecule.{name}")
        charges = [0.0, value, 0.0]
        document = _molecule_with(fragment_charges=charges)
        yield Case(f"fragment charge {value}", "document", document, "fragment_charges[1]")
        document = changed("molecule.masses", [16.0] * 8 + [value])
        yield Case(f"mass {value}", "document", document, "molecule.masses[8]")
    huge = json.dumps(sound()).replace("6.0", "1e999", 1).encode()
    yield Case("geometry 1e999", "file", huge, "molecule.geometry")


def _overlaps(rng: random.Random) -> Iterator[Case]:
    for distance in (0.0, 1e-9, 0.01, 0.049, 0.09):
        first, second = sorted(rng.sample(range(9), 2))
        document = sound()
        geometry = document["molecule"]["geometry"]
        geometry[3 * second : 3 * second + 3] = geometry[3 * first : 3 * first + 3]
        geometry[3 * second + rng.randrange(3)] += distance
        yield Case(f"atoms {distance} apart", "document", document, "molecule.geometry")
    collapsed = _molecule_with(geometry=[1.0] * 27)
    yield Case("all atoms in one place", "document", collapsed, "molecule.geometry")
    for symbol in ("Xx", "water", "X", "Gh", "@O", "O1x", "D2O", "J"):
        symbols = ["O", "H", "H"] * 2 + [symbol, "H", "H"]
        yield Case(
            f"element {symbol}", "document", _molecule_with(symbols=symbols), "molecule.symbols[6]"
        )


def _fragments(rng: random.Random) -> Iterator[Case]:
    where = "molecule.fragments"
    wrong: dict[str, Any] = {
        "one atom too far": [[0, 1, 2], [3, 4, 5], [6, 7, 9]],
        "counted from 1": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "negative": [[0, 1, 2], [3, 4, 5], [6, 7, -1]],
        "far away": [[0, 1, 2], [3, 4, 5], [6, 7, 10**12]],
        "twice in one": [[0, 1, 1], [3, 4, 5], [6, 7, 8]],
        "in two": [[0, 1, 2], [2, 4, 5], [6, 7, 8]],
        "the same twice": [[0, 1, 2], [0, 1, 2], [3, 4, 5], [6, 7, 8]],
        "first missing": [[1, 2], [3, 4, 5], [6, 7, 8]],
        "last missing": [[0, 1, 2], [3, 4, 5], [6, 7]],
        "middle missing": [[0, 1, 2], [3, 5], [6, 7, 8]],
        "one fragment": [[0, 1, 2, 3, 4, 5, 6, 7, 8]],
        "no fragment": [],
        "empty fragment": [[0, 1, 2], [], [3, 4, 5], [6, 7, 8]],
        "only empty ones": [[], [], []],
        "interleaved": [[0, 3, 6], [1, 4, 7], [2, 5, 8]],
        "backwards": [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
        "backwards inside": [[2, 1, 0], [3, 4, 5], [6, 7, 8]],
    }
    for name, fragments in wrong.items():
        document = _molecule_with(
            fragments=fragments, fragment_charges=None, fragment_multiplicities=None
        )
        yield Case(f"fragments: {name}", "document", document, where)
    for number in range(8):
        order = list(range(9))
        while order == sorted(order):
            rng.shuffle(order)
        fragments = [order[:3], order[3:6], order[6:]]
        yield Case(
            f"fragments shuffled {number}", "document", _molecule_with(fragments=fragments), where
        )
    for name in ("charges", "multiplicities"):
        for n_values in (1, 2, 4):
            document = _molecule_with(**{f"fragment_{name}": [1] * n_values})
            yield Case(f"{n_values} fragment {name}", "document", document, f"fragment_{name}")
    ghosts = changed("molecule.real", [True] * 6 + [False] * 3)
    yield Case("ghosts in the parent", "document", ghosts, "molecule.real[6]")
    wrong_z = changed("molecule.atomic_numbers", [8, 1, 1] * 2 + [8, 1, 2])
    yield Case("atomic number of another element", "document", wrong_z, "atomic_numbers[8]")


def _electrons(rng: random.Random) -> Iterator[Case]:
    place = "molecule.fragment_multiplicities"
    for index in range(3):
        for multiplicity in (2, 4, 13, 0, -1):
            values = [1, 1, 1]
            values[index] = multiplicity
            document = _molecule_with(fragment_multiplicities=values, molecular_multiplicity=None)
            name = f"multiplicity {multiplicity} of fragment {index + 1}"
            yield Case(name, "document", document, f"{place}[{index}]")
        charges = [0, 0, 0]
        charges[index] = rng.choice([1, -1])
        document = _molecule_with(fragment_charges=charges, molecular_charge=None)
        name = f"odd charge, singlet, fragment {index + 1}"
        yield Case(name, "document", document, f"{place}[{index}]")
        charges = [0, 0, 0]
        charges[index] = 11
        document = _molecule_with(
            fragment_charges=charges, fragment_multiplicities=None, molecular_charge=None
        )
        name = f"more charge than electrons, fragment {index + 1}"
        yield Case(name, "document", document, f"molecule.fragment_charges[{index}]")
    for charge in (1, -1, 2, 40):
        document = _molecule_with(molecular_charge=charge)
        yield Case(
            f"total charge {charge}, neutral fragments",
            "document",
            document,
            "molecule.molecular_charge",
        )
    bare: dict[str, Any] = {"fragment_charges": None, "fragment_multiplicities": None}
    for charge, multiplicity in ((0, 2), (1, 1), (-1, 3), (0, 33)):
        document = _molecule_with(
            **bare, molecular_charge=charge, molecular_multiplicity=multiplicity
        )
        name = f"total charge {charge} with multiplicity {multiplicity}"
        yield Case(name, "document", document, "molecule.molecular_multiplicity")
    document = _molecule_with(**bare, molecular_charge=31, molecular_multiplicity=None)
    yield Case("fewer electrons than none", "document", document, "molecule.molecular_charge")
    document = _molecule_with(**bare, molecular_charge=20, molecular_multiplicity=None)
    yield Case(
        "charge that no fragment can bear", "document", document, "molecule.fragment_charges"
    )


def _bsse(rng: random.Random) -> Iterator[Case]:
    path = f"{_KEYWORDS}.bsse_type"
    for name in ("nopc", "CPC", "vfmc", "counterpoise", "", "cp,nocp", "all", "nocpp"):
        for value in (name, ["cp", name]):
            document = _keywords_with(bsse_type=value)
            yield Case(f"bsse {value!r}", "document", document, path)
    for value in (1, [], [["cp"]], [None], {"cp": True}, True):
        document = _keywords_with(bsse_type=value)
        yield Case(f"bsse {value!r}", "document", document, path)


def _levels(rng: random.Random) -> Iterator[Case]:
    path = f"{_KEYWORDS}.levels"
    wrong: dict[str, dict[Any, Any]] = {
        "zero": {"0": "high", "1": "low"},
        "negative": {"-1": "high", "2": "low"},
        "a fraction": {"1.5": "high"},
        "a word": {"one": "high"},
        "misspelt supersystem": {"1": "high", "supersytem": "low"},
        "only supersystem": {"supersystem": "high"},
        "too high": {"1": "high", "4": "low"},
        "far too high": {"1000": "high"},
        "unknown name": {"1": "high", "2": "lwo"},
        "name of a method": {"2": "hf"},
        "the same for all": {"1": "high", "2": "high", "3": "high"},
        "the same for two": {"1": "high", "2": "low", "3": "low"},
        "not contiguous": {"1": "high", "2": "low", "3": "high"},
        "same as supersystem": {"1": "high", "2": "low", "supersystem": "low"},
        "number as name": {"1": 1},
        "null as name": {"1": None},
        "list as name": {"1": ["high"]},
        "object as name": {"1": {"model": {"method": "hf"}}},
        "empty name": {"1": ""},
        "one level twice": {"1": "high", "01": "low"},
        "superscript": {"\u00b2": "high"},
    }
    for name, levels in wrong.items():
        document = _keywords_with(levels=levels, max_nbody=None)
        yield Case(f"levels: {name}", "document", document, path)
    for max_nbody in (0, -1, -7, 4, 100, 10**30):
        for levels in (None, {"2": "high"}):
            document = _keywords_with(levels=levels, max_nbody=max_nbody)
            name = f"max_nbody {max_nbody} with levels {levels}"
            yield Case(name, "document", document, f"{_KEYWORDS}.max_nbody")
    for max_nbody in (1, 3):
        document = _keywords_with(max_nbody=max_nbody)
        yield Case(
            f"max_nbody {max_nbody} against levels", "document", document, f"{_KEYWORDS}.max_nbody"
        )
    document = _keywords_with(levels=None)
    yield Case("several specifications without levels", "document", document, path)
    document = _keywords_with(supersystem_ie_only=True)
    yield Case("supersystem_ie_only below the top", "document", document, "supersystem_ie_only")
    document = _keywords_with(
        supersystem_ie_only=True, levels={"3": "high"}, max_nbody=None, bsse_type=["vmfc"]
    )
    yield Case("supersystem_ie_only with vmfc", "document", document, "supersystem_ie_only")
    for name, charges in {
        "of one fragment": {"1": [0.1, 0, 0]},
        "of a fourth fragment": {str(i): [0.1, 0, 0] for i in range(1, 5)},
        "too few": {"1": [0.1], "2": [0.1, 0, 0], "3": [0.1, 0, 0]},
        "of no number": {"a": [0.1]},
        "not switched on": {str(i): [0.1, 0, 0] for i in range(1, 4)},
    }.items():
        document = _keywords_with(embedding_charges=charges)
        yield Case(f"embedding charges {name}", "document", document, "embedding_charges")


def _schemas(rng: random.Random) -> Iterator[Case]:
    for name in (
        "qcschema_atomic_input",
        "qcschema_input",
        "qcschema_optimization_input",
        "qcschema_many_body_result",
        "qcschema_manybodyresult",
        "qcschema_many_body_inptu",
        "qcschema_molecule",
        "",
        2,
        ["qcschema_many_body_input"],
    ):
        yield Case(f"schema_name {name!r}", "document", changed("schema_name", name), "schema_name")
    for version in (0, 3, -1, "2", "v2", 2.5, True, [2], 10**20):
        document = changed("schema_version", version)
        yield Case(f"schema_version {version!r}", "document", document, "schema_version")
    yield Case(
        "version 1 of a version 2 name", "document", changed("schema_version", 1), "schema_version"
    )
    yield Case(
        "version 2 of a version 1 name",
        "document",
        changed("schema_version", 2, 1),
        "schema_version",
    )
    for path, value in {
        "molecule.schema_version": 2,
        "molecule.schema_name": "qcschema_topology",
        f"{_KEYWORDS}.schema_name": "qcschema_manybodykeywords",
        f"{_KEYWORDS}.schema_version": 2,
        "specification.schema_name": "qcschema_specification",
    }.items():
        yield Case(f"{path} {value!r}", "document", changed(path, value), path)
    records = sound()
    records["specification"]["protocols"] = {"component_results": "all"}
    yield Case("protocol of version 1", "document", records, "protocols.component_results")
    mixed = changed("extras", {}, 2)
    yield Case("extras at the top of version 2", "document", mixed, "extras")


def _broken_files(rng: random.Random) -> Iterator[Case]:
    whole = json.dumps(sound(), indent=1).encode()
    contents: dict[str, bytes] = {
        "empty": b"",
        "blank": b" \n\t\n",
        "only a byte order mark": b"\xef\xbb\xbf",
        "binary": bytes(rng.randrange(256) for _ in range(512)) + b"\xff\xfe",
        "an ELF program": b"\x7fELF\x02\x01\x01" + bytes(64),
        "a zip archive": b"PK\x03\x04" + bytes(30) + b"\xc0\x80",
        "zeros": bytes(100),
        "UTF-16": json.dumps(sound()).encode("utf-16"),
        "Latin-1": b'{"name": "\xe9t\xe9"}',
        "a list": b"[1, 2, 3]",
        "a list of inputs": b"[" + whole + b"]",
        "a number": b"42",
        "a string": b'"molecule"',
        "null": b"null",
        "true": b"true",
        "prose": b"this is not an input",
        "two documents": whole + whole,
        "text after the end": whole + b"\nthe end",
        "single quotes": whole.replace(b'"', b"'"),
        "comma at the end": whole.rstrip()[:-1] + b",}",
        "no comma": whole.replace(b",", b"", 1),
        "comments": b"// an input\n" + whole,
        "deep lists": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "deeper lists": b"[" * 200000,
        "deep objects": b'{"a": ' * 3000 + b"1" + b"}" * 3000,
        "number of 5000 digits": b'{"id": ' + b"1" * 5000 + b"}",
    }
    for name, content in contents.items():
        yield Case(f"file: {name}", "file", content, "input.json")
    for place in sorted(rng.sample(range(1, len(whole.rstrip())), 30)):
        yield Case(f"file cut off at {place}", "file", whole[:place], "input.json")
    deep: Any = 1
    for _ in range(100):
        deep = {"deeper": deep}
    document = changed(f"{_ATOMIC}.keywords.nested", deep)
    yield Case("keywords 100 levels deep", "document", document, "deep")


def _repeated_keys(rng: random.Random) -> Iterator[Case]:
    whole = json.dumps(sound())
    for key in ("molecule", "specification", "bsse_type", "max_nbody", "geometry", "program"):
        broken = whole.replace(f'"{key}":', f'"{key}": null, "{key}":', 1)
        yield Case(f"{key} twice", "file", broken.encode(), key)


def _yaml(rng: random.Random) -> Iterator[Case]:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    merges = "a0: &a0 {k0: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n  k{i}: 1\n" for i in range(1, 12)
    )
    contents: dict[str, tuple[str, str]] = {
        "empty": ("", "input.yaml"),
        "only comments": ("# nothing\n", "input.yaml"),
        "a word": ("water\n", "input.yaml"),
        "a list": ("- molecule\n- specification\n", "input.yaml"),
        "a tab": ("molecule:\n\tsymbols: [O]\n", "input.yaml"),
        "an open bracket": ("molecule: [1, 2\n", "input.yaml"),
        "bad indentation": ("molecule:\n  a: 1\n b: 2\n", "input.yaml"),
        "two documents": ("a: 1\n---\nb: 2\n", "input.yaml"),
        "a Python object": ("a: !!python/object/apply:os.system ['true']\n", "input.yaml"),
        "an unknown tag": ("a: !mine 3\n", "input.yaml"),
        "an unknown anchor": ("a: *nowhere\n", "input.yaml"),
        "a cycle": ("a: &a [*a]\n", "input.yaml"),
        "a bomb": (bomb, "input.yaml"),
        "a bomb of merges": (merges, "input.yaml"),
        "deep lists": ("a: " + "[" * 3000 + "]" * 3000, "input.yaml"),
        "a key twice": ("molecule: 1\nmolecule: 2\n", "molecule"),
        "a list as key": ("? [1, 2]\n: 3\n", "input.yaml"),
        "a number as key": ("molecule: {}\n3.5: {}\n", "3.5"),
        "a date": ("molecule: 2001-12-14\nspecification: {}\n", "molecule"),
        "an impossible date": ("molecule: 2001-13-45\n", "input.yaml"),
        "a control character": ("molecule: \x01\n", "input.yaml"),
        "bytes": ("molecule: !!binary aGVsbG8=\nspecification: {}\n", "molecule"),
        "not a number": ("molecule: {geometry: [.nan]}\n", "molecule.geometry[0]"),
        "a wrong field": ("moelcule: {}\nspecification: {}\n", "moelcule"),
    }
    for name, (content, field) in contents.items():
        yield Case(f"YAML: {name}", "file", content.encode(), field, ".yaml")


def _geometries(rng: random.Random) -> Iterator[Case]:
    water = "O 0 0 0.1\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n"
    far = "O 5 0 0.1\nH 5 0.76 -0.47\nH 5 -0.76 -0.47\n"
    atom = "HETATM    1  O   HOH A   1       0.000   0.000   0.100  1.00  0.00           O\n"
    contents: dict[str, tuple[str, str, str]] = {
        "no count": (f"two waters\n{water}{far}", "input.xyz line 1", ".xyz"),
        "count too high": (f"7\n\n{water}{far}", "input.xyz", ".xyz"),
        "count too low": (f"5\n\n{water}{far}", "input.xyz line 8", ".xyz"),
        "two frames": (f"3\n\n{water}3\n\n{water}", "input.xyz line 6", ".xyz"),
        "a word as coordinate": ("1\n\nO 0 zero 0\n", "input.xyz line 3", ".xyz"),
        "two coordinates": ("1\n\nO 0 0\n", "input.xyz line 3", ".xyz"),
        "nan": ("1\n\nO 0 nan 0\n", "input.xyz line 3", ".xyz"),
        "no atoms": ("0\n\n", "input.xyz", ".xyz"),
        "unknown element": (f"4\n\n{water}Xx 9 9 9\n", "input.xyz", ".xyz"),
        "one molecule": (f"3\n\n{water}", "--fragment", ".xyz"),
        "overlap": (f"6\n\n{water}{water}", "input.xyz", ".xyz"),
        "overlap of fragments": (f"6\n\n{water}--\n{water}", "input.xyz", ".xyz"),
        "empty": ("", "input.xyz", ".xyz"),
        "PDB without atoms": ("HEADER\nEND\n", "input.pdb", ".pdb"),
        "PDB without element": (atom[:12] + "  1 " + atom[16:70] + "\n", "line 1", ".pdb"),
        "PDB without z": (atom[:46] + " " * 8 + atom[54:], "input.pdb line 1", ".pdb"),
        "PDB of one molecule": (atom, "--fragment", ".pdb"),
    }
    for name, (content, field, suffix) in contents.items():
        yield Case(f"geometry: {name}", "geometry", content.encode(), field, suffix)


def _programs(rng: random.Random) -> Iterator[Case]:
    for program in ("pyscff", "psi5", "gaussian", "PySCF 2.6", "none", "qcmanybody", "xtb2", "?"):
        document = changed(f"{_ATOMIC}.program", program)
        yield Case(f"program {program}", "preflight", document, "program")
