"""Random worlds with PodDisruptionBudgets: whatever is decided, no budget gives more than it allows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_testkit.small import CLASSES, node, queue, work

APPS = ("red", "green", "blue")
QUEUES = ("a", "b", "c")


def one_of(*apps: str) -> state.Selector:
    return state.Selector(requirements=[state.Requirement(key="app", operator="In", values=list(apps))])


SELECTORS = st.sampled_from([None, state.Selector(), one_of("red"), one_of("green"), one_of("red", "green"), one_of("blue")])


@st.composite
def budgets(draw: st.DrawFn) -> list[state.PdbRecord]:
    found = []
    for i in range(draw(st.integers(1, 3))):
        healthy, desired = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        found.append(
            state.PdbRecord(
                namespace=draw(st.sampled_from(["ns", "ns", "ns", "other"])), name=f"b{i}", selector=draw(SELECTORS),
                observed=draw(st.integers(0, 5)) > 0, current_healthy=healthy, desired_healthy=desired,
                disruptions_allowed=max(0, healthy - desired),
                unhealthy_policy=draw(st.sampled_from(["", "IfHealthyBudget", "AlwaysAllow"])),
            )
        )  # fmt: skip
    return found


@st.composite
def worlds(draw: st.DrawFn) -> list[Any]:
    """Two to four nodes full of jobs and gangs with labels, others that wait, budgets."""
    records: list[Any] = [*CLASSES, queue("top")]
    records += [queue(name, "top", gpu=draw(st.sampled_from([0, 2, 4]))) for name in QUEUES]
    number = 0
    for n in range(draw(st.integers(2, 4))):
        records.append(node(f"n{n}", 4))
        free = 4
        while free > 0:
            pods = draw(st.sampled_from([1, 1, 1, 2, 3]))
            gpus = draw(st.sampled_from([0.5, 1, 1, 2]))
            if pods * gpus > free:
                break
            free -= pods * gpus
            pod = {"labels": {"app": draw(st.sampled_from(APPS))}, "ready": draw(st.integers(0, 3)) > 0}
            records += work(
                f"r{number}", draw(st.sampled_from(QUEUES)), gpus=gpus, pods=pods, nodes=[f"n{n}"] * pods,
                priority=draw(st.sampled_from(["", "high"])), min_member=draw(st.integers(1, pods)), created=number, pod=pod,
            )  # fmt: skip
            number += 1
    for _ in range(draw(st.integers(1, 4))):
        pods = draw(st.sampled_from([1, 1, 2]))
        gpus = draw(st.sampled_from([0.5, 1, 2, 4]))
        records += work(
            f"w{number}", draw(st.sampled_from(QUEUES)), gpus=gpus, pods=pods, created=number,
            priority=draw(st.sampled_from(["", "high"])),
        )  # fmt: skip
        number += 1
    return records


def build(records: list[Any], limits: list[state.PdbRecord]) -> Cluster:
    cluster = Cluster(Settings(most_moved=-1))
    for record in (*records, *limits):
        cluster.apply(_shared(record))
    return cluster


def _shared(record: Any) -> Any:
    """Running pods with a part of a GPU have a device each."""
    if isinstance(record, state.PodRecord) and record.share is not None and record.node:
        return msgspec.structs.replace(record, gpu_groups=[f"{record.name}-g"])
    return record


def taken(cluster: Cluster, result: CycleResult, limits: list[state.PdbRecord]) -> Counter[str]:
    """By budget: victims that count, by a plain reading of the rules."""
    found: Counter[str] = Counter()
    for eviction in result.evictions:
        pod = cluster.pods[eviction.uid].record
        over = [b for b in limits if b.namespace == pod.namespace and b.selector is not None and _selects(b.selector, pod)]
        assert len(over) < 2, "a pod under two budgets is no victim"
        for one in over:
            healthy = one.current_healthy >= one.desired_healthy > 0
            if pod.ready or not (one.unhealthy_policy == "AlwaysAllow" or healthy):
                found[one.name] += 1
    return found


def _selects(selector: state.Selector, pod: state.PodRecord) -> bool:
    return all(pod.labels.get(r.key) in r.values for r in selector.requirements)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), budgets())
def test_no_budget_gives_more_than_it_allows(records: list[Any], limits: list[state.PdbRecord]) -> None:
    cluster = build(records, limits)
    total: Counter[str] = Counter()
    for now in range(3):
        # Their status does not follow: evictions of earlier cycles count as well.
        result = cycle(cluster, now=float(now))
        total += taken(cluster, result, limits)
        for limit in limits:
            assert total[limit.name] <= (limit.disruptions_allowed if limit.observed else 0)
        cluster.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_budgets_that_allow_everything_change_nothing(records: list[Any]) -> None:
    plain = cycle(build(records, []))
    every = state.PdbRecord(
        namespace="ns", name="all", selector=state.Selector(), observed=True, disruptions_allowed=1000, current_healthy=1000
    )
    assert cycle(build(records, [every])) == plain


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), budgets())
def test_with_the_budgets_that_a_message_asks_for_the_group_starts(records: list[Any], limits: list[state.PdbRecord]) -> None:
    result = cycle(build(records, limits))
    if len(result.waiting) != 1 or result.gangs or result.evictions:
        # With others about, more room for this one may change what they take.
        return
    (waiting,) = result.waiting
    asked = waiting.details.get("budgets")
    if not asked or "PodDisruptionBudget only" in waiting.message:
        return
    more = [
        msgspec.structs.replace(
            b, observed=True,
            disruptions_allowed=(b.disruptions_allowed if b.observed else 0) + asked.get(f"{b.namespace}/{b.name}", 0),
        )
        for b in limits
    ]  # fmt: skip
    then = cycle(build(records, more))
    assert {r.uid for r in then.reserved} | {m.uid for g in then.gangs for m in g.members}
