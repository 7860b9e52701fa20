"""What pods ask for: against a plain reading of Kubernetes' rules, and cases by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_contracts.state import PodRecord
from shoal_model import normalise

RESOURCES = ("cpu", "memory", "hugepages-2Mi", "nvidia.com/gpu", "ephemeral-storage")
WHOLE = ("cpu", "memory", "hugepages-2Mi")
"""What a pod may ask for as a whole."""


def pod_of(spec: dict[str, Any], status: dict[str, Any] | None = None) -> PodRecord:
    raw = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [], **spec},
        "status": status or {},
    }
    found = normalise.from_dict(raw)
    assert isinstance(found, PodRecord)
    return found


def container(name: str = "a", *, restart: str | None = None, limits: dict[str, Any] | None = None, **requests: Any) -> Any:
    found = {"name": name, "resources": {"requests": requests} | ({"limits": limits} if limits else {})}
    return found | ({"restartPolicy": restart} if restart else {})


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"requests": {"cpu": "6", "memory": "1Gi"}}, {"cpu": 6000.0, "memory": 2.0**30}),
        # Less than the containers ask for together is refused by the API; where it stands it still stands for the pod.
        ({"requests": {"cpu": "1"}}, {"cpu": 1000.0}),
        # Only limits: what the containers ask for is the default of what they name, the limit that of all else.
        ({"limits": {"cpu": "6", "memory": "1Gi"}}, {"cpu": 2000.0, "memory": 2.0**30}),
        ({"requests": {"cpu": "3"}, "limits": {"cpu": "6"}}, {"cpu": 3000.0}),
        ({"limits": {"hugepages-2Mi": "4Mi"}}, {"cpu": 2000.0, "hugepages-2Mi": 4.0 * 2**20}),
        ({"requests": {"ephemeral-storage": "5", "nvidia.com/gpu": "3"}}, {"cpu": 2000.0}),
        ({}, {"cpu": 2000.0}),
        (None, {"cpu": 2000.0}),
    ],
)
def test_what_the_pod_asks_for_as_a_whole_wins(resources: Any, asked: dict[str, float]) -> None:
    found = pod_of({"containers": [container(cpu="2")], "resources": resources})
    assert found.requests == asked
    if resources:
        assert [c.requests for c in found.container_requests] == [{"cpu": 2000.0}]


@pytest.mark.parametrize(
    ("resource", "text", "whole"),
    [
        ("nvidia.com/gpu", "0.5", False),
        ("nvidia.com/gpu", "500m", False),
        ("nvidia.com/gpu", "2000m", True),
        ("example.com/foo", "1.5", False),
        ("example.com/foo", "1e0", True),
        ("cpu", "0.5", True),
        ("ephemeral-storage", "0.5", True),
    ],
)
def test_there_are_no_parts_of_extended_resources(resource: str, text: str, whole: bool) -> None:
    found = pod_of({"containers": [container(**{resource: text})]})
    assert bool(found.error) is not whole
    if not whole:
        assert f"containers[0].resources.requests.{resource}: {text} is no whole number" in found.error
        assert ("gpu-fraction" in found.error) == (resource == "nvidia.com/gpu")


@pytest.mark.parametrize("status", [{}, {"phase": ""}])
def test_a_pod_without_a_phase_waits(status: dict[str, Any]) -> None:
    assert pod_of({}, status).phase == "Pending"


def test_overhead_comes_on_top_of_what_the_pod_asks_for() -> None:
    spec = {
        "containers": [container(cpu="2")],
        "initContainers": [container("i", cpu="9")],
        "resources": {"requests": {"cpu": "4"}},
        "overhead": {"cpu": "250m", "memory": "64"},
    }
    assert pod_of(spec).requests == {"cpu": 4250.0, "memory": 64.0}


def held(allocated: str | None = None, actual: str | None = None, name: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    if allocated:
        found["allocatedResources"] = {"cpu": allocated}
    if actual:
        found["resources"] = {"requests": {"cpu": actual}}
    return found


def pending(reason: str) -> list[dict[str, str]]:
    return [{"type": "PodResizePending", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("spec", "allocated", "actual", "reason", "cpu"),
    [
        ("1", "6", "6", "", 6000.0),
        ("1", "1", "6", "", 6000.0),
        ("1", "6", "1", "", 6000.0),
        ("8", "6", "6", "", 8000.0),
        ("8", "6", "6", "Deferred", 8000.0),
        ("8", "6", "6", "Infeasible", 6000.0),
        ("8", "2", "3", "Infeasible", 3000.0),
        ("1", "6", "6", "Infeasible", 6000.0),
        ("4", "6", None, "", 6000.0),
        ("4", None, None, "Infeasible", 4000.0),
        ("4", "nonsense", "6", "", 6000.0),
    ],
)
def test_during_a_resize_the_largest_counts(
    spec: str, allocated: str | None, actual: str | None, reason: str, cpu: float
) -> None:
    status = {"containerStatuses": [held(allocated, actual)], "conditions": pending(reason) if reason else []}
    assert pod_of({"containers": [container(cpu=spec)]}, status).requests == {"cpu": cpu}


def test_a_resize_of_one_of_several_and_of_a_sidecar() -> None:
    spec = {
        "containers": [container("a", cpu="1"), container("b", cpu="1")],
        "initContainers": [container("s", restart="Always", cpu="1"), container("i", cpu="1")],
    }
    status = {
        "containerStatuses": [held("4", "4", "b"), held("9", "9", "stranger")],
        "initContainerStatuses": [held("3", "3", "s"), held("100", "100", "i")],
    }
    found = pod_of(spec, status)
    assert found.requests == {"cpu": 8000.0}
    assert {c.name: c.requests["cpu"] for c in found.container_requests} == {"a": 1e3, "b": 4e3, "s": 3e3, "i": 1e3}


def test_a_resize_of_the_pod_as_a_whole() -> None:
    spec = {"containers": [container(cpu="1")], "resources": {"requests": {"cpu": "2"}}}
    status: dict[str, Any] = {"allocatedResources": {"cpu": "5"}, "resources": {"requests": {"cpu": "4", "memory": "1"}}}
    assert pod_of(spec, status).requests == {"cpu": 5000.0}
    large = {**spec, "resources": {"requests": {"cpu": "9"}}}
    assert pod_of(large, status).requests == {"cpu": 9000.0}
    assert pod_of(large, status | {"conditions": pending("Infeasible")}).requests == {"cpu": 5000.0}


def port(number: int, **more: Any) -> dict[str, Any]:
    return {"containerPort": number, "hostPort": number, **more}


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        ({"containers": [{"name": "a", "ports": [port(80), port(81)]}, {"name": "b", "ports": [port(82)]}]}, [80, 81, 82]),
        ({"initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [port(80)]}]}, [80]),
        ({"initContainers": [{"name": "i", "ports": [port(80)]}]}, []),
        ({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}, []),
        ({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}], "hostNetwork": True}, [80]),
    ],
)
def test_ports_of_all_that_lasts_are_taken(spec: dict[str, Any], ports: list[int]) -> None:
    assert [p.port for p in pod_of(spec).host_ports] == ports


AMOUNTS = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 8), max_size=4)


@st.composite
def pods(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    def some(least: int, most: int, prefix: str, restart: bool) -> list[Any]:
        found = []
        for i in range(draw(st.integers(least, most))):
            one = {"name": f"{prefix}{i}", "resources": {"requests": draw(AMOUNTS)}}
            found.append(one | ({"restartPolicy": "Always"} if restart and draw(st.booleans()) else {}))
        return found

    spec = {"containers": some(1, 3, "c", False), "initContainers": some(0, 3, "i", True), "overhead": draw(AMOUNTS)}
    if draw(st.booleans()):
        spec["resources"] = {"requests": draw(AMOUNTS), "limits": draw(AMOUNTS)}
    status: dict[str, Any] = {"conditions": pending(draw(st.sampled_from(["Deferred", "Infeasible", "Other"])))}
    for field, containers in (("containerStatuses", spec["containers"]), ("initContainerStatuses", spec["initContainers"])):
        status[field] = [
            {"name": c["name"], "allocatedResources": draw(AMOUNTS), "resources": {"requests": draw(AMOUNTS)}}
            for c in containers
            if draw(st.booleans())
        ]
    return spec, status


def slowly(spec: dict[str, Any], status: dict[str, Any]) -> dict[str, float]:
    """The rules of Kubernetes, one resource at a time and step by step through the pod's life."""
    told = {s["name"]: s for field in ("containerStatuses", "initContainerStatuses") for s in status[field]}
    infeasible = any(c["type"] == "PodResizePending" and c["reason"] == "Infeasible" for c in status["conditions"])
    found = {}
    for r in RESOURCES:

        def one(c: dict[str, Any], lasting: bool, r: str = r) -> int:
            own = c["resources"]["requests"].get(r, 0)
            if not lasting or c["name"] not in told:
                return own
            s = told[c["name"]]
            if not s["allocatedResources"] and not s["resources"]["requests"]:
                return own
            rest = [s["allocatedResources"].get(r, 0), s["resources"]["requests"].get(r, 0)]
            return max(rest if infeasible else [own, *rest])

        running, moments = 0, [0]
        for c in spec["initContainers"]:
            if c.get("restartPolicy") == "Always":
                running += one(c, True)
                moments.append(running)
            else:
                moments.append(running + one(c, False))
        moments.append(running + sum(one(c, True) for c in spec["containers"]))
        asked = max(moments)
        names = any(r in c["resources"]["requests"] for c in spec["containers"] + spec["initContainers"])
        if r in WHOLE and "resources" in spec:
            own, limits = spec["resources"]["requests"], spec["resources"]["limits"]
            if r in own:
                asked = own[r]
            elif r in limits and (r.startswith("hugepages") or not names):
                asked = limits[r]
        asked += spec["overhead"].get(r, 0)
        if asked:
            found[r] = asked * (1000.0 if r == "cpu" else 1.0)
    return found


@given(pods())
def test_requests_are_those_of_kubernetes(drawn: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec, status = drawn
    assert pod_of(spec, status).requests == slowly(spec, status)
