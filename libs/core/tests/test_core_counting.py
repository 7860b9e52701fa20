"""What nodes have and what is left of it: devices that are healthy, resources by their exact names, over-committed nodes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts.state import (
    Affinity,
    GpuShare,
    HostPort,
    NodeRecord,
    NodeTerm,
    PodRecord,
    Requirement,
    StateMessage,
    Taint,
)
from shoal_core import CycleResult, cycle
from shoal_testkit.small import node, queue, starts, work, world

NVIDIA, AMD, PLAIN, VGPU = "nvidia.com/gpu", "amd.com/gpu", "gpu", "nvidia.com/vgpu"


def sized(name: str, labels: dict[str, str] | None = None, **more: float) -> NodeRecord:
    """A node of 8 cores; ``nvidia``, ``amd``, ``plain`` and ``vgpu`` are devices, others go by their name."""
    names = {"nvidia": NVIDIA, "amd": AMD, "plain": PLAIN, "vgpu": VGPU}
    size = {"cpu": 8000.0, "memory": 2.0**35, "pods": 110.0} | {names.get(k, k): v for k, v in more.items()}
    return NodeRecord(name=name, allocatable=size, labels={"nvidia.com/gpu.memory": "81920"} | (labels or {}))


def tainted(found: NodeRecord, key: str) -> NodeRecord:
    """The node with a taint that nobody tolerates."""
    return msgspec.structs.replace(found, taints=[Taint(key=key, effect="NoSchedule")])


def asks(name: str, nodes: list[str] | None = None, **requests: float) -> list[StateMessage]:
    """Work of one pod that asks for this."""
    names = {"nvidia": NVIDIA, "amd": AMD, "plain": PLAIN, "vgpu": VGPU}
    need = {names.get(k, k): v for k, v in requests.items()}
    return [
        msgspec.structs.replace(r, requests=need) if isinstance(r, PodRecord) else r for r in work(name, gpus=0, nodes=nodes)
    ]


def run(*records: Any) -> tuple[dict[str, str], CycleResult]:
    cluster = world(queue("q"), *records)
    result = cycle(cluster)
    cluster.check()
    return starts(result), result


def why(result: CycleResult) -> str:
    return " ".join(w.message for w in result.waiting)


@pytest.mark.parametrize("label", ["8", "2", "1", "nonsense", None])
def test_no_more_devices_are_shared_than_are_healthy(label: str | None) -> None:
    there = sized("n", {"nvidia.com/gpu.count": label} if label else None, nvidia=2)
    started, _ = run(there, *(r for i in range(6) for r in work(f"f{i}", gpus=0.9)))
    assert started == {"f0-0": "n", "f1-0": "n"}


@pytest.mark.parametrize(
    ("have", "running", "started"),
    [
        # Whole GPUs and shared ones of one node together are no more than there are.
        (3, [("w", 2.0), ("f", 0.5)], ["half"]),
        (3, [("w", 1.0), ("f", 0.5)], ["half", "one"]),
        # More in use than are left: nothing more, by shares and by whole GPUs.
        (2, [("w", 2.0), ("f", 0.5)], ["half"]),
        (2, [("a", 0.9), ("b", 0.9), ("c", 0.9)], []),
        (0, [("w", 2.0)], []),
    ],
)
def test_lost_devices_are_given_to_nobody(have: float, running: list[tuple[str, float]], started: list[str]) -> None:
    before: list[StateMessage] = []
    for name, gpus in running:
        found = work(name, gpus=gpus, nodes=["n"])
        if gpus < 1:
            found = [msgspec.structs.replace(r, gpu_groups=[name]) if isinstance(r, PodRecord) else r for r in found]
        before += found
    there = sized("n", {"nvidia.com/gpu.count": "8"}, nvidia=have)
    waiting = [*work("half", gpus=0.5, created=1), *work("one", gpus=1, created=2), *work("free", gpus=0, created=3)]
    cluster = world(queue("q"), there, *before, *waiting)
    named = starts(cycle(cluster))
    assert sorted(n.removesuffix("-0") for n in named) == sorted([*started, "free"])


@pytest.mark.parametrize(
    ("over", "asked", "good"),
    [
        ("cpu", {"nvidia": 1.0}, True),
        ("cpu", {"cpu": 1.0}, False),
        ("memory", {"cpu": 1000.0}, True),
        ("memory", {"memory": 1.0}, False),
        ("example.com/lic", {"cpu": 1000.0, "nvidia": 1.0}, True),
        ("example.com/lic", {"example.com/lic": 1.0}, False),
        ("pods", {"cpu": 1.0}, False),
    ],
)
def test_a_node_with_too_much_of_one_resource_in_use_takes_pods_without_it(
    over: str, asked: dict[str, float], good: bool
) -> None:
    there = sized("n", nvidia=2.0, **{"example.com/lic": 2.0})
    held = {r: there.allocatable[r] + 1 for r in (over,) if r != "pods"}
    if over == "pods":
        there = msgspec.structs.replace(there, allocatable=there.allocatable | {"pods": 0.5})
    started, _ = run(there, *asks("old", ["n"], **held), *asks("new", **asked))
    assert started == ({"new-0": "n"} if good else {})
    # The same for a share of a GPU.
    if good:
        share = [
            msgspec.structs.replace(r, share=GpuShare(fraction=0.5), requests={}) if isinstance(r, PodRecord) else r
            for r in work("share", gpus=0)
        ]
        assert run(there, *asks("old", ["n"], **held), *share)[0] == {"share-0": "n"}


@pytest.mark.parametrize(
    ("nodes", "asked", "place"),
    [
        ([sized("a", amd=4), sized("n", nvidia=1)], {"nvidia": 1.0}, "n"),
        ([sized("a", amd=4), sized("n", nvidia=1)], {"amd": 4.0}, "a"),
        ([sized("a", amd=4), sized("n", nvidia=1)], {"nvidia": 2.0}, ""),
        ([sized("p", plain=2), sized("n", nvidia=8)], {"plain": 2.0}, "p"),
        ([sized("n", nvidia=8)], {"amd": 1.0}, ""),
        ([sized("n", nvidia=8)], {"plain": 1.0}, ""),
        ([sized("a", amd=8)], {"nvidia": 1.0}, ""),
        # Two kinds at once need a node of both.
        ([sized("a", amd=8), sized("n", nvidia=8)], {"nvidia": 1.0, "amd": 1.0}, ""),
        ([sized("b", amd=1, nvidia=2), sized("n", nvidia=8)], {"nvidia": 1.0, "amd": 1.0}, "b"),
        ([sized("b", amd=1, nvidia=2)], {"nvidia": 3.0}, ""),
        ([sized("b", amd=3, nvidia=1)], {"nvidia": 2.0}, ""),
        ([sized("b", amd=1, nvidia=3)], {"amd": 2.0}, ""),
        # All other names are plain extended resources.
        ([sized("v", vgpu=10, nvidia=0), sized("n", nvidia=8)], {"vgpu": 10.0}, "v"),
        ([sized("v", vgpu=10)], {"vgpu": 11.0}, ""),
        ([sized("n", nvidia=8)], {"vgpu": 1.0}, ""),
        ([sized("v", vgpu=8)], {"nvidia": 1.0}, ""),
        ([sized("m", mygpu=8)], {"nvidia": 1.0}, ""),
        ([sized("m", **{"intel.com/gpu": 2}), sized("n", nvidia=8)], {"intel.com/gpu": 2.0}, "m"),
    ],
)
def test_nodes_are_matched_by_the_very_resource(nodes: list[NodeRecord], asked: dict[str, float], place: str) -> None:
    started, _ = run(*nodes, *asks("p", cpu=100.0, **asked))
    assert started == ({"p-0": place} if place else {})


def test_of_an_extended_resource_there_is_as_much_as_the_node_says() -> None:
    started, result = run(sized("v", vgpu=10), sized("n", nvidia=8), *(r for i in range(3) for r in asks(f"p{i}", vgpu=10.0)))
    assert started == {"p0-0": "v"}
    assert "2 node(s) didn't have enough resources: nvidia.com/vgpu" in why(result)


def test_gpus_of_all_kinds_count_in_queues_and_others_do_not() -> None:
    nodes = [sized("a", amd=2), sized("n", nvidia=2), sized("p", plain=2), sized("v", vgpu=2)]
    pods = [*asks("a", amd=2.0), *asks("n", nvidia=2.0), *asks("p", plain=2.0), *asks("v", vgpu=2.0)]
    cluster = world(queue("q", limit=4), *nodes, *pods)
    result = cycle(cluster)
    assert sorted(starts(result)) == ["a-0", "n-0", "v-0"]
    assert cluster.total()[2] == 6


def test_a_node_of_two_kinds_that_comes_while_others_are_in_use() -> None:
    """Both kinds are counted on their own from then on, what runs already and what comes later."""
    cluster = world(queue("q"), sized("n", nvidia=2), *asks("one", ["n"], nvidia=1.0))
    assert starts(cycle(cluster)) == {}
    for record in (sized("b", nvidia=1, amd=3), *asks("two", nvidia=2.0), *asks("also", nvidia=1.0), *asks("amd", amd=3.0)):
        cluster.apply(record)
    result = starts(cycle(cluster))
    cluster.check()
    assert "two-0" not in result
    assert result["amd-0"] == "b"
    for pod, place in result.items():
        cluster.assume(pod, place)
    cluster.apply(sized("b", nvidia=3, amd=3))
    assert starts(cycle(cluster)).get("two-0") == "b"
    cluster.check()


def test_parts_of_gpus_are_not_given_where_other_kinds_are() -> None:
    started, _ = run(sized("a", amd=2), sized("b", amd=1, nvidia=1), *work("f", gpus=0.5))
    assert started == {}


@pytest.mark.parametrize("deleted", [0.0, 5.0])
@pytest.mark.parametrize("phase", ["Unknown", "OfNextYear"])
def test_a_pod_that_nobody_hears_of_holds_its_room(deleted: float, phase: str) -> None:
    lost = [
        msgspec.structs.replace(r, phase=phase, deleted=deleted) if isinstance(r, PodRecord) else r
        for r in work("lost", gpus=1, nodes=["n"])
    ]
    started, _ = run(node("n", 1), *lost, *work("new", gpus=1))
    assert started == {}
    for phase in ("Succeeded", "Failed"):
        ended = [msgspec.structs.replace(r, phase=phase) if isinstance(r, PodRecord) else r for r in lost]
        assert run(node("n", 1), *ended, *work("new", gpus=1))[0] == {"new-0": "n"}


def with_ports(name: str, *ports: tuple[int, str, str], nodes: list[str] | None = None) -> list[StateMessage]:
    each = [HostPort(port=p, protocol=protocol, ip=ip) for p, protocol, ip in ports]
    return work(name, gpus=0, nodes=nodes, pod={"host_ports": each})


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ((80, "TCP", ""), (80, "TCP", ""), False),
        ((80, "TCP", ""), (80, "UDP", ""), True),
        ((80, "TCP", ""), (81, "TCP", ""), True),
        ((80, "TCP", "10.0.0.1"), (80, "TCP", "10.0.0.2"), True),
        ((80, "TCP", "10.0.0.1"), (80, "TCP", ""), False),
        ((80, "TCP", "0.0.0.0"), (80, "TCP", "10.0.0.2"), False),
        ((80, "SCTP", "0.0.0.0"), (80, "SCTP", ""), False),
    ],
)
def test_host_ports_exclude_each_other_as_in_kubernetes(
    one: tuple[int, str, str], other: tuple[int, str, str], both: bool
) -> None:
    started, _ = run(node("n"), *with_ports("a", one), *with_ports("b", other))
    assert len(started) == (2 if both else 1)
    started, _ = run(node("n"), *with_ports("a", one, nodes=["n"]), *with_ports("b", other))
    assert len(started) == (1 if both else 0)


def test_a_request_of_memory_of_gpus_says_what_is_missing() -> None:
    def memory(mib: int) -> list[StateMessage]:
        return [
            msgspec.structs.replace(r, share=GpuShare(memory_mib=mib)) if isinstance(r, PodRecord) else r
            for r in work("m", gpus=0)
        ]

    for labels in ({"nvidia.com/gpu.memory": ""}, {"nvidia.com/gpu.memory": "lots"}):
        started, result = run(sized("n", labels, nvidia=1), sized("cpu"), *memory(2000))
        assert not started
        assert "1 node(s) don't say how much memory their GPUs have: label nvidia.com/gpu.memory" in why(result)
    started, result = run(sized("n", nvidia=1), *memory(90_000))
    assert not started
    assert "didn't have enough resources: GPU memory" in why(result)


def daemon(only: str, *terms: NodeTerm, uid: str = "d", **more: Any) -> PodRecord:
    """A waiting pod of another scheduler, of a DaemonSet unless other terms are given."""
    own = NodeTerm(fields=[Requirement(key="metadata.name", operator="In", values=[only])])
    given = {"scheduler_name": "default-scheduler", "requests": {"cpu": 6000.0}, "phase": "Pending"} | more
    return PodRecord(namespace="sys", name=uid, uid=uid, affinity=Affinity(node_required=list(terms) or [own]), **given)


NAMED = Requirement(key="metadata.name", operator="In", values=["n"])
ELSE = Requirement(key="metadata.name", operator="In", values=["m"])


@pytest.mark.parametrize(
    ("pod", "counts"),
    [
        (daemon("n"), True),
        (daemon("m"), False),
        (daemon("n", NodeTerm(fields=[NAMED]), NodeTerm(fields=[NAMED])), True),
        (daemon("n", NodeTerm(fields=[NAMED]), NodeTerm(fields=[ELSE])), False),
        (daemon("n", NodeTerm(fields=[NAMED]), NodeTerm()), False),
        (daemon("n", NodeTerm(expressions=[Requirement(key="a", operator="Exists")])), False),
        (daemon("n", gated=True), False),
        (daemon("n", deleted=1.0), False),
        (daemon("n", phase="Failed"), False),
        (daemon("n", node="n"), True),
    ],
)
def test_a_pod_that_another_scheduler_can_put_on_one_node_only_counts_there(pod: PodRecord, counts: bool) -> None:
    started, _ = run(sized("n"), pod, *asks("p", cpu=4000.0))
    assert started == ({} if counts else {"p-0": "n"})


def test_a_daemon_counts_once_when_it_is_bound_and_no_more_when_it_is_gone() -> None:
    cluster = world(queue("q"), sized("n"), daemon("n"), *asks("p", cpu=2000.0))
    cluster.apply(daemon("n", node="n"))
    assert starts(cycle(cluster)) == {"p-0": "n"}
    cluster.check()
    cluster.remove("pod", "sys", "d")
    for record in asks("q", cpu=8000.0):
        cluster.apply(record)
    cluster.remove("pod", "ns", "p-0")
    assert starts(cycle(cluster)) == {"q-0": "n"}
    cluster.check()


@pytest.mark.parametrize(
    ("pod", "there", "later"),
    [
        # Too large for the node, whatever else runs there; for a resource that it lacks; not tolerating its taint.
        (daemon("n", requests={"cpu": 9000.0}), sized("n"), sized("n", cpu=16000.0)),
        (daemon("n", requests={"cpu": 6000.0, NVIDIA: 1.0}), sized("n"), sized("n", nvidia=1)),
        (daemon("n"), tainted(sized("n"), "x"), sized("n")),
        (daemon("n"), sized("n", pods=0), sized("n")),
    ],
)
def test_a_daemon_that_its_node_can_never_hold_keeps_nobody_away(pod: PodRecord, there: NodeRecord, later: NodeRecord) -> None:
    for records in ((there, pod), (pod, there)):
        cluster = world(queue("q"), *records)
        assert not cluster.nodes.idle[0, 0] - cluster.nodes.allocatable[0, 0]
        cluster.check()
        cluster.apply(later)
        assert cluster.nodes.idle[0, 0] < cluster.nodes.allocatable[0, 0]
        cluster.apply(there)
        assert not cluster.nodes.idle[0, 0] - cluster.nodes.allocatable[0, 0]
        cluster.remove("pod", pod.namespace, pod.name)
        assert not cluster.pinned
    if there.allocatable["pods"] and not there.taints:
        assert run(there, pod, *asks("p", cpu=8000.0))[0] == {"p-0": "n"}
