"""A pod whose eviction was refused is no victim for a while: an input like any other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_core.results import digest
from shoal_testkit.small import CLASSES, node, queue, work


def runs(name: str, on: str, gpus: float = 1, pods: int = 1, **more: Any) -> list[Any]:
    return work(name, "b", gpus=gpus, pods=pods, nodes=[on] * pods, **more)


def world(*records: Any) -> Cluster:
    found = Cluster(Settings(most_moved=-1))
    queues = [queue("top"), queue("a", "top", gpu=4), queue("b", "top", gpu=0)]
    for record in (*CLASSES, *queues, *(r for part in records for r in (part if isinstance(part, list) else [part]))):
        found.apply(record)
    return found


def gone(result: CycleResult) -> set[str]:
    return {e.pod for e in result.evictions}


def test_another_victim_is_chosen_as_long_as_it_lasts() -> None:
    def made() -> Cluster:
        return world(node("n", 2), runs("x", "n"), runs("y", "n"), work("w", "a", gpus=1))

    (first,) = gone(cycle(made()))
    (uid,) = [u for u, p in made().pods.items() if p.record.name == first]
    cluster = made()
    cluster.set_eviction_backoff(uid, True, "no")
    (second,) = gone(cycle(cluster))
    assert second != first
    cluster = made()
    cluster.set_eviction_backoff(uid, True, "no")
    cluster.set_eviction_backoff(uid, False)
    assert gone(cycle(cluster)) == {first}, "then it is tried again"


def test_with_no_other_victim_nothing_goes_and_the_reason_says_why() -> None:
    cluster = world(node("n", 2), runs("x", "n"), runs("y", "n"), work("w", "a", gpus=2))
    cluster.set_eviction_backoff("x-0", True, "The disruption budget b needs 1")
    result = cycle(cluster, now=1.0)
    assert not result.evictions
    (waiting,) = [w for w in result.waiting if w.group == "w"]
    assert "the eviction of pod ns/x-0 were not refused (The disruption budget b needs 1)" in waiting.message
    cluster.set_eviction_backoff("x-0", False)
    assert gone(cycle(cluster, now=1.0)) == {"x-0", "y-0"}


def test_a_gang_of_which_a_member_is_refused_stays_whole() -> None:
    cluster = world(node("n", 2), runs("x", "n", pods=2), work("w", "a", gpus=1))
    cluster.set_eviction_backoff("x-1", True)
    assert not cycle(cluster).evictions
    cluster.set_eviction_backoff("x-1", False)
    assert gone(cycle(cluster)) == {"x-0", "x-1"}


def test_it_outlasts_other_news_of_the_pod() -> None:
    cluster = world(node("n", 1), runs("x", "n"), work("w", "a", gpus=1))
    cluster.set_eviction_backoff("x-0", True)
    record = cluster.pods["x-0"].record
    for changed in (
        msgspec.structs.replace(record, resource_version="99"),
        msgspec.structs.replace(record, requests={"cpu": 0.1}),
    ):
        cluster.apply(changed)
        assert not cycle(cluster).evictions


@pytest.mark.parametrize("refused", [True, False])
def test_a_pod_that_is_held_back_stays_so_in_another_group(refused: bool) -> None:
    cluster = world(node("n", 4), work("w", "a"), work("v", "a"))
    cluster.bar("w-0", True, refused)
    pod = cluster.pods["w-0"].record
    cluster.apply(msgspec.structs.replace(pod, group="v"))
    assert (cluster.pods["w-0"].barred, cluster.pods["w-0"].refused) == (True, refused)
    assert {m.pod for g in cycle(cluster).gangs for m in g.members} == {"v-0"}


def test_the_same_inputs_come_to_the_same() -> None:
    def run() -> list[str]:
        cluster = world(node("n", 2), runs("x", "n"), runs("y", "n"), work("w", "a", gpus=1))
        found = []
        for on in (True, False, True):
            cluster.set_eviction_backoff("x-0", on, "no")
            found.append(digest(cycle(cluster, now=1.0)))
        return found

    assert run() == run()
