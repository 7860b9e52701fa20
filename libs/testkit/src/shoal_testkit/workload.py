"""Objects for tests and benchmarks: queues, gangs, pods."""

from __future__ import annotations

from typing import Any

SCHEDULER = "kai-scheduler"


def queue(name: str, *, parent: str = "", gpu: float = -1, limit: float = -1, weight: float = 1) -> dict[str, Any]:
    """A queue with free CPU and memory."""
    free = {"quota": -1, "limit": -1, "overQuotaWeight": 1}
    spec: dict[str, Any] = {
        "resources": {"gpu": {"quota": gpu, "limit": limit, "overQuotaWeight": weight}, "cpu": free, "memory": free}
    }
    if parent:
        spec["parentQueue"] = parent
    return {"apiVersion": "scheduling.run.ai/v2", "kind": "Queue", "metadata": {"name": name}, "spec": spec}


def group(name: str, namespace: str, *, queue: str, members: int, **spec: Any) -> dict[str, Any]:
    """A pod group of its own (not made by the pod-grouper)."""
    return {
        "apiVersion": "scheduling.run.ai/v2alpha2",
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kai.scheduler/queue": queue}},
        "spec": {"queue": queue, "minMember": members, **spec},
    }


def pod(
    name: str,
    namespace: str,
    *,
    queue: str,
    gpus: int = 1,
    group: str = "",
    scheduler: str = SCHEDULER,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A pod with whole GPUs; with ``group`` a member of that pod group."""
    resources = {"cpu": "1", "memory": "1Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    notes = dict(annotations or {}) | ({"pod-group-name": group} if group else {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kai.scheduler/queue": queue},
            "annotations": notes,
        },
        "spec": {
            "schedulerName": scheduler,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": "example.local/train",
                    "resources": {"requests": resources, "limits": resources},
                }
            ],
        },
    }


def gang(name: str, namespace: str, *, queue: str, size: int, gpus: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A pod group that needs all its ``size`` pods, and the pods."""
    members = [pod(f"{name}-{i}", namespace, queue=queue, gpus=gpus, group=name) for i in range(size)]
    return group(name, namespace, queue=queue, members=size), members
