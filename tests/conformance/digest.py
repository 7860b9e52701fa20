"""Prints a digest of every decision of our scenarios, and of the random clusters named: the same in every process."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path

from shoal_core import Cluster, Session, run
from shoal_core.configuration import read
from shoal_testkit.compact import load
from shoal_testkit.scenario import Replay, records

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "bench"


def main(seeds: list[int]) -> None:
    found = hashlib.sha256()
    for path in sorted((HERE / "scenarios").glob("*.yaml")):
        for scenario in load(path):
            found.update(repr(asdict(Replay(scenario).cycle().result)).encode())
    print("scenarios", found.hexdigest())
    if not SHARED.is_dir():
        return
    spec = importlib.util.spec_from_file_location("differential", HERE.parent / "differential" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    made, snapshot = runner.generator(SHARED), importlib.import_module("make_snapshot")
    for seed in seeds:
        settings = read(snapshot.CONFIG, snapshot.PARAMS)
        cluster = Cluster(settings)
        for record in records(made.build(seed).objects):
            cluster.apply(record)
        session = Session(cluster, snapshot.NOW.timestamp())
        run(session)
        print(seed, hashlib.sha256(repr(asdict(session.close())).encode()).hexdigest())


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]])
