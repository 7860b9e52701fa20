"""Laws on random clusters: cycles until nothing changes, with the world moving between them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal_core import Cluster, CycleResult, Session, run
from shoal_core.configuration import read
from shoal_core.status import PENDING, RUNNING
from shoal_model.shards import KAI_0_17
from shoal_testkit.scenario import records

SHARED = Path(__file__).parents[3] / "shared"
FOUND = [76, 118, 213, 339, 1053, 1087, 1412, 1509, 1832, 1978, 2067, 2088, 2380, 2443]
"""Clusters on which a law was broken once: pods moved twice, gangs of which a part had to make room before it ran."""

ODD = [216, 730133, 730261, 730275, 730320, 730363]
"""Clusters on which KAI v0.17 comes to decisions of its own by traces of undone simulations."""


@pytest.fixture(scope="module")
def made() -> tuple[ModuleType, ModuleType]:
    if not (SHARED / "bench").is_dir():
        pytest.skip(f"{SHARED / 'bench'} is not here")
    spec = importlib.util.spec_from_file_location("differential", Path(__file__).parent / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    return runner.generator(SHARED / "bench"), importlib.import_module("make_snapshot")


def _laws(cluster: Cluster, result: CycleResult, before: dict[str, Any]) -> None:
    cluster.check()
    assert (cluster.nodes.idle >= -1e-6).all(), "no node is over its allocatable"
    assert (cluster.nodes.held <= cluster.nodes.gpu_memory[:, None]).all(), "no device is over its memory"
    for queue in cluster.tree.queues.values():
        for r in range(3):
            most = max(queue.limit[r], before[queue.name][r])
            assert queue.limit[r] == -1 or queue.allocated[r] <= most + 1e-6, f"{queue.name} is over its limit"
    for gang in result.gangs:
        job = cluster.jobs[gang.namespace, gang.group]
        kept = {r.uid for r in result.reserved if cluster.pods[r.uid].status != PENDING}
        for leaf in job.leaf_list:
            moving = sum(1 for p in leaf.pods if p.uid in kept)
            assert not leaf.active or leaf.active + moving >= leaf.minimum, f"{gang.group}: a part of a gang"
        assert not gang.starts or job.root.satisfied, f"{gang.group} starts in part"
    served = {g.group for g in result.gangs} | {cluster.pods[r.uid].record.group for r in result.reserved}
    assert {e.for_group for e in result.evictions if e.for_group} <= served, "nobody goes for nothing"


@pytest.mark.parametrize(
    ("seed", "compatibility"), [*((seed, "") for seed in [*FOUND, *range(3000, 3030)]), *((seed, KAI_0_17) for seed in ODD)]
)
def test_laws_until_nothing_changes(made: tuple[Any, Any], seed: int, compatibility: str) -> None:
    generator, snapshot = made
    cluster = Cluster(read({**snapshot.CONFIG, "compatibility": compatibility}, snapshot.PARAMS))
    for record in records(generator.build(seed).objects):
        cluster.apply(record)
    for i in range(12):
        before = {q.name: q.allocated for q in cluster.tree.queues.values()}
        session = Session(cluster, snapshot.NOW.timestamp() + i)
        run(session)
        result = session.close()
        _laws(cluster, result, before)
        if not result.gangs and not result.evictions:
            return
        for eviction in result.evictions:
            cluster.going.discard(eviction.uid)
            cluster.place(eviction.uid, PENDING)
        for uid, place in list(cluster.assumed.items()):
            del cluster.assumed[uid]
            cluster.place(uid, RUNNING, *place)
    pytest.fail("it evicts and starts without an end")
