"""The table of programs in the documentation: what they can, and what the tests found.

    python -m pytest tests/programs && python tools/program_table.py

What is known without a calculation comes from the package; versions and differences from
``build/programs/``, where the tests leave them. A program without such a file keeps the last column
that the table has.

Rules of this file
------------------
1. All columns but the last are the same on every machine; ``--check`` compares these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qcmb_mpi.programs import register  # noqa: E402
from qcmb_mpi.programs.profiles import _TABLE, Profile  # noqa: E402
from qcmb_mpi.programs.thread_config import _way  # noqa: E402
from tests.programs.cases import ONLY_CONFIGURED, PROGRAMS  # noqa: E402

TABLE = ROOT / "docs" / "programs" / "table.md"
RECORDS = ROOT / "build" / "programs"
HEAD = (
    "| program | in our tests | computes | ghost atoms (cp, vmfc) | n cores are | version, and "
    "largest difference from sequential QCManyBody |\n|---|---|---|---|---|---|\n"
)
_CORES = {"threads": "threads", "processes": "processes", "mpi": "MPI ranks", "serial": "one core"}


def facts(profile: Profile) -> str:
    """Return the columns of a program that no calculation is needed for."""
    name = profile.program
    tested = "energy, gradient calculated" if name in PROGRAMS else "only configured"
    if name not in PROGRAMS and name not in ONLY_CONFIGURED:
        tested = "no"
    drivers = [each for each in ("energy", "gradient", "hessian") if each in profile.drivers]
    computes = ", ".join(drivers).replace("hessian", "Hessian")
    ghosts = "yes" if profile.has_ghosts else f"no: {profile.ghost_reason}"
    return f"| {name} | {tested} | {computes} | {ghosts} | {_CORES[_way(name).kind]} |"


def measured() -> Iterator[tuple[str, str]]:
    """Give each program that left records its last column."""
    for name in PROGRAMS:
        records = [json.loads(path.read_text()) for path in RECORDS.glob(f"{name}-*.json")]
        if records:
            largest = max(each["difference"] for each in records)
            n_tasks = sum(each["n_tasks"] for each in records)
            yield name, f"{records[0]['version']}: {largest:.0e} hartree in {n_tasks} tasks"


def old_columns() -> dict[str, str]:
    """Return the last column as the table has it."""
    lines = TABLE.read_text().splitlines()[2:] if TABLE.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[-1] for row in cells if len(row) > 1}


def table() -> str:
    """Return the whole table."""
    register()
    last = old_columns() | dict(measured())
    order = [*PROGRAMS, *ONLY_CONFIGURED]
    profiles = sorted(_TABLE.values(), key=lambda each: [*order, each.program].index(each.program))
    return HEAD + "".join(f"{facts(each)} {last.get(each.program, '')} |\n" for each in profiles)


def main(arguments: list[str] | None = None) -> int:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is old")
    is_check = parser.parse_args(arguments).check
    new = table()
    if is_check:
        is_same = _known(new) == _known(TABLE.read_text())
        print("up to date" if is_same else "old: run tools/program_table.py")
        return 0 if is_same else 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(new)
    return 0


def _known(text: str) -> list[str]:
    """Return all rows without their last column."""
    return [line.rsplit("|", 2)[0] for line in text.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
