"""What stands for objects that can't be read: rooms stay taken, nothing more is placed, owners are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_cluster_state.unread import stand_in
from shoal_contracts import state
from shoal_contracts.base import encode
from shoal_core import Cluster, cycle
from shoal_testkit.small import node, queue, starts, work, world


def bad(kind: str, name: str, before: state.StateMessage | None = None, raw: bytes = b"{}", uid: str = "") -> Any:
    return stand_in(kind, ("ns", name), uid or name, "7", "Expected `int`", encode(before) if before else None, raw)


def apply_bad(cluster: Cluster, kind: str, name: str, before: state.StateMessage) -> None:
    cluster.apply(bad(kind, name, before, uid=getattr(before, "uid", "") or name))


def test_a_running_pod_goes_on_to_hold_its_room() -> None:
    running = work("a", gpus=4, nodes=["n"])
    cluster = world(queue("q"), node("n"), *running, *work("b"))
    apply_bad(cluster, "pod", "a-0", running[1])
    assert starts(cycle(cluster, now=1.0)) == {}
    cluster.check()


def test_a_waiting_pod_is_told_and_the_others_go_on() -> None:
    waiting = work("a")
    cluster = world(queue("q"), node("n"), *waiting, *work("b"))
    apply_bad(cluster, "pod", "a-0", waiting[1])
    result = cycle(cluster, now=1.0)
    assert starts(result) == {"b-0": "n"}
    (told,) = result.waiting
    assert told.pods == ("a-0",)
    assert "the object can't be read: Expected `int`" in told.message


def test_a_node_takes_nothing_more_and_keeps_what_runs() -> None:
    old = node("n", uid="n")
    running = work("a", nodes=["n"])
    cluster = world(queue("q"), old, *running, *work("b"))
    apply_bad(cluster, "node", "n", old)
    assert starts(cycle(cluster, now=1.0)) == {}
    assert cluster.queue_of(cluster.jobs["ns", "a"]).allocated[2] == 1.0  # type: ignore[union-attr]
    cluster.check()


@pytest.mark.parametrize("before", [True, False])
def test_a_group_is_told(before: bool) -> None:
    found = work("a")
    cluster = world(queue("q"), node("n"), *found[1:], *work("b"))
    record = bad("group", "a", found[0] if before else None, uid="a")
    cluster.apply(record)
    result = cycle(cluster, now=1.0)
    assert starts(result) == {"b-0": "n"}
    assert [w.code for w in result.waiting] == ["InvalidPodGroup"]


def test_a_pod_that_was_never_read_holds_its_place_by_what_is_left() -> None:
    raw = msgspec.json.encode({"spec": {"nodeName": "n", "schedulerName": "kai-scheduler", "containers": 5}, "status": {}})
    found = bad("pod", "p", None, raw)
    assert (found.node, found.scheduler_name, found.phase) == ("n", "kai-scheduler", "Pending")
    assert bad("pod", "p", None, b"\xff").node == ""


def test_what_another_object_of_the_name_held_is_nothing_to_it() -> None:
    old = work("a", gpus=4, nodes=["n"])[1]
    assert bad("pod", "a-0", old, uid="other").requests == {}


def test_an_unreadable_budget_allows_no_disruption() -> None:
    old = state.PdbRecord(namespace="ns", name="b", uid="b", observed=True, disruptions_allowed=3)
    found = bad("pdb", "b", old)
    assert (found.observed, found.disruptions_allowed) == (False, 0)
    assert bad("storageclass", "x") is None
