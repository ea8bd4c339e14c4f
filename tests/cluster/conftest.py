"""What every job must give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.jobs import DIARY, result, write_tasks
from tests.launch.jobs import command, run


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of those tasks, computed without any batch system."""
    folder = tmp_path_factory.mktemp("expected")
    write_tasks(folder, 0.0)
    done = run(command("run", "input.json", "--workers", "2", *DIARY), cwd=folder)
    assert done.returncode == 0, done.stderr
    return result(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an input of short tasks, enough for two ranks."""
    write_tasks(tmp_path, 0.1)
    return tmp_path
