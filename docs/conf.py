"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).resolve().parent))
from reference_pages import write_all

_pyproject = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")

project = "qcmb_mpi"
author = "The qcmb_mpi developers"
copyright = "2026, The qcmb_mpi developers"
release = re.search(r'^version = "(.+)"$', _pyproject, re.MULTILINE)[1]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
# Docstrings are numpydoc's; types stand in their own tables, not in signatures.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "generated", "programs/table.md"]
nitpicky = True
# Types in docstrings are prose ("sequence of str"), and only the public names have an entry.
nitpick_ignore_regex = [("py:.*", ".*")]

# "--" is what people type.
smartquotes = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"qcmb_mpi {release}"


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(convert(node.astext()))
    raise SkipNode


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    """Write the reference pages before the others are read, and formulae without a network."""
    app.connect("builder-inited", lambda _: write_all())
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))


html_math_renderer = "mathml"
