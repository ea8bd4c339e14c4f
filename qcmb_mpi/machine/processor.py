"""The name of this machine's processor.

Rules of this file
------------------
1. No survey: what the system tells at once, or nothing.
"""

from __future__ import annotations

import contextlib
import platform
from functools import lru_cache


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Return the processor's brand, as Linux tells it, or its architecture."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
