"""Call commands in this process: quick, and with the same answers as real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import cli
from tests.edge.task_cases import many_body_input

FLAKY = ("--import", "tests.flaky")


def write(document: dict[str, Any], name: str = "in.json") -> str:
    """Write an input into the working directory and return its name."""
    Path(name).write_text(json.dumps(document))
    return name


def call(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command in this process."""
    try:
        code = cli.main(list(words))
    except SystemExit as end:  # argparse leaves like this after --help and --version
        code = int(end.code or 0)
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def finished(capfd: pytest.CaptureFixture[str], *more: str, **changes: Any) -> int:
    """Run a small expansion of in.json to its end."""
    source = write(many_body_input(3, **changes))
    return call(capfd, "run", source, "--executor", "serial", *FLAKY, *more)[0]


def assert_refused(answer: tuple[int, str, str], *words: str) -> None:
    """Assert exit code 2, one line, and `words` in it."""
    code, out, err = answer
    assert (code, out) == (2, ""), err
    assert err.startswith("qcmb-mpi: error: ")
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err
