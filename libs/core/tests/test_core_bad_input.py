"""Bad input: a reason on the object concerned, and all others are scheduled as if it were not there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import cycle
from shoal_testkit.small import node, queue, starts, work, world

GOOD = [node("a", 8), queue("q", gpu=4), *work("good", gpus=2, pods=2)]


def claim(name: str, device_class: str, **more: Any) -> state.ObjectRecord:
    request = {"name": "gpu", "exactly": {"deviceClassName": device_class, "count": 1}}
    body = {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}} | more
    return state.ObjectRecord(type="ResourceClaim", namespace="ns", name=name, body=msgspec.Raw(msgspec.json.encode(body)))


def use(name: str) -> dict[str, Any]:
    return {"claims": (state.ClaimUse(name="gpu", claim=name, template="t"),)}


CASES: dict[str, tuple[list[Any], str, str, str]] = {
    "parent queue that does not exist": (
        [queue("lost", "nowhere"), *work("bad", "lost")], "bad", "QueueDoesNotExist", "parent queue nowhere of queue lost",
    ),
    "queue that does not exist": (work("bad", "nowhere"), "bad", "QueueDoesNotExist", "'nowhere' does not exist"),
    "queues in a circle": (
        [queue("x", "y"), queue("y", "x"), *work("bad", "x")], "bad", "QueueDoesNotExist", "queue x is its own ancestor",
    ),
    "queue of which an ancestor is in a circle": (
        [queue("x", "y"), queue("y", "x"), queue("z", "x"), *work("bad", "z")], "bad", "QueueDoesNotExist", "own ancestor",
    ),
    "negative quota": ([queue("n", gpu=-5), *work("bad", "n")], "bad", "QueueDoesNotExist", "quota must be -1"),
    "absurd limit": ([queue("n", limit=1e300), *work("bad", "n")], "bad", "QueueDoesNotExist", "limit must be -1"),
    "no number": ([queue("n", gpu=float("nan")), *work("bad", "n")], "bad", "QueueDoesNotExist", "quota must be -1"),
    "queue with queues below": (
        [queue("top"), queue("leaf", "top"), *work("bad", "top")], "bad", "QueueDoesNotExist", "has queues below it",
    ),
    "unknown topology": (
        work("bad", topology=state.TopologyConstraint(topology="t", required="rack")), "bad", "TopologyNotFound", "t does not",
    ),
    "unknown level": (
        [
            state.TopologyRecord(name="t", levels=[state.TopologyLevel(label="rack")]),
            *work("bad", topology=state.TopologyConstraint(topology="t", required="room")),
        ],
        "bad", "TopologyLevelNotFound", "no level 'room'",
    ),
    "absurd request": (work("bad", gpus=1e15), "bad", "Unschedulable", ""),
    "pod that names no group": (work("bad")[1:], "bad", "PodGroupNotFound", "ns/bad"),
    "unknown subgroup": (work("bad", pod={"subgroup": "s"}), "bad", "InvalidPod", "names subgroup 's'"),
    "more members than pods": (work("bad", min_member=3), "bad", "NotEnoughPods", "3"),
    "pod whose own record is wrong": (work("bad", pod={"error": "fraction 7"}), "bad", "InvalidPod", "fraction 7"),
    "claim that does not exist": (work("bad", gpus=0, pod=use("c")), "bad", "Unschedulable", "claim ns/c does not exist"),
    "claim without class": (
        [claim("c", "gpu.nowhere"), *work("bad", gpus=0, pod=use("c"))],
        "bad", "Unschedulable", "device class gpu.nowhere of claim ns/c",
    ),
    "claim with an empty class": ([claim("c", ""), *work("bad", gpus=0, pod=use("c"))], "bad", "Unschedulable", "device class"),
    "claim of nonsense": (
        [claim("c", "x", spec={"devices": {"requests": [{"name": "r"}]}}), *work("bad", gpus=0, pod=use("c"))],
        "bad", "Unschedulable", "requests other than exactly",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_and_disturbs_nothing_else(case: str) -> None:
    bad, group, code, text = CASES[case]
    alone = starts(cycle(world(*GOOD), now=10.0))
    # Whatever comes first: the bad or the good.
    for records in ([*bad, *GOOD], [*GOOD, *bad]):
        cluster = world(*records)
        result = cycle(cluster, now=10.0)
        assert starts(result) == alone
        told = [w for w in result.waiting if w.group == group]
        assert [w.code for w in told] == [code]
        assert text in told[0].message
        cluster.check()


def test_a_group_without_pods_waits_for_nothing() -> None:
    empty = work("bad")[:1]
    result = cycle(world(*empty, *GOOD), now=10.0)
    assert starts(result) == starts(cycle(world(*GOOD), now=10.0))
    assert not result.waiting


def test_a_resource_that_is_first_heard_of_after_a_cycle_hurts_its_own_pod_alone() -> None:
    cluster = world(queue("q"), node("a"), *work("first", priority="high"))
    cycle(cluster)
    strange = [
        msgspec.structs.replace(r, requests={"example.com/strange": 1.0}) if isinstance(r, state.PodRecord) else r
        for r in work("strange")
    ]
    for record in (*strange, *work("second")):
        cluster.apply(record)
    result = cycle(cluster)
    assert starts(result) == {"second-0": "a"}
    assert [w.group for w in result.waiting] == ["strange"]


def test_a_queue_without_a_name_is_not_its_own_parent() -> None:
    c = world(queue(""), queue("q"), node("n"), *work("g"))
    assert starts(cycle(c, now=1.0)) == {"g-0": "n"}
