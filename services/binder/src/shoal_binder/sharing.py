"""What is written for a pod that gets a part of a GPU: labels on it, and ConfigMaps that its container reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shoal_contracts.decision import Decision
from shoal_model import gpu, labels, sharing
from shoal_model.objects import Meta, Obj, Toleration
from shoal_model.quantity import number

DECISION = "shoal.dev/decision"
"""On ConfigMaps: the decision by which they were written."""
CDI = "k8s.device-plugin.nvidia.com/gpu="
WORDS = {
    gpu.NO_ISOLATION: "nothing keeps it to its part of the memory",
    gpu.MPS_ISOLATION: "it asks for MPS, which keeps it to what the node's administrator has set",
    gpu.HAMI_ISOLATION: "HAMi-core keeps it to its part of the memory",
    gpu.MIG_ISOLATION: "MIG keeps it to its part of the memory",
}


class _KeyRef(Obj):
    name: str = ""


class _Source(Obj):
    config_map_key_ref: _KeyRef | None = None


class _Variable(Obj):
    name: str = ""
    value_from: _Source | None = None


class _Container(Obj):
    name: str = ""
    env: list[_Variable] | None = None


class _Spec(Obj):
    node_name: str = ""
    containers: list[_Container] = []
    init_containers: list[_Container] | None = None
    tolerations: list[Toleration] | None = None


class _Status(Obj):
    phase: str = ""


class Pod(Obj):
    """A pod, as far as its binding or eviction looks at it."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


def _target(pod: Pod) -> sharing.Target | None:
    plain = [c.name for c in pod.spec.containers]
    return sharing.target(plain, [c.name for c in pod.spec.init_containers or ()], pod.metadata.annotations or {})


def _from_config_maps(pod: Pod, at: sharing.Target) -> dict[str, str]:
    """Variables of the container that come from a ConfigMap, and its name."""
    container = ((pod.spec.init_containers or []) if at.init else pod.spec.containers)[at.index]
    sources = ((v.name, v.value_from.config_map_key_ref) for v in container.env or () if v.value_from)
    return {name: source.name for name, source in sources if source}


def _limited(pod: Pod, at: sharing.Target) -> bool:
    """Whether the container reads HAMi-core's limit from the ConfigMap that the binder writes."""
    names = sharing.config_names(sharing.prefix(pod.metadata.annotations or {}), at)
    return _from_config_maps(pod, at).get(sharing.MEMORY_LIMIT) == names.values


def problem(pod: Pod) -> str:
    """Why the pod can't be told of its share; empty if it can."""
    notes = pod.metadata.annotations or {}
    if not sharing.prefix(notes):
        return f"the pod lacks the annotation {labels.SHARED_GPU_CONFIG}, which admission adds: create it again"
    if _target(pod) is None:
        return f"the pod has no container {notes.get(labels.GPU_CONTAINER)!r}: correct {labels.GPU_CONTAINER}"
    return ""


def config_maps(pod: Pod, decision: Decision, devices: list[str], cdi: bool) -> list[dict[str, Any]]:
    """The ConfigMaps for a pod without ``problem``; ``devices`` are UUIDs in the order of the decision's groups."""
    at = _target(pod)
    assert at is not None
    names = sharing.config_names(sharing.prefix(pod.metadata.annotations or {}), at)
    read = _from_config_maps(pod, at)
    visible = ",".join(CDI + d if cdi else d for d in devices)
    portion = f"{decision.portion:.2f}"
    values = {sharing.PORTION: portion, sharing.NUMBER_OF_GPUS: portion}
    direct = {}
    (values if sharing.VISIBLE_DEVICES in read else direct)[sharing.VISIBLE_DEVICES] = visible
    if _limited(pod, at):
        values[sharing.MEMORY_LIMIT] = f"{decision.memory_mib}m"
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": pod.metadata.namespace,
                "ownerReferences": [owner],
                "annotations": {DECISION: decision.id},
            },
            "data": data,
        }
        for name, data in ((names.values, values), (names.direct, direct))
    ]


def wanted_labels(pod: Pod, decision: Decision) -> dict[str, str]:
    """The labels that the pod is to have: those of the decision, with what its container says of isolation."""
    at = _target(pod)
    if decision.gpu_groups and at is not None and _limited(pod, at):
        return decision.labels | {labels.ISOLATION: gpu.HAMI_ISOLATION}
    return decision.labels


def label_changes(have: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """The labels to be set, and (None) to be taken off: those of shared GPUs that it is not to use."""
    ours = {k for k in have if k in (labels.GPU_GROUP, labels.ISOLATION) or k.startswith(labels.GPU_GROUP_PREFIX)}
    gone: dict[str, str | None] = dict.fromkeys(sorted(ours - wanted.keys()))
    return gone | {k: v for k, v in wanted.items() if have.get(k) != v}


def told(decision: Decision, devices: list[str], isolation: str) -> str:
    """What the pod's owner is told."""
    word = WORDS.get(isolation, isolation)
    if not decision.gpu_groups:
        return word
    share = f"{decision.portion:.2f} ({decision.memory_mib} MiB)"
    return f"is to get {share} of GPU {', '.join(devices)} on {decision.node}; {word}"


class ConfigMap(Obj):
    """A ConfigMap as it stands."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    data: dict[str, str] | None = None


def order(decision: str) -> tuple[int, ...]:
    """Decisions of a shard in their order: epoch, cycle, number; () for what is no decision's id."""
    parts = [number(part) for part in decision.rsplit("-", 3)[-3:]]
    return tuple(p for p in parts if p is not None) if len(parts) == 3 and None not in parts else ()


def stands(found: ConfigMap, body: dict[str, Any]) -> str | None:
    """What is to be done about a ConfigMap that is there already: None: nothing, it says the same; "": write it anew;
    else why it can't be ours."""
    uid = body["metadata"]["ownerReferences"][0]["uid"]
    if not any(owner.uid == uid for owner in found.metadata.owner_references or ()):
        return (
            f"ConfigMap {found.metadata.name} belongs to something else: remove it, or create the pod again without the"
            f" annotation {labels.SHARED_GPU_CONFIG}"
        )
    by = (found.metadata.annotations or {}).get(DECISION, "")
    if by == body["metadata"]["annotations"][DECISION] and (found.data or {}) == body["data"]:
        return None
    return ""


def is_newer(found: ConfigMap, body: dict[str, Any]) -> bool:
    """Whether a later decision than ours has written it."""
    by = (found.metadata.annotations or {}).get(DECISION, "")
    return order(by) > order(body["metadata"]["annotations"][DECISION])
