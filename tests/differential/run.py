"""Compares decisions on random clusters with the reference's: statuses by pod group. The last line is `N of M`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal_core import Cluster, Session, run
from shoal_core.configuration import read
from shoal_core.status import NAMES
from shoal_model.shards import KAI_0_17
from shoal_testkit.scenario import records

SHARED = Path(__file__).parents[3] / "shared"


def generator(place: Path) -> ModuleType:
    """The script that makes the clusters: a file, or a folder that holds a ``random_cluster.py``."""
    script = place / "random_cluster.py" if place.is_dir() else place
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decide(
    objects: dict[str, list[dict[str, Any]]], config: dict[str, Any], params: dict[str, Any], now: float
) -> dict[str, dict[str, int]]:
    """Pod group -> status -> number of pods, after one cycle."""
    settings = read({**config, "compatibility": KAI_0_17}, params)
    cluster = Cluster(settings)
    for record in records(objects):
        cluster.apply(record)
    session = Session(cluster, now)
    run(session)
    found = {job.name: dict(Counter(NAMES[p.status] for p in job.pods.values())) for job in cluster.jobs.values()}
    session.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("expected", nargs="?", type=Path, default=SHARED / "differential" / "expected.json")
    parser.add_argument(
        "--generator", type=Path, default=SHARED / "bench", help="a script, or a folder with a random_cluster.py"
    )
    parser.add_argument("--failures", type=Path, default=Path("differential-failures.txt"))
    parser.add_argument("--seed", type=str, help="only this one, with details")
    given = parser.parse_args()
    good, all_ = compare(given.expected, given.generator, given.failures, given.seed)
    if good < all_:
        print(f"what differs is in {given.failures}")
    print(f"{good} of {all_}")
    return 0 if good == all_ else 1


def compare(expected: Path, clusters: Path, failures: Path, only: str | None = None) -> tuple[int, int]:
    """(equal, compared); what differs is written to ``failures``, each seed at the beginning of a line."""
    made = generator(clusters)
    snapshot = importlib.import_module("make_snapshot")
    good, failed = 0, []
    for seed, want in json.loads(expected.read_bytes()).items():
        if only and seed != only:
            continue
        try:
            have = decide(made.build(int(seed)).objects, snapshot.CONFIG, snapshot.PARAMS, snapshot.NOW.timestamp())
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{seed}: {type(error).__name__}: {error}\n")
            continue
        wrong = [f"{name}: {have.get(name)} not {status}" for name, status in want.items() if have.get(name) != status]
        good += not wrong
        if wrong:
            failed.append(f"{seed}\n" + "".join(f"    {w}\n" for w in wrong))
    failures.write_text("".join(failed))
    return good, good + len(failed)


if __name__ == "__main__":
    sys.exit(main())
