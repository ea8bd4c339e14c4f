"""Whether the user has told QCEngine anything, found without importing it.

Rules of this file
------------------
1. Standard library only: the fork server's imports are chosen by it.
2. It may see settings where QCEngine sees none, never the other way round.
"""

from __future__ import annotations

import os

_FILE = "qcengine.yaml"
_PREFIX = "QCENGINE_"


def has_settings() -> bool:
    """Return whether there is a ``qcengine.yaml``, or a variable that QCEngine reads."""
    if any(name.upper().startswith(_PREFIX) for name in os.environ):
        return True
    homes = ["", os.path.join(os.path.expanduser("~"), ".qcarchive")]
    homes.append(os.environ.get("DQM_CONFIG_PATH", ""))
    return any(os.path.exists(os.path.join(home, _FILE)) for home in homes)
