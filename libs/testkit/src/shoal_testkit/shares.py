"""Shared GPUs as the API shows them: who uses which device, and what must never be seen. Shares no code with the suite."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from shoal_testkit import workload
from shoal_testkit.api import Api

RESERVATIONS = "/api/v1/namespaces/kai-resource-reservation/pods"
DEVICE = "run.ai/reserve_for_gpu_index"
ENDED = ("Succeeded", "Failed")


def pod(name: str, namespace: str, *, queue: str, fraction: float = 0.0, mib: int = 0, devices: int = 1, **more: Any) -> Any:
    """A pod with a part of ``devices`` GPUs, as users write it."""
    notes = {"gpu-fraction": f"{fraction:g}"} if fraction else {"gpu-memory": str(mib)}
    if devices > 1:
        notes["gpu-fraction-num-devices"] = str(devices)
    return workload.pod(name, namespace, queue=queue, gpus=0, annotations=notes | more.pop("annotations", {}), **more)


def admitted(found: dict[str, Any]) -> dict[str, Any]:
    """The pod with what admission adds, for clusters without it."""
    metadata = found["metadata"]
    notes = metadata["annotations"] | {"runai/shared-gpu-configmap": f"{metadata['name']}-abcdefg-shared-gpu"}
    return found | {"metadata": metadata | {"annotations": notes}}


def groups_of(found: dict[str, Any]) -> list[str]:
    """The groups that a pod's labels name."""
    tags = found["metadata"].get("labels", {})
    return [v for k, v in sorted(tags.items()) if k == "runai-gpu-group" or k.startswith("runai-gpu-group/")]


def portion(found: dict[str, Any], device_mib: int = 81900) -> float:
    """The part of each device that the pod asks for."""
    notes = found["metadata"].get("annotations", {})
    if "gpu-fraction" in notes:
        return float(notes["gpu-fraction"])
    return math.ceil(int(notes["gpu-memory"]) / device_mib * 100) / 100


@dataclass
class Devices:
    """What the API shows at one time."""

    device: dict[tuple[str, str], str] = field(default_factory=dict)
    """(node, group) -> UUID."""
    users: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)

    @property
    def used(self) -> dict[tuple[str, str], float]:
        """(node, device) -> the part that is used."""
        total: Counter[tuple[str, str]] = Counter()
        for (node, group), pods in self.users.items():
            for found in pods:
                total[node, self.device.get((node, group), f"none for {group}")] += portion(found)  # type: ignore[assignment]
        return dict(total)

    def unused(self) -> list[tuple[str, str]]:
        """Reservations without users."""
        return sorted(key for key in self.device if not self.users.get(key))


async def read(api: Api) -> Devices:
    """Look once. ``problems``: a device above 1.0, one device for two groups, users without a reservation, wrong
    ConfigMaps."""
    found = Devices()
    for reservation in await api.items(RESERVATIONS):
        meta = reservation["metadata"]
        if meta.get("deletionTimestamp") or reservation["status"].get("phase") in ENDED:
            continue
        for group in groups_of(reservation):
            key = (reservation["spec"]["nodeName"], group)
            if key in found.device:
                found.problems.append(f"two reservations for {key}")
            found.device[key] = meta.get("annotations", {}).get(DEVICE, "")
    for one in await api.items("/api/v1/pods"):
        node = one["spec"].get("nodeName")
        if one["metadata"]["namespace"] == "kai-resource-reservation" or not node or one["status"]["phase"] in ENDED:
            continue
        for group in groups_of(one):
            found.users[node, group].append(one)
            if not found.device.get((node, group)):
                found.problems.append(f"{one['metadata']['name']} uses {group} on {node}, which holds no device")
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (node, group), device in found.device.items():
        if device:
            holders[node, device].append(group)
    found.problems += [
        f"{device} of {node} is held by {groups}" for (node, device), groups in holders.items() if len(groups) > 1
    ]
    found.problems += [f"{where}: {part:.2f} is used" for where, part in found.used.items() if part > 1.0001]
    return found


async def told(api: Api, one: dict[str, Any]) -> list[str]:
    """The devices that the pod's container is told of."""
    prefix = one["metadata"]["annotations"]["runai/shared-gpu-configmap"]
    namespace = one["metadata"]["namespace"]
    data = (await api.get(f"/api/v1/namespaces/{namespace}/configmaps/{prefix}-0")).get("data", {})
    data |= (await api.get(f"/api/v1/namespaces/{namespace}/configmaps/{prefix}-0-evar")).get("data", {})
    assert data["GPU_PORTION"] == f"{portion(one):.2f}"
    return data["NVIDIA_VISIBLE_DEVICES"].split(",")
