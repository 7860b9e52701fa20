"""NUMA-aware placement, rule by rule."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_contracts.state import ContainerRequest, GpuShare, PodRecord
from shoal_core.placement import numa, numa_zones
from shoal_core.placement.numa import Ledger, Placement
from shoal_model.labels import NUMA_OBSERVED, NUMA_PREDICTED

GPU = "nvidia.com/gpu"
POLICIES = ("single-numa-node", "restricted", "best-effort")


def nrt(policy: str, *zones: dict[str, Any], scope: str = "pod", names: list[str] | None = None) -> dict[str, Any]:
    """Zones by resource -> quantity, or -> (allocatable, available)."""
    made = []
    for i, zone in enumerate(zones):
        resources = []
        for name, value in zone.items():
            have, free = value if isinstance(value, tuple) else (value, value)
            resources.append({"name": name, "capacity": str(have), "allocatable": str(have), "available": str(free)})
        made.append({"name": names[i] if names else f"node-{i}", "type": "Node", "resources": resources})
    said = [{"name": "topologyManagerPolicy", "value": policy}, {"name": "topologyManagerScope", "value": scope}]
    return {"attributes": said, "zones": made}


def ledger(policy: str, *zones: dict[str, Any], scope: str = "pod", ignored: frozenset[str] = frozenset()) -> Ledger:
    made = Ledger(ignored)
    made.put("n", nrt(policy, *zones, scope=scope))
    made.open({})
    return made


def pod(requests: dict[str, float], guaranteed: bool = True, **more: Any) -> PodRecord:
    return PodRecord(namespace="d", name="p", uid="u", requests=requests, qos_guaranteed=guaranteed, **more)


def cores(count: float, **more: Any) -> PodRecord:
    return pod({"cpu": count * 1000}, **more)


def init(cpu: float, sidecar: bool = False, **more: float) -> ContainerRequest:
    return ContainerRequest(name="i", requests={"cpu": cpu * 1000, **more}, init=True, sidecar=sidecar)


def app(cpu: float, **more: float) -> ContainerRequest:
    return ContainerRequest(name="a", requests={"cpu": cpu * 1000, **more})


def said(*zones: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([{"zone": z, "amount": a} for z, a in zones])


def at(*zones: tuple[int, dict[str, float]]) -> Placement:
    return tuple((i, tuple(sorted(amounts.items()))) for i, amounts in zones)


# What a node says


@pytest.mark.parametrize(
    ("legacy", "policy", "scope"),
    [
        ("SingleNUMANodePodLevel", "single-numa-node", "pod"),
        ("SingleNUMANodeContainerLevel", "single-numa-node", "container"),
        ("RestrictedPodLevel", "restricted", "pod"),
        ("Restricted", "restricted", "container"),
        ("RestrictedContainerLevel", "restricted", "container"),
        ("BestEffortPodLevel", "best-effort", "pod"),
        ("BestEffort", "best-effort", "container"),
        ("BestEffortContainerLevel", "best-effort", "container"),
        ("None", "none", "container"),
        (7, "none", "container"),
    ],
)
def test_legacy_policies(legacy: Any, policy: str, scope: str) -> None:
    body = nrt("x", {"cpu": 4}) | {"attributes": [], "topologyPolicies": [legacy, "Restricted"]}
    found = numa_zones.topology(body)
    assert found is not None
    assert (found.policy, found.scope) == (policy, scope)


def test_attributes_win_over_legacy_policies() -> None:
    body = nrt("nonsense", {"cpu": 4}) | {"topologyPolicies": ["Restricted"]}
    found = numa_zones.topology(body)
    assert found is not None
    assert (found.policy, found.scope) == ("none", "pod")
    only = {"attributes": [{"name": "topologyManagerPolicy", "value": "restricted"}], "zones": body["zones"]}
    found = numa_zones.topology(only)
    assert found is not None
    assert (found.policy, found.scope) == ("restricted", "container")


def test_zones_stand_in_the_order_of_their_numbers() -> None:
    names = ["beta", "node-10", "node-2", "alpha", "x2"]
    found = numa_zones.topology(nrt("restricted", *({"cpu": 1} for _ in names), names=names))
    assert found is not None
    assert [z.name for z in found.zones] == ["node-2", "x2", "node-10", "alpha", "beta"]
    assert found.prefix == {"cpu": [1000, 2000, 3000, 4000, 5000]}


def test_only_zones_of_type_node_count() -> None:
    body = nrt("restricted", {"cpu": 4}, {"cpu": 4})
    body["zones"][0]["type"] = "node"
    made = Ledger()
    made.put("n", body)
    assert made.available("n") == {0: {"cpu": 4000}}
    body["zones"][1]["type"] = "Socket"
    made.put("n", body)
    assert made.empty
    assert made.available("n") == {}


@pytest.mark.parametrize(
    "body",
    [
        {}, [], None, {"zones": None}, {"zones": 3}, {"zones": [None, 3, {}]}, {"zones": [{"type": "Node"}]},
        {"zones": [{"type": "Node", "name": ["x"]}]}, {"attributes": [{"name": ["x"]}], "zones": "x"},
    ],
)  # fmt: skip
def test_objects_without_zones(body: Any) -> None:
    made = Ledger()
    made.put("n", body)
    assert made.empty


def test_malformed_parts_are_ignored() -> None:
    resources = [
        None, {"name": 3}, {"name": "a"}, {"name": "cpu", "allocatable": "4", "available": "x"},
        {"name": "b", "allocatable": "1e999", "available": True}, {"name": "memory", "allocatable": 5, "available": "-1"},
        {"name": "h", "allocatable": [], "available": {}},
    ]  # fmt: skip
    zone = {"name": "node-0", "type": "Node", "resources": resources}
    made = Ledger()
    made.put("n", {"attributes": [{"name": "topologyManagerPolicy", "value": ["x"]}], "zones": [zone, zone]})
    assert made.available("n") == {0: {"cpu": 0, "memory": 0}}
    made.remove("n")
    made.remove("n")
    assert made.empty


def test_names_of_gpus_are_one_dimension() -> None:
    made = ledger("single-numa-node", {"amd.com/gpu": 1, GPU: 2})
    assert made.available("n") == {0: {GPU: 3}}
    assert made.place("n", pod({GPU: 1, "amd.com/gpu": 2}, guaranteed=False)) == at((0, {GPU: 3}))


# Who is handled


def test_policy_none_handles_nobody() -> None:
    made = ledger("none", {"cpu": 4})
    assert not made.handles("n", cores(3))
    assert not made.refuses("n", cores(9))
    assert made.place("n", cores(3)) == ()


def test_unknown_nodes() -> None:
    made = ledger("restricted", {"cpu": 4})
    assert not made.handles("m", cores(3))
    assert not made.refuses("m", cores(9))
    assert made.place("m", cores(3)) == made.recorded("m", cores(3)) == ()
    assert made.names("m", at((0, {"cpu": 1}))) == []
    made.charge("m", at((0, {"cpu": 1})))
    made.charge("n", at((7, {"cpu": 1}), (0, {"foo": 1})))
    assert made.available("n") == {0: {"cpu": 4000}}
    assert made.names("n", at((0, {"cpu": 1}), (7, {"cpu": 1}))) == [("node-0", {"cpu": 1})]


def test_burstable_pods_pass() -> None:
    made = ledger("single-numa-node", {"cpu": 4}, {"cpu": 4})
    assert not made.handles("n", cores(6, guaranteed=False))
    assert not made.refuses("n", cores(6, guaranteed=False))
    assert made.place("n", cores(3, guaranteed=False)) == ()


def test_devices_of_other_pods_are_aligned_alone() -> None:
    made = ledger("single-numa-node", {"cpu": 1, "memory": 1, GPU: 1}, {"cpu": 1, GPU: 2})
    two = pod({"cpu": 8000, "memory": 9, GPU: 2}, guaranteed=False)
    assert made.handles("n", two)
    assert made.place("n", two) == at((1, {GPU: 2}))
    assert made.refuses("n", pod({GPU: 3}, guaranteed=False))
    assert not made.handles("n", pod({"hugepages-2Mi": 3, "memory": 1}, guaranteed=False))
    assert not made.handles("n", pod({"rdma/hca": 3}, guaranteed=False))


def test_ignored_resources() -> None:
    made = ledger("single-numa-node", {"cpu": 4, GPU: 1}, ignored=frozenset({GPU}))
    assert not made.handles("n", pod({GPU: 3}, guaranteed=False))
    assert made.place("n", pod({"cpu": 2000, GPU: 3})) == at((0, {"cpu": 2000}))
    assert made.score("n", pod({GPU: 1}, guaranteed=False)) == 0


def test_shares_of_gpus_are_handled_but_take_no_device() -> None:
    made = ledger("single-numa-node", {GPU: 1})
    half = pod({}, guaranteed=False, share=GpuShare(fraction=0.5))
    assert made.handles("n", half)
    assert made.place("n", half) == ()
    assert not made.refuses("n", half)
    assert made.score("n", half) == 100
    assert not made.handles("n", pod({}, guaranteed=False, share=GpuShare(memory_mib=100)))


# Requests


@pytest.mark.parametrize("policy", POLICIES)
def test_only_whole_cores_count(policy: str) -> None:
    made = ledger(policy, {"cpu": 4, "memory": 10})
    assert made.place("n", pod({"cpu": 2500, "memory": 3})) == at((0, {"memory": 3}))
    assert not made.refuses("n", cores(9.5))


def test_cpu_counts_by_container() -> None:
    made = ledger("single-numa-node", {"cpu": 8}, {"cpu": 8})
    mixed = pod({"cpu": 4500}, container_requests=[app(3), app(1.5)])
    assert made.place("n", mixed) == at((0, {"cpu": 3000}))


def test_scope_pod_counts_init_containers() -> None:
    made = ledger("single-numa-node", {"cpu": 8, "memory": 100})
    peak = pod(
        {"cpu": 6000, "memory": 50},
        container_requests=[init(1, sidecar=True), init(5), init(2, sidecar=True), init(1.5), app(1)],
    )
    assert made.place("n", peak) == at((0, {"cpu": 6000, "memory": 50}))
    running = pod({"cpu": 6000}, container_requests=[init(1, sidecar=True), init(2), app(5)])
    assert made.place("n", running) == at((0, {"cpu": 6000}))


def test_scope_container_places_containers_one_by_one() -> None:
    made = ledger("single-numa-node", {"cpu": 4}, {"cpu": 4}, scope="container")
    two = pod({"cpu": 6000}, container_requests=[app(3), app(3)])
    assert made.place("n", two) == at((0, {"cpu": 3000}), (1, {"cpu": 3000}))
    assert ledger("single-numa-node", {"cpu": 4}, {"cpu": 4}).refuses("n", two)
    assert made.refuses("n", pod({"cpu": 9000}, container_requests=[app(3), app(3), app(3)]))
    beside = pod({"cpu": 5000}, container_requests=[app(3), init(2, sidecar=True)])
    assert made.place("n", beside) == at((0, {"cpu": 2000}), (1, {"cpu": 3000}))


def test_scope_container_tests_init_containers_alone() -> None:
    made = ledger("single-numa-node", {"cpu": 4}, {"cpu": 4}, scope="container")
    fits = pod({"cpu": 4000}, container_requests=[init(4), init(4), app(3)])
    assert made.place("n", fits) == at((0, {"cpu": 3000}))
    assert made.refuses("n", pod({"cpu": 5000}, container_requests=[init(5), app(1)]))
    made.charge("n", at((0, {"cpu": 1000}), (1, {"cpu": 1000})))
    assert made.refuses("n", fits)


# Policies


def test_single_takes_the_lowest_zone_that_fits() -> None:
    made = ledger("single-numa-node", {"cpu": 4, "memory": 1}, {"cpu": 4, "memory": 9}, {"cpu": 4, "memory": 9})
    assert made.place("n", pod({"cpu": 3000, "memory": 5})) == at((1, {"cpu": 3000, "memory": 5}))
    assert made.refuses("n", pod({"cpu": 5000}))
    assert made.place("n", pod({"cpu": 5000})) == ()
    assert made.place("n", pod({"cpu": 4000, "rdma/hca": 7})) == at((0, {"cpu": 4000}))


def test_two_pods_take_two_zones_and_the_third_none() -> None:
    made = ledger("single-numa-node", {"cpu": 4}, {"cpu": 4})
    three = cores(3)
    for zone in (0, 1):
        found = made.place("n", three)
        assert found == at((zone, {"cpu": 3000}))
        made.charge("n", found)
    assert made.refuses("n", three)
    assert made.available("n") == {0: {"cpu": 1000}, 1: {"cpu": 1000}}
    made.charge("n", at((1, {"cpu": 3000})), -1.0)
    assert made.place("n", three) == at((1, {"cpu": 3000}))


def test_restricted_spans_as_many_zones_as_it_must() -> None:
    made = ledger("restricted", {"cpu": 4}, {"cpu": 4})
    assert made.place("n", cores(6)) == at((0, {"cpu": 4000}), (1, {"cpu": 2000}))
    assert made.place("n", cores(4)) == at((0, {"cpu": 4000}))
    assert made.refuses("n", cores(9))
    assert made.place("n", pod({})) == ()
    assert not made.refuses("n", pod({}))


def test_restricted_wants_the_same_width_of_every_resource() -> None:
    made = ledger("restricted", {"cpu": 4, GPU: 1}, {"cpu": 4, GPU: 1})
    assert made.refuses("n", pod({"cpu": 6000, GPU: 1}))
    assert made.place("n", pod({"cpu": 6000, GPU: 2})) == at((0, {"cpu": 4000, GPU: 1}), (1, {"cpu": 2000, GPU: 1}))


def test_restricted_keeps_the_width_of_an_empty_node() -> None:
    made = ledger("restricted", {"cpu": 4}, {"cpu": 4}, {"cpu": 4})
    made.charge("n", at((0, {"cpu": 2000}), (1, {"cpu": 2000}), (2, {"cpu": 1000})))
    assert made.refuses("n", cores(4))  # two zones have it together, but it fits one of an empty node
    assert made.place("n", cores(3)) == at((2, {"cpu": 3000}))
    assert made.place("n", cores(5)) == at((0, {"cpu": 2000}), (2, {"cpu": 3000}))


def test_restricted_gives_up_on_very_many_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "SETS", 10)
    free = {"cpu": 1, GPU: 1}
    made = ledger("restricted", *([free] * 30))
    made.charge("n", tuple((i, (("cpu", 1000.0),)) for i in range(15)))
    made.charge("n", tuple((i, ((GPU, 1.0),)) for i in range(10, 25)))
    assert made.refuses("n", pod({"cpu": 15000, GPU: 15}))


def test_best_effort_picks_the_most_helpful_zones_and_refuses_nothing() -> None:
    made = ledger("best-effort", {"cpu": 2}, {"cpu": 4}, {"cpu": 4})
    assert made.place("n", cores(5)) == at((0, {"cpu": 1000}), (1, {"cpu": 4000}))  # of one core, all help alike
    assert made.place("n", cores(7)) == at((1, {"cpu": 4000}), (2, {"cpu": 3000}))
    assert made.place("n", cores(1)) == at((0, {"cpu": 1000}))
    assert made.place("n", cores(11)) == ()
    assert not made.refuses("n", cores(11))
    assert made.score("n", cores(11)) == 0


def test_best_effort_draws_in_the_order_of_picking() -> None:
    made = ledger("best-effort", {"cpu": 3, GPU: 0}, {"cpu": 4, GPU: 0}, {"cpu": 1, GPU: 4})
    # Zone 1 helps most; then, of one core, zone 0 before zone 2.
    assert made.place("n", cores(5)) == at((0, {"cpu": 1000}), (1, {"cpu": 4000}))


def test_zones_that_are_overdrawn_give_nothing() -> None:
    for policy in POLICIES:
        made = ledger(policy, {"cpu": 4}, {"cpu": 4})
        made.charge("n", at((0, {"cpu": 5000})))
        assert made.available("n")[0] == {"cpu": -1000}
        assert made.place("n", cores(4)) == at((1, {"cpu": 4000}))


# Records


def test_records() -> None:
    made = ledger("restricted", {"cpu": 4, GPU: 1}, {"cpu": 4, GPU: 1})
    observed, predicted = said(("node-1", {"cpu": "3", GPU: "1"})), said(("node-0", {"cpu": 2}))

    def found(**annotations: str) -> Placement:
        names = {"observed": NUMA_OBSERVED, "predicted": NUMA_PREDICTED}
        return made.recorded("n", cores(3, annotations={names[k]: v for k, v in annotations.items()}))

    assert found() == ()
    assert found(observed=observed, predicted=predicted) == at((1, {"cpu": 3000, GPU: 1}))
    for bad in (
        "", "[]", "null", "{}", "{", "3", "[3]", "[" * 60000, "1" * 5000, '[{"zone":1,"amount":{}}]',
        said(("node-1", {"cpu": "x"})), said(("node-1", {"cpu": True})), '[{"zone":"node-1","amount":[]}]',
        '[{"zone":"node-1","amount":{"cpu":NaN}}]', " " * 70000 + predicted,
    ):  # fmt: skip
        assert found(observed=bad, predicted=predicted) == at((0, {"cpu": 2000}))
    unknown = said(("node-1", {"cpu": "3"}), ("node-9", {"cpu": "1"}))
    assert found(observed=unknown, predicted=predicted) == ()
    twice = said(("node-1", {"cpu": "1", "foo": "1"}), ("node-0", {"cpu": "500m", GPU: 0}), ("node-1", {"cpu": "1"}))
    assert found(observed=twice) == at((0, {"cpu": 500}), (1, {"cpu": 2000}))


def test_records_of_pods_that_zones_do_not_matter_to() -> None:
    made = ledger("restricted", {"cpu": 4})
    notes = {NUMA_OBSERVED: said(("node-0", {"cpu": "3"}))}
    burstable = cores(3, guaranteed=False, annotations=notes)
    assert made.recorded("n", burstable) == ()
    assert made.written("n", burstable) == at((0, {"cpu": 3000}))
    assert ledger("none", {"cpu": 4}).recorded("n", cores(3, annotations=notes)) == ()


@pytest.mark.parametrize("policy", [*POLICIES, "none"])
@pytest.mark.parametrize("reconstruct", [True, False])
def test_open(policy: str, reconstruct: bool) -> None:
    made = Ledger(reconstruct=reconstruct)
    made.put("n", nrt(policy, {"cpu": (4, 2)}, {"cpu": (4, 1)}))
    own = {0: {"cpu": 2000}, 1: {"cpu": 1000}}
    assert made.available("n") == own
    for _ in range(2):
        made.open({"n": [at((1, {"cpu": 3000})), ()], "gone": [at((0, {"cpu": 1}))]})
        assert made.available("n") == ({0: {"cpu": 4000}, 1: {"cpu": 1000}} if reconstruct and policy != "none" else own)
        made.charge("n", at((0, {"cpu": 1000})))


def test_names() -> None:
    made = ledger("restricted", {"cpu": 4}, {"cpu": 4})
    assert made.names("n", made.place("n", cores(6))) == [("node-0", {"cpu": 4000}), ("node-1", {"cpu": 2000})]


# Scores


def test_score() -> None:
    assert Ledger().score("n", cores(1)) == 0
    made = Ledger()
    made.put("two", nrt("restricted", {"cpu": 4}, {"cpu": 4}))
    made.put("four", nrt("none", *({"cpu": 4, "rdma/hca": 1} for _ in range(4))))
    made.open({})
    assert made.score("two", cores(3)) == 100
    assert made.score("two", cores(6)) == 50
    assert made.score("two", cores(9)) == 0
    assert made.score("two", cores(1.5)) == 100
    assert made.score("four", cores(3)) == 25
    assert made.score("elsewhere", cores(3)) == 25
    assert made.score("two", cores(3, guaranteed=False)) == 0
    assert made.score("four", pod({"rdma/hca": 1}, guaranteed=False)) == 0  # no device of a node that is scored
    made.put("gpus", nrt("best-effort", {GPU: 1}, {GPU: 1}, {GPU: 1}))
    gpus = pod({GPU: 3}, guaranteed=False)
    assert [made.score(n, gpus) for n in ("gpus", "two", "four", "x")] == [pytest.approx(100 / 3), 50, 25, 25]
    made.remove("gpus")
    assert made.score("two", gpus) == 0


def test_results_are_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "REMEMBERED", 1)
    made = ledger("single-numa-node", {"cpu": 4})
    for count in (1, 2, 1, 3, 5):
        for _ in range(2):
            assert made.place("n", cores(count)) == (at((0, {"cpu": count * 1000})) if count < 5 else ())
    made.charge("n", at((0, {"cpu": 4000})))
    assert made.refuses("n", cores(1))
    made.put("n", nrt("single-numa-node", {"cpu": 8}))
    assert made.place("n", cores(5)) == at((0, {"cpu": 5000}))


# Any nodes and pods

AMOUNT = st.integers(0, 6)
RESOURCES = st.fixed_dictionaries({"cpu": AMOUNT, GPU: AMOUNT, "memory": st.integers(0, 2**45)})


@st.composite
def situations(draw: st.DrawFn, policies: tuple[str, ...] = POLICIES) -> tuple[Ledger, list[PodRecord]]:
    zones = draw(st.lists(RESOURCES, min_size=1, max_size=5))
    made = ledger(draw(st.sampled_from(policies)), *zones, scope=draw(st.sampled_from(("pod", "container"))))
    pods = []
    for _ in range(draw(st.integers(1, 5))):
        each = []
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.integers(0, 2))
            need = draw(RESOURCES)
            need["cpu"] *= draw(st.sampled_from((500, 1000)))
            each.append(ContainerRequest(name="c", requests=need, init=kind > 0, sidecar=kind > 1))
        total = {r: float(sum(c.requests[r] for c in each)) for r in ("cpu", GPU, "memory")}
        pods.append(pod(total, guaranteed=draw(st.booleans()), container_requests=each))
    return made, pods


@settings(max_examples=200)
@given(situations())
def test_giving_back_restores_exactly(found: tuple[Ledger, list[PodRecord]]) -> None:
    made, pods = found
    before, taken = made.available("n"), []
    for each in pods:
        where = made.place("n", each)
        seen = [made.place("n", p) for p in pods]
        made.charge("n", where)
        made.charge("n", where, -1.0)
        assert seen == [made.place("n", p) for p in pods]
        made.charge("n", where)
        taken.append(where)
    for where in reversed(taken):
        made.charge("n", where, -1.0)
    assert made.available("n") == before


@settings(max_examples=200)
@given(situations())
def test_never_takes_more_than_there_is(found: tuple[Ledger, list[PodRecord]]) -> None:
    made, pods = found
    for each in pods:
        free, where = made.available("n"), made.place("n", each)
        assert list(where) == sorted(where)
        for index, amounts in where:
            assert all(0 < value <= free[index][r] for r, value in amounts)
        made.charge("n", where)
        assert all(value >= 0 for zone in made.available("n").values() for value in zone.values())


@settings(max_examples=200)
@given(situations(("single-numa-node",)))
def test_single_places_in_one_zone_whenever_one_has_enough(found: tuple[Ledger, list[PodRecord]]) -> None:
    made, pods = found
    for each in pods:
        one = pod({**each.requests, "cpu": each.requests["cpu"] // 1000 * 1000})
        free = made.available("n")
        fits = [i for i, zone in free.items() if all(zone[r] >= value for r, value in one.requests.items())]
        assert made.refuses("n", one) == (not fits)
        where = made.place("n", one)
        asked = {r: value for r, value in one.requests.items() if value > 0}
        assert where == (at((fits[0], asked)) if fits and asked else ())
        made.charge("n", where)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(AMOUNT, AMOUNT), min_size=1, max_size=5), st.lists(AMOUNT, min_size=5, max_size=5), st.integers(1, 20)
)
def test_restricted_takes_the_lowest_set_of_its_width(zones: list[tuple[int, int]], used: list[int], need: int) -> None:
    made = ledger("restricted", *({"cpu": a} for a, _ in zones))
    free = [a - min(a, u) for (a, _), u in zip(zones, used, strict=False)]
    made.charge("n", tuple((i, (("cpu", 1000.0 * (a - f)),)) for i, ((a, _), f) in enumerate(zip(zones, free, strict=True))))
    most = sorted((a for a, _ in zones), reverse=True)
    width = next((k for k in range(1, len(most) + 1) if sum(most[:k]) >= need), 0)
    sets = [s for s in combinations(range(len(free)), width) if width and sum(free[i] for i in s) >= need]
    assert made.refuses("n", cores(need)) == (not sets)
    where = made.place("n", cores(need))
    if sets:
        assert sum(v for _, amounts in where for _, v in amounts) == need * 1000
        assert {i for i, _ in where} <= set(sets[0])
