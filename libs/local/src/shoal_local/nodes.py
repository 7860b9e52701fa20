"""KWOK nodes with GPUs, in racks and blocks."""

from __future__ import annotations

from typing import Any

from shoal_testkit.api import Api, gather_limited

NODES_PER_RACK = 16
RACKS_PER_BLOCK = 8


def node(number: int, gpus: int) -> dict[str, Any]:
    """A node of 96 CPUs, 1 TiB and ``gpus`` GPUs."""
    name = f"node-{number:05d}"
    size = {"cpu": "96", "memory": "1Ti", "pods": "250", "ephemeral-storage": "2Ti"}
    tags = {
        "kubernetes.io/hostname": name,
        "topology/rack": f"rack-{number // NODES_PER_RACK:04d}",
        "topology/block": f"block-{number // (NODES_PER_RACK * RACKS_PER_BLOCK):03d}",
    }
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
        tags |= {"nvidia.com/gpu.count": str(gpus), "nvidia.com/gpu.memory": "81920"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": tags, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {
            "allocatable": size,
            "capacity": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fake"}],
        },
    }


async def create(api: Api, count: int, gpus: int = 8) -> None:
    """Make ``count`` nodes."""
    await gather_limited([api.post("/api/v1/nodes", node(i, gpus)) for i in range(count)])
