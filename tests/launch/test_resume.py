"""Resuming: what is reused is exactly the overlap, counted by stock QCManyBody, never by us."""

from __future__ import annotations

import copy
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
from qcmanybody.models.v2 import ManyBodyInput
from qcmanybody.v2 import ManyBodyComputer

from qcmb_mpi import schema
from qcmb_mpi.expansion.graph import parse_label
from tests.launch.calls import call
from tests.launch.calls import write as write_here
from tests.launch.jobs import command, read, run, started, wait_until
from tests.launch.test_run import FLAKY, _n_done, helium, write

Component = tuple[str, tuple[int, ...], tuple[int, ...]]


def components(document: dict[str, Any]) -> set[Component]:
    """Return (method, real, basis) of all calculations that QCManyBody makes for an input."""
    stock = ManyBodyComputer.from_manybodyinput(ManyBodyInput(**document), build_tasks=False)
    methods = {
        name: each["model"]["method"]
        for name, each in document["specification"]["specification"].items()
    }
    found = set()
    for chemistry, label, _ in stock.qcmb_core.iterate_molecules():
        _, real, basis = parse_label(label)
        found.add((methods.get(chemistry, chemistry), tuple(real), tuple(basis)))
    return found


def asked(document: dict[str, Any], **keywords: Any) -> dict[str, Any]:
    """Return an input with other keywords of the expansion."""
    changed = copy.deepcopy(document)
    changed["specification"]["keywords"].update(keywords)
    return changed


def result(folder: Path, name: str = "in") -> bytes:
    return schema.strip_volatile((folder / f"{name}.result.json").read_bytes())


def overlap(folder: Path, name: str = "in") -> tuple[int, int]:
    """Return what the last run reused and what it computed."""
    summary = read(folder / f"{name}.run.json")
    return summary["n_reused"], summary["n_computed"]


def test_ranks_then_bodies_then_treatments_reuse_exactly_the_overlap(tmp_path: Path) -> None:
    two = asked(helium(5, sleep=0.4), bsse_type=["nocp"], max_nbody=2)
    three = asked(two, max_nbody=3)
    both = asked(three, bsse_type=["nocp", "cp"])
    source, store = write(tmp_path, two), tmp_path / "in.store.sqlite"
    words = ("--workers", "1", *FLAKY)
    with started(command("run", source, *words, n_ranks=2), cwd=tmp_path) as job:
        wait_until(lambda: _n_done(store) >= 3)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 75, job.stderr.read() if job.stderr else ""
    n_kept = _n_done(store)
    assert overlap(tmp_path) == (0, n_kept)
    assert 3 <= n_kept < len(components(two))

    known: set[Component] = set()
    for step, (document, n_ranks) in enumerate(((two, 3), (three, 2), (both, 0))):
        write(tmp_path, document)
        job_ = run(command("run", source, *words, n_ranks=n_ranks), cwd=tmp_path)
        assert job_.returncode == 0, job_.stderr
        wanted = components(document)
        n_reused = len(known & wanted) if step else n_kept
        assert overlap(tmp_path) == (n_reused, len(wanted) - n_reused)
        known |= wanted
        fresh = run(
            command("run", source, "-o", "fresh.result.json", "--fresh", *FLAKY), cwd=tmp_path
        )
        assert fresh.returncode == 0, fresh.stderr
        assert overlap(tmp_path, "fresh") == (0, len(wanted))
        assert result(tmp_path) == result(tmp_path, "fresh")
    assert _n_done(store) == len(known)


TREATMENTS = [
    asked(helium(4), bsse_type=bsse, max_nbody=max_nbody)
    for bsse, max_nbody in (
        (["cp"], 2), (["nocp"], 3), (["vmfc"], 2), (["cp", "vmfc"], 3), (["nocp", "cp", "vmfc"], 4),
    )
]  # fmt: skip
EXECUTORS = ("serial", "thread", "multiprocessing")


@pytest.mark.usefixtures("here")
def test_any_treatment_after_any_other_by_any_executor(capfd: pytest.CaptureFixture[str]) -> None:
    known: set[Component] = set()
    kinds = itertools.cycle(EXECUTORS)
    for document in TREATMENTS:
        wanted = components(document)
        words = ("--executor", next(kinds), "--store", "all.sqlite", *FLAKY)
        code, _, err = call(capfd, "run", write_here(document), *words)
        assert code == 0, err
        n_reused = len(known & wanted)
        assert overlap(Path()) == (n_reused, len(wanted) - n_reused)
        known |= wanted
        fresh = ("--executor", "serial", "--no-store", "-o", "fresh.result.json")
        assert call(capfd, "run", "in.json", *fresh, *FLAKY)[0] == 0
        assert result(Path()) == result(Path(), "fresh")


def levels(**methods: str) -> dict[str, Any]:
    """Return an input with a method for each n-body level, as ``one="low", two="high"``."""
    document = asked(helium(4), bsse_type=["cp"])
    specification = document["specification"]
    single = specification["specification"].pop("(auto)")
    numbers = {"one": 1, "two": 2, "three": 3}
    specification["keywords"]["levels"] = {numbers[n]: each for n, each in methods.items()}
    del specification["keywords"]["max_nbody"]
    for method in dict.fromkeys(methods.values()):
        specification["specification"][method] = single | {"model": {"method": method}}
    return document


@pytest.mark.usefixtures("here")
def test_a_level_that_stays_the_same_is_reused(capfd: pytest.CaptureFixture[str]) -> None:
    known: set[Component] = set()
    for document in (
        levels(one="high", two="low"),
        levels(one="high", two="low", three="lowest"),
        levels(one="highest", two="low", three="lowest"),
        levels(one="lowest", two="low"),
        levels(one="lowest", two="high"),
    ):
        wanted = components(document)
        words = ("--executor", "serial", *FLAKY)
        code, _, err = call(capfd, "run", write_here(document), *words)
        assert code == 0, err
        n_reused = len(known & wanted)
        assert overlap(Path()) == (n_reused, len(wanted) - n_reused)
        known |= wanted


def changed(what: str) -> dict[str, Any]:
    """Return an input that differs from ``helium(3)`` in one way that changes every number."""
    document = helium(3, driver="gradient" if what == "driver" else "energy")
    specification = document["specification"]["specification"]["(auto)"]
    if what == "keyword":
        specification["keywords"] = {"sleep": 0.001}
    if what == "geometry":
        document["molecule"]["geometry"][2][2] += 1e-6
    if what == "method":
        specification["model"]["method"] = "other"
    if what == "basis":
        specification["model"]["basis"] = "other"
    if what == "element":
        document["molecule"]["symbols"][1] = "Ne"
    return document


CHANGES = ("keyword", "geometry", "method", "basis", "element", "driver")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("what", CHANGES)
def test_what_was_computed_for_something_else_is_not_reused(
    capfd: pytest.CaptureFixture[str], what: str
) -> None:
    words = ("--executor", "serial", *FLAKY)
    n_tasks = len(components(helium(3)))
    for document in (helium(3), changed(what)):
        assert call(capfd, "run", write_here(document), *words)[0] == 0
        assert overlap(Path()) == (0, n_tasks)
    fresh = ("--no-store", "-o", "fresh.result.json")
    assert call(capfd, "run", "in.json", *fresh, *words)[0] == 0
    assert result(Path()) == result(Path(), "fresh")
    assert call(capfd, "run", write_here(helium(3)), *words)[0] == 0
    assert overlap(Path()) == (n_tasks, 0)
