"""preemptionPolicy Never: such work waits for free room."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts.state import PriorityClassRecord
from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_testkit.small import CLASSES, node, queue, starts, work

POLITE = PriorityClassRecord(name="polite", value=75, preemption_policy="Never")
FIRM = PriorityClassRecord(name="firm", value=75, preemption_policy="PreemptLowerPriority")


def decide(*waiting: list[Any], classes: tuple[PriorityClassRecord, ...] = (POLITE, FIRM), **settings: Any) -> CycleResult:
    cluster = Cluster(Settings(most_moved=-1, **settings))
    records = [*CLASSES, *classes, queue("top"), queue("a", "top", gpu=1), queue("b", "top", gpu=0), node("n", 1)]
    for record in (*records, *work("x", "b", nodes=["n"]), *(r for part in waiting for r in part)):
        cluster.apply(record)
    return cycle(cluster)


def never(name: str, **more: Any) -> list[Any]:
    return work(name, pod={"preemption_policy": "Never"}, **more)


@pytest.mark.parametrize(("queue", "action"), [("b", "preempt"), ("a", "reclaim")])
def test_work_of_a_polite_class_evicts_nobody(queue: str, action: str) -> None:
    result = decide(work("w", queue, priority="polite"))
    assert not result.evictions
    assert result.waiting[0].message.endswith("it waits for free room, because its preemptionPolicy is Never")
    assert [e.action for e in decide(work("w", queue, priority="firm")).evictions] == [action]
    assert [e.action for e in decide(work("w", queue, priority="polite"), compatibility="0.17").evictions] == [action]


def test_the_pod_may_say_so_itself_or_its_own_class() -> None:
    assert not decide(never("w", queue="b", priority="firm")).evictions
    assert not decide(work("w", "b", priority="firm", pod={"priority_class": "polite"})).evictions


def test_a_global_default_class_speaks_for_work_that_names_none() -> None:
    default = PriorityClassRecord(name="all", value=75, preemption_policy="Never", global_default=True)
    assert not decide(work("w", "a"), classes=(default,)).evictions
    # As admission writes it on pods without a class; the group's own class stands above it.
    pod = {"preemption_policy": "Never", "priority_class": "all"}
    assert not decide(work("w", "a", pod=pod), classes=(default, FIRM)).evictions
    assert decide(work("w", "a", priority="firm", pod=pod), classes=(default, FIRM)).evictions


def test_of_two_jobs_the_one_that_may_evict_does() -> None:
    result = decide(work("w", "b", priority="polite", created=1), work("v", "b", priority="firm", created=2))
    assert [(e.for_group, e.pod) for e in result.evictions] == [("v", "x-0")]


def test_nothing_is_moved_for_it() -> None:
    def build(priority: str) -> CycleResult:
        cluster = Cluster(Settings(most_moved=-1))
        running = [work(name, "b", nodes=[on]) for name, on in (("x", "m"), ("y", "n"))]
        records = [*CLASSES, POLITE, FIRM, queue("b"), node("m", 2), node("n", 2), *running[0], *running[1]]
        for record in (*records, *work("w", "b", gpus=2, priority=priority)):
            cluster.apply(record)
        return cycle(cluster)

    assert not build("polite").evictions
    assert [e.action for e in build("firm").evictions] == ["consolidation"]


def test_it_starts_where_room_is_free_and_a_polite_gang_waits_whole() -> None:
    gang = never("g", queue="b", pods=2, priority="firm")
    gang[-1] = msgspec.structs.replace(gang[-1], preemption_policy="")
    assert not decide(gang).evictions
    cluster = Cluster(Settings())
    for record in (*CLASSES, POLITE, queue("b"), node("n", 1), *work("w", "b", priority="polite")):
        cluster.apply(record)
    assert starts(cycle(cluster)) == {"w-0": "n"}
