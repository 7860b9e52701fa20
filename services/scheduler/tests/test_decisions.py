"""Decisions of a cycle: what binders are told of shared GPUs, and which gangs are staged."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from shoal_contracts import state
from shoal_contracts.decision import Decision, Verb
from shoal_core import Settings, cycle
from shoal_core.placement.numa_zones import record
from shoal_core.settings import PLUGINS
from shoal_model import labels
from shoal_scheduler.admission import BindingAdmission
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


def victims(*records: Any) -> list[list[Decision]]:
    cluster = world(node("a", 4), queue("q", gpu=4), queue("r", gpu=0), *records)
    result = cycle(cluster, now=10.0)
    found = decisions(result, cluster, Naming(3, 7, 5.0), {}, frozenset())
    return [part for part in found if part[0].verb is Verb.EVICT]


def test_one_victim_goes_at_once() -> None:
    ((one,),) = victims(*work("x", "r", gpus=4, nodes=["a"]), *work("w", "q", gpus=2))
    assert (one.pod, one.staged, one.gang, one.gang_size) == ("x-0", False, "", 0)


def test_all_victims_for_one_workload_are_staged_together() -> None:
    (found,) = victims(*(r for n in "wxyz" for r in work(n, "r", gpus=1, nodes=["a"])), *work("big", "q", gpus=3))
    assert len(found) == 3
    assert {(d.staged, d.gang, d.gang_size) for d in found} == {(True, found[0].gang, 3)}
    assert len({d.id for d in found}) == 3
    assert found[0].gang not in {d.id for d in found}


def test_victims_for_different_workloads_do_not_wait_for_each_other() -> None:
    running = [r for n in "wxyz" for r in work(n, "r", gpus=1, nodes=["a"])]
    found = victims(*running, *work("one", "q", gpus=2), *work("two", "q", gpus=2))
    assert [len(part) for part in found] == [2, 2]
    assert len({d.gang for part in found for d in part}) == 2


def test_a_gang_that_begins_is_tried_first_where_bindings_may_be_refused() -> None:
    def staged(*records: Any, dry_run: bool) -> set[tuple[bool, bool]]:
        cluster = world(node("a", 8), queue("q"), *records)
        made = decisions(cycle(cluster, now=10.0), cluster, Naming(3, 7, 5.0), {}, frozenset(), dry_run=dry_run)
        return {(d.staged, d.begins) for gang in made for d in gang}

    gang = work("g", pods=3)
    assert staged(*gang, dry_run=True) == {(True, True)}
    assert staged(*gang, dry_run=False) == {(False, True)}
    assert staged(*work("one"), dry_run=True) == {(False, False)}
    assert staged(*work("loose", pods=3, min_member=1), dry_run=True) == {(False, False)}
    # What runs does not wait for the rest of it.
    *running, third = work("g", pods=3, min_member=2, nodes=["a", "a", ""])
    assert staged(*running, replace(third, phase="Pending"), dry_run=True) == {(False, False)}


def test_what_may_refuse_bindings_comes_and_goes() -> None:
    admission = BindingAdmission()
    assert not admission.apply("pod", ("ns", "p"), True)
    assert not admission
    for kind in ("validatingwebhook", "mutatingpolicy"):
        assert admission.apply(kind, ("x",), True)
        assert admission.apply(kind, ("x",), True)
    assert admission.apply("validatingwebhook", ("x",), False)
    assert admission
    assert admission.apply("mutatingpolicy", ("x",), False)
    assert admission.apply("mutatingpolicy", ("x",), False)
    assert not admission
