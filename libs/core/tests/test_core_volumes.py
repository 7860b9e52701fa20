"""Volumes that are promised with a pod's place: to one claim each, until the place is given up or the claim is bound."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

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
    return thing("PersistentVolumeClaim", {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}, "ns")


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
