"""Records of shared GPUs for tests: reservation pods, users, decisions."""

from __future__ import annotations

from typing import Any

from shoal_contracts.decision import Decision, Verb
from shoal_contracts.state import GpuShare, PodRecord
from shoal_model import labels


def reservation(name: str = "r", group: str = "g", node: str = "n", device: str = "GPU-1", **more: Any) -> PodRecord:
    """A reservation pod; without ``device`` it has not told it yet."""
    notes = {labels.DEVICE: device} if device else {}
    given = {"uid": name, "created": 1.0, "phase": "Running", "resource_version": "1"} | more
    return PodRecord(
        namespace=labels.RESERVATION_NAMESPACE, name=name, node=node, gpu_groups=[group],
        labels={labels.APP: labels.RESERVATION_APP, labels.GPU_GROUP: group},
        annotations=notes | given.pop("notes", {}), **given,
    )  # fmt: skip


def user(name: str = "u", *groups: str, node: str = "n", fraction: float = 0.5, **more: Any) -> PodRecord:
    """A pod that runs with a part of each group's device."""
    return PodRecord(
        namespace="ns", name=name, uid=more.pop("uid", name), node=node, gpu_groups=list(groups or ("g",)), phase="Running",
        share=GpuShare(fraction=fraction, devices=len(groups or ("g",))), **more,
    )  # fmt: skip


def decision(uid: str = "u", *groups: str, node: str = "n", verb: Verb = Verb.BIND) -> Decision:
    """An open decision on a pod."""
    return Decision(
        id=f"d-{uid}", verb=verb, namespace="ns", pod=uid, uid=uid, node=node, epoch=1, gpu_groups=list(groups or ("g",))
    )
