"""The table of programs in the documentation: what they can, and what the tests found.

    python tools/program_table.py --run     run the programs, keep what was found, write the table
    python tools/program_table.py           write the table from what was kept
    python tools/program_table.py --check   tell whether it is what would be written

What is known without a calculation comes from the package; cases, versions and differences from
``docs/programs/runs.json``, which ``--run`` makes of what the tests in ``tests/programs`` leave.

Rules of this file
------------------
1. Nothing of the table is written by hand, and nothing is kept of an older table or run.
2. A run with a failing test is not kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qcmb_mpi.programs import register  # noqa: E402
from qcmb_mpi.programs.profiles import _TABLE, Profile  # noqa: E402
from qcmb_mpi.programs.thread_config import _way  # noqa: E402
from tests.programs.cases import KEPT, ONLY_CONFIGURED, PROGRAMS, RECORDS  # noqa: E402

TABLE = ROOT / "docs" / "programs" / "table.md"
HEAD = (
    "| program | in our tests | computes | ghost atoms (cp, vmfc) | n cores are | version, run on "
    "| tasks, and largest difference from sequential QCManyBody |\n|---|---|---|---|---|---|---|\n"
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


def measured(record: dict[str, Any] | None) -> str:
    """Return the columns of a program that come from a run."""
    if record is None:
        return " | |"
    cases = record["cases"]
    told = (f"{name} {each['n_tasks']}: {each['difference']:.0e}" for name, each in cases.items())
    return f" {record['version']}, {record['date']} | {'; '.join(told)} |"


def run() -> int:
    """Run the tests of the programs; if all went well, keep what they left."""
    shutil.rmtree(RECORDS, ignore_errors=True)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/programs"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode == 0:
        found = json.dumps({name: _left(name) for name in PROGRAMS}, indent=1)
        KEPT.write_text(found + "\n")
    return done.returncode


def _left(program: str) -> dict[str, Any]:
    """Gather what the tests left of one program, one file for each case."""
    paths = sorted(RECORDS.glob(f"{program}.*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    cases = {each["case"]: {k: each[k] for k in ("n_tasks", "difference")} for each in records}
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    return {"version": records[0]["version"], "date": today, "cases": cases}


def table() -> str:
    """Return the whole table."""
    register()
    kept = json.loads(KEPT.read_text())
    order = [*PROGRAMS, *ONLY_CONFIGURED]
    profiles = sorted(_TABLE.values(), key=lambda each: [*order, each.program].index(each.program))
    return HEAD + "".join(f"{facts(each)}{measured(kept.get(each.program))}\n" for each in profiles)


def main(arguments: list[str] | None = None) -> int:
    """Write the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is old")
    parser.add_argument("--run", action="store_true", help="first run all programs: minutes")
    asked = parser.parse_args(arguments)
    if asked.check:
        is_same = table() == TABLE.read_text()
        print("up to date" if is_same else "old: run tools/program_table.py")
        return 0 if is_same else 1
    code = run() if asked.run else 0
    if code == 0:
        TABLE.write_text(table())
    return code


if __name__ == "__main__":
    sys.exit(main())
