"""Run scenarios: ``python -m tests.torture [--seed N] [--jobs N] [NAME ...]``."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.torture.harness import reference, torture
from tests.torture.scenarios import SEED, Scenario, scenarios


def main() -> int:
    """Run what is named, or all; print what broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--verbose", action="store_true", help="tell what happened")
    args = parser.parse_args()
    tell = print if args.verbose else lambda _story: None
    chosen = [each for each in scenarios(args.seed) if not args.names or each.name in args.names]
    reference()

    def one(scenario: Scenario) -> int | None:
        began_s = time.monotonic()
        try:
            n_faults = torture(scenario, args.seed, tell)
        except AssertionError as error:
            print(f"BROKEN {error}\n", flush=True)
            return None
        print(f"{scenario.name}: {n_faults} faults, {time.monotonic() - began_s:.1f} s", flush=True)
        return n_faults

    with ThreadPoolExecutor(args.jobs) as pool:
        counts = list(pool.map(one, chosen))
    n_faults = sum(filter(None, counts))
    print(f"{len(counts)} scenarios, {n_faults} faults, {counts.count(None)} broken")
    return int(None in counts)


if __name__ == "__main__":
    sys.exit(main())
