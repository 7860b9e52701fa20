"""Extended resources that device classes offer: what containers ask for, which devices they get, and that undo is exact."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Session, Settings, cycle
from shoal_core.placement.extended import Extended
from shoal_core.placement.walk import Walk
from shoal_core.status import PENDING, RELEASING
from shoal_testkit.small import node, queue, starts, work, world

GPU, NIC = "nvidia.com/gpu", "example.com/nic"


def thing(kind: str, name: str, spec: dict[str, Any], made: str = "") -> state.ObjectRecord:
    body = {"metadata": {"name": name, "creationTimestamp": made}, "spec": spec}
    return state.ObjectRecord(type=kind, name=name, body=msgspec.Raw(msgspec.json.encode(body)))


def offers(name: str, resource: str, made: str = "") -> state.ObjectRecord:
    expression = f"device.driver == '{name}'"
    return thing(
        "DeviceClass", name, {"extendedResourceName": resource, "selectors": [{"cel": {"expression": expression}}]}, made
    )


def devices(host: str, count: int, driver: str = "gpu") -> state.ObjectRecord:
    pool = {"name": host, "generation": 1, "resourceSliceCount": 1}
    found = [{"name": f"{driver}{i}"} for i in range(count)]
    return thing("ResourceSlice", f"{host}-{driver}", {"nodeName": host, "driver": driver, "pool": pool, "devices": found})


def asks(name: str, requests: dict[str, float] | None = None, **more: Any) -> list[Any]:
    found = work(name, gpus=0, pod={"container": "main"}, **more)
    wanted = {"cpu": 1000.0} | ({GPU: 1.0} if requests is None else requests)
    return [msgspec.structs.replace(r, requests=wanted) if isinstance(r, state.PodRecord) else r for r in found]


def got(result: CycleResult) -> dict[str, list[str]]:
    """Pod -> devices."""
    return {
        m.pod: [r["device"] for r in m.extended["allocation"]["devices"]["results"]]
        for g in result.gangs
        for m in g.members
        if m.extended is not None
    }


CLASSES = [offers("gpu", GPU), offers("nic", NIC)]
ONE = [queue("q"), node("a", 0), node("b", 0), *CLASSES]


# what containers ask for


def container(name: str, amount: float, *, init: bool = False, sidecar: bool = False) -> state.ContainerRequest:
    requests = {"cpu": 1.0} | ({GPU: amount} if amount else {})
    return state.ContainerRequest(name=name, requests=requests, init=init, sidecar=sidecar)


def wanted(*containers: state.ContainerRequest) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(request -> devices, (container, request))."""
    known = Extended()
    known.put("gpu", {"spec": {"extendedResourceName": GPU}})
    pod = state.PodRecord(namespace="ns", name="p", uid="p", requests={GPU: 1.0}, container_requests=list(containers))
    found = known.wanted(pod, known.of(pod.requests), {})
    assert found is not None
    assert [r["name"] for r in found.requests] == sorted(r["name"] for r in found.requests)
    return (
        {r["name"]: r["exactly"]["count"] for r in found.requests},
        [(m["containerName"], m["requestName"]) for m in found.mappings],
    )


def test_each_container_has_its_own_devices() -> None:
    requests, uses = wanted(container("x", 1), container("y", 0), container("z", 2))
    assert requests == {"container-0-request-1": 1, "container-2-request-1": 2}
    assert uses == [("x", "container-0-request-1"), ("z", "container-2-request-1")]


def test_init_containers_take_what_comes_later_and_one_more_request_for_what_lacks_most() -> None:
    first, second = container("i", 2, init=True), container("k", 4, init=True)
    requests, uses = wanted(first, second, container("x", 1))
    assert requests == {"container-1-request-1": 3, "container-2-request-1": 1}
    extra, main = "container-1-request-1", "container-2-request-1"
    assert uses == [("i", extra), ("i", main), ("k", extra), ("k", main), ("x", main)]


def test_an_init_container_leaves_the_sidecars_before_it_their_devices() -> None:
    beside = container("s", 1, init=True, sidecar=True)
    requests, uses = wanted(beside, container("i", 2, init=True), container("x", 1))
    assert requests == {"container-0-request-1": 1, "container-1-request-1": 1, "container-2-request-1": 1}
    assert ("i", "container-0-request-1") not in uses


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["init", "sidecar"])), max_size=4),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
)
def test_as_many_devices_as_kubernetes_counts(before: list[tuple[int, str]], apps: list[int]) -> None:
    given_ = [
        container(f"i{i}", n, init=True, sidecar=kind == "sidecar") for i, (n, kind) in enumerate(before)
    ] + [container(f"c{i}", n) for i, n in enumerate(apps)]  # fmt: skip
    lasting = peak = 0
    for n, kind in before:
        peak = max(peak, lasting + n)
        lasting += n if kind == "sidecar" else 0
    requests, uses = wanted(*given_) if any(c.requests.get(GPU) for c in given_) else ({}, [])
    assert sum(requests.values()) == max(peak, lasting + sum(apps))
    has = {name: sum(requests[r] for c, r in uses if c == name) for name in {c for c, _ in uses}}
    for c in given_:
        assert has.get(c.name, 0) >= c.requests.get(GPU, 0)
    alone = {c.name for c in given_ if c.init and not c.sidecar}
    ones = [r for c, r in uses if c not in alone]
    assert len(ones) == len(set(ones)), "what runs together shares nothing"


def test_of_two_classes_the_newer_offers_the_resource_then_the_first_by_name() -> None:
    known = Extended()
    for name, made in (("b", "2026-01-01T00:00:00Z"), ("a", "2026-01-01T00:00:00Z"), ("old", "2025-01-01T00:00:00Z")):
        known.put(name, {"metadata": {"creationTimestamp": made}, "spec": {"extendedResourceName": NIC}})
    pod = state.PodRecord(namespace="ns", name="p", uid="p", requests={NIC: 1.0})

    def offering() -> str:
        found = known.wanted(pod, known.of(pod.requests), {})
        return found.requests[0]["exactly"]["deviceClassName"] if found else ""

    assert offering() == "a"
    known.remove("a")
    assert offering() == "b"
    known.put("b", {"spec": {"extendedResourceName": 7}})
    assert offering() == "old"
    known.remove("old")
    assert offering() == ""


# which devices they get


def test_the_result_has_what_a_binder_needs() -> None:
    result = cycle(world(*ONE, devices("a", 2), *asks("w", {GPU: 2.0})))
    (placed,) = result.gangs[0].members
    assert placed.claims == ()
    assert placed.extended == {
        "allocation": {
            "devices": {
                "results": [
                    {"request": "container-0-request-1", "driver": "gpu", "pool": "a", "device": f"gpu{i}"} for i in range(2)
                ]
            },
            "nodeSelector": {
                "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]
            },
        },
        "deviceRequests": [
            {
                "name": "container-0-request-1",
                "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2},
            }
        ],
        "containerMappings": [
            {"containerName": "main", "requestName": "container-0-request-1", "resourceName": GPU},
        ],
    }
    assert msgspec.json.decode(msgspec.json.encode(placed))["extended"]["deviceRequests"]


def test_a_node_that_counts_one_of_two_resources_gives_devices_for_the_other() -> None:
    both = node("c", 2)
    result = cycle(world(queue("q"), *CLASSES, both, devices("c", 1, "nic"), *asks("w", {GPU: 1.0, NIC: 1.0})))
    assert starts(result) == {"w-0": "c"}
    assert got(result) == {"w-0": ["nic0"]}


def test_the_reason_names_the_resource() -> None:
    result = cycle(world(*ONE, node("c", 0), devices("a", 1, "nic"), *asks("w1", {NIC: 1.0}), *asks("w2", {NIC: 1.0})))
    (told,) = result.waiting
    assert f"2 node(s) offer too few of {NIC}" in told.message
    assert f"1 node(s) lack free devices for {NIC}" in told.message


def test_a_selector_that_fails_hurts_those_alone_who_ask_for_the_class() -> None:
    wrong = thing(
        "DeviceClass", "bad", {"extendedResourceName": "x.com/y", "selectors": [{"cel": {"expression": "device.driver"}}]}
    )
    result = cycle(world(*ONE, wrong, devices("a", 1), *asks("w1", {"x.com/y": 1.0}), *asks("w2")))
    assert got(result) == {"w2-0": ["gpu0"]}
    (told,) = result.waiting
    assert "cannot allocate devices for x.com/y: selector" in told.message


def test_who_may_not_use_devices_runs_where_the_resource_is_counted() -> None:
    cluster = Cluster(Settings(extended_by_devices=False))
    for record in (*ONE, node("c", 1), devices("a", 2), *asks("w1"), *asks("w2")):
        cluster.apply(record)
    result = cycle(cluster)
    assert starts(result) == {"w1-0": "c"}
    assert f"2 node(s) offer {GPU} as devices at most: not supported" in result.waiting[0].message


def test_a_job_that_lacks_devices_says_nothing_about_one_that_asks_for_none() -> None:
    plain = asks("w2", {"cpu": 1000.0})
    cluster = world(*ONE, *asks("w1", {"example.com/gpu": 1.0}), *plain, offers("odd", "example.com/gpu"))
    assert starts(cycle(cluster)) == {"w2-0": "a"}


# as the world moves


def test_classes_and_slices_come_and_go() -> None:
    cluster = world(queue("q"), node("a", 0), *asks("w1"), *asks("w2"))
    assert not cycle(cluster).gangs
    cluster.apply(CLASSES[0])
    assert not cycle(cluster).gangs
    cluster.apply(devices("a", 1))
    assert got(cycle(cluster)) == {"w1-0": ["gpu0"]}
    cluster.remove("slice", "", "a-gpu")
    assert cluster.nodes.claim_gpus.sum() == 0
    assert not cycle(cluster).gangs
    cluster.apply(devices("a", 2))
    assert got(cycle(cluster)) == {"w2-0": ["gpu1"]}
    cluster.remove("deviceclass", "", "gpu")
    for record in asks("w3", {NIC: 1.0}):
        cluster.apply(record)
    cluster.remove("deviceclass", "", "nic")
    assert not cycle(cluster).gangs
    cluster.check()


def test_what_is_decided_holds_its_devices_until_the_claim_is_made() -> None:
    cluster = world(*ONE, devices("a", 2), *asks("w1"))
    assert got(cycle(cluster)) == {"w1-0": ["gpu0"]}
    made = cluster.claims.made_for("w1-0", "ns")
    assert made is not None
    cluster.apply(made)
    for record in asks("w2"):
        cluster.apply(record)
    assert got(cycle(cluster)) == {"w2-0": ["gpu1"]}
    cluster.check()
    cluster.remove("pod", "ns", "w1-0")
    for record in asks("w3"):
        cluster.apply(record)
    assert not cycle(cluster).gangs, "the object still holds them"
    cluster.remove("claim", "ns", made.name)
    assert got(cycle(cluster)) == {"w3-0": ["gpu0"]}
    cluster.check()


def test_a_decision_that_is_off_gives_its_devices_back() -> None:
    cluster = world(*ONE, devices("a", 1), *asks("w1"))
    assert got(cycle(cluster)) == {"w1-0": ["gpu0"]}
    cluster.forget("w1-0")
    assert got(cycle(cluster)) == {"w1-0": ["gpu0"]}
    cluster.remove("pod", "ns", "w1-0")
    for record in asks("w2"):
        cluster.apply(record)
    assert got(cycle(cluster)) == {"w2-0": ["gpu0"]}


@pytest.mark.parametrize("resource", [GPU, NIC])
def test_devices_of_a_pod_that_has_to_go_are_promised_and_not_given(resource: str) -> None:
    cluster = world(*ONE, devices("a", 1), devices("a", 1, "nic"), *asks("old", {resource: 1.0}))
    (placed,) = cycle(cluster).gangs[0].members
    old = msgspec.structs.replace(cluster.pods["old-0"].record, node=placed.node, phase="Running")
    cluster.apply(old)
    cluster.forget("old-0")
    for record in asks("new", {resource: 1.0}, priority="high"):
        cluster.apply(record)
    made = cluster.claims.made_for("old-0", "ns")
    assert made is not None
    cluster.apply(made)
    for _ in range(3):
        result = cycle(cluster)
        cluster.apply(made)
        assert not result.gangs
        assert [r.uid for r in result.reserved] == ["new-0"]
        cluster.changes += 1
    assert cluster.pods["old-0"].status == RELEASING
    cluster.remove("pod", "ns", "old-0")
    cluster.remove("claim", "ns", made.name)
    assert list(got(cycle(cluster))) == ["new-0"]
    cluster.check()


def test_an_eviction_that_is_off_gives_nothing_back_that_is_gone() -> None:
    cluster = world(*ONE, devices("a", 1), *asks("old"))
    cycle(cluster)
    made = cluster.claims.made_for("old-0", "ns")
    assert made is not None
    cluster.apply(made)
    cluster.apply(msgspec.structs.replace(cluster.pods["old-0"].record, node="a", phase="Running"))
    cluster.forget("old-0")
    for record in asks("new", priority="high"):
        cluster.apply(record)
    assert cycle(cluster).evictions
    cluster.remove("claim", "ns", made.name)
    cluster.forget("old-0")
    cluster.check()


def test_where_every_node_counts_the_resource_pods_are_placed_in_runs() -> None:
    records = [queue("q"), node("a", 4), node("b", 4), node("c", 0), *asks("w", pods=6)]
    plain = cycle(world(*records))
    result = cycle(world(*records, *CLASSES))
    assert starts(result) == starts(plain)
    assert len(starts(result)) == 6
    assert not got(result)


def test_an_eviction_that_is_off_leaves_the_pod_its_devices() -> None:
    cluster = world(*ONE, devices("a", 1), *asks("old"))
    cycle(cluster)
    cluster.apply(msgspec.structs.replace(cluster.pods["old-0"].record, node="a", phase="Running"))
    cluster.forget("old-0")
    before = cluster.claims.for_extended("old-0")
    for record in asks("new", priority="high"):
        cluster.apply(record)
    assert [e.uid for e in cycle(cluster).evictions] == ["old-0"]
    assert cluster.claims.for_extended("old-0") is None
    cluster.forget("old-0")
    assert cluster.claims.for_extended("old-0") == before
    cluster.check()


# undo


def held(cluster: Cluster) -> Any:
    """Everything that the session may have changed."""
    claims = cluster.claims
    return (
        {uid: claims.for_extended(uid) for uid in cluster.pods},
        {uid: pod.node for uid, pod in cluster.pods.items()},
        cluster.nodes.idle.tolist(),
        cluster.nodes.releasing.tolist(),
    )


AMOUNTS = st.sampled_from([{GPU: 1.0}, {GPU: 2.0}, {NIC: 1.0}, {GPU: 1.0, NIC: 1.0}, {}])


@st.composite
def worlds(draw: st.DrawFn) -> list[Any]:
    records: list[Any] = [queue("q"), queue("r", gpu=draw(st.integers(0, 4))), *CLASSES]
    for i in range(draw(st.integers(1, 3))):
        records.append(node(f"n{i}", draw(st.sampled_from([0, 0, 2]))))
        records += [devices(f"n{i}", draw(st.integers(0, 3)), driver) for driver in ("gpu", "nic")]
    for i in range(draw(st.integers(1, 6))):
        records += asks(
            f"w{i}", draw(AMOUNTS), queue=draw(st.sampled_from("qr")), pods=draw(st.integers(1, 3)), created=i,
            priority=draw(st.sampled_from(["", "high", "build"])),
        )  # fmt: skip
    return records


@settings(max_examples=150, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_no_device_is_given_twice_and_undo_is_exact(records: list[Any], chance: Any) -> None:
    waiting = [r for r in records if isinstance(r, state.GroupRecord)]
    chance.shuffle(waiting)
    later = {g.name for g in waiting[: len(waiting) // 2]}
    cluster = world(*(r for r in records if getattr(r, "group", getattr(r, "name", "")) not in later))
    for round_ in range(4):
        result = cycle(cluster, now=float(round_))
        cluster.check()
        for gang in result.gangs:
            for member in gang.members:
                record = cluster.pods[member.uid].record
                lacking = {r for r in (GPU, NIC) if record.requests.get(r) and not _counts(cluster, member.node, r)}
                assert (member.extended is not None) == bool(lacking)
                if chance.random() < 0.5 and (made := cluster.claims.made_for(member.uid, "ns")):
                    cluster.apply(made)
                cluster.apply(msgspec.structs.replace(record, node=member.node, phase="Running"))
                cluster.forget(member.uid)
                cluster.check()
        for eviction in result.evictions:
            if chance.random() < 0.5:
                cluster.forget(eviction.uid)
            cluster.check()
        if round_ == 0:
            for record in records:
                if getattr(record, "group", getattr(record, "name", "")) in later:
                    cluster.apply(record)
        before = held(cluster)
        session = Session(cluster, float(round_))
        walk = Walk(session)
        for pod in list(cluster.pods.values()):
            if pod.node >= 0 and pod.status != RELEASING and chance.random() < 0.5:
                session.evict(pod)
        for job in cluster.jobs.values():
            tasks = [p for p in job.pods.values() if p.status in (PENDING, RELEASING)]
            if chance.random() < 0.7:
                walk.place(job, tasks, session.everywhere, later=chance.random() < 0.7)
        cluster.claims.check()
        session.rollback(0)
        assert held(cluster) == before
        cluster.check()


def _counts(cluster: Cluster, name: str, resource: str) -> bool:
    record = cluster.nodes.records[cluster.nodes.columns[name]]
    return record is not None and bool(record.allocatable.get(resource))
