"""Allocate: scenarios for each rule, and laws on random clusters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Settings, cycle

FREE = state.QueueResource(quota=-1, limit=-1, weight=1)


def queue(name: str, parent: str = "", *, gpu: float = -1, limit: float = -1, **more: Any) -> state.QueueRecord:
    gpus = state.QueueResource(quota=gpu, limit=limit, weight=1)
    return state.QueueRecord(name=name, parent=parent, gpu=gpus, cpu=FREE, memory=FREE, **more)


def node(name: str, gpus: float = 8, cpu: float = 32, **more: Any) -> state.NodeRecord:
    size = {"cpu": cpu * 1000, "memory": 2.0**38, "pods": 110.0} | ({"nvidia.com/gpu": gpus} if gpus else {})
    return state.NodeRecord(name=name, allocatable=size, **more)


def pod(name: str, group: str, gpus: float = 1, cpu: float = 1, **more: Any) -> state.PodRecord:
    requests = {"cpu": cpu * 1000.0} | ({"nvidia.com/gpu": gpus} if gpus else {})
    given = {"scheduler_name": "kai-scheduler", "uid": name, "namespace": "ns", "group": group, "requests": requests}
    return state.PodRecord(name=name, **(given | more))


def group(name: str, queue: str = "q", **more: Any) -> state.GroupRecord:
    return state.GroupRecord(namespace="ns", name=name, uid=name, queue=queue, **more)


def cluster(*records: Any) -> Cluster:
    found = Cluster()
    for record in records:
        found.apply(record)
    return found


def placed(result: CycleResult) -> dict[str, str]:
    return {m.pod: m.node for g in result.gangs for m in g.members}


def why(result: CycleResult) -> dict[str, str]:
    return {w.group: w.code for w in result.waiting}


def test_pods_are_packed_on_the_fullest_node_and_ties_go_by_name() -> None:
    c = cluster(queue("q"), node("b"), node("a"), group("g", min_member=1), group("h", min_member=1))
    c.apply(pod("old", "g", gpus=2, node="b", phase="Running"))
    c.apply(pod("new", "h"))
    assert placed(cycle(c)) == {"new": "b"}
    c = cluster(queue("q"), node("b"), node("a"), group("g"), pod("p", "g"))
    assert placed(cycle(c)) == {"p": "a"}


def test_spreading_takes_the_emptiest() -> None:
    c = cluster(queue("q"), node("a"), node("b"), group("g"), group("h"))
    c.apply(pod("old", "g", gpus=2, node="a", phase="Running"))
    c.apply(pod("new", "h"))
    assert placed(cycle(c, settings=Settings(spread_gpu=True))) == {"new": "b"}


def test_cpu_only_pods_prefer_nodes_without_gpus() -> None:
    c = cluster(queue("q"), node("a-gpu"), node("z-cpu", gpus=0), group("g"), pod("p", "g", gpus=0))
    assert placed(cycle(c)) == {"p": "z-cpu"}


@pytest.mark.parametrize(("compatibility", "place"), [("", "z-cpu"), ("0.17", "a-gpu")])
def test_pods_without_gpus_are_not_drawn_to_shared_ones(compatibility: str, place: str) -> None:
    shares = pod("old", "h", gpus=0, node="a-gpu", phase="Running", share=state.GpuShare(fraction=0.5), gpu_groups=["s"])
    c = Cluster(Settings(compatibility=compatibility))
    nodes = node("a-gpu"), node("z-cpu", gpus=0)
    for record in (queue("q"), *nodes, group("h"), shares, group("g"), pod("p", "g", gpus=0)):
        c.apply(record)
    assert placed(cycle(c)) == {"p": place}


def test_a_gang_starts_whole_or_not_at_all() -> None:
    c = cluster(queue("q"), node("a", gpus=3), group("g", min_member=4), *(pod(f"p{i}", "g") for i in range(4)))
    result = cycle(c)
    assert placed(result) == {}
    assert why(result) == {"g": "Unschedulable"}
    assert "3 pods while 4 must start together" in result.waiting[0].message
    assert "1 node(s) didn't have enough resources: GPUs" in result.waiting[0].message
    c.check()
    c.apply(node("b", gpus=1))
    assert Counter(placed(cycle(c)).values()) == {"a": 3, "b": 1}


def test_a_gang_that_does_not_fit_does_not_hold_up_a_smaller_one() -> None:
    c = cluster(queue("q"), node("a", gpus=2), group("big", min_member=3, created=1), group("small", created=2))
    for i in range(3):
        c.apply(pod(f"b{i}", "big"))
    c.apply(pod("s", "small"))
    assert placed(cycle(c)) == {"s": "a"}


def test_an_elastic_group_takes_more_than_its_minimum_when_there_is_room() -> None:
    c = cluster(queue("q"), node("a", gpus=3), group("g", min_member=2), *(pod(f"p{i}", "g") for i in range(5)))
    result = cycle(c)
    assert [len(g.members) for g in result.gangs] == [2, 1]
    assert [g.starts for g in result.gangs] == [True, False]


def test_subgroups_each_need_their_minimum() -> None:
    parts = [state.SubGroup(name="lead", min_member=1), state.SubGroup(name="work", min_member=2)]
    c = cluster(queue("q"), node("a", gpus=2), group("g", subgroups=parts))
    c.apply(pod("l", "g", subgroup="lead"))
    for i in range(2):
        c.apply(pod(f"w{i}", "g", subgroup="work"))
    assert placed(cycle(c)) == {}
    c.apply(node("b", gpus=1))
    assert len(placed(cycle(c))) == 3


def test_min_subgroup_needs_only_so_many_parts() -> None:
    parts = [state.SubGroup(name="a", min_member=2), state.SubGroup(name="b", min_member=2)]
    c = cluster(queue("q"), node("n", gpus=2), group("g", subgroups=parts, min_subgroup=1))
    for part in "ab":
        for i in range(2):
            c.apply(pod(f"{part}{i}", "g", subgroup=part))
    assert set(placed(cycle(c))) == {"a0", "a1"}


def test_priority_then_age_order_a_queue() -> None:
    c = cluster(queue("q"), node("a", gpus=1), state.PriorityClassRecord(name="high", value=90))
    for name, more in (
        ("old", {"created": 1.0}),
        ("new", {"created": 2.0}),
        ("vip", {"created": 3.0, "priority_class": "high"}),
    ):
        c.apply(group(name, **more))
        c.apply(pod(f"{name}-0", name))
    order = []
    for _ in range(3):
        found = placed(cycle(c))
        order += found
        c.remove("pod", "ns", next(iter(found)))
        c.forget(next(iter(found)))
    assert order == ["vip-0", "old-0", "new-0"]


def test_a_queue_below_its_quota_goes_first() -> None:
    c = cluster(
        queue("rich", gpu=0),
        queue("poor", gpu=1),
        node("a", gpus=1),
        group("r", "rich", created=1),
        group("p", "poor", created=2),
    )
    c.apply(pod("r0", "r"))
    c.apply(pod("p0", "p"))
    assert placed(cycle(c)) == {"p0": "a"}


def test_two_queues_take_turns() -> None:
    c = cluster(queue("x", gpu=0), queue("y", gpu=0), node("a", gpus=4))
    for q in "xy":
        for i in range(4):
            c.apply(group(f"{q}{i}", q, created=float(i)))
            c.apply(pod(f"{q}{i}-0", f"{q}{i}"))
    assert Counter(name[0] for name in placed(cycle(c))) == {"x": 2, "y": 2}


@pytest.mark.parametrize("which", ["leaf", "parent"])
def test_a_limit_holds_at_every_level(which: str) -> None:
    limits = {"leaf": {"limit": 1}, "parent": {}}[which]
    top = {"leaf": {}, "parent": {"limit": 1}}[which]
    c = cluster(queue("top", **top), queue("q", "top", **limits), node("a"), group("g"), group("h"))
    c.apply(pod("g0", "g"))
    c.apply(pod("h0", "h"))
    result = cycle(c)
    assert set(placed(result)) == {"g0"}
    assert why(result) == {"h": "OverLimit"}
    assert "1 GPU: 1 in use, 1 more requested" in result.waiting[0].message


def test_non_preemptible_work_stays_in_quota() -> None:
    c = cluster(queue("q", gpu=1), node("a"), state.PriorityClassRecord(name="build", value=100))
    for name in "gh":
        c.apply(group(name, priority_class="build"))
        c.apply(pod(f"{name}0", name))
    result = cycle(c)
    assert set(placed(result)) == {"g0"}
    assert why(result) == {"h": "NonPreemptibleOverQuota"}


def test_selectors_affinity_and_taints() -> None:
    c = cluster(
        queue("q"),
        node("fast", labels={"disk": "ssd", "gen": "3"}),
        node("slow", labels={"disk": "hdd", "gen": "1"}),
        node("kept", labels={"disk": "ssd"}, taints=[state.Taint(key="team", value="x", effect="NoSchedule")]),
        node("soft", labels={"disk": "nvme"}, taints=[state.Taint(key="a", effect="PreferNoSchedule")]),
    )
    newer = state.Requirement(key="gen", operator="Gt", values=["2"])
    named = state.Requirement(key="metadata.name", operator="In", values=["soft"])
    wanted: dict[str, dict[str, Any]] = {
        "selected": {"node_selector": {"disk": "hdd"}},
        "tolerant": {"node_selector": {"disk": "ssd"}, "tolerations": [state.Toleration(key="team", operator="Exists")]},
        "newer": {"affinity": state.Affinity(node_required=[state.NodeTerm(expressions=[newer])])},
        "named": {"affinity": state.Affinity(node_required=[state.NodeTerm(fields=[named])])},
        "nowhere": {"affinity": state.Affinity(node_required=[])},
    }
    for name, more in wanted.items():
        c.apply(group(name))
        c.apply(pod(f"{name}-0", name, **more))
    result = cycle(c)
    found = placed(result)
    assert found["selected-0"] == "slow"
    assert found["tolerant-0"] in ("fast", "kept")
    assert found["newer-0"] == "fast"
    assert found["named-0"] == "soft"
    assert "nowhere-0" not in found
    assert result.waiting[0].message == "none of 4 nodes fits: 4 node(s) don't match the required node affinity"


def test_pods_and_other_resources_count() -> None:
    small = state.NodeRecord(name="a", allocatable={"cpu": 8000.0, "memory": 2.0**30, "pods": 1.0, "example.com/nic": 1.0})
    c = cluster(queue("q"), small, group("g"), group("h"))
    c.apply(pod("g0", "g", gpus=0, requests={"cpu": 100.0, "example.com/nic": 1.0}))
    c.apply(pod("h0", "h", gpus=0, requests={"cpu": 100.0}))
    result = cycle(c)
    assert set(placed(result)) == {"g0"}
    assert "room for pods" in result.waiting[0].message


def test_unusable_nodes_are_left_out() -> None:
    c = cluster(
        queue("q"), node("a", ready=False), node("b", unschedulable=True), node("c", conditions={"DiskPressure": "True"})
    )
    c.apply(group("g"))
    c.apply(pod("p", "g"))
    result = cycle(c)
    assert placed(result) == {}
    assert "3 node(s) are not ready or not schedulable" in result.waiting[0].message


@pytest.mark.parametrize(
    ("records", "code", "told"),
    [
        ([group("g", "nowhere"), pod("p", "g")], "QueueDoesNotExist", "queue 'nowhere' does not exist"),
        (
            [queue("o", "lost"), group("g", "o"), pod("p", "g")],
            "QueueDoesNotExist",
            "parent queue lost of queue o does not exist",
        ),
        ([queue("a", "b"), queue("b", "a"), group("g", "a"), pod("p", "g")], "QueueDoesNotExist", "its own ancestor"),
        ([queue("n", limit=-5), group("g", "n"), pod("p", "g")], "QueueDoesNotExist", "limit must be -1"),
        ([queue("t"), queue("l", "t"), group("g", "t"), pod("p", "g")], "QueueDoesNotExist", "has queues below it"),
        ([group("g", min_member=5), pod("p", "g")], "NotEnoughPods", "5 pods are needed, 1 exist"),
        ([group("g", error="spec.minMember: -1 is negative"), pod("p", "g")], "InvalidPodGroup", "negative"),
        ([group("g"), pod("p", "g", error="annotation gpu-fraction is 'abc'")], "InvalidPod", "gpu-fraction"),
        (
            [group("g", subgroups=[state.SubGroup(name="s", min_member=0)]), pod("p", "g", subgroup="x")],
            "InvalidPod",
            "subgroup 'x'",
        ),
        ([pod("p", "missing")], "PodGroupNotFound", "does not exist"),
    ],
)
def test_bad_input_gets_a_reason_and_disturbs_nothing_else(records: list[Any], code: str, told: str) -> None:
    c = cluster(queue("q"), node("a"), group("good"), pod("fine", "good"), *records)
    result = cycle(c)
    assert placed(result) == {"fine": "a"}
    assert [w.code for w in result.waiting] == [code]
    assert told in result.waiting[0].message


def test_a_decision_is_counted_until_it_is_forgotten() -> None:
    c = cluster(queue("q"), node("a", gpus=1), group("g"), pod("p", "g"), group("h"), pod("r", "h"))
    assert placed(cycle(c)) == {"p": "a"}
    assert placed(cycle(c)) == {}
    c.forget("p")
    assert placed(cycle(c)) == {"p": "a"}
    c.apply(pod("p", "g", node="a", phase="Running"))
    c.forget("p")
    assert placed(cycle(c)) == {}
    c.apply(pod("p", "g", node="a", phase="Succeeded"))
    assert placed(cycle(c)) == {"r": "a"}
    c.check()


def test_a_held_pod_waits_and_pods_unknown_at_takeover_count_when_they_come() -> None:
    c = cluster(queue("q"), node("a", gpus=1), group("g"))
    c.assume("late", "a")
    c.apply(pod("late", "g"))
    c.apply(group("h"))
    c.apply(pod("p", "h"))
    assert placed(cycle(c)) == {}
    c.forget("late")
    c.bar("late", True)
    assert placed(cycle(c)) == {"p": "a"}


def test_only_a_refusal_is_told_as_one() -> None:
    c = cluster(queue("q"), node("a", gpus=1), group("g"), *(pod(f"p{i}", "g") for i in range(5)))
    for i in range(5):
        c.bar(f"p{i}", True, refused=i > 0)
    (found,) = cycle(c).waiting
    assert (found.code, found.message) == (
        "Held", "4 pods are held back for a while after a refused binding: p1, p2, p3 …",
    )  # fmt: skip
    for i in range(5):
        c.bar(f"p{i}", True)
    (found,) = cycle(c).waiting
    assert (found.code, found.message) == ("Starting", "starting: 5 of 5 pods are being bound")
    c.bar("p0", False)
    assert placed(cycle(c)) == {"p0": "a"}


def test_the_same_inputs_give_the_same_decisions() -> None:
    def run() -> list[Any]:
        c = cluster(queue("x", gpu=3), queue("y", gpu=3), *(node(f"n{i}") for i in range(3)))
        for i in range(12):
            c.apply(group(f"g{i}", "xy"[i % 2], min_member=2))
            for k in range(2):
                c.apply(pod(f"g{i}-{k}", f"g{i}", gpus=1 + i % 3))
        return cycle(c).gangs

    assert run() == run()


@st.composite
def worlds(draw: st.DrawFn) -> list[Any]:
    records: list[Any] = [queue("top", limit=draw(st.sampled_from([-1, 6])))]
    names = [f"q{i}" for i in range(draw(st.integers(1, 3)))]
    records += [queue(n, "top", gpu=draw(st.integers(-1, 4)), limit=draw(st.sampled_from([-1, 2, 5]))) for n in names]
    records += [
        node(f"n{i}", gpus=draw(st.integers(0, 4)), cpu=draw(st.integers(1, 8))) for i in range(draw(st.integers(1, 4)))
    ]
    for g in range(draw(st.integers(1, 8))):
        size = draw(st.integers(1, 4))
        records.append(
            group(
                f"g{g}",
                draw(st.sampled_from(names)),
                min_member=draw(st.integers(0, size)),
                created=float(draw(st.integers(0, 3))),
            )
        )
        gpus = draw(st.integers(0, 2))
        records += [pod(f"g{g}-{i}", f"g{g}", gpus=gpus, cpu=draw(st.integers(1, 3))) for i in range(size)]
    return records


@settings(max_examples=150, deadline=None, derandomize=True)
@given(worlds(), st.randoms(use_true_random=False))
def test_laws_on_random_clusters(records: list[Any], rng: Any) -> None:
    c = cluster(*records)
    result = cycle(c)
    c.check()
    assert (c.nodes.idle[:, : len(c.nodes.records)] >= -1e-9).all(), "no node is over its allocatable"
    for q in c.tree.queues.values():
        for r in range(3):
            assert q.limit[r] == -1 or q.allocated[r] <= q.limit[r], "no queue is over its limit"
    running: Counter[str] = Counter(g.group for g in result.gangs for _ in g.members)
    for found in c.jobs.values():
        assert found.record is not None
        minimum = 1 if found.record.min_member is None else found.record.min_member
        have = running[found.record.name]
        assert have == 0 or have >= minimum, "no gang is partial"
    # What made room in the cycle in which it was placed leaves some for the next.
    assert any(not cycle(c).gangs for _ in range(5)), "an unchanged world comes to rest"
    shuffled = list(records)
    rng.shuffle(shuffled)
    assert placed(cycle(cluster(*shuffled))) == placed(result), "the order of arrival does not matter"
