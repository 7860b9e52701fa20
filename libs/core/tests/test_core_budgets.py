"""PodDisruptionBudgets and caps as a resource of evictions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Settings, cycle
from shoal_core.configuration import BadConfiguration, read
from shoal_core.pace import Pace
from shoal_core.times import next_change
from shoal_testkit.small import CLASSES, node, queue, starts, work

EVERYTHING = state.Selector()


def app(name: str) -> state.Selector:
    return state.Selector(requirements=[state.Requirement(key="app", operator="In", values=[name])])


def budget(name: str, allowed: int, selector: state.Selector | None = EVERYTHING, **more: Any) -> state.PdbRecord:
    given = {"observed": True, "current_healthy": 4 + allowed, "desired_healthy": 4, "namespace": "ns"} | more
    return state.PdbRecord(name=name, selector=selector, disruptions_allowed=allowed, **given)


def runs(name: str, on: str, gpus: float = 1, tags: dict[str, str] | None = None, pods: int = 1, **more: Any) -> list[Any]:
    pod = {"labels": tags or {}, "ready": True} | more.pop("pod", {})
    return work(name, more.pop("queue", "b"), gpus=gpus, pods=pods, nodes=[on] * pods, pod=pod, **more)


def world(*records: Any, **settings: Any) -> Cluster:
    found = Cluster(Settings(**{"most_moved": -1, **settings}))
    queues = [queue("top"), queue("a", "top", gpu=4), queue("b", "top", gpu=0)]
    for record in (*CLASSES, *queues, *(r for part in records for r in (part if isinstance(part, list) else [part]))):
        found.apply(record)
    return found


def gone(result: CycleResult) -> set[str]:
    return {e.pod for e in result.evictions}


def message(result: CycleResult, group: str) -> str:
    (found,) = [w for w in result.waiting if w.group == group]
    return found.message


def test_a_job_that_needs_a_protected_victim_evicts_nobody_and_names_the_budget() -> None:
    cluster = world(
        node("n", 2), runs("x", "n", tags={"app": "web"}), runs("y", "n"), work("w", "a", gpus=2), budget("web", 0, app("web"))
    )
    result = cycle(cluster)
    assert not result.evictions
    assert message(result, "w").endswith("would start if PodDisruptionBudget ns/web allowed 1 more")
    (waiting,) = result.waiting
    assert waiting.details["budgets"] == {"ns/web": 1}
    cluster.check()
    # The same without a budget, and with one that allows it.
    cluster.apply(budget("web", 1, app("web")))
    assert gone(cycle(cluster)) == {"x-0", "y-0"}


@pytest.mark.parametrize("action", ["reclaim", "preempt"])
@pytest.mark.parametrize("protected", ["x", "y"])
def test_the_victim_that_may_go_goes_whatever_the_order(protected: str, action: str) -> None:
    other = {"x": "y", "y": "x"}[protected]
    mine, priority = ("a", "") if action == "reclaim" else ("b", "high")
    cluster = world(
        node("n", 2),
        runs(protected, "n", tags={"app": "web"}, created=1),
        runs(other, "n", created=2),
        work("w", mine, priority=priority, created=3),
        budget("web", 0, app("web")),
    )
    result = cycle(cluster)
    assert [(e.pod, e.action) for e in result.evictions] == [(f"{other}-0", action)]


def test_the_sum_of_the_victims_counts_and_the_message_says_how_many_are_missing() -> None:
    cluster = world(node("n", 4), *(runs(f"x{i}", "n") for i in range(4)), work("w", "a", gpus=4), budget("all", 1))
    result = cycle(cluster)
    assert not result.evictions
    assert "PodDisruptionBudget ns/all allowed 3 more" in message(result, "w")


def test_the_sum_counts_over_all_decisions_of_a_cycle_and_until_the_status_has_them() -> None:
    waiting = [work(f"w{i}", "a", created=10 + i) for i in range(4)]
    cluster = world(node("n", 4), *(runs(f"x{i}", "n", resource_version="5") for i in range(4)), *waiting, budget("all", 2))
    first = cycle(cluster)
    assert len(gone(first)) == 2
    # The budget's status does not show them yet: nothing more goes, whatever else is news.
    cluster.apply(budget("all", 2, resource_version="7"))
    assert not cycle(cluster, now=1).evictions
    # The API granted the evictions: they count once.
    granted = sorted(gone(first))
    cluster.apply(budget("all", 0, resource_version="8", disrupted=granted))
    assert not cycle(cluster, now=2).evictions
    for pod in granted:
        cluster.remove("pod", "ns", pod)
        cluster.forget(pod)
    cluster.apply(budget("all", 1, resource_version="20"))
    assert len(gone(cycle(cluster, now=3))) <= 1
    cluster.check()


def test_a_decision_that_is_off_gives_its_disruption_back() -> None:
    cluster = world(node("n", 1), runs("x", "n"), work("w", "a"), budget("all", 1))
    assert gone(cycle(cluster)) == {"x-0"}
    cluster.forget("x-0")
    assert gone(cycle(cluster, now=1)) == {"x-0"}


def test_an_eviction_counts_from_the_decision_to_the_status_that_follows_the_deletion() -> None:
    cluster = world(node("n", 2), runs("x", "n"), runs("y", "n"), work("w", "a"), work("v", "a"), budget("all", 1))
    (victim,) = gone(cycle(cluster))
    pod = cluster.pods[victim].record
    cluster.apply(msgspec.structs.replace(pod, deleted=5.0, resource_version="12"))
    cluster.forget(victim)
    # A status from before the deletion, by its version: the eviction still counts.
    cluster.apply(budget("all", 1, resource_version="11"))
    assert not cycle(cluster, now=1).evictions
    cluster.apply(budget("all", 1, resource_version="13"))
    assert len(cycle(cluster, now=2).evictions) == 1


def test_evictions_adopted_at_a_takeover_count() -> None:
    cluster = world(node("n", 2), work("w", "a"), budget("all", 1))
    cluster.assume_gone("x-0")
    for record in (*runs("x", "n"), *runs("y", "n"), *work("v", "a")):
        cluster.apply(record)
    assert not cycle(cluster).evictions


def test_a_controller_that_is_silent_is_waited_for_two_minutes() -> None:
    cluster = world(node("n", 2), runs("x", "n"), runs("y", "n"), work("w", "a"), work("v", "a"), budget("all", 1))
    (victim,) = gone(cycle(cluster))
    cluster.remove("pod", "ns", victim)
    cluster.forget(victim)
    started = cycle(cluster, now=1)
    assert len(starts(started)) == 1
    assert not cycle(cluster, now=100).evictions
    assert len(cycle(cluster, now=200).evictions) == 1
    assert not cluster.disruptions._gone


@pytest.mark.parametrize("allowed", [0, 5])
def test_a_pod_under_two_budgets_is_no_victim(allowed: int) -> None:
    cluster = world(
        node("n", 1), runs("x", "n"), work("w", "a"), budget("one", allowed), budget("two", allowed)
    )  # fmt: skip
    result = cycle(cluster)
    assert not result.evictions
    assert "pod ns/x-0 were under one PodDisruptionBudget only (one, two)" in message(result, "w")
    cluster.remove("pdb", "ns", "two")
    assert bool(cycle(cluster).evictions) == bool(allowed)


@pytest.mark.parametrize(
    ("pod", "more", "goes"),
    [
        ({"ready": False}, {"unhealthy_policy": "AlwaysAllow", "current_healthy": 1}, True),
        ({"ready": False}, {"unhealthy_policy": "IfHealthyBudget", "current_healthy": 4}, True),
        ({"ready": False}, {"current_healthy": 4}, True),
        ({"ready": False}, {"current_healthy": 3}, False),
        ({"ready": False}, {"current_healthy": 0, "desired_healthy": 0}, False),
        ({"ready": True}, {"unhealthy_policy": "AlwaysAllow"}, False),
        ({"ready": False, "phase": "Pending"}, {"current_healthy": 0}, True),
        ({"ready": True}, {"observed": False}, False),
        ({"ready": True}, {"namespace": "other"}, True),
        ({"ready": True}, {"selector": None}, True),
        ({"ready": True}, {"selector": app("other")}, True),
    ],
)
def test_what_the_eviction_api_lets_go_goes(pod: dict[str, Any], more: dict[str, Any], goes: bool) -> None:
    records = runs("x", "n")
    records[-1] = msgspec.structs.replace(records[-1], **pod)
    cluster = world(node("n", 1), records, work("w", "a"), budget("b", 0, **{"selector": EVERYTHING, **more}))
    assert bool(cycle(cluster).evictions) == goes


def test_pods_that_are_not_ready_go_beside_an_empty_budget_but_not_the_ready_ones() -> None:
    cluster = world(
        node("n", 2), runs("x", "n", pod={"ready": False}), runs("y", "n"), work("w", "a"), work("v", "a"),
        budget("b", 0, unhealthy_policy="AlwaysAllow"),
    )  # fmt: skip
    assert gone(cycle(cluster)) == {"x-0"}


def test_a_gang_goes_whole_or_not_at_all() -> None:
    cluster = world(node("n", 3), runs("g", "n", pods=3), work("w", "a"), budget("b", 2))
    result = cycle(cluster)
    assert not result.evictions
    assert "ns/b allowed 1 more" in message(result, "w")
    cluster.apply(budget("b", 3))
    assert len(cycle(cluster).evictions) == 3


def test_of_an_elastic_gang_the_pods_go_that_may() -> None:
    records = runs("g", "n", pods=3, min_member=1)
    protected = [r for r in records if getattr(r, "uid", "") in ("g-2", "g-1")]
    for record in protected:
        records[records.index(record)] = msgspec.structs.replace(record, labels={"app": "web"})
    cluster = world(node("n", 3), records, work("w", "a"), work("v", "a"), work("u", "a"), budget("b", 0, app("web")))
    assert gone(cycle(cluster)) == {"g-0"}


def test_the_larger_of_two_under_one_budget_is_found() -> None:
    cluster = world(
        node("n", 5), runs("big", "n", gpus=4, created=1), runs("s", "n", created=2), work("w", "a", gpus=4), budget("b", 1)
    )
    assert gone(cycle(cluster)) == {"big-0"}


def test_consolidation_moves_no_protected_pod() -> None:
    def build(allowed: int) -> Cluster:
        return world(
            node("m", 2), node("n", 2), runs("x", "m"), runs("y", "n"), work("w", "b", gpus=2), budget("b", allowed)
        )  # fmt: skip

    result = cycle(build(0))
    assert not result.evictions
    assert "PodDisruptionBudget ns/b allowed 1 more" in message(result, "w")
    assert [e.action for e in cycle(build(1)).evictions] == ["consolidation"]


def test_a_stale_gang_waits_for_its_budget() -> None:
    def build(allowed: int) -> Cluster:
        records = work("g", "b", pods=2, nodes=["n", "n"], pod={"ready": True}, stale_since=1.0, min_member=3)
        return world(node("n", 2), records, budget("b", allowed))

    assert not cycle(build(1), now=1000).evictions
    assert len(cycle(build(2), now=1000).evictions) == 2


def test_a_queue_may_ignore_budgets() -> None:
    cluster = world(
        queue("c", "top", gpu=0, ignore_budgets=True), node("n", 1), runs("x", "n", queue="c"), work("w", "a"),
        budget("one", 0), budget("two", 0),
    )  # fmt: skip
    (eviction,) = cycle(cluster).evictions
    assert (eviction.pod, dict(eviction.ignored)) == ("x-0", {"one": "", "two": ""})


OWNER = state.OwnerRef(api_version="apps/v1", type="ReplicaSet", name="web", uid="rs", controller=True)


@pytest.mark.parametrize(("pods", "part", "go"), [(4, 0.25, 1), (8, 0.25, 2), (3, 0.25, 1), (4, 0.0, 4), (8, 1.0, 8)])
def test_of_a_serving_owner_a_part_goes_at_a_time(pods: int, part: float, go: int) -> None:
    running = [runs(f"x{i}", "n", pod={"owners": [OWNER]}) for i in range(pods)]
    cluster = world(
        queue("a", "top", gpu=pods), node("n", pods), *running, *(work(f"w{i}", "a") for i in range(pods)),
        evictions_per_owner=part,
    )  # fmt: skip
    first = cycle(cluster)
    assert len(gone(first)) == go
    assert not cycle(cluster, now=1).evictions
    if go < pods:
        assert "more of ReplicaSet ns/web might go at a time" in first.waiting[-1].message


def test_a_cycle_has_a_bound_of_evictions_and_the_next_goes_on() -> None:
    cluster = world(
        queue("a", "top", gpu=8), node("n", 8), *(runs(f"x{i}", "n") for i in range(8)),
        *(work(f"w{i}", "a") for i in range(8)), evictions_per_cycle=3,
    )  # fmt: skip
    assert [len(cycle(cluster, now=i).evictions) for i in range(4)] == [3, 3, 2, 0]


def test_a_minute_has_a_bound_of_evictions_and_what_is_over_waits_for_it() -> None:
    cluster = world(
        queue("a", "top", gpu=8), node("n", 8), *(runs(f"x{i}", "n") for i in range(8)),
        *(work(f"w{i}", "a") for i in range(8)), evictions_per_minute=3,
    )  # fmt: skip
    assert [len(cycle(cluster, now=at).evictions) for at in (100, 101, 159)] == [3, 0, 0]
    assert next_change(cluster, 159) == 160
    assert [len(cycle(cluster, now=at).evictions) for at in (160, 219, 220, 300)] == [3, 0, 2, 0]


def test_a_decision_is_larger_than_the_minutes_bound_and_goes_whole() -> None:
    cluster = world(
        queue("a", "top", gpu=8), node("n", 8), *(runs(f"x{i}", "n") for i in range(8)),
        *(work(f"w{i}", "a", gpus=4) for i in range(2)), evictions_per_minute=2,
    )  # fmt: skip
    assert [len(cycle(cluster, now=at).evictions) for at in (100, 101, 160)] == [4, 0, 4]


def test_a_clock_that_is_set_back_does_not_stop_evictions() -> None:
    pace = Pace()
    pace.decided(5, 1000.0)
    assert (pace.within(1000.0), pace.within(1059.9), pace.within(1060.0)) == (5, 5, 0)
    pace.decided(5, 1000.0)
    assert pace.within(500.0) == 0


@pytest.mark.parametrize(("value", "part"), [("25%", 0.25), ("100%", 1.0), (0, 0.0), (0.5, 0.5), ("0", 0.0), (None, 0.25)])
def test_the_caps_are_read_from_the_configuration(value: object, part: float) -> None:
    found = read({"evictionsPerOwner": value, "evictionsPerCycle": 7, "evictionsPerMinute": 9})
    assert (found.evictions_per_owner, found.evictions_per_cycle, found.evictions_per_minute) == (part, 7, 9)
    assert read({}).evictions_per_minute == 0


@pytest.mark.parametrize("value", ["101%", -1, "many", "%", True, "nan", [1]])
def test_caps_that_are_no_parts_are_refused_with_a_word(value: object) -> None:
    with pytest.raises(BadConfiguration, match="evictionsPerOwner"):
        read({"evictionsPerOwner": value})


def test_budgets_are_found_by_every_kind_of_selector() -> None:
    def needs(operator: str, *values: str, key: str = "app") -> state.Requirement:
        return state.Requirement(key=key, operator=operator, values=list(values))

    selectors = {
        "in": [needs("In", "web", "api", "web")], "not": [needs("NotIn", "web")], "has": [needs("Exists")],
        "lacks": [needs("DoesNotExist")], "both": [needs("Exists", key="tier"), needs("In", "web")], "all": [],
    }  # fmt: skip
    cluster = world(
        node("n", 4),
        runs("x", "n", tags={"app": "web"}), runs("y", "n", tags={"app": "api", "tier": "1"}), runs("z", "n"),
        runs("v", "n", tags={"app": "web", "tier": "1"}),
        *(budget(name, 0, state.Selector(requirements=parts)) for name, parts in selectors.items()),
    )  # fmt: skip
    found = {name: [b.key[1] for b in cluster.disruptions.of(cluster.pods[f"{name}-0"])] for name in "xyzv"}
    assert found == {
        "x": ["all", "has", "in"], "y": ["all", "has", "in", "not"], "z": ["all", "lacks", "not"],
        "v": ["all", "both", "has", "in"],
    }  # fmt: skip
    # Another selector, and other labels of the pod.
    cluster.apply(budget("in", 0, app("api")))
    cluster.apply(msgspec.structs.replace(cluster.pods["z-0"].record, labels={"app": "api"}))
    assert [b.key[1] for b in cluster.disruptions.of(cluster.pods["x-0"])] == ["all", "has"]
    assert [b.key[1] for b in cluster.disruptions.of(cluster.pods["z-0"])] == ["all", "has", "in", "not"]
