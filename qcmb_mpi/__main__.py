"""``python -m qcmb_mpi``."""

from __future__ import annotations

import sys

from qcmb_mpi.cli import main

if __name__ == "__main__":
    sys.exit(main())
