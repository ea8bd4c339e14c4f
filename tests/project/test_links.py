"""Links between pages lead somewhere, also where the files are read as they are."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "docs/programs/*.md", "*/README.md")
    for page in ROOT.glob(pattern)
)


def tokens(page: Path) -> list[Token]:
    found = []
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        found += [token, *(token.children or [])]
    return found


def targets(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    names = {"link_open": "href", "image": "src"}
    return [str(token.attrs[names[token.type]]) for token in tokens(page) if token.type in names]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub and MyST make them."""
    found = tokens(page)
    headings = [after for each, after in pairwise(found) if each.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", each.content.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        if target.startswith(("https://", "mailto:")):
            continue
        assert "://" not in target, f"{target} is not https"
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        assert there == ROOT or ROOT in there.parents, f"{target} leads out of the repository"
        assert not anchor or anchor in anchors(there), target


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {"index"}
    for name in ("index", "programs"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            listed |= {line for line in tree.splitlines() if line and not line.startswith(":")}
    pages = {
        page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for page in PAGES
        if ROOT / "docs" in page.parents
    }
    assert pages - listed == {"programs/table"}  # it is a part of another one
