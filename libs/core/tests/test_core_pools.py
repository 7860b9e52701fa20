"""Node pools: a scheduler sees the nodes, queues and groups of its own, and speaks of no others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_core import Cluster, Settings, cycle
from shoal_testkit.small import node, queue, starts, work

LABEL = "kai.scheduler/node-pool"
BLUE = {LABEL: "blue"}


def cluster(pool: str, *records: Any) -> Cluster:
    found = Cluster(Settings(pool_label=LABEL, pool=pool))
    for record in records:
        found.apply(record)
    return found


EVERYTHING = [
    node("plain"), node("a", labels=BLUE), queue("q"), queue("bq", labels=BLUE),
    *work("one"), *work("two", "bq", labels=BLUE), *work("lost", "bq", labels=BLUE, pod={"subgroup": "nowhere"}),
]  # fmt: skip


def test_each_pool_places_its_own() -> None:
    assert starts(cycle(cluster("", *EVERYTHING), now=1.0)) == {"one-0": "plain"}
    assert starts(cycle(cluster("blue", *EVERYTHING), now=1.0)) == {"two-0": "a"}


def test_groups_of_other_pools_are_not_spoken_of() -> None:
    for records in (EVERYTHING, EVERYTHING[::-1]):
        assert cycle(cluster("", *records), now=1.0).waiting == []
        assert {w.group for w in cycle(cluster("blue", *records), now=1.0).waiting} == {"lost"}


@pytest.mark.parametrize("first", ["", "blue"])
def test_what_moves_to_another_pool_is_that_ones(first: str) -> None:
    """Nodes, queues and groups that get or lose the label."""

    def labelled(tags: dict[str, str]) -> list[Any]:
        return [node("a", labels=tags), queue("q", labels=tags), *work("w", labels=tags)]

    there, elsewhere = (BLUE, {}) if first else ({}, BLUE)
    found = cluster(first, *labelled(elsewhere))
    assert not starts(cycle(found, now=1.0))
    for record in labelled(there):
        found.apply(record)
    found.check()
    assert starts(cycle(found, now=2.0)) == {"w-0": "a"}
    for record in labelled(elsewhere):
        found.apply(record)
    found.check()
    result = cycle(found, now=3.0)
    assert not starts(result)
    assert result.waiting == []
    assert [q.name for q in result.queues] == []


def test_pods_that_run_in_another_pool_take_no_room_here() -> None:
    busy = [msgspec.structs.replace(r, node="a") if hasattr(r, "phase") else r for r in work("w", "bq", labels=BLUE, gpus=4)]
    records = [node("plain"), node("a", labels=BLUE), queue("q"), queue("bq", labels=BLUE), *busy, *work("one", gpus=4)]
    assert starts(cycle(cluster("", *records), now=1.0)) == {"one-0": "plain"}
    assert not starts(cycle(cluster("blue", *records, *work("more", "bq", labels=BLUE)), now=1.0))
