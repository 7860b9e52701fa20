"""Claims: which devices of which nodes meet them, by class, selector, mode and constraint."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from shoal_contracts import state
from shoal_core import CycleResult, cycle
from shoal_core.placement.selectors import BadSelector, Selectors
from shoal_testkit.small import node, queue, starts, work, world

DRIVER = "nic.example.com"


def thing(kind: str, name: str, spec: dict[str, Any], **meta: Any) -> state.ObjectRecord:
    body = {"metadata": {"name": name, **meta}, "spec": spec}
    space = "ns" if kind == "ResourceClaim" else ""
    return state.ObjectRecord(type=kind, namespace=space, name=name, body=msgspec.Raw(msgspec.json.encode(body)))


def device(name: str, *, speed: int = 100, version: str = "1.2.3", memory: str = "16Gi") -> dict[str, Any]:
    attributes = {"speed": {"int": speed}, "firmware": {"version": version}, "vendor.example.com/model": {"string": "cx7"}}
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": memory}}}


def slice_of(host: str, *devices: dict[str, Any], driver: str = DRIVER) -> state.ObjectRecord:
    spec = {"nodeName": host, "driver": driver, "pool": {"name": host, "generation": 1}, "devices": list(devices)}
    return thing("ResourceSlice", f"{host}-{driver}", spec)


def device_class(name: str, *expressions: str) -> state.ObjectRecord:
    return thing("DeviceClass", name, {"selectors": [{"cel": {"expression": e}} for e in expressions]})


def claim(name: str, *expressions: str, count: int = 1, of: str = "nic", constraints: Any = (), **more: Any) -> Any:
    exactly = {"deviceClassName": of, "count": count, "selectors": [{"cel": {"expression": e}} for e in expressions], **more}
    requests = [{"name": "r", "exactly": exactly}]
    return thing("ResourceClaim", name, {"devices": {"requests": requests, "constraints": list(constraints)}})


def asks(name: str, *claims: str) -> list[Any]:
    uses = tuple(state.ClaimUse(name=c, claim=c) for c in claims)
    return work(name, gpus=0, pod={"claims": uses})


def given(result: CycleResult) -> dict[str, list[str]]:
    """Pod -> devices."""
    return {
        m.pod: [r["device"] for _, allocation in m.claims for r in allocation["devices"]["results"]]
        for g in result.gangs
        for m in g.members
    }


ONE = [queue("q"), node("a"), node("b"), device_class("nic", f"device.driver == '{DRIVER}'")]
OTHERS = slice_of("a", device("disk"), driver="disk.example.com")


def test_a_class_means_the_devices_that_its_selector_is_true_of() -> None:
    result = cycle(world(*ONE, OTHERS, slice_of("b", device("n0")), claim("c"), *asks("w", "c")))
    assert starts(result) == {"w-0": "b"}
    assert given(result) == {"w-0": ["n0"]}


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (f"device.attributes['{DRIVER}'].speed >= 200", "n1"),
        ("device.attributes['vendor.example.com'].model == 'cx7'", "n0"),
        (f"device.capacity['{DRIVER}'].memory.compareTo(quantity('20Gi')) > 0", "n2"),
        (f"device.capacity['{DRIVER}'].memory.isGreaterThan(quantity('20Gi'))", "n2"),
        (f"device.attributes['{DRIVER}'].firmware.compareTo(semver('1.10.0')) >= 0", "n3"),
        (f"'{DRIVER}' in device.attributes && 'nothing' in device.attributes['{DRIVER}']", None),
    ],
)
def test_a_request_selects_by_attributes_and_capacity(expression: str, found: str | None) -> None:
    devices = [device("n0"), device("n1", speed=400), device("n2", memory="64Gi"), device("n3", version="1.10.0-rc.1+b")]
    devices[3]["attributes"]["firmware"] = {"version": "1.11.0"}
    result = cycle(world(*ONE, slice_of("a", *devices), claim("c", expression), *asks("w", "c")))
    assert given(result) == ({"w-0": [found]} if found else {})


def test_a_narrow_claim_gets_its_device_although_a_wide_request_comes_first() -> None:
    requests = [
        {"name": "any", "exactly": {"deviceClassName": "nic"}},
        {"name": "fast", "exactly": {
            "deviceClassName": "nic", "selectors": [{"cel": {"expression": f"device.attributes['{DRIVER}'].speed > 100"}}]
        }},
    ]  # fmt: skip
    both = thing("ResourceClaim", "c", {"devices": {"requests": requests}})
    result = cycle(world(*ONE, slice_of("a", device("n0", speed=400), device("n1")), both, *asks("w", "c")))
    assert given(result) == {"w-0": ["n1", "n0"]}


def test_devices_of_a_claim_match_in_an_attribute() -> None:
    alike = [{"requests": ["r"], "matchAttribute": f"{DRIVER}/speed"}]
    slices = slice_of("a", device("n0"), device("n1", speed=400), device("n2"))
    result = cycle(world(*ONE, slices, claim("c", count=2, constraints=alike), *asks("w", "c")))
    assert given(result) == {"w-0": ["n0", "n2"]}


def test_all_means_every_device_that_the_selector_means() -> None:
    slices = slice_of("a", device("n0"), device("n1", speed=400), device("n2", speed=400))
    fast = f"device.attributes['{DRIVER}'].speed == 400"
    result = cycle(world(*ONE, slices, claim("c", fast, allocationMode="All"), *asks("w", "c")))
    assert given(result) == {"w-0": ["n1", "n2"]}


def test_a_device_is_given_once_and_a_shared_claim_to_all_who_name_it() -> None:
    slices = slice_of("a", device("n0"))
    cluster = world(*ONE, slices, claim("c"), claim("d"), *asks("w1", "c"), *asks("w2", "c"), *asks("w3", "d"))
    result = cycle(cluster)
    assert starts(result) == {"w1-0": "a", "w2-0": "a"}
    (told,) = result.waiting
    assert told.group == "w3"
    assert "2 node(s) lack free devices for claim d" in told.message


def test_a_selector_that_does_not_compile_is_told_with_its_place() -> None:
    result = cycle(world(*ONE, slice_of("a", device("n0")), claim("c", "device.driver =="), *asks("w", "c"), *work("good")))
    assert starts(result) == {"good-0": "a"}
    (told,) = result.waiting
    assert "claim ns/c, request r: selector 'device.driver =='" in told.message


@pytest.mark.parametrize(
    "expression",
    [
        "device.attributes['x'].y == 1",
        "device.driver",
        "quantity('a lot') == 1",
        "semver('one') == 'x'",
        "nothing()",
        "1 / 0 == 1",
        "9223372036854775807 + 1 > 0",
    ],
)
def test_a_selector_that_fails_on_a_device_says_so(expression: str) -> None:
    with pytest.raises(BadSelector, match="selector"):
        Selectors().match(expression, (DRIVER, "pool", "n0"), device("n0"))
    result = cycle(world(*ONE, slice_of("a", device("n0")), claim("c", expression), *asks("w", "c"), *work("good")))
    assert starts(result) == {"good-0": "a"}
    (told,) = result.waiting
    assert told.group == "w"
    assert "claim c: selector" in told.message


def test_an_endless_expression_is_refused() -> None:
    with pytest.raises(BadSelector, match="longer"):
        Selectors().compiled("1 == 1 || " * 2000 + "true")


def test_versions_are_ordered_as_semver_says() -> None:
    order = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.10",
    ]
    for left, right in itertools.pairwise(order):
        body = {"attributes": {"v": {"version": left}}}
        less = f"device.attributes['{DRIVER}'].v.isLessThan(semver('{right}'))"
        assert Selectors().match(less, (DRIVER, "p", "d"), body), (left, right)


def test_devices_that_changed_are_looked_at_anew() -> None:
    fast = f"device.attributes['{DRIVER}'].speed == 400"
    cluster = world(*ONE, slice_of("a", device("n0")), claim("c", fast), *asks("w", "c"))
    assert not cycle(cluster).gangs
    cluster.apply(slice_of("a", device("n0", speed=400)))
    assert given(cycle(cluster)) == {"w-0": ["n0"]}
