"""Clusters, model chemistries and cases for the comparison with sequential stock QCManyBody.

Rules of this file
------------------
1. Whether QCManyBody refuses a case is said here, by rule, and every test checks that it does so.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TREATMENTS = ("nocp", "cp", "vmfc")
BSSE = (["nocp"], ["cp"], ["vmfc"], list(TREATMENTS))
DRIVERS = ("energy", "gradient")
SCHEMAS = {1: "qcschema_manybodyinput", 2: "qcschema_many_body_input"}
SWITCH = "QCMANYBODY_EMBEDDING_CHARGES"
FORMS = ("single", "two-levels", "supersystem", "ends")
ORDERS = [list(o) for size in (1, 2, 3) for o in itertools.permutations(TREATMENTS, size)]
_GEOMETRIES = Path(__file__).parents[2] / "geometries"

Json = dict[str, Any]


def model(method: str, basis: str | None, program: str = "pyscf", **more: Any) -> Json:
    """Return an atomic specification."""
    chemistry = {"method": method} | ({} if basis is None else {"basis": basis})
    return {"program": program, "driver": "energy", "model": chemistry, **more}


# ---- clusters ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A molecule and what it is computed with.

    Parameters
    ----------
    molecule : dict
        Fields of a QCSchema molecule, bohr.
    high, low, whole : dict
        Atomic specifications of the lowest bodies, of the next, and of the whole.
    """

    molecule: Json
    high: Json
    low: Json
    whole: Json

    @property
    def n_fragments(self) -> int:
        return len(self.molecule["fragments"])


def _molecule(atoms: Sequence[tuple[str, float, float, float]], sizes: Sequence[int]) -> Json:
    ends = list(itertools.accumulate(sizes))
    return {
        "symbols": [atom[0] for atom in atoms],
        "geometry": [x for atom in atoms for x in atom[1:]],
        "fragments": [list(range(end - n, end)) for end, n in zip(ends, sizes, strict=True)],
    }


def _open(molecule: Json, charges: Sequence[int], multiplicities: Sequence[int]) -> Json:
    return {
        **molecule,
        "fragment_charges": list(charges),
        "fragment_multiplicities": list(multiplicities),
    }


def _kept(name: str) -> Json:
    content: Json = json.loads((_GEOMETRIES / f"{name}.json").read_text())
    del content["comment"]
    return content


_HELIUM = [("He", 0.0, 0.0, 0.0), ("He", 0.1, 0.0, 4.9), ("He", 0.0, 4.2, 2.4)]
_WATER = [("O", 0.0, 6.0, 0.4), ("H", 0.9, 7.1, 1.5), ("H", -1.2, 7.0, -0.6)]

CLUSTERS = {
    "helium-4": Cluster(
        _molecule([*_HELIUM, ("He", 4.0, 1.5, 2.2)], [1] * 4),
        model("mp2", "6-31g"),
        model("hf", "6-31g"),
        model("hf", "sto-3g"),
    ),
    "water-2": Cluster(
        _kept("water-2"), model("hf", "3-21g"), model("hf", "sto-3g"), model("mp2", "sto-3g")
    ),
    "water-3": Cluster(
        _kept("water-3"), model("mp2", "sto-3g"), model("hf", "sto-3g"), model("rhf", "sto-3g")
    ),
    "ions": Cluster(
        _open(
            _molecule([("Li", 0, 0, 0), ("He", 0.2, 0.1, 4.6), ("F", -0.3, 0, 9.8)], [1] * 3),
            [1, 0, -1],
            [1, 1, 1],
        ),
        model("mp2", "6-31g"),
        model("hf", "6-31g"),
        model("hf", "3-21g"),
    ),
    "hydroxyl": Cluster(
        _open(
            _molecule(
                [("O", 0, 0, 0), ("H", 0, 0.3, 1.8), ("He", 0.5, 0, -5.4), *_WATER], [2, 1, 3]
            ),
            [0, 0, 0],
            [2, 1, 1],
        ),
        model("mp2", "sto-3g"),
        # The hole of OH may turn about its axis almost freely: first order takes it too long.
        model("rohf", "sto-3g", keywords={"newton": True}),
        model("uhf", "sto-3g"),
    ),
    "lithium-pair": Cluster(
        _open(
            _molecule([("Li", 0, 0, 0), ("He", 0.3, 3.1, 3.0), ("Li", 0, 0, 7.1)], [1] * 3),
            [0, 0, 0],
            [2, 1, 2],
        ),
        model("uhf", "3-21g"),
        model("rohf", "sto-3g"),
        model("mp2", "sto-3g"),
    ),
    "helium-3": Cluster(
        _molecule(_HELIUM, [1] * 3),
        model("hf", "6-31g"),
        model("hf", "sto-3g"),
        model("rhf", "3-21g"),
    ),
    "water-helium": Cluster(
        _molecule([*_WATER, ("He", 0.2, 0.0, 0.3)], [3, 1]),
        model("hf", "3-21g"),
        model("hf", "sto-3g"),
        model("uhf", "sto-3g"),
    ),
}
MATRIX_CLUSTERS = ("helium-4", "water-2", "water-3", "ions", "hydroxyl", "lithium-pair")


# ---- cases ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One input.

    Parameters
    ----------
    name : str
    molecule : dict
    driver : str
    keywords : dict
        Of the expansion.
    specification : dict
        Atomic specifications by label.
    has_records : bool
        Whether the protocols ask for whole results of single tasks.
    version : int
        Of QCSchema.
    is_plain : bool
        Whether we are given plain data instead of QCManyBody's model.
    is_refused : bool
        Whether stock QCManyBody cannot do it.
    switch : str
        Value of QCManyBody's environment variable that permits embedding charges.
    """

    name: str
    molecule: Json
    driver: str
    keywords: Json
    specification: Json
    has_records: bool = False
    version: int = 2
    is_plain: bool = False
    is_refused: bool = False
    switch: str = ""

    def __str__(self) -> str:
        return self.name

    def document(self) -> Json:
        """Return the ManyBodyInput as plain data."""
        records = {1: "component_results", 2: "cluster_results"}[self.version]
        return {
            "schema_name": SCHEMAS[self.version],
            "schema_version": self.version,
            "molecule": self.molecule,
            "specification": {
                "driver": self.driver,
                "keywords": self.keywords,
                "specification": self.specification,
                "protocols": {records: "all" if self.has_records else "none"},
            },
        }


def case(
    name: str, bsse: Any, driver: str, form: str, total: bool | None = None, **more: Any
) -> Case:
    """Make a case of a cluster; `form` is one of FORMS."""
    cluster = CLUSTERS[name]
    keywords, specification = form_of(cluster, form)
    keywords |= {"bsse_type": bsse}
    if total is not None:
        keywords["return_total_data"] = total
    treatments = bsse if isinstance(bsse, list) else [bsse]
    asked = {None: "default", True: "total", False: "interaction"}[total]
    return Case(
        f"{name}-{'+'.join(treatments)}-{driver}-{form}-{asked}",
        cluster.molecule,
        driver,
        keywords,
        specification,
        is_refused=form == "ends" and "vmfc" in treatments,
        **more,
    )


def custom(
    cluster: Cluster,
    name: str,
    driver: str,
    keywords: Json,
    specification: Json,
    **more: Any,
) -> Case:
    """Make a case of a cluster with any keywords and one atomic specification or several."""
    single = {"(auto)": specification} if "model" in specification else specification
    return Case(f"{name}-{driver}", cluster.molecule, driver, keywords, single, **more)


def form_of(cluster: Cluster, form: str) -> tuple[Json, Json]:
    """Return the keywords and atomic specifications of a form of expansion."""
    n = cluster.n_fragments
    named = {"high": cluster.high, "low": cluster.low, "whole": cluster.whole}
    if form == "single":
        return {}, {"(auto)": cluster.low}
    if form == "ends":
        return {"supersystem_ie_only": True}, {"(auto)": cluster.low}
    if form == "two-levels":
        levels: dict[int | str, str] = {max(1, n - 2): "high", n: "low"}
    elif n == 2:
        levels = {1: "high", "supersystem": "whole"}
    else:
        levels = {1: "high", 2: "low", "supersystem": "whole"}
    return {"levels": levels}, {label: named[label] for label in levels.values()}


def matrix() -> Iterator[Case]:
    """Yield treatments x drivers x forms x total or interaction, for every cluster."""
    for name, bsse, driver, form, total in itertools.product(
        MATRIX_CLUSTERS, BSSE, DRIVERS, FORMS, (True, False)
    ):
        yield case(name, bsse, driver, form, total)


def hessians() -> Iterator[Case]:
    """Yield expansions of Hessians, of open shells too."""
    for bsse, form in itertools.product(BSSE, FORMS):
        yield case("helium-3", bsse, "hessian", form)
        yield case("water-helium", bsse, "hessian", form, form != "single")
    radicals, chemistry = CLUSTERS["lithium-pair"], model("uhf", "sto-3g")
    yield custom(radicals, "open-shells", "hessian", {"bsse_type": ["vmfc"]}, chemistry)


def version_1() -> Iterator[Case]:
    """Yield inputs in QCSchema version 1, with whole results of the tasks."""
    for name, bsse, driver, form in itertools.product(
        ("helium-3", "ions"), BSSE, DRIVERS, ("single", "supersystem", "ends")
    ):
        yield case(name, bsse, driver, form, version=1, has_records=name == "helium-3")
    yield case("helium-3", ["cp"], "hessian", "two-levels", version=1, has_records=True)


def orders() -> Iterator[Case]:
    """Yield every order of treatments: the first is the one returned."""
    for order, driver, form in itertools.product(ORDERS, DRIVERS, ("single", "two-levels")):
        yield case("helium-3", order, driver, form)
    for spelling in ("CP", ["ssfc", "MBE"], ["none", "cp", "nocp", "Cp"]):
        yield case("helium-3", spelling, "energy", "single", True)


def truncated() -> Iterator[Case]:
    """Yield expansions that end before all fragments."""
    cluster = CLUSTERS["helium-4"]
    for bsse, max_nbody, total, driver in itertools.product(
        BSSE, (1, 2, 3), (True, False), DRIVERS
    ):
        if max_nbody == 1 and bsse == ["cp"] and not total:
            continue  # nothing to compute: stock cannot give a gradient without data
        keywords = {"bsse_type": bsse, "max_nbody": max_nbody, "return_total_data": total}
        name = f"{'+'.join(bsse)}-max-{max_nbody}-total-{total}"
        yield custom(cluster, name, driver, keywords, cluster.low, is_plain=True)
    for levels in ({1: "high", 2: "low"}, {2: "high", 3: "low"}, {3: "high", "supersystem": "low"}):
        named = {"high": cluster.high, "low": cluster.low}
        keywords = {"bsse_type": list(TREATMENTS), "levels": levels}
        name = f"levels-{'-'.join(map(str, levels))}"
        yield custom(cluster, name, "gradient", keywords, named)


_SCF = {
    "conv_tol": 1e-11,
    "conv_tol_grad": 1e-7,
    "direct_scf_tol": 1e-13,
    "max_cycle": 60,
    "diis_space": 6,
    "diis_start_cycle": 2,
    "init_guess": "atom",
    "level_shift": 0.05,
    "damp": 0.05,
    "max_memory": 500,
}
_RICH = {
    "scf": model("HF", "STO-3G", keywords=_SCF),
    "fitted": model("hf", "3-21g", keywords={"density_fit": True, "max_memory": 500}),
    "newton": model("uhf", "6-31g*", keywords={"newton": True, "cart": True, "max_memory": 500}),
    "frozen": model("mp2", "sto-3g", keywords={"frozen": "core", "max_memory": 500}),
    "density": model(
        "PBE",
        "sto-3g",
        keywords={"grids_level": 1, "grid_response": True, "max_memory": 500},
        protocols={"stdout": False},
        extras={"kept": [1, 2.5, {"deep": None}]},
    ),
}


def rich() -> Iterator[Case]:
    """Yield specifications with keywords, protocols, extras; whole results are compared too."""
    for label, driver in itertools.product(_RICH, DRIVERS):
        keywords = {"bsse_type": ["vmfc", "cp", "nocp"], "return_total_data": True}
        for name in ("water-helium", "helium-3") if label != "newton" else ("water-helium",):
            words = f"{label}-{name}", driver, keywords, _RICH[label]
            yield custom(CLUSTERS[name], *words, has_records=True)
    coupled = {"cc_conv_tol": 1e-10, "cc_max_cycle": 50, "max_memory": 500}
    levels = {1: "ccsd(t)", 2: "ccsd", "supersystem": "mp2"}
    specification = {
        label: model(label, "6-31g", keywords={} if label == "mp2" else coupled)
        for label in levels.values()
    }
    keywords = {"bsse_type": ["cp", "nocp"], "levels": levels}
    yield custom(CLUSTERS["helium-3"], "coupled-clusters", "energy", keywords, specification)
    twins = {"one": model("hf", "6-31g"), "two": model("hf", "6-31g")}
    keywords = {"bsse_type": list(TREATMENTS), "levels": {1: "one", 3: "two"}}
    yield custom(CLUSTERS["helium-3"], "one-model-two-labels", "gradient", keywords, twins)


def two_programs() -> Iterator[Case]:
    """Yield levels of PySCF and tblite; tblite cannot have ghost atoms."""
    ab_initio, semi_empirical = model("hf", "sto-3g"), model("GFN2-xTB", None, "tblite")
    named = {"hf": ab_initio, "xtb": semi_empirical}
    forms: dict[str, dict[int | str, str]] = {
        "hf-then-xtb": {1: "hf", 3: "xtb"},
        "xtb-then-hf": {2: "xtb", 3: "hf"},
        "xtb-whole": {2: "hf", "supersystem": "xtb"},
    }
    for (form, levels), bsse, driver in itertools.product(forms.items(), BSSE, DRIVERS):
        for total in (True, False):
            keywords = {"bsse_type": bsse, "levels": levels, "return_total_data": total}
            name = f"{form}-{'+'.join(bsse)}-total-{total}"
            yield custom(
                CLUSTERS["water-3"],
                name,
                driver,
                keywords,
                named,
                # The whole system is always computed without ghost atoms.
                is_refused=bsse != ["nocp"] and form != "xtb-whole",
            )


def charged() -> Iterator[Case]:
    """Yield embedding charges, which only Psi4 can be given, with QCManyBody's switch and without.

    Counterpoise totals need single fragments in their own basis, so they have charges too.
    """
    cluster = CLUSTERS["ions"]
    charges = {1: [1.0], 2: [0.0], 3: [-1.0]}
    for bsse, total, switch in itertools.product(BSSE, (True, False), ("", "1")):
        yield custom(
            cluster,
            f"{'+'.join(bsse)}-total-{total}-switch-{switch or 'off'}",
            "energy",
            {"bsse_type": bsse, "embedding_charges": charges, "return_total_data": total},
            cluster.low,
            is_refused=True,
            switch=switch,
        )
