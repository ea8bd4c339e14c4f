"""The versions of what computed.

Rules of this file
------------------
1. What is not installed is left out.
2. What is installed is read once in a process: each step of an optimisation asks.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib import metadata

PACKAGES = ("qcmb_mpi", "qcmanybody", "qcengine", "qcelemental", "numpy", "mpi4py")


def versions(programs: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Collect the versions of what computed.

    Parameters
    ----------
    programs : iterable of (name, version)
        Quantum chemistry programs, as the outcomes name them.

    Returns
    -------
    dict
        Of Python, our own and the QCArchive packages that are installed, and the programs;
        several versions of one program are joined by a comma.
    """
    found = {package: _version(package) for package in PACKAGES}
    present = {name: version for name, version in found.items() if version is not None}
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, version in sorted(programs):
        names[name].append(version or "unknown")
    joined = {name: ", ".join(each) for name, each in names.items()}
    return {"python": platform.python_version()} | present | joined


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
