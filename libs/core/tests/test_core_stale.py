"""Grace of stale gangs, and what protects a start before its annotation comes back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_testkit.small import node, queue, starts, work, world

NOW = 10_000.0
DAY = 86_400.0


def goes(result: CycleResult) -> list[str]:
    return [e.pod for e in result.evictions]


def since(result: CycleResult) -> list[float]:
    return [s.since for s in result.stale]


def gang(**more: Any) -> tuple[state.GroupRecord, list[Any]]:
    group, *pods = work("g", pods=2, nodes=["n", "n"], **more)
    assert isinstance(group, state.GroupRecord)
    return group, pods


def broken(group: state.GroupRecord, pods: list[Any]) -> Cluster:
    c = world(queue("q"), node("n"), group, *pods)
    c.remove("pod", "ns", "g-1")
    return c


def again(pod: Any, uid: str) -> Any:
    return msgspec.structs.replace(pod, uid=uid)


@pytest.mark.parametrize("written", [True, False], ids=["annotation seen", "annotation late"])
def test_each_time_a_gang_breaks_its_grace_begins_anew(written: bool) -> None:
    group, pods = gang()
    c = broken(group, pods)
    assert since(cycle(c, now=NOW)) == [NOW]
    if written:
        c.apply(msgspec.structs.replace(group, stale_since=NOW))
    c.apply(again(pods[1], "again"))
    assert since(cycle(c, now=NOW + 10)) == ([0.0] if written else [])
    if written:
        c.apply(group)
    assert not cycle(c, now=NOW + 20).stale
    c.remove("pod", "ns", "g-1")
    result = cycle(c, now=NOW + DAY)
    assert since(result) == [NOW + DAY]
    assert not goes(result)
    assert not goes(cycle(c, now=NOW + DAY + 59))
    assert goes(cycle(c, now=NOW + DAY + 60)) == ["g-0"]


def test_a_stamp_that_was_taken_back_but_is_still_shown_does_not_count() -> None:
    group, pods = gang()
    c = broken(msgspec.structs.replace(group, stale_since=NOW), pods)
    c.apply(again(pods[1], "again"))
    assert since(cycle(c, now=NOW + 10)) == [0.0]
    c.remove("pod", "ns", "g-1")
    result = cycle(c, now=NOW + DAY)
    assert since(result) == [NOW + DAY], "the new one is written over the old"
    assert not goes(result)


def test_the_grace_goes_on_under_another_leader() -> None:
    group, pods = gang()
    c = broken(msgspec.structs.replace(group, stale_since=NOW), pods)
    assert not goes(cycle(c, now=NOW + 59))
    c = broken(msgspec.structs.replace(group, stale_since=NOW), pods)
    assert goes(cycle(c, now=NOW + 60)) == ["g-0"]


def test_a_group_made_again_under_its_name_has_its_own_grace() -> None:
    group, pods = gang()
    c = broken(group, pods)
    cycle(c, now=NOW)
    c.apply(msgspec.structs.replace(group, uid="other", created=NOW + 30))
    assert not goes(cycle(c, now=NOW + 61))
    c = broken(group, pods)
    cycle(c, now=NOW)
    c.remove("group", "ns", "g")
    c.apply(msgspec.structs.replace(group, uid="other", created=NOW + 30))
    assert not goes(cycle(c, now=NOW + 61))


def test_a_stamp_older_than_the_group_or_from_the_future_does_not_count() -> None:
    group, pods = gang()
    for stamp in (NOW - 100, NOW + 10 * DAY):
        c = broken(msgspec.structs.replace(group, created=NOW - 10, stale_since=stamp), pods)
        result = cycle(c, now=NOW)
        assert since(result) == [NOW]
        assert not goes(result)
        assert goes(cycle(c, now=NOW + 60)) == ["g-0"]


def test_a_member_that_is_refused_again_and_again_does_not_hold_up_the_grace() -> None:
    group, pods = gang()
    c = broken(group, pods)
    cycle(c, now=NOW)
    c.apply(msgspec.structs.replace(pods[1], uid="again", node="", phase="Pending"))
    for second in range(1, 60, 10):
        assert starts(cycle(c, now=NOW + second)) == {"g-1": "n"}
        c.forget("again")
    c.bar("again", True)
    assert goes(cycle(c, now=NOW + 60)) == ["g-0"]


@pytest.mark.parametrize("action", ["preempt", "reclaim"])
def test_what_started_in_one_cycle_is_protected_in_the_next(action: str) -> None:
    c = Cluster(Settings(preempt_min_runtime=300, reclaim_min_runtime=300))
    queues = [queue("q")] if action == "preempt" else [queue("q", gpu=0), queue("other", gpu=4)]
    for record in (state.PriorityClassRecord(name="high", value=75), *queues, node("n", gpus=1), *work("old")):
        c.apply(record)
    assert starts(cycle(c, now=NOW)) == {"old-0": "n"}
    pod = work("old", nodes=["n"])[1]
    c.apply(pod)
    c.forget("old-0")
    for record in work("new", "q" if action == "preempt" else "other", priority="high", created=5):
        c.apply(record)
    assert not goes(cycle(c, now=NOW + 1))
    assert not goes(cycle(c, now=NOW + 299))
    assert goes(cycle(c, now=NOW + 300)) == ["old-0"]


def test_what_was_evicted_waits_its_delay_before_it_may_take_room_itself() -> None:
    c = world(
        queue("q"), node("n", gpus=1), *work("victim", nodes=["n"], preemption_delay=100.0), *work("new", priority="high")
    )
    assert goes(cycle(c, now=NOW)) == ["victim-0"]
    c.remove("pod", "ns", "victim-0")
    c.forget("victim-0")
    c.apply(work("new", nodes=["n"], priority="high")[1])
    for record in work("victim", priority="build", preemption_delay=100.0, preemptibility="preemptible"):
        c.apply(msgspec.structs.replace(record, uid="victim-again") if isinstance(record, state.PodRecord) else record)
    assert not goes(cycle(c, now=NOW + 99))
    assert goes(cycle(c, now=NOW + 100)) == ["new-0"]
