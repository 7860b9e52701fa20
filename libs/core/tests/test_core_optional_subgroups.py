"""A group that can do without some subgroups gets room from others for those that can start."""

from __future__ import annotations

import msgspec
import pytest

from shoal_contracts.state import GroupRecord, PodRecord, StateMessage, SubGroup
from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_testkit.small import CLASSES, node, queue, work

MINIMUMS = {"a": 2, "b": 1, "c": 1}


def parted(name: str, queue: str, least: int, names: str, priority: str = "", gpus: float = 1) -> list[StateMessage]:
    """A group of subgroups, of which ``least`` are needed."""
    group, *pods = work(name, queue, gpus, pods=sum(MINIMUMS[x] for x in names), priority=priority)
    assert isinstance(group, GroupRecord)
    parts = [SubGroup(name=x, min_member=MINIMUMS[x]) for x in names]
    found: list[StateMessage] = [msgspec.structs.replace(group, min_member=None, min_subgroup=least, subgroups=parts)]
    for pod, part in zip(pods, (x for x in names for _ in range(MINIMUMS[x])), strict=True):
        assert isinstance(pod, PodRecord)
        found.append(msgspec.structs.replace(pod, subgroup=part))
    return found


def decide(*records: StateMessage, **settings: str) -> tuple[list[str], list[str], CycleResult]:
    """(actions of the evictions, subgroups that get room, the result)."""
    cluster = Cluster(Settings(most_moved=-1, **settings))
    for record in (*CLASSES, queue("top"), queue("q", "top", gpu=1), queue("r", "top", gpu=0), *records):
        cluster.apply(record)
    result = cycle(cluster)
    parts = [cluster.pods[p.uid].record.subgroup for p in result.reserved if p.pod.startswith("g-")]
    return [e.action for e in result.evictions], parts, result


@pytest.mark.parametrize(("victims", "action"), [("q", "preempt"), ("r", "reclaim")])
def test_victims_are_sought_for_the_subgroup_that_fits(victims: str, action: str) -> None:
    world = [node("n", 1), *work("l", victims, nodes=["n"]), *parted("g", "q", 1, "ab", "high")]
    assert decide(*world)[:2] == ([action], ["b"])
    assert decide(*world, compatibility="0.17")[0] == []


def test_pods_are_moved_for_the_subgroup_that_fits() -> None:
    running = [*work("x", "q", nodes=["m"]), *work("y", "q", nodes=["n"])]
    actions, parts, _ = decide(node("m", 2), node("n", 2), *running, *parted("g", "q", 1, "ab", gpus=2))
    assert (actions, parts) == (["consolidation"], ["b"])


def test_as_many_subgroups_as_are_needed_get_room_together() -> None:
    running = [*work("x", "q", nodes=["n"]), *work("y", "q", nodes=["n"])]
    actions, parts, _ = decide(node("n", 2), *running, *parted("g", "q", 2, "abc", "high"))
    assert (actions, sorted(parts)) == (["preempt"] * 2, ["b", "c"])


def test_the_first_subgroup_goes_first_where_both_fit() -> None:
    running = [r for name in "xy" for r in work(name, "q", nodes=["n"])]
    assert decide(node("n", 2), *running, *parted("g", "q", 1, "ab", "high"))[1] == ["a", "a"]


@pytest.mark.parametrize(("least", "names", "priority"), [(2, "ab", "high"), (1, "ab", "")])
def test_nobody_goes_where_it_would_not_help(least: int, names: str, priority: str) -> None:
    actions, _, result = decide(node("n", 1), *work("l", "q", nodes=["n"]), *parted("g", "q", least, names, priority))
    assert actions == []
    assert len(result.waiting[0].pods) == 3


@pytest.mark.parametrize(("name", "parent"), [("P", "P"), ("p", "P"), ("p", "p")])
def test_a_parent_is_found_as_it_is_written(name: str, parent: str) -> None:
    group, *pods = parted("g", "q", 1, "a")
    assert isinstance(group, GroupRecord)
    parts = [SubGroup(name=name, min_subgroup=1), SubGroup(name="a", parent=parent, min_member=2)]
    _, _, result = decide(node("n", 2), msgspec.structs.replace(group, subgroups=parts), *pods)
    assert len(result.gangs[0].members) == 2
