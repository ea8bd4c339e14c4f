"""Output where nobody reads any more, or where not every character can be written."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from qcmb_mpi import terminal


class Failing(io.StringIO):
    """Text that cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "failed")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_that_has_gone_is_no_error(number: int) -> None:
    terminal.say("table", Failing(number))


def test_a_full_disk_is_one() -> None:
    with pytest.raises(OSError, match="failed"):
        terminal.say("table", Failing(errno.ENOSPC))


def test_what_cannot_be_encoded_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    terminal.take_any_text()
    terminal.say("\u00a7A", sys.stdout)
    terminal.flush()
    assert raw.getvalue() == b"?A\n"
