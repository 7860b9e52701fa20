"""A request beyond all bounds leaves what others hold countable: nothing is lost in sums of floats."""

from __future__ import annotations

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import cycle
from shoal_testkit.small import node, queue, starts, work, world

NAMES = (
    "cpu", "memory", "nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb", "example.com/x", "ephemeral-storage",
    "hugepages-2Mi",
)  # fmt: skip


def asking(name: str, *nodes: str, **more: float) -> list[state.StateMessage]:
    group, pod = work(name, gpus=0, nodes=list(nodes) or None)
    assert isinstance(pod, state.PodRecord)
    return [group, msgspec.structs.replace(pod, requests=pod.requests | more)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e15, 1e18, float(2**63 - 1)])
def test_a_running_pod_with_a_huge_request_leaves_its_node_as_it_was(name: str, size: float) -> None:
    big = node("n")
    if name not in big.allocatable:
        big = msgspec.structs.replace(big, allocatable=big.allocatable | {name: 8.0})
    c = world(queue("q"), big)
    before = c.nodes.idle.copy()
    for round_ in range(3):
        for i in range(5):
            for record in asking(f"huge{i}", "n", **{name: size}):
                c.apply(record)
        for record in asking(f"waits{round_}", **{name: size}):
            c.apply(record)
        assert starts(cycle(c, now=float(round_))) == {}
        c.check()
        for i in range(5):
            c.remove("pod", "ns", f"huge{i}-0")
            c.remove("group", "ns", f"huge{i}")
        c.remove("pod", "ns", f"waits{round_}-0")
        c.remove("group", "ns", f"waits{round_}")
    rows = before.shape[0]
    assert (c.nodes.idle[:rows, : before.shape[1]] == before).all()
    assert [q.pending for q in c.tree.queues.values()] == [(0.0, 0.0, 0.0)] * len(c.tree.queues)
    c.check()


def test_a_share_of_more_devices_than_any_node_has_waits() -> None:
    group, pod = work("many", gpus=0)
    assert isinstance(pod, state.PodRecord)
    pod = msgspec.structs.replace(pod, share=state.GpuShare(fraction=0.5, devices=2**62))
    c = world(queue("q"), node("n"), group, pod, *work("ok"))
    assert starts(cycle(c, now=1.0)) == {"ok-0": "n"}
    c.check()
