"""The page of messages quotes what is said, and has every finding of the doctor."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKAGE = ROOT / "qcmb_mpi"


def section(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def said() -> str:
    """Return every text of the package, the parts of one message together."""
    texts = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def quoted(cell: str) -> list[str]:
    """Return the fragments of the messages in a cell, without what differs each time."""
    messages = re.findall(r"`([^`]+)`", cell)
    return [part.strip() for each in messages for part in each.split("…") if len(part.strip()) > 2]


def test_what_is_quoted_is_said() -> None:
    cells = [row[1] for row in section("What doctor says")]
    cells += [row[0] for row in section("What a run says")]
    fragments = [part for cell in cells for part in quoted(cell)]
    assert len(fragments) > 40
    text = said()
    assert [part for part in fragments if part not in text] == []


def test_every_finding_of_the_doctor_is_there() -> None:
    code = "".join(path.read_text() for path in sorted(PACKAGE.glob("doctor*.py")))
    names = set(re.findall(r'Finding\(\s*"([^"]+)"', code))
    names |= set(re.findall(r'\bname(?:, \w+)? = "([^"]+)"', code))
    names |= set(re.findall(r'_directory\("([^"]+)"', code))
    told = {name for row in section("What doctor says") for name in row[0].split(", ")}
    assert {"two ranks", "clocks", "scratch", "input"} <= names
    assert names <= told
