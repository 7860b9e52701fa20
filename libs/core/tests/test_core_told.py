"""What is told of work that waits: true, with the numbers, and the same as long as it is true."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_contracts import state
from shoal_core import Cluster, Settings, cycle
from shoal_core.reasons import clock, measured
from shoal_testkit.small import node, queue, work, world

TAINT = state.Taint(key="team", value="x", effect="NoSchedule")
GEN = state.Affinity(
    node_required=[state.NodeTerm(expressions=[state.Requirement(key="gen", operator="In", values=["9"])])]
)  # fmt: skip


def told(c: Cluster, group: str = "w", **more: Any) -> str:
    (found,) = [w for w in cycle(c, **more).waiting if w.group == group]
    return found.message


@pytest.mark.parametrize(
    ("gpus", "text"),
    [
        (16.0, "none of 3 nodes fits: 3 node(s) didn't have enough resources: GPUs (16 requested, the largest node has 8)"),
        (8.0, "none of 3 nodes fits: 3 node(s) didn't have enough resources: GPUs (8 requested, at most 6 free on a node)"),
    ],
)
def test_gpus_that_are_never_there_are_not_gpus_that_are_in_use(gpus: float, text: str) -> None:
    used = work("used", gpus=2, pods=3, nodes=["a", "b", "c"])
    c = world(queue("q", gpu=0), *(node(n, 8) for n in "abc"), *used, *work("w", gpus=gpus, preemptibility="preemptible"))
    assert told(c, settings=Settings(actions=("allocate",))) == text


def test_what_excludes_a_node_is_named() -> None:
    nodes = [
        node("bare"), *(node(f"hdd{i}", labels={"disk": "hdd"}) for i in range(2)), node("ssd", labels={"disk": "ssd"}),
        node("kept", labels={"disk": "ssd", "gen": "9"}, taints=[TAINT]),
        node("down", ready=False),
    ]  # fmt: skip
    c = world(queue("q"), *nodes, *work("w", pod={"node_selector": {"disk": "ssd"}, "affinity": GEN}))
    assert told(c) == (
        "none of 6 nodes fits: 1 node(s) are not ready or not schedulable; 1 node(s) don't match the required node affinity;"
        " 1 node(s) have the taint team=x:NoSchedule, which is not tolerated;"
        " 3 node(s) lack the label disk=ssd of the node selector"
    )


def test_a_selector_that_names_a_node_is_told_the_same() -> None:
    nodes = [node(n, labels={"kubernetes.io/hostname": n}) for n in ("a", "b")]
    c = world(queue("q"), *nodes, *work("w", pod={"node_selector": {"kubernetes.io/hostname": "z"}}))
    assert told(c) == "none of 2 nodes fits: 2 node(s) lack the label kubernetes.io/hostname=z of the node selector"


def test_many_reasons_are_cut_short() -> None:
    taints = [state.Taint(key=f"t{i}", effect="NoSchedule") for i in range(9)]
    c = world(queue("q"), *(node(t.key, taints=[t]) for t in taints), *work("w"))
    text = told(c)
    assert text.count("which is not tolerated") == 5
    assert "4 node(s) excluded by other labels, affinity, taints or kind of GPU" in text


def test_no_nodes_at_all() -> None:
    assert told(world(queue("q"), *work("w"))) == "there are no nodes"


def test_limits_and_quotas_have_their_numbers() -> None:
    c = world(queue("q", gpu=0, limit=1), node("a"), *work("w", gpus=2))
    assert told(c) == "over the limit of queue q, 1 GPU: 0 in use, 2 more requested"
    c = world(queue("q", gpu=0), node("a"), *work("w", gpus=1, priority="build"))
    assert told(c) == (
        "non-preemptible work may use only the quota of queue q, 0 GPUs: 0 in use by such work, 1 more requested; raise the"
        " quota, or use a preemptible priority class such as train"
    )


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        (0, 1000.0, "1 CPU core"), (0, 1500.0, "1.5 CPU cores"), (1, 2e9, "2000 MB of memory"), (2, 1.0, "1 GPU"),
        (2, 0.5, "0.5 GPUs"), (2, -1.0, "unlimited GPUs"),
    ],
)  # fmt: skip
def test_amounts(resource: int, value: float, text: str) -> None:
    assert measured(resource, value) == text


def test_a_delay_is_told_by_the_time_at_which_it_ends_and_does_not_count_down() -> None:
    used = work("used", gpus=4, nodes=["a"], preemptibility="preemptible")
    c = world(queue("q", gpu=0), node("a"), *used, *work("w", created=1000, preemption_delay=119.5))
    first = told(c, now=1001.0)
    assert "may take no room from others until 00:18:40 UTC on 1970-01-01 (spec.preemptionDelay)" in first
    assert told(c, now=1100.0) == first


def test_a_time_is_told_to_the_second_and_never_too_early() -> None:
    assert clock(86_400.2) == "00:00:01 UTC on 1970-01-02"


def test_a_queue_that_is_missing_is_told_with_what_names_it() -> None:
    c = world(queue("q"), node("a"), *work("w", queue="typo"))
    assert told(c) == "queue 'typo' does not exist: create it, or name another in spec.queue of PodGroup ns/w"


def test_a_topology_whose_labels_no_node_has_is_no_lack_of_room() -> None:
    levels = [state.TopologyLevel(label="zone"), state.TopologyLevel(label="rack")]
    wish = state.TopologyConstraint(topology="t", required="rack")
    c = world(queue("q"), node("a"), state.TopologyRecord(name="t", levels=levels), *work("w", topology=wish))
    assert "for job <ns/w>: no node has all labels of the topology (zone, rack)" in told(c)


def test_a_stale_gang_is_told_without_the_name_of_its_only_part() -> None:
    gang = work("w", pods=2, nodes=["a", "a"], stale_since=100.0, staleness_grace=30.0)
    c = world(queue("q"), node("a"), *gang[:-1])
    (eviction,) = cycle(c, now=200.0).evictions
    assert eviction.message == "pod w-0 is evicted because its gang lost members: 1 of 2 left since 00:01:40 UTC on 1970-01-01"


def test_a_reclaimed_pod_is_told_by_what_it_was_about_in_units() -> None:
    used = work("used", "over", gpus=1, pods=4, nodes=["a"] * 4, min_member=1)
    c = world(queue("over", gpu=0), queue("under", gpu=2), node("a", 4), *used, *work("w", "under"))
    (eviction,) = cycle(c).evictions
    assert eviction.message.startswith("pod used-3 is reclaimed for ns/w: queue over used 4 GPUs (quota 0, fair share")
    assert "; queue under used 0 GPUs (quota 2, fair share" in eviction.message
    assert "CPU" not in eviction.message
