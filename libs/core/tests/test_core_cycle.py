"""The five actions on small worlds: one test a rule, and laws on random clusters with running work."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_contracts import state
from shoal_core import CycleResult, Session, cycle, run
from shoal_core.search.signatures import signature
from shoal_core.settings import ALLOCATE
from shoal_testkit.small import node, queue, starts, work, world

NOW = 10_000.0


def goes(result: CycleResult) -> dict[str, str]:
    return {e.pod: e.action for e in result.evictions}


def reserved(result: CycleResult) -> dict[str, str]:
    return {p.pod: p.node for p in result.reserved}


def test_reclaim_takes_from_the_queue_that_has_more_than_its_share_and_says_so() -> None:
    c = world(queue("a", gpu=2), queue("b", gpu=2), node("n"))
    for i in range(4):
        for record in work(f"run{i}", "a", nodes=["n"], created=i):
            c.apply(record)
    for record in work("new", "b", created=9):
        c.apply(record)
    result = cycle(c, now=NOW)
    assert goes(result) == {"run3-0": "reclaim"}
    assert reserved(result) == {"new-0": "n"}
    told = result.evictions[0]
    assert told.for_group == "new"
    assert told.details["victim"]["before"][2] == 4
    assert told.details["victim"]["share"][2] == 3
    assert "fair share" in told.message
    c.check()


def test_work_within_quota_is_not_reclaimed() -> None:
    c = world(queue("a", gpu=4), queue("b", gpu=0), node("n"), *work("run", "a", pods=4, nodes=["n"] * 4), *work("new", "b"))
    assert goes(cycle(c, now=NOW)) == {}


def test_preempt_takes_the_lowest_and_youngest_of_the_queue() -> None:
    c = world(queue("q"), node("n", gpus=2), *work("old", nodes=["n"], created=1), *work("young", nodes=["n"], created=2))
    for record in work("vip", priority="high", created=3):
        c.apply(record)
    result = cycle(c, now=NOW)
    assert goes(result) == {"young-0": "preempt"}
    assert reserved(result) == {"vip-0": "n"}


def test_equal_or_non_preemptible_work_is_not_preempted() -> None:
    c = world(queue("q"), node("n", gpus=1), *work("run", nodes=["n"], priority="build"), *work("vip", priority="high"))
    assert goes(cycle(c, now=NOW)) == {}


def test_consolidation_moves_and_loses_nobody() -> None:
    c = world(
        queue("q"), node("a", gpus=2), node("b", gpus=2), *work("x", nodes=["a"]), *work("y", nodes=["b"]), *work("two", gpus=2)
    )
    result = cycle(c, now=NOW)
    (moved,) = result.evictions
    assert moved.action == "consolidation"
    assert moved.moved_to
    assert moved.moved_to != moved.node
    assert reserved(result)["two-0"] == moved.node


def test_a_stale_gang_goes_after_its_grace() -> None:
    c = world(queue("q"), node("n"), *work("g", pods=2, nodes=["n", "n"]))
    c.remove("pod", "ns", "g-1")
    first = cycle(c, now=NOW)
    assert [s.since for s in first.stale] == [NOW]
    assert goes(cycle(c, now=NOW + 59)) == {}
    assert goes(cycle(c, now=NOW + 60)) == {"g-0": "stalegangeviction"}


def test_min_runtime_protects_for_its_time() -> None:
    c = world(queue("q", preempt_min_runtime=100.0), node("n", gpus=1), *work("vip", priority="high"))
    for record in work("run", nodes=["n"], last_start=NOW - 50):
        c.apply(record)
    assert goes(cycle(c, now=NOW)) == {}
    assert goes(cycle(c, now=NOW + 60)) == {"run-0": "preempt"}


def test_preemption_delay_keeps_from_taking_for_its_time() -> None:
    c = world(queue("q"), node("n", gpus=1), *work("run", nodes=["n"]))
    for record in work("vip", priority="high", created=NOW, preemption_delay=30.0):
        c.apply(record)
    result = cycle(c, now=NOW)
    assert goes(result) == {}
    assert result.waiting[0].code == "PreemptionDelayNotElapsed"
    assert goes(cycle(c, now=NOW + 30)) == {"run-0": "preempt"}


def test_fractions_share_a_device_and_a_third_that_does_not_fit_takes_another() -> None:
    c = world(queue("q"), node("n", gpus=2))
    for name, part in (("a", 0.5), ("b", 0.5), ("c", 0.7)):
        for record in work(name, gpus=part):
            c.apply(record)
    result = cycle(c, now=NOW)
    groups = {m.pod: m.gpu_groups for g in result.gangs for m in g.members}
    assert len(groups) == 3
    assert groups["a-0"] == groups["b-0"]
    assert groups["c-0"] != groups["a-0"]
    assert c.nodes.idle[2, 0] == 0
    c.check()


def test_a_required_rack_holds_the_whole_gang() -> None:
    levels = [state.TopologyLevel(label="rack")]
    racks = [node(f"n{i}", gpus=1, labels={"rack": f"r{i % 2}"}) for i in range(4)]
    wish = state.TopologyConstraint(topology="t", required="rack")
    c = world(queue("q"), *racks, state.TopologyRecord(name="t", levels=levels), *work("g", pods=2, topology=wish))
    placed = starts(cycle(c, now=NOW))
    assert {int(n[1]) % 2 for n in placed.values()} in ({0}, {1})
    c = world(queue("q"), *racks, state.TopologyRecord(name="t", levels=levels), *work("g", pods=3, topology=wish))
    result = cycle(c, now=NOW)
    assert starts(result) == {}
    assert "couldn't be satisfied" in result.waiting[0].message


def test_anti_affinity_spreads_a_gang_and_ports_do_not_meet() -> None:
    near = state.Selector(requirements=[state.Requirement(key="app", operator="In", values=["x"])])
    term = state.PodTerm(topology_key="kubernetes.io/hostname", selector=near)
    apart = {"labels": {"app": "x"}, "affinity": state.Affinity(anti_required=[term])}
    hosts = [node(n, labels={"kubernetes.io/hostname": n}) for n in ("a", "b")]
    c = world(queue("q"), *hosts, *work("g", pods=2, pod=apart))
    assert set(starts(cycle(c, now=NOW)).values()) == {"a", "b"}
    ports = {"host_ports": [state.HostPort(port=80)]}
    c = world(queue("q"), *hosts, *work("p", pods=2, pod=ports))
    assert set(starts(cycle(c, now=NOW)).values()) == {"a", "b"}


def test_plain_pods_keep_away_from_one_that_was_placed_in_the_same_cycle() -> None:
    """Of another job as of the same one."""
    near = state.Selector(requirements=[state.Requirement(key="app", operator="In", values=["x"])])
    term = state.PodTerm(topology_key="kubernetes.io/hostname", selector=near)
    alone = {"affinity": state.Affinity(anti_required=[term])}
    hosts = [node(n, labels={"kubernetes.io/hostname": n}) for n in ("a", "b")]
    first, then = work("alone", pod=alone, created=1), work("crowd", pods=2, pod={"labels": {"app": "x"}}, created=2)
    placed = starts(cycle(world(queue("q"), *hosts, *first, *then), now=NOW))
    assert placed["crowd-0"] == placed["crowd-1"] != placed["alone-0"]
    group, *pods = work("one", pods=3, pod={"labels": {"app": "x"}})
    pods[0] = msgspec.structs.replace(pods[0], labels={}, **alone)
    placed = starts(cycle(world(queue("q"), *hosts, group, *pods), now=NOW))
    assert placed["one-1"] == placed["one-2"] != placed["one-0"]


def test_unknown_topology_and_huge_numbers_hurt_only_their_own() -> None:
    wish = state.TopologyConstraint(topology="nowhere", required="rack")
    c = world(queue("q"), queue("odd", gpu=1e300), node("n"), *work("t", topology=wish), *work("o", "odd"), *work("fine"))
    result = cycle(c, now=NOW)
    assert starts(result) == {"fine-0": "n"}
    assert {w.group: w.code for w in result.waiting} == {"t": "TopologyNotFound", "o": "QueueDoesNotExist"}


def test_an_unchanged_cluster_is_not_looked_at_again() -> None:
    c = world(queue("q"), node("n", gpus=1), *work("run", nodes=["n"]), *work("wait"))
    first = cycle(c, now=NOW)
    assert cycle(c, now=NOW + 1) is first
    c.apply(node("m"))
    assert starts(cycle(c, now=NOW + 2)) == {"wait-0": "m"}


def test_what_a_group_demands_of_nodes_is_that_of_the_cycle_s_beginning() -> None:
    c = world(queue("q"), node("n", gpus=1), *work("grows", pods=2, min_member=1), *work("same", pods=2, min_member=1))
    session = Session(c, NOW)
    grows, same = c.jobs["ns", "grows"], c.jobs["ns", "same"]
    run(session, [ALLOCATE])
    assert (grows.pending, same.pending) == (1, 2)
    assert signature(session, grows) == signature(session, same)
    session.close()
    assert signature(Session(c, NOW), grows) != signature(session, same), "the next cycle begins with one pod less"


@st.composite
def worlds(draw: st.DrawFn) -> list[Any]:
    records: list[Any] = [queue("top", limit=draw(st.sampled_from([-1, 10])))]
    names = [f"q{i}" for i in range(draw(st.integers(1, 3)))]
    records += [queue(n, "top", gpu=draw(st.integers(-1, 4)), limit=draw(st.sampled_from([-1, 3, 6]))) for n in names]
    nodes = {f"n{i}": draw(st.integers(1, 4)) for i in range(draw(st.integers(1, 4)))}
    records += [node(n, gpus=g) for n, g in nodes.items()]
    free = dict(nodes)
    for g in range(draw(st.integers(0, 6))):
        gpus = draw(st.integers(1, 2))
        fits = [n for n, f in free.items() if f >= gpus]
        if fits:
            at = draw(st.sampled_from(fits))
            free[at] -= gpus
            places = [at]
            others = [n for n, f in free.items() if f >= gpus]
            if others and draw(st.booleans()):
                places.append(draw(st.sampled_from(others)))
                free[places[1]] -= gpus
            records += work(
                f"run{g}", draw(st.sampled_from(names)), gpus, len(places), places, created=g,
                priority=draw(st.sampled_from(["", "high", "build"])), min_member=draw(st.sampled_from([1, len(places)])),
            )  # fmt: skip
    for g in range(draw(st.integers(1, 5))):
        pods = draw(st.integers(1, 3))
        records += work(
            f"new{g}", draw(st.sampled_from(names)), draw(st.sampled_from([0, 0.5, 1, 2])), pods,
            priority=draw(st.sampled_from(["", "high", "build"])), created=20 + g, min_member=draw(st.sampled_from([1, pods])),
        )  # fmt: skip
    return records


@settings(max_examples=300, deadline=None, derandomize=True)
@given(worlds())
def test_laws_on_random_clusters(records: list[Any]) -> None:
    c = world(*records)
    before = {q.name: q.allocated for q in c.tree.queues.values()}
    result = cycle(c, now=NOW)
    c.check()
    assert (c.nodes.idle >= -1e-9).all(), "no node is over its allocatable"
    memory = c.nodes.gpu_memory[:, None]
    assert (c.nodes.held <= memory).all(), "no device is over its memory"
    for q in c.tree.queues.values():
        for r in range(3):
            inside = q.limit[r] == -1 or q.allocated[r] <= max(q.limit[r], before[q.name][r])
            assert inside, "no queue goes over its limit"
    placed = Counter(g.group for g in result.gangs for _ in g.members)
    for job in c.jobs.values():
        assert job.record is not None
        if placed[job.name]:
            moving = sum(1 for r in result.reserved if r.uid in job.pods and not job.pods[r.uid].pending)
            assert job.counted + moving >= (job.record.min_member or 0), "no gang is partial"
            assert job.root.satisfied or not any(g.starts for g in result.gangs if g.group == job.name), "none starts in part"
    served = {(p.namespace, c.pods[p.uid].record.group) for p in result.reserved} | {
        (g.namespace, g.group) for g in result.gangs
    }
    for eviction in result.evictions:
        if eviction.action != "stalegangeviction":
            assert (eviction.for_namespace, eviction.for_group) in served, "nobody goes for nothing"
    started = {m.uid for g in result.gangs for m in g.members}
    again = cycle(c, now=NOW + 1)
    assert not started & {e.uid for e in again.evictions} or result.evictions, "what was placed stays in an unchanged world"
    assert [g.members for g in cycle(world(*records), now=NOW).gangs] == [g.members for g in result.gangs], "deterministic"
