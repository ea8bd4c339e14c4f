"""What the tests of the project itself share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no coverage of benchmarks, scripts and examples: they run what other tests measure.

    Coverage locks at each call, which takes long where there are millions, and may wait for ever.
    """
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)
