"""What becomes of an object that the bus can't carry."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from shoal_cluster_state.app import LARGEST, Config, Service
from shoal_contracts.state import PodRecord
from shoal_kube import Put
from shoal_kube.resources import PODS
from shoal_model.objects import Container, Meta, Pod, Resources


def pod(version: str, tags: dict[str, str]) -> Put[Any]:
    found = Pod(metadata=Meta(name="p", namespace="ns", uid="u", resource_version=version, labels=tags))
    found.spec.scheduler_name = "kai-scheduler"
    return Put(("ns", "p"), "u", version, found, b"")


def test_a_record_that_is_too_large_is_left_out_and_holds_nothing_up() -> None:
    told: list[dict[str, Any]] = []
    log = SimpleNamespace(warning=lambda _, **more: told.append(more))
    context: Any = SimpleNamespace(config=Config(), clock=SimpleNamespace(now=lambda: 0.0), log=log)
    events: list[str] = []
    recorder = SimpleNamespace(
        event=lambda about, kind, reason, message: events.append(f"{about.kind} {about.name}: {message}")
    )
    service = Service(context, None, recorder)  # type: ignore[arg-type]
    service._put("pod", PODS, pod("1", {"a": "b"}))
    assert list(service._picture.dirty) == ["shoal.v1.state.default.pod.ns.p"]
    service._put("pod", PODS, pod("2", {"a": "x" * LARGEST}))
    assert [more["key"] for more in told] == [("ns", "p")]
    (entry,) = service._picture.held.values()
    assert len(entry.data) < 2000
    assert b"the object can't be read" in entry.data
    assert len(events) == 1
    assert events[0].startswith("Pod p: the scheduler can't read the object: what matters of it takes")
    service._put("pod", PODS, pod("3", {"a": "b"}))
    assert len(service._picture.held) == 1


def test_a_running_pod_that_is_too_large_holds_its_room_for_a_service_that_never_saw_it_smaller() -> None:
    context: Any = SimpleNamespace(
        config=Config(), clock=SimpleNamespace(now=lambda: 0.0), log=SimpleNamespace(warning=lambda *_, **__: None)
    )
    service = Service(context, None, SimpleNamespace(event=lambda *_: None))  # type: ignore[arg-type]
    tags = {f"l{i:05}": "x" * 60 for i in range(20_000)} | {"kai.scheduler/queue": "q", "runai-gpu-group": "g"}
    told = pod("7", tags)
    told.value.spec.node_name = "n"
    told.value.status.phase = "Running"
    needs = Resources(requests={"nvidia.com/gpu": "8", "cpu": "1"}, limits={"nvidia.com/gpu": "8"})
    told.value.spec.containers = [Container(name="c", resources=needs)]
    told.value.metadata.annotations = {"pod-group-name": "pg"}
    service._put("pod", PODS, told)
    (entry,) = service._picture.held.values()
    record = msgspec.json.decode(entry.data, type=PodRecord)
    assert (record.node, record.phase, record.group, record.requests["nvidia.com/gpu"]) == ("n", "Running", "pg", 8.0)
    assert record.labels == {"kai.scheduler/queue": "q", "runai-gpu-group": "g"}
    assert record.gpu_groups == ["g"]
    assert "over" in record.error
    assert len(entry.data) < 4000
