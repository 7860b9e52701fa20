"""Runs scenarios and prints a summary by group; the last line is `N of M`. What fails is written to a file."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from pathlib import Path

from shoal_testkit.scenario import check

SHARED = Path(__file__).parents[3] / "shared" / "conformance" / "scenarios"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--failures", type=Path, default=Path("conformance-failures.txt"))
    parser.add_argument("-v", action="store_true")
    given = parser.parse_args()
    files = sorted(given.folder.rglob("*.json"))
    if not files:
        print(f"no scenarios in {given.folder}: name a folder with SCENARIOS=", file=sys.stderr)
        return 2
    good: Counter[str] = Counter()
    all_: Counter[str] = Counter()
    failed: list[str] = []
    for path in files:
        group = str(path.parent.relative_to(given.folder))
        all_[group] += 1
        try:
            wrong = check(json.loads(path.read_bytes()))
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
            if given.v:
                traceback.print_exc()
        if wrong:
            failed.append(f"{path.relative_to(given.folder)}\n" + "".join(f"    {w}\n" for w in wrong))
        else:
            good[group] += 1
    for group in sorted(all_):
        print(f"{good[group]:4} of {all_[group]:4}  {group}")
    given.failures.write_text("".join(failed))
    if failed:
        print(f"what failed is in {given.failures}")
    print(f"{sum(good.values())} of {len(files)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
