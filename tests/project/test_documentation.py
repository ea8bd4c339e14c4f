"""The documentation holds: its Python examples print what it says, its tables name all fields."""

from __future__ import annotations

import doctest
import re
import runpy
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qcmb_mpi
from qcmb_mpi import options
from qcmb_mpi.execution.host import HostShare, host_share
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.summary import RunSummary
from qcmb_mpi.report.tables import COLUMNS
from qcmb_mpi.report.tallies import AgentInfo
from qcmb_mpi.scheduling.messages import EVENT_RULES, TaskClass
from qcmb_mpi.store.tables import TABLES
from tests.edge.report_cases import done
from tests.toys import toy_expansion

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.name for page in DOCS.glob("*.md") if "```pycon\n" in page.read_text(encoding="utf-8")
)
USERS = ("execution.executors.local", "forecast", "plan_ranks", "programs.thread_manager")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have 4 cores and 8 GiB, as the pages say, and pin nothing to them."""

    def share(**given: Any) -> HostShare:
        real = host_share(**given)
        info = replace(real.info, n_cores=4, memory_bytes=8 * 2**30)
        return replace(real, info=info, cpus=())

    for name in USERS:
        monkeypatch.setattr(f"qcmb_mpi.{name}.host_share", share)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the code of a language and the line on which each block of it begins."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, each.start(1)), each[1]) for each in found]


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("name", PAGES)
def test_examples_print_what_the_page_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF)
    names: dict[str, Any] = {}
    said: list[str] = []
    for line, code in blocks(DOCS / name, "pycon"):
        example = doctest.DocTestParser().get_doctest(code, names, name, name, line)
        example.globs = names
        runner.run(example, out=said.append, clear_globs=False)
    assert runner.tries > 0
    assert not runner.failures, "".join(said)


def test_the_page_of_the_run_summary_names_every_field() -> None:
    summary = RunSummary(TaskSpace(toy_expansion(3)), "any", start_s=0.0)
    summary.agent_joined(AgentInfo(0, "host", 1, 1, 1))
    summary.failed("label", "error", "message", attempts=1)
    summary.predicted([TaskClass(0, range(3), 1.0)])
    summary.observe([done(0)], 0, now=1.0)
    found = summary.finish("failed", 1.0)
    rows = ("agents", "levels", "failed")
    fields = {*found, *found["prediction"], *(field for row in rows for field in found[row][0])}
    fields |= set(found["prediction"]["classes"][0])
    for name in ("driver", "watcher"):
        source = (ROOT / "qcmb_mpi" / f"{name}.py").read_text(encoding="utf-8")
        fields |= set(re.findall(r"_?summary\.note\((\w+)=", source))
    page = (DOCS / "run-summary.md").read_text(encoding="utf-8")
    assert {"layout", "stopped", "output_tail"} < fields
    assert fields <= set(re.findall(r"`(\w+)`", page))


def test_the_written_pages_have_every_name_option_event_and_table() -> None:
    pages = runpy.run_path(str(DOCS / "reference_pages.py"))
    commands = pages["commands"]()
    for name in options.COMMANDS:
        assert f"## `{name}`\n" in commands
    told = set(re.findall(r"(--[a-z][a-z-]+)", commands))
    for page in (ROOT / "README.md", DOCS / "quickstart.md", DOCS / "single-node.md"):
        table = re.findall(r"^\|.*", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(re.findall(r"`(--[a-z][a-z-]+)", "\n".join(table))) <= told
    named = re.findall(r"^\.\. auto\w+:: (\w+)$", pages["api"](), re.MULTILINE)
    assert sorted(named) == sorted(qcmb_mpi.__all__)
    messages = pages["messages"]()
    for rule in EVENT_RULES:
        assert f"### {rule.event.__name__}\n" in messages
    assert "CREATE TABLE component" in pages["tables"]()
    assert (
        "| <https://molssi.github.io/QCManyBody/> | README.md, docs/index.md |" in pages["links"]()
    )


def test_the_page_of_the_store_names_every_column() -> None:
    page = (DOCS / "store-format.md").read_text(encoding="utf-8")
    with sqlite3.connect(":memory:") as base:
        base.executescript(TABLES)
        names = [
            row[0] for row in base.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        columns = {row[1] for name in names for row in base.execute(f"PRAGMA table_info({name})")}
    assert {"checksum", "remedy", "n_threads"} < columns
    assert columns <= set(re.findall(r"`(\w+)`", page))


def test_the_page_of_the_report_names_every_column() -> None:
    page = (DOCS / "report.md").read_text(encoding="utf-8")
    assert set(COLUMNS) <= set(re.findall(r"`(\w+)`", page))
