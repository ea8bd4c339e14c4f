#!/usr/bin/env python3
"""Run the demo and put its real output into README.md, between the demo markers.

Rules of this file
------------------
1. The table is what was printed, line by line; the command above it is the demo's, without the
   paths of the virtual environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
INPUT = "examples/water-hexamer.yaml"
RESULT = "build/demo/water-hexamer.result.json"


def run_demo() -> tuple[str, dict[str, Any]]:
    """Run ``make demo``; return the printed table and the run summary."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-s", "demo"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    summary = (ROOT / RESULT).with_suffix("").with_suffix(".run.json")
    return done.stdout, json.loads(summary.read_text(encoding="utf-8"))


def block(output: str, summary: dict[str, Any]) -> str:
    """Write the part between the markers."""
    n_ranks = summary["n_ranks"]
    lines = [
        f"$ mpiexec -n {n_ranks} python -m qcmb_mpi run {INPUT}",
        *output.strip("\n").splitlines(),
    ]
    caption = (
        f"Six waters, HF/6-31G, through three-body terms: {summary['n_tasks']} tasks in "
        f"{summary['wall_s']:.1f} s on {summary['n_slots']} cores, start-up included. "
        "(Written by `tools/update_readme.py`.)"
    )
    return "\n".join(["```text", *(line.rstrip() for line in lines), "```", "", caption])


def replace(text: str, new: str) -> str:
    """Put a new block between the markers."""
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def main() -> int:
    """Rewrite README.md."""
    readme = ROOT / "README.md"
    new = replace(readme.read_text(encoding="utf-8"), block(*run_demo()))
    readme.write_text(new, encoding="utf-8")
    print(f"{readme.name} rewritten", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
