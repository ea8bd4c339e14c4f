"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import re
from pathlib import Path

_pyproject = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")

project = "qcmb_mpi"
author = "The qcmb_mpi developers"
copyright = "2026, The qcmb_mpi developers"
release = re.search(r'^version = "(.+)"$', _pyproject, re.MULTILINE)[1]
version = release

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "programs/table.md"]
nitpicky = True

html_theme = "furo"
html_title = f"qcmb_mpi {release}"
