"""The clusters of the core's benchmark are those of the shared snapshots: the same objects, the same decisions."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from core_cases import CASES, NOW, OURS, World

from shoal_client.objects import read
from shoal_client.simulate import simulate
from shoal_core import Cluster, cycle
from shoal_core.configuration import read as configuration
from shoal_core.results import digest

MAKE = Path(__file__).parents[3] / "shared" / "bench" / "make_snapshot.py"


@pytest.mark.parametrize("case", sorted(CASES.keys() - OURS))
def test_the_benchmark_decides_as_the_snapshot(case: str, tmp_path: Path) -> None:
    if not MAKE.exists():
        pytest.skip(f"{MAKE} is absent")
    path = tmp_path / "snapshot.zip"
    subprocess.run([sys.executable, MAKE, case, "--nodes", "30", "-o", path], check=True, capture_output=True)
    snapshot = read(path)
    world = World(30)
    CASES[case](world)
    cluster = Cluster(configuration({}))
    for record in world.records:
        cluster.apply(record)
    assert Counter(type(r).__name__ for r in snapshot.records) == Counter(type(r).__name__ for r in world.records)
    assert digest(simulate(snapshot, now=NOW).last) == digest(cycle(cluster, now=NOW))
