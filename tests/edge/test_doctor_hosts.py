"""What the doctor says of a job's hosts together."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from qcmb_mpi import doctor, doctor_hosts, doctor_probes
from qcmb_mpi.doctor_hosts import Host, clocks, differences, hosts_findings
from qcmb_mpi.doctor_probes import Finding, _programs
from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution.executors.mpi import survey
from qcmb_mpi.execution.executors.mpi.survey import Report

BOTH = {"pyscf": "2.9", "xtb": "6.7"}


def host(name: str, programs: dict[str, str] | None = None, **clock: float) -> Host:
    """Return a host with these programs; those that do not load begin with an exclamation mark."""
    found = BOTH if programs is None else programs
    broken = {each[1:]: "OSError: x, y; z" for each in found if each.startswith("!")}
    findings = [
        Finding("Python", "ok", "3.11.7, /usr/bin/python", versions={"Python": "3.11.7"}),
        Finding("scratch", "ok", f"/scratch/{name}"),
        _programs({each.strip("!"): version for each, version in found.items()}, broken),
    ]
    return Host(name, findings, **clock)


def test_hosts_that_are_alike() -> None:
    finding = differences([host("n1"), host("n2"), host("n3")])
    assert (finding.status, finding.advice) == ("ok", "")
    assert finding.found.startswith("3 with the same")


def test_a_program_that_is_missing_on_one_host() -> None:
    finding = differences([host("n1"), host("n2", {"pyscf": "2.9"}), host("n3")])
    assert finding.status == "warning"
    assert finding.found == "n2 lacks xtb"
    assert "on another host" in finding.advice


def test_versions_that_differ() -> None:
    unknown = BOTH | {"xtb": "version unknown (OSError)", "!a": "1"}
    older = BOTH | {"pyscf": "2.8"}
    finding = differences([host("n1"), host("n2", older), host("n3", unknown)])
    assert finding.found == "pyscf is 2.9 on n1, 2.8 on n2, 2.9 on n3"


@pytest.mark.parametrize("programs", [{}, {"!pyscf": "2.9"}, {"!pyscf": "2.9", "!xtb": "6.7"}])
def test_a_host_without_a_program_that_loads(programs: dict[str, str]) -> None:
    assert differences([host("n1"), host("n2", programs)]).found == "n2 lacks pyscf, xtb"


@pytest.mark.parametrize(
    ("ahead_s", "doubt_s", "found"),
    [
        (0.9, 0.0, ""),
        (-0.9, 0.0, ""),
        (30.0, 29.5, ""),
        (30.2, 0.1, "n2 is 30 s ahead of n1"),
        (-3600.0, 1.0, "n2 is 3600 s behind n1"),
    ],
)
def test_clocks(ahead_s: float, doubt_s: float, found: str) -> None:
    finding = clocks([host("n1"), host("n2", ahead_s=ahead_s, doubt_s=doubt_s), host("n3")])
    assert finding.status == ("warning" if found else "ok")
    assert finding.found == found or not found
    assert bool(finding.advice) == bool(found)


def asked(monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[list[Finding], bool]:
    """Ask with this in place of MPI."""
    monkeypatch.setattr(survey, "survey", answer)
    return hosts_findings("n1", [], {}, is_leader=True)


def test_what_ranks_say_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(said: Host, environ: Mapping[str, str]) -> list[Report]:
        return [Report(0, said, 0.0, 0.0), Report(2, host("n2"), 99.0, 0.0)]

    found, has_answered = asked(monkeypatch, answer)
    assert has_answered
    assert [each.name for each in found] == ["hosts", "clocks"]
    assert found[1].found == "n2 is 99 s ahead of n1"


def test_other_ranks_have_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, lambda *_: []) == ([], True)


def test_a_world_that_is_not_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[Report]:
        raise TopologyError("srun started 3 ranks but each is alone; use `srun --mpi=pmix`")

    (finding,), has_answered = asked(monkeypatch, refuse)
    assert has_answered
    assert finding.status == "problem"
    assert (finding.found, finding.advice) == (
        "srun started 3 ranks but each is alone",
        "use `srun --mpi=pmix`",
    )


def test_an_mpi_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Report]:
        raise RuntimeError("cannot load MPI library")

    (finding,), has_answered = asked(monkeypatch, fail)
    assert has_answered
    assert (finding.name, finding.status) == ("hosts", "problem")
    assert finding.found == "MPI fails: RuntimeError: cannot load MPI library"
    assert finding.advice


def test_hosts_may_look_for_as_long_as_they_are_allowed_to() -> None:
    looking_s = doctor_probes._PROGRAMS_TIMEOUT_S + 2 * doctor_probes._MPI_TIMEOUT_S + 20.0
    assert looking_s < doctor_hosts._PATIENCE_S


def test_an_mpi_that_hangs_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_hosts, "_PATIENCE_S", 0.1)
    is_over = threading.Event()

    def hang(*_: object) -> list[Report]:
        is_over.wait()
        return []

    (finding,), has_answered = asked(monkeypatch, hang)
    assert not has_answered
    assert finding.status == "problem"
    assert "does not answer within 0.1 s" in finding.found
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(doctor, "diagnose", lambda _: [])
    job = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    assert doctor.report(False, job) == 1
    assert left == [1]
    assert "does not answer" in capsys.readouterr().out
    is_over.set()


@pytest.mark.parametrize(("problems", "status"), [([], "ok"), (["no room"], "problem")])
def test_an_input(
    problems: list[str],
    status: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda _: [])
    assert doctor.report(False, {}, problems=lambda: problems) == len(problems)
    assert capsys.readouterr().out.startswith(f"{status:<8} input")
