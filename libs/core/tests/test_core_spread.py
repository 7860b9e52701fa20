"""Topology spread constraints: the rules of Kubernetes in cases, and beside a plain reading of them on random clusters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_contracts.state import (
    Affinity,
    NodeRecord,
    NodeTerm,
    PodRecord,
    Requirement,
    Selector,
    SpreadConstraint,
    Taint,
    Toleration,
)
from shoal_core import Settings, cycle
from shoal_core.placement.feasible import matches, selected, tolerated
from shoal_core.placement.spread import Spread
from shoal_core.session import Session
from shoal_testkit.small import node, queue, starts, work, world

ZONE = "zone"


def equal(**wanted: str) -> Selector:
    return Selector(requirements=[Requirement(key=k, operator="In", values=[v]) for k, v in wanted.items()])


APP = equal(app="web")


def spread(key: str = ZONE, **more: Any) -> SpreadConstraint:
    return SpreadConstraint(topology_key=key, **({"selector": APP} | more))


def zones(*names: str, gpus: float = 8) -> list[Any]:
    """A node in each of these zones, without the label for an empty name."""
    return [node(f"n{i}", gpus, labels={ZONE: z} if z else {}) for i, z in enumerate(names)]


def runs(name: str, at: str, **more: Any) -> PodRecord:
    return PodRecord(
        **({"namespace": "ns", "name": name, "uid": name, "node": at, "phase": "Running", "labels": {"app": "web"}} | more)
    )


def waits(pods: int, *constraints: SpreadConstraint, **more: Any) -> list[Any]:
    pod = {"labels": {"app": "web"}, "spread": list(constraints)} | more
    return [r for i in range(pods) for r in work(f"g{i}", created=i, pod=pod)]


def share(result: Any, *names: str) -> dict[str, int]:
    got = Counter(names[int(at[1:])] for at in starts(result).values())
    return dict(sorted(got.items()))


@pytest.mark.parametrize("pods", [1, 4, 5, 6])
def test_no_domain_has_more_than_the_skew_over_the_least(pods: int) -> None:
    names = ("a", "b", "c", "c")
    got = share(cycle(world(queue("q"), *zones(*names), *waits(pods, spread()))), *names)
    assert sum(got.values()) == pods
    assert max(got.values()) - min(got.get(z, 0) for z in "abc") <= 1


def test_a_gang_is_spread_as_single_pods_are_and_undone_whole() -> None:
    pod = {"labels": {"app": "web"}, "spread": [spread()]}
    c = world(queue("q"), *zones("a", "b"), *work("g", pods=6, pod=pod))
    assert share(cycle(c), "a", "b") == {"a": 3, "b": 3}
    c = world(queue("q"), *zones("a"), *zones("", "b", gpus=1)[1:], *work("g", pods=4, pod=pod))
    result = cycle(c)
    assert starts(result) == {}
    assert "topology spread constraints" in result.waiting[0].message
    c.check()


def test_full_domains_hold_the_others_back() -> None:
    nodes = [*zones("a"), *zones("", "b", gpus=1)[1:]]
    got = share(cycle(world(queue("q"), *nodes, *waits(5, spread(max_skew=2)))), "a", "b")
    assert got == {"a": 3, "b": 1}


def test_too_few_domains_count_as_an_empty_one() -> None:
    names = ("a", "b")
    got = share(cycle(world(queue("q"), *zones(*names), *waits(6, spread(min_domains=3)))), *names)
    assert got == {"a": 1, "b": 1}
    got = share(cycle(world(queue("q"), *zones(*names), *waits(6, spread(min_domains=2)))), *names)
    assert got == {"a": 3, "b": 3}


def test_nodes_without_the_label_take_nobody_and_count_nothing() -> None:
    records = [*zones("a", ""), runs("r", "n1")]
    assert starts(cycle(world(queue("q"), *records, *waits(2, spread())))) == {"g0-0": "n0", "g1-0": "n0"}
    result = cycle(world(queue("q"), *zones(""), *waits(1, spread())))
    assert "missing required label" in result.waiting[0].message


def test_a_pod_that_its_own_selector_does_not_mean_goes_where_few_are() -> None:
    records = [*zones("a", "b"), runs("r1", "n0"), runs("r2", "n0")]
    assert set(starts(cycle(world(queue("q"), *records, *waits(4, spread(), labels={"app": "db"})))).values()) == {"n1"}


@pytest.mark.parametrize("selector", [None, Selector()])
def test_a_selector_that_is_empty_or_missing_counts_nobody(selector: Selector | None) -> None:
    names = ("a", "b")
    c = world(queue("q"), *zones(*names), *waits(4, spread(selector=selector)))
    assert share(cycle(c), *names) == {"a": 4}


def test_pods_that_are_going_of_other_namespaces_or_finished_count_nothing() -> None:
    others = [
        runs("going", "n0", deleted=1.0), runs("other", "n0", namespace="b"), runs("done", "n0", phase="Succeeded"),
    ]  # fmt: skip
    c = world(queue("q"), *zones("a", "b"), *others, *waits(2, spread()))
    assert share(cycle(c, now=2.0), "a", "b") == {"a": 1, "b": 1}


def test_node_affinity_and_taints_decide_which_domains_count() -> None:
    wanted = {"node_selector": {"disk": "ssd"}}
    nodes = [*zones("a"), node("n1", labels={ZONE: "b", "disk": "ssd"})]
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, spread(), **wanted))))) == 3
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, spread(node_affinity_policy="Ignore"), **wanted))))) == 1
    nodes = [*zones("a"), node("n1", labels={ZONE: "b"}, taints=[Taint(key="x", effect="NoSchedule")])]
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, spread()))))) == 1
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, spread(node_taints_policy="Honor")))))) == 3


@pytest.mark.parametrize("state", [{"unschedulable": True}, {"ready": False}, {"conditions": {"DiskPressure": "True"}}])
def test_nodes_that_take_nobody_are_as_good_as_tainted(state: dict[str, Any]) -> None:
    nodes = [*zones("a"), replace(node("n1", labels={ZONE: "b"}), **state)]
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, spread()))))) == 1
    honoured = spread(node_taints_policy="Honor")
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(3, honoured))))) == 3
    both = starts(cycle(world(queue("q"), *nodes, *waits(3, honoured, tolerations=[Toleration(operator="Exists")]))))
    assert len(both) == 3
    assert ("n1" in both.values()) == ("unschedulable" in state)


def test_several_constraints_hold_together() -> None:
    host = "kubernetes.io/hostname"
    nodes = [node(f"n{i}", labels={ZONE: z, host: f"n{i}"}) for i, z in enumerate("aab")]
    got = Counter(starts(cycle(world(queue("q"), *nodes, *waits(9, spread(), spread(host))))).values())
    # A sixth would be the third of its host or the fourth in a.
    assert got == {"n0": 2, "n1": 1, "n2": 2}


def test_keys_that_must_match_count_pods_of_the_same_revision() -> None:
    records = [*zones("a", "b"), *(runs(f"old{i}", "n1", labels={"app": "web", "rev": "1"}) for i in range(3))]
    mine = {"labels": {"app": "web", "rev": "2"}}
    got = share(cycle(world(queue("q"), *records, *waits(4, spread(match_label_keys=["rev"]), **mine))), "a", "b")
    assert got == {"a": 2, "b": 2}


def test_a_domain_is_free_again_when_a_pod_goes_or_is_evicted() -> None:
    low = [r for i in range(2) for r in work(f"low{i}", gpus=4, nodes=["n0"], pod={"labels": {"app": "web"}})]
    high = work("high", gpus=4, priority="high", created=9, pod={"labels": {"app": "web"}, "spread": [spread()]})
    nodes = [*zones("a", gpus=8), *zones("", "b", gpus=2)[1:]]
    c = world(queue("q"), *nodes, *low, *high)
    result = cycle(c)
    assert sorted(e.pod for e in result.evictions) == ["low0-0", "low1-0"]
    assert [(r.pod, r.node) for r in result.reserved] == [("high-0", "n0")]


def test_where_it_is_a_wish_fewer_neighbours_beat_packing_but_nobody_waits() -> None:
    wish = spread(when_unsatisfiable="ScheduleAnyway")
    names = ("a", "b", "c")
    assert share(cycle(world(queue("q"), *zones(*names), *waits(6, wish))), *names) == {"a": 2, "b": 2, "c": 2}
    nodes = [*zones("a"), *zones("", "b", gpus=1)[1:]]
    assert len(starts(cycle(world(queue("q"), *nodes, *waits(6, wish))))) == 6
    pod = {"labels": {"app": "web"}, "spread": [wish]}
    assert share(cycle(world(queue("q"), *zones(*names), *work("g", pods=3, pod=pod))), *names) == {"a": 1, "b": 1, "c": 1}


def test_the_setting_keeps_the_reference_that_knows_nothing_of_it() -> None:
    c = world(queue("q"), *zones("a", "b"), *waits(4, spread()))
    assert share(cycle(c, settings=Settings(compatibility="0.17")), "a", "b") == {"a": 4}


# beside a plain reading


def _allowed(pod: PodRecord, nodes: list[NodeRecord], pods: list[PodRecord]) -> list[bool]:
    """Kubernetes' filter, node by node, with nothing kept."""
    hard = [c for c in pod.spread if c.when_unsatisfiable == "DoNotSchedule"]

    def means(c: SpreadConstraint, other: PodRecord) -> bool:
        if c.selector is None or other.namespace != pod.namespace:
            return False
        own = [Requirement(key=k, operator="In", values=[pod.labels[k]]) for k in c.match_label_keys if k in pod.labels]
        return all(matches(r, other.labels) for r in [*c.selector.requirements, *own])

    def counts(c: SpreadConstraint, n: NodeRecord) -> bool:
        return (
            all(k.topology_key in n.labels for k in hard)
            and (c.node_affinity_policy != "Honor" or selected(pod, n.name, n.labels))
            and (c.node_taints_policy != "Honor" or tolerated(pod, n.taints))
        )

    verdicts: list[bool] = []
    for candidate in nodes:
        good = True
        for c in hard:
            value = candidate.labels.get(c.topology_key)
            if value is None:
                good = False
                break
            found: dict[str, int] = {}
            for n in nodes:
                if not counts(c, n):
                    continue
                own = c.selector is not None and (c.selector.requirements or c.match_label_keys)
                here = sum(1 for p in pods if p.node == n.name and not p.deleted and own and means(c, p))
                found[n.labels[c.topology_key]] = found.get(n.labels[c.topology_key], 0) + here
            if not found:
                continue
            least = min(found.values()) if len(found) >= c.min_domains else 0
            if found.get(value, 0) + means(c, pod) - least > c.max_skew:
                good = False
        verdicts.append(good)
    return verdicts


@st.composite
def _clusters(draw: st.DrawFn) -> tuple[list[NodeRecord], list[PodRecord], PodRecord]:
    nodes = []
    for i in range(draw(st.integers(1, 6))):
        tags = {k: draw(st.sampled_from("abc")) for k in ("zone", "rack", "disk") if draw(st.integers(0, 5))}
        taints = [Taint(key="x", effect="NoSchedule")] if draw(st.integers(0, 3)) == 0 else []
        nodes.append(node(f"n{i}", labels=tags, taints=taints))
    pods = [
        runs(
            f"r{i}", draw(st.sampled_from(nodes)).name, namespace=draw(st.sampled_from(["ns", "ns", "b"])),
            labels={"app": draw(st.sampled_from(["web", "db"])), "rev": draw(st.sampled_from("12"))},
            deleted=draw(st.sampled_from([0.0, 0.0, 0.0, 1.0])),
        )
        for i in range(draw(st.integers(0, 12)))
    ]  # fmt: skip
    constraints = [
        SpreadConstraint(
            topology_key=draw(st.sampled_from(["zone", "rack"])), max_skew=draw(st.integers(1, 3)),
            min_domains=draw(st.integers(1, 4)), selector=draw(st.sampled_from([None, Selector(), APP, APP, APP])),
            node_affinity_policy=draw(st.sampled_from(["Honor", "Ignore"])),
            node_taints_policy=draw(st.sampled_from(["Honor", "Ignore"])),
            match_label_keys=draw(st.sampled_from([[], ["rev"], ["none"]])),
            when_unsatisfiable=draw(st.sampled_from(["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"])),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    wanted = [NodeTerm(expressions=[Requirement(key="disk", operator="In", values=["a", "b"])])]
    pod = PodRecord(
        namespace="ns", name="p", uid="p", labels={"app": draw(st.sampled_from(["web", "db"])), "rev": "1"},
        spread=constraints, affinity=Affinity(node_required=wanted) if draw(st.booleans()) else None,
        tolerations=[Toleration(operator="Exists")] if draw(st.booleans()) else [],
    )  # fmt: skip
    return nodes, pods, pod


@settings(max_examples=200, deadline=None)
@given(_clusters())
def test_the_filter_is_the_one_of_kubernetes(found: tuple[list[NodeRecord], list[PodRecord], PodRecord]) -> None:
    nodes, pods, pod = found
    c = world(queue("q"), *nodes, *pods)
    session = Session(c, 5.0)
    mask = Spread(session).mask(pod)[0]
    columns = [c.nodes.columns[n.name] for n in nodes]
    assert mask[columns].astype(bool).tolist() == _allowed(pod, nodes, pods)
    assert np.count_nonzero(mask) == np.count_nonzero(mask[columns])


@settings(max_examples=60, deadline=None)
@given(_clusters(), st.integers(1, 6))
def test_what_a_gang_got_keeps_the_constraints_pod_by_pod(
    found: tuple[list[NodeRecord], list[PodRecord], PodRecord], size: int
) -> None:
    nodes, pods, pod = found
    pod_more = {"labels": pod.labels, "spread": pod.spread, "affinity": pod.affinity, "tolerations": pod.tolerations}
    c = world(queue("q"), *nodes, *pods, *work("g", gpus=0, pods=size, min_member=1, pod=pod_more))
    standing = list(pods)
    for gang in cycle(c, now=5.0).gangs:
        for member in gang.members:
            at = next(i for i, n in enumerate(nodes) if n.name == member.node)
            assert _allowed(pod, nodes, standing)[at]
            standing.append(replace(pod, uid=member.uid, name=member.pod, node=member.node))
    c.check()
