"""Commands that are called in this process leave it as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of its own; leave the package's logger as it was."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("qcmb_mpi")
    before = (list(logger.handlers), logger.level)
    yield tmp_path
    logger.handlers, logger.level = before
