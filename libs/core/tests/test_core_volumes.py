"""Volumes that are promised with a pod's place: to one claim each, until the place is given up or the claim is bound."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_contracts import state
from shoal_contracts.state import ObjectRecord, PodRecord
from shoal_core import Cluster, CycleResult, cycle
from shoal_testkit.small import node, queue, starts, work

LOCAL = {
    "metadata": {"name": "local"},
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "WaitForFirstConsumer",
}
MADE = {"metadata": {"name": "made"}, "provisioner": "disks.example.com", "volumeBindingMode": "WaitForFirstConsumer"}


def thing(kind: str, body: dict[str, Any], namespace: str = "") -> ObjectRecord:
    """An object as cluster-state passes it on."""
    return ObjectRecord(
        type=kind, namespace=namespace, name=body["metadata"]["name"], body=msgspec.Raw(msgspec.json.encode(body))
    )


def claim(name: str, storage_class: str = "local", size: str = "1Gi", volume: str = "") -> ObjectRecord:
    spec = {"storageClassName": storage_class, "resources": {"requests": {"storage": size}}, "volumeName": volume}
    status = {"phase": "Bound" if volume else "Pending"}
    return thing("PersistentVolumeClaim", {"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status}, "ns")


def volume(name: str, at: str = "", size: str = "1Gi") -> ObjectRecord:
    terms = [{"matchExpressions": [{"key": "at", "operator": "In", "values": [at]}]}]
    near = {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}} if at else {}
    spec = {"storageClassName": "local", "capacity": {"storage": size}, **near}
    return thing("PersistentVolume", {"metadata": {"name": name}, "spec": spec})


def cluster(*records: Any) -> Cluster:
    found = Cluster()
    for record in (queue("q"), thing("StorageClass", LOCAL), thing("StorageClass", MADE), *records):
        found.apply(record)
    return found


def promised(result: CycleResult) -> dict[str, dict[str, str]]:
    """Pod -> claim -> volume of those that start."""
    return {m.pod: dict(m.volumes) for gang in result.gangs for m in gang.members}


def test_a_volume_is_promised_once_and_given_back_with_the_place() -> None:
    found = cluster(node("a"), volume("v"), claim("one"), claim("two"), *work("first", pod={"volumes": ["one"]}))
    assert promised(cycle(found, now=1.0)) == {"first-0": {"one": "v"}}
    for record in work("second", pod={"volumes": ["two"]}):
        found.apply(record)
    assert promised(cycle(found, now=2.0)) == {}
    found.forget(next(uid for uid, pod in found.pods.items() if pod.record.name == "first-0"))
    found.remove("pod", "ns", "first-0")
    assert promised(cycle(found, now=3.0)) == {"second-0": {"two": "v"}}


def test_a_claim_that_is_bound_meanwhile_needs_nothing_more() -> None:
    found = cluster(node("a"), node("b", labels={"at": "b"}), volume("v", at="b"), claim("one"))
    for record in work("first", pod={"volumes": ["one"]}):
        found.apply(record)
    result = cycle(found, now=1.0)
    assert (starts(result), promised(result)) == ({"first-0": "b"}, {"first-0": {"one": "v"}})
    found.apply(claim("one", volume="v"))
    assert not found.volumes.taken
    for record in work("second", pod={"volumes": ["one"]}):
        found.apply(record)
    result = cycle(found, now=2.0)
    assert (starts(result), promised(result)) == ({"second-0": "b"}, {"second-0": {}})


def test_a_gang_that_does_not_fit_promises_nothing() -> None:
    records = work("gang", pods=2, pod={"volumes": ["one"]})
    second = next(r for r in records if isinstance(r, PodRecord) and r.name == "gang-1")
    records = [msgspec.structs.replace(r, volumes=["two"]) if r is second else r for r in records]
    found = cluster(node("a"), volume("v"), claim("one"), claim("two"), *records)
    assert promised(cycle(found, now=1.0)) == {}
    assert not found.volumes.taken
    found.apply(volume("w"))
    assert promised(cycle(found, now=2.0)) == {"gang-0": {"one": "v"}, "gang-1": {"two": "w"}}


def test_a_volume_that_is_gone_is_promised_to_nobody() -> None:
    found = cluster(node("a"), volume("v"), claim("one"), *work("first", pod={"volumes": ["one"]}))
    found.remove("pv", "", "v")
    assert promised(cycle(found, now=1.0)) == {}
    found.apply(claim("one", "made"))
    assert promised(cycle(found, now=2.0)) == {"first-0": {"one": ""}}
    found.remove("pvc", "ns", "one")
    for record in work("second", pod={"volumes": ["one"]}):
        found.apply(record)
    assert promised(cycle(found, now=3.0)) == {}


SIZES = st.sampled_from(["1Gi", "2Gi", "3Gi"])


@settings(max_examples=60, deadline=None)
@given(
    volumes=st.lists(st.tuples(st.sampled_from(["", "a", "b"]), SIZES), max_size=6),
    pods=st.lists(st.lists(SIZES, min_size=1, max_size=2), max_size=5),
)
def test_no_volume_goes_to_two_claims_or_is_too_small_or_far(volumes: list[tuple[str, str]], pods: list[list[str]]) -> None:
    records: list[Any] = [node(n, labels={"at": n}) for n in "ab"]
    there = {f"v{i}": (at, size) for i, (at, size) in enumerate(volumes)}
    records += [volume(name, at, size) for name, (at, size) in there.items()]
    asked: dict[str, str] = {}
    for i, sizes in enumerate(pods):
        names = [f"c{i}-{j}" for j in range(len(sizes))]
        asked |= dict(zip(names, sizes, strict=True))
        records += [claim(name, size=size) for name, size in zip(names, sizes, strict=True)]
        records += work(f"w{i}", gpus=1, pod={"volumes": names})
    found = cluster(*records)
    result = cycle(found, now=1.0)
    given_ = [(m.node, name, got) for gang in result.gangs for m in gang.members for name, got in m.volumes]
    assert len({got for _, _, got in given_}) == len(given_)
    for where, name, got in given_:
        at, size = there[got]
        assert at in ("", where)
        assert size >= asked[name]
    again = cycle(found, now=2.0)
    assert not starts(again)


def single(name: str, volume: str = "v") -> ObjectRecord:
    """A claim for one pod alone."""
    spec = {"storageClassName": "local", "accessModes": ["ReadWriteOncePod"], "volumeName": volume}
    meta = {"name": name, "namespace": "ns", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
    return thing("PersistentVolumeClaim", {"metadata": meta, "spec": spec}, "ns")


USING = {"volumes": ["one"]}


def test_a_claim_for_one_pod_alone_has_one() -> None:
    both = [*work("first", pod=USING), *work("second", created=1, pod=USING)]
    found = cluster(node("a"), node("b"), volume("v"), single("one"), *both)
    result = cycle(found, now=1.0)
    assert starts(result) == {"first-0": "a"}
    assert "'one' is ReadWriteOncePod and in use by another pod" in result.waiting[0].message
    assert starts(cycle(found, now=2.0)) == {}
    found.remove("pod", "ns", "first-0")
    assert starts(cycle(found, now=3.0)) == {"second-0": "a"}


def test_the_pod_that_has_it_may_be_of_another_scheduler_another_pool_or_ending() -> None:
    for more in ({"scheduler_name": "other"}, {"node": "elsewhere"}, {"deleted": 1.0}, {"phase": "Pending"}):
        given = {"namespace": "ns", "name": "r", "uid": "r", "node": "a", "phase": "Running", "volumes": ["one"]} | more
        found = cluster(node("a"), node("b"), volume("v"), single("one"), PodRecord(**given), *work("g", pod=USING))
        assert starts(cycle(found, now=2.0)) == {}, more
    for more in ({"namespace": "b"}, {"phase": "Succeeded"}, {"volumes": ["two"]}):
        given = {"namespace": "ns", "name": "r", "uid": "r", "node": "a", "phase": "Running", "volumes": ["one"]} | more
        found = cluster(node("a"), volume("v"), single("one"), PodRecord(**given), *work("g", pod=USING))
        assert starts(cycle(found, now=2.0)) == {"g-0": "a"}, more


def test_a_gang_of_two_with_such_a_claim_never_starts_and_says_so() -> None:
    found = cluster(node("a"), volume("v"), single("one"), *work("g", pods=2, pod=USING))
    result = cycle(found)
    assert starts(result) == {}
    assert "'one' is ReadWriteOncePod" in result.waiting[0].message
    found.check()


def test_evicting_the_pod_that_has_it_frees_it() -> None:
    low = work("low", nodes=["a"], pod=USING)
    records = [node("a"), volume("v"), single("one"), *low, *work("high", priority="high", created=1, pod=USING)]
    found = cluster(*records, state.PriorityClassRecord(name="high", value=75))
    result = cycle(found)
    assert [e.pod for e in result.evictions] == ["low-0"]
    assert [r.pod for r in result.reserved] == ["high-0"]
    result = cycle(found, now=1.0)
    assert (starts(result), result.evictions) == ({}, [])
    found.remove("pod", "ns", "low-0")
    assert starts(cycle(found, now=2.0)) == {"high-0": "a"}


def test_other_access_modes_are_shared() -> None:
    shared = [*work("first", pod=USING), *work("second", created=1, pod=USING)]
    found = cluster(node("a"), volume("v"), claim("one", volume="v"), *shared)
    assert starts(cycle(found)) == {"first-0": "a", "second-0": "a"}


ZONE, OLD = "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"


@pytest.mark.parametrize(
    ("volume_labels", "node_labels", "fits"),
    [
        ({ZONE: "a"}, {ZONE: "a"}, True),
        ({ZONE: "a"}, {ZONE: "b"}, False),
        ({ZONE: "b__a"}, {ZONE: "a"}, True),
        ({ZONE: "b__c"}, {ZONE: "a"}, False),
        ({OLD: "a"}, {ZONE: "a"}, True),
        ({OLD: "a"}, {OLD: "b", ZONE: "a"}, False),
        ({ZONE: "a"}, {OLD: "a"}, False),
        ({"topology.kubernetes.io/region": "r"}, {ZONE: "a"}, False),
        ({ZONE: "a"}, {}, True),
        ({}, {ZONE: "a"}, True),
    ],
)
def test_a_volume_that_is_labelled_with_zones_is_reached_from_them(
    volume_labels: dict[str, str], node_labels: dict[str, str], fits: bool
) -> None:
    spec = {"storageClassName": "local", "capacity": {"storage": "1Gi"}}
    there = thing("PersistentVolume", {"metadata": {"name": "v", "labels": volume_labels}, "spec": spec})
    records = [node("n", labels=node_labels), there, claim("one", volume="v"), *work("g", pod=USING)]
    result = cycle(cluster(*records))
    assert starts(result) == ({"g-0": "n"} if fits else {})
    if not fits:
        assert "volume node affinity conflict" in result.waiting[0].message


def test_a_claim_that_names_a_volume_which_is_not_its_own_yet_waits() -> None:
    spec = {"storageClassName": "local", "volumeName": "v"}
    early = thing("PersistentVolumeClaim", {"metadata": {"name": "one", "namespace": "ns"}, "spec": spec}, "ns")
    found = cluster(node("a"), volume("v"), early, *work("g", pod=USING))
    result = cycle(found, now=1.0)
    assert starts(result) == {}
    assert "'one' is not bound to volume 'v' yet" in result.waiting[0].message
    found.apply(claim("one", volume="v"))
    assert starts(cycle(found, now=2.0)) == {"g-0": "a"}


def csi_volume(name: str) -> ObjectRecord:
    spec = {"storageClassName": "local", "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": f"h-{name}"}}
    return thing("PersistentVolume", {"metadata": {"name": name}, "spec": spec})


def takes(name: str, driver: str = "d", count: int | None = 1) -> ObjectRecord:
    """How many volumes of the driver the node takes."""
    found = {"name": driver, "nodeID": name, "allocatable": None if count is None else {"count": count}}
    return thing("CSINode", {"metadata": {"name": name}, "spec": {"drivers": [found]}})


def mounts(*claims: str) -> dict[str, Any]:
    return {"volumes": list(claims)}


BOTH = [csi_volume("v"), csi_volume("w"), claim("one", volume="v"), claim("two", volume="w")]


@pytest.mark.parametrize(
    ("limit", "first", "second", "starting"),
    [
        (takes("a"), mounts("one"), mounts("two"), 1),
        (takes("a", count=2), mounts("one"), mounts("two"), 2),
        (takes("a", count=0), mounts("one"), mounts("two"), 0),
        (takes("a", count=None), mounts("one"), mounts("two"), 2),
        (takes("a", driver="other"), mounts("one"), mounts("two"), 2),
        (takes("b"), mounts("one"), mounts("two"), 2),
        # A volume is attached once, for however many pods.
        (takes("a"), mounts("one"), mounts("one"), 2),
        (takes("a"), mounts("one", "two"), mounts("one"), 1),
        (takes("a"), mounts("one"), {}, 2),
    ],
)
def test_a_node_attaches_no_more_volumes_than_its_driver_takes(
    limit: ObjectRecord, first: dict[str, Any], second: dict[str, Any], starting: int
) -> None:
    found = cluster(node("a"), limit, *BOTH, *work("first", pod=first), *work("second", created=1, pod=second))
    result = cycle(found, now=1.0)
    assert len(starts(result)) == starting
    for waiting in result.waiting:
        assert "exceed max volume count" in waiting.message
    found.check()


def test_volumes_that_are_to_be_made_count_and_an_eviction_detaches_one() -> None:
    made = [claim("one", "made"), claim("two", "made")]
    limit = takes("a", driver="disks.example.com")
    first, second = work("first", pod=mounts("one")), work("second", created=1, pod=mounts("two"))
    assert starts(cycle(cluster(node("a"), limit, *made, *first, *second))) == {"first-0": "a"}
    low = work("low", nodes=["a"], pod=mounts("one"))
    high = work("high", priority="high", created=1, pod=mounts("two"))
    found = cluster(node("a"), takes("a"), *BOTH, *low, *high, state.PriorityClassRecord(name="high", value=75))
    assert [e.pod for e in cycle(found).evictions] == ["low-0"]
    found.remove("pod", "ns", "low-0")
    assert starts(cycle(found, now=2.0)) == {"high-0": "a"}


def test_a_limit_holds_for_as_long_as_the_node_says_it() -> None:
    found = cluster(node("a"), takes("a", count=0), *BOTH, *work("g", pod=mounts("one")))
    assert starts(cycle(found, now=1.0)) == {}
    found.apply(takes("a", count=1))
    found.apply(takes("a", count=0))
    assert starts(cycle(found, now=2.0)) == {}
    found.remove("csinode", "", "a")
    assert starts(cycle(found, now=3.0)) == {"g-0": "a"}
