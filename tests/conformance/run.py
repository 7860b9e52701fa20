"""Runs scenarios and prints a summary by group; the last line is `N of M`. What fails is written to a file.

Without a folder: the project's own (``scenarios/*.yaml``, see ``shoal_testkit.compact``), then those of the reference's suite
where they are there; the last line counts the latter.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal_testkit.compact import load
from shoal_testkit.scenario import check

OWN = Path(__file__).parent / "scenarios"
SHARED = Path(__file__).parents[3] / "shared" / "conformance" / "scenarios"


def scenarios(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(group, name, scenario) of everything in the folder."""
    for path in sorted(folder.rglob("*.json")):
        yield str(path.parent.relative_to(folder)), str(path.relative_to(folder)), json.loads(path.read_bytes())
    for path in sorted(folder.rglob("*.yaml")):
        for found in load(path):
            group = str(path.relative_to(folder).with_suffix(""))
            yield group, f"{group}: {found['name']}", found


def compare(folder: Path, failed: list[str], verbose: bool = False) -> tuple[int, int]:
    """(good, all); adds what fails to ``failed`` and prints a line for each group."""
    good: Counter[str] = Counter()
    all_: Counter[str] = Counter()
    for group, name, scenario in scenarios(folder):
        all_[group] += 1
        try:
            wrong = check(scenario)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
            if verbose:
                traceback.print_exc()
        if wrong:
            failed.append(f"{name}\n" + "".join(f"    {w}\n" for w in wrong))
        else:
            good[group] += 1
    for group in sorted(all_):
        print(f"{good[group]:4} of {all_[group]:4}  {group}")
    return sum(good.values()), sum(all_.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--failures", type=Path, default=Path("conformance-failures.txt"))
    parser.add_argument("-v", action="store_true")
    given = parser.parse_args()
    folders = [given.folder] if given.folder else [OWN, *([SHARED] if SHARED.is_dir() else [])]
    failed: list[str] = []
    last = ""
    for folder in folders:
        if last:
            print(f"{last} of the project's own\n")
        good, all_ = compare(folder, failed, given.v)
        if not all_:
            print(f"no scenarios in {folder}: name a folder with SCENARIOS=", file=sys.stderr)
            return 2
        last = f"{good} of {all_}"
    given.failures.write_text("".join(failed))
    if failed:
        print(f"what failed is in {given.failures}")
    print(last)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
