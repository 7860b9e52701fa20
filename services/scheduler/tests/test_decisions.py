"""Decisions of a cycle: what binders are told of shared GPUs, and which gangs are staged."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from shoal_contracts import state
from shoal_contracts.decision import Decision
from shoal_core import Settings, cycle
from shoal_core.placement.numa_zones import record
from shoal_core.settings import PLUGINS
from shoal_model import labels
from shoal_scheduler.decisions import Naming, Origin, decisions
from shoal_testkit.small import node, queue, work, world


def decided(*records: Any, implied: frozenset[str] = frozenset()) -> list[list[Decision]]:
    cluster = world(node("a", 8), queue("q"), *records)
    result = cycle(cluster, now=10.0)
    return decisions(result, cluster, Naming(3, 7, 5.0), {"one-0": Origin("c@1", 4.0, "t")}, implied)


def test_whole_devices_go_at_once() -> None:
    ((one, two),) = decided(*work("one", gpus=2, pods=2), implied=frozenset({"one-1"}))
    assert (one.id, one.gang, one.staged, one.cause, one.seen) == ("3-7-1", "", False, "c@1", 4.0)
    assert one.annotations == {labels.RECEIVED_TYPE: "Regular"}
    assert two.annotations == {labels.RECEIVED_TYPE: "Regular", labels.GROUP: "one"}
    assert one.labels == {}


def test_no_two_shards_have_an_id_in_common() -> None:
    cluster = world(node("a", 8), queue("q"), *work("one"))
    ((one,),) = decisions(cycle(cluster, now=10.0), cluster, Naming(3, 7, 5.0, "blue"), {}, frozenset())
    assert one.id == "blue-3-7-1"


def test_a_share_names_its_device_and_what_it_gets_of_it() -> None:
    ((one,),) = decided(*work("one", gpus=0.25))
    assert one.gpu_groups == ["one-0-0"]
    assert (one.portion, one.memory_mib, one.staged) == (0.25, 20475, False)
    assert one.labels == {labels.GPU_GROUP: "one-0-0", labels.ISOLATION: "none"}
    assert one.annotations == {labels.RECEIVED_TYPE: "Fraction"}


def test_a_gang_of_shares_is_staged_as_a_whole() -> None:
    ((one, two),) = decided(*work("one", gpus=0.5, pods=2))
    assert one.staged
    assert two.staged
    assert one.gang == two.gang == "3-7-0"
    assert one.gang_size == two.gang_size == 2
    assert one.gpu_groups == two.gpu_groups


def test_a_gang_too_large_for_a_batch_is_staged_in_chunks() -> None:
    cluster = world(*(node(f"n{i}", 8) for i in range(130)), queue("q"), *work("big", gpus=1, pods=1000))
    chunks = decisions(cycle(cluster, now=10.0), cluster, Naming(1, 1, 1.0), {}, frozenset())
    assert [len(c) for c in chunks] == [900, 100]
    assert {(d.gang, d.gang_size, d.staged) for c in chunks for d in c} == {("1-1-0", 1000, True)}
    assert len({d.id for c in chunks for d in c}) == 1000


def test_where_a_pod_will_sit_is_written_as_it_is_read() -> None:
    zones = [
        {"name": f"node-{i}", "type": "Node", "resources": [
            {"name": n, "capacity": v, "allocatable": v, "available": v} for n, v in (("cpu", "8"), ("memory", "64Gi"))
        ]}
        for i in range(2)
    ]  # fmt: skip
    body = {"topologyPolicies": ["SingleNUMANodePodLevel"], "metadata": {"name": "a"}, "zones": zones}
    nrt = state.ObjectRecord(type="NodeResourceTopology", name="a", body=msgspec.Raw(msgspec.json.encode(body)))
    pod = {"qos_guaranteed": True, "requests": {"cpu": 6000.0, "memory": 2.0**30}}
    mine = [replace(r, **pod) if isinstance(r, state.PodRecord) else r for r in work("one", gpus=0)]
    cluster = world(node("a", 8), queue("q"), nrt, *mine)
    settings = Settings(plugins=(*PLUGINS, "numa"))
    result = cycle(cluster, now=10.0, settings=settings)
    ((one,),) = decisions(result, cluster, Naming(3, 7, 5.0), {}, frozenset())
    assert one.annotations[labels.NUMA_PREDICTED] == ('[{"zone":"node-0","amount":{"cpu":"6000m","memory":"1073741824"}}]')
    assert record(one.annotations[labels.NUMA_PREDICTED]) == (("node-0", (("cpu", 6000.0), ("memory", 2.0**30))),)
