"""What starts jobs measures no coverage of them; commands called here leave all as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no coverage of jobs: other tests run nearly all of their lines, at less cost."""
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder of its own; leave the package's logger as it was."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("qcmb_mpi")
    before = (list(logger.handlers), logger.level)
    yield tmp_path
    logger.handlers, logger.level = before
