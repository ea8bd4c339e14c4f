"""What maintainers keep: versions said once, a changelog in form, hooks and CI that call make."""

from __future__ import annotations

import os
import re
from datetime import date
from typing import Any

import yaml

from tests.project.test_install import EXTRAS, PROJECT, ROOT

KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
PYTHONS = [
    line.rpartition(" ")[2]
    for line in PROJECT["classifiers"]
    if re.search(r":: Python :: 3\.\d+$", line)
]


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def targets() -> set[str]:
    """Return the targets of make that `make help` names."""
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_changelog_is_in_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    unreleased, *released = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert unreleased == "[Unreleased]"
    found = [
        re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", each) for each in released
    ]
    assert all(found), released
    versions = [tuple(map(int, each.groups()[:3])) for each in found if each]
    days = [date.fromisoformat(each[4]) for each in found if each]
    assert versions == sorted(set(versions), reverse=True)
    assert days == sorted(days, reverse=True)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= KINDS
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert len(kinds) == len(set(kinds)), section.partition("\n")[0]


def test_the_citation_is_of_this_version_and_says_what_and_whom() -> None:
    citation = document("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert isinstance(citation["date-released"], date)
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= set(citation)


def test_every_python_that_is_promised_is_tried() -> None:
    lowest_first = [f"3.{minor}" for minor in range(10, 10 + len(PYTHONS))]
    assert lowest_first == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    jobs = document(".github/workflows/ci.yml")["jobs"]
    assert jobs["pythons"]["strategy"]["matrix"]["python"] == PYTHONS
    tools = {re.split("[<>=]", line)[0] for line in EXTRAS["release"]}
    assert tools == {"build", "check-wheel-contents", "twine"}


def test_ci_and_hooks_call_make() -> None:
    hooks = document(".pre-commit-config.yaml")["repos"][0]["hooks"]
    called = {hook["entry"].split()[-1] for hook in hooks}
    assert called == {"lint", "types", "quick"}
    jobs = document(".github/workflows/ci.yml")["jobs"]
    last = {name: job["steps"][-1]["run"].split() for name, job in jobs.items()}
    assert last["everything"] == [".ci/run"]
    called |= set(last["pythons"][2:])
    called |= set(re.findall(r"make ([a-z]+)", (ROOT / ".ci" / "run").read_text()))
    assert called <= targets()


def test_scripts_that_documents_call_by_their_path_can_be_run() -> None:
    scripts = [*(ROOT / "tests" / "cluster").glob("*.sh"), *(ROOT / "jobscripts").glob("*/*.sh")]
    assert scripts
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []


def test_forms_ask_for_what_a_report_needs() -> None:
    body = document(".github/ISSUE_TEMPLATE/bug.yml")["body"]
    required = {
        field["id"] for field in body if field.get("validations", {}).get("required") is True
    }
    assert required == {"what", "command", "input", "doctor"}
