#!/usr/bin/env python3
"""Measure the report of runs of 696 and 43,744 tasks: its size, and how soon a browser shows it.

    python benchmarks/pages.py                # 16 and 64 waters, three-body, GFN2-xTB; a minute
    python benchmarks/pages.py --waters 16 --repeat 9
    python benchmarks/pages.py --smoke        # 6 waters

Each cluster is run, then every kind of output is made of it by ``qcmb-mpi report``, a process of
its own each. The page is opened in Chromium without a screen and without a network, in a new
browser every time, so that nothing is cached.

Rules of this file
------------------
1. Time is the browser's own, from the start of navigation to the end of loading or to the first
   paint, whichever is later.
2. The exit code is 1 if the browser complains or asks for anything else than the page, if a page is
   larger than 5 MB, or if the median of loading one of at most 696 tasks is 2 s or more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import farm

sys.path.insert(0, str(farm.ROOT))

from tools.browser import Browser

MAX_BYTES = 5_000_000
MAX_LOAD_S = 2.0
N_LIMITED_TASKS = 696
OUTPUTS = ("html", "csv", "parquet", "trace")


def document(n_waters: int) -> dict[str, Any]:
    """Make the input: nocp, through 3-body."""
    path = farm.ROOT / "geometries" / f"water-{n_waters}.json"
    model = {"program": "tblite", "driver": "energy", "model": {"method": "GFN2-xTB"}}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": json.loads(path.read_text(encoding="utf-8")),
        "specification": {
            "driver": "energy",
            "keywords": {"bsse_type": ["nocp"], "max_nbody": 3},
            "specification": {"(auto)": model},
        },
    }


def measure(folder: Path, n_waters: int, n_repeats: int) -> dict[str, Any]:
    """Run a cluster, make every output, and open the page."""
    ours = [sys.executable, "-m", "qcmb_mpi"]
    path, result = folder / "in.json", folder / "in.result.json"
    path.write_text(json.dumps(document(n_waters)), encoding="utf-8")
    run_s, _ = farm.timed([*ours, "run", str(path), "-o", str(result), "--fresh"])
    summary = json.loads((folder / "in.run.json").read_text(encoding="utf-8"))
    farm.note(f"{n_waters} waters: {summary['n_tasks']} tasks in {run_s:.1f} s")
    made = {}
    for kind in OUTPUTS:
        output = folder / f"out.{kind}"
        option = "-o" if kind == "html" else f"--{kind}"
        seconds, _ = farm.timed([*ours, "report", str(result), option, str(output)])
        made[kind] = {"seconds": seconds, "n_bytes": output.stat().st_size}
    return {
        "n_waters": n_waters,
        "n_tasks": summary["n_tasks"],
        "run_s": run_s,
        "made": made,
        "seen": [look(folder / "out.html") for _ in range(n_repeats)],
    }


def look(page: Path) -> dict[str, Any]:
    """Open a page in a new browser."""
    with Browser() as browser:
        browser.open(page)
        seen = browser.look()
        strangers = [each for each in browser.requests if each != page.resolve().as_uri()]
        return {
            "load_s": max(seen["load_s"], seen["paint_s"]),
            "n_plots": sum(plot["n_shapes"] > 0 for plot in seen["plots"]),
            "n_nodes": seen["n_nodes"],
            "complaints": browser.complaints + strangers,
        }


def troubles(measured: dict[str, Any]) -> list[str]:
    """Say which limits are broken."""
    found = [each for look in measured["seen"] for each in look["complaints"]]
    n_bytes, load_s = measured["made"]["html"]["n_bytes"], loading_s(measured)
    if n_bytes >= MAX_BYTES:
        found.append(f"the page has {n_bytes / 1e6:.2f} MB")
    if measured["n_tasks"] <= N_LIMITED_TASKS and load_s >= MAX_LOAD_S:
        found.append(f"the page takes {load_s:.2f} s to load")
    return found


def loading_s(measured: dict[str, Any]) -> float:
    """Return the median of opening the page."""
    return statistics.median(each["load_s"] for each in measured["seen"])


def table(measured: list[dict[str, Any]]) -> str:
    """Write sizes and times."""
    lines = [
        "| tasks | page, MB | opens in, s (longest) | plots | made in, s: page | CSV | Parquet "
        "| trace | MB: CSV | Parquet | trace |",
        f"|{'---:|' * 11}",
    ]
    for each in measured:
        made, seen = each["made"], each["seen"]
        longest_s = max(look["load_s"] for look in seen)
        cells = [
            f"{each['n_tasks']:,}",
            f"{made['html']['n_bytes'] / 1e6:.2f}",
            f"{loading_s(each):.2f} ({longest_s:.2f})",
            str(seen[0]["n_plots"]),
            *(f"{made[kind]['seconds']:.1f}" for kind in OUTPUTS),
            *(f"{made[kind]['n_bytes'] / 1e6:.2f}" for kind in OUTPUTS[1:]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--waters", type=int, nargs="+", default=[16, 64], metavar="N")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="new browsers")
    parser.add_argument("--smoke", action="store_true", help="a small cluster, one browser")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-pages.json")
    options = parser.parse_args(argv)
    if options.smoke:
        options.waters, options.repeat = [6], 1
    report, measured = farm.about(), []
    for n_waters in options.waters:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(Path(folder), n_waters, options.repeat))
    print(table(measured), flush=True)
    farm.keep("pages", options.output, report | {"measured": measured})
    found = [trouble for each in measured for trouble in troubles(each)]
    for trouble in found:
        farm.note(f"limit broken: {trouble}")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
