"""Small worlds for tests of the core: queues, nodes and work in a line each."""

from __future__ import annotations

from typing import Any

from shoal_contracts import state
from shoal_core import Cluster, CycleResult, Settings

FREE = state.QueueResource(quota=-1, limit=-1, weight=1)
CLASSES = [state.PriorityClassRecord(name="high", value=75), state.PriorityClassRecord(name="build", value=100)]


def queue(name: str, parent: str = "", *, gpu: float = -1, limit: float = -1, **more: Any) -> state.QueueRecord:
    """A queue with bounds on GPUs alone."""
    gpus = state.QueueResource(quota=gpu, limit=limit, weight=1)
    return state.QueueRecord(name=name, parent=parent, gpu=gpus, cpu=FREE, memory=FREE, **more)


def node(name: str, gpus: float = 4, **more: Any) -> state.NodeRecord:
    """A node of 64 cores and 256 GiB with 80 GiB GPUs."""
    size = {"cpu": 64_000.0, "memory": 2.0**38, "pods": 110.0, "nvidia.com/gpu": gpus}
    tags = {"nvidia.com/gpu.memory": "81920", "nvidia.com/gpu.count": str(int(gpus))} | more.pop("labels", {})
    return state.NodeRecord(name=name, allocatable=size, labels=tags, **more)


def work(
    name: str, queue: str = "q", gpus: float = 1, pods: int = 1, nodes: list[str] | None = None, priority: str = "", **more: Any
) -> list[state.StateMessage]:
    """A pod group with its pods, running on ``nodes`` or waiting."""
    pod_more = more.pop("pod", {})
    given = {"min_member": pods, "created": float(more.pop("created", 0)), "priority_class": priority} | more
    found: list[state.StateMessage] = [state.GroupRecord(namespace="ns", name=name, uid=name, queue=queue, **given)]
    for i in range(pods):
        requests = {"cpu": 1000.0} | ({"nvidia.com/gpu": float(int(gpus))} if gpus >= 1 else {})
        share = state.GpuShare(fraction=gpus) if 0 < gpus < 1 else None
        found.append(
            state.PodRecord(
                namespace="ns", name=f"{name}-{i}", uid=f"{name}-{i}", scheduler_name="kai-scheduler", group=name,
                requests=requests, share=share, node=nodes[i] if nodes else "", phase="Running" if nodes else "Pending",
                **pod_more,
            )
        )  # fmt: skip
    return found


def world(*records: Any) -> Cluster:
    """A cluster of these records."""
    found = Cluster(Settings(most_moved=-1))
    for record in (*CLASSES, *records):
        found.apply(record)
    return found


def starts(result: CycleResult) -> dict[str, str]:
    """Pod -> node of what starts."""
    return {m.pod: m.node for g in result.gangs for m in g.members}
