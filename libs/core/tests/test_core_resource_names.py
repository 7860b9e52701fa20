"""Pods may name any resource: only names that a node has take room in the arrays."""

from __future__ import annotations

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import cycle
from shoal_testkit.small import node, queue, starts, work, world


def asking(name: str, *nodes: str, **amounts: float) -> list[state.StateMessage]:
    group, pod = work(name, gpus=0, nodes=list(nodes) or None)
    assert isinstance(pod, state.PodRecord)
    more = {f"example.com/{k}": v for k, v in amounts.items()}
    return [group, msgspec.structs.replace(pod, requests=pod.requests | more)]


def having(name: str, **amounts: float) -> state.NodeRecord:
    found = node(name)
    return msgspec.structs.replace(found, allocatable=found.allocatable | {f"example.com/{k}": v for k, v in amounts.items()})


def test_invented_names_cost_no_arrays_and_are_told() -> None:
    c = world(queue("q"), node("n"), *work("ok"))
    rows = c.nodes.idle.shape[0]
    for i in range(20):
        for record in asking(f"evil{i}", **{f"x{i}-{k}": 1.0 for k in range(100)}):
            c.apply(record)
    result = cycle(c, now=1.0)
    assert starts(result) == {"ok-0": "n"}
    assert c.nodes.idle.shape[0] == rows
    assert len(c.nodes.resources) == rows
    assert all("example.com/x" in w.message and "96 others" in w.message for w in result.waiting)
    assert len(result.waiting) == 20
    c.check()


def test_ten_thousand_names_cost_no_row() -> None:
    c = world(queue("q"), node("n"))
    for i in range(10_000):
        for record in asking(f"evil{i}", **{f"made-up-{i}": 1.0}):
            c.apply(record)
    rows = len(c.nodes.resources)
    for record in work("ok"):
        c.apply(record)
    result = cycle(c, now=1.0)
    assert starts(result) == {"ok-0": "n"}
    assert len(c.nodes.resources) == c.nodes.idle.shape[0] == rows == 4
    told = {w.group: w.message for w in result.waiting}
    assert all(f"example.com/made-up-{name.removeprefix('evil')}" in message for name, message in told.items())
    assert told
    c.apply(having("m", **{"made-up-7777": 1.0}))
    found: dict[str, str] = {}
    for now in range(2, 6):
        found |= starts(cycle(c, now=float(now)))
    assert found == {"evil7777-0": "m"}
    assert c.nodes.idle.shape[0] == 5
    for i in range(10_000):
        c.remove("pod", "ns", f"evil{i}-0")
        c.remove("group", "ns", f"evil{i}")
    c.check()


@pytest.mark.parametrize(
    "resource", ["amd.com/gpu", "gpu", "vgpu", "nvidia.com/mig-1g.5gb", "hugepages-2Mi", "ephemeral-storage"]
)
def test_known_names_that_no_node_has_are_no_different(resource: str) -> None:
    group, pod = work("a", gpus=0)
    assert isinstance(pod, state.PodRecord)
    pod = msgspec.structs.replace(pod, requests=pod.requests | {resource: 1.0})
    c = world(queue("q"), node("n"), node("mixed"), group, pod)
    result = cycle(c, now=1.0)
    assert starts(result) == {}
    assert resource in result.waiting[0].message
    here = node("m", gpus=0)
    c.apply(msgspec.structs.replace(here, allocatable=here.allocatable | {resource: 2.0}, labels=here.labels))
    assert starts(cycle(c, now=2.0)) == {"a-0": "m"}
    c.check()
    other = node("mixed")
    c.apply(msgspec.structs.replace(other, allocatable=other.allocatable | {"amd.com/gpu": 2.0}))
    cycle(c, now=3.0)
    c.check()


def test_a_pod_without_the_name_is_not_taken_for_hopeless() -> None:
    c = world(queue("q"), node("n"), *asking("a", x=1.0), *asking("b"))
    assert starts(cycle(c, now=1.0)) == {"b-0": "n"}


def test_when_a_node_gets_the_resource_the_pod_starts() -> None:
    c = world(queue("q"), node("n"), node("m"), *asking("a", x=1.0), *asking("b", x=2.0), *asking("c", x=1.0, y=1.0))
    assert starts(cycle(c, now=1.0)) == {}
    c.apply(having("m", x=2.0))
    assert starts(cycle(c, now=2.0)) in ({"a-0": "m"}, {"b-0": "m"})
    c.check()
    c.apply(having("n", x=4.0, y=1.0))
    assert len(starts(cycle(c, now=3.0))) == 2
    c.check()


def test_what_runs_with_a_name_that_no_node_has_is_charged_when_one_has() -> None:
    c = world(queue("q"), node("n"), *asking("old", "n", x=3.0))
    cycle(c, now=1.0)
    c.apply(having("n", x=4.0))
    for record in asking("new", x=2.0):
        c.apply(record)
    assert starts(cycle(c, now=2.0)) == {}
    c.check()
    c.remove("pod", "ns", "old-0")
    assert starts(cycle(c, now=3.0)) == {"new-0": "n"}
    c.check()
