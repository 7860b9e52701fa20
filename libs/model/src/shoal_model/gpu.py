"""Shared GPUs: what a pod's annotations ask for, and what is wrong with them.

Admission refuses by these rules and cluster-state tells by them: what one accepts the other does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from shoal_contracts.state import GpuShare, PodRecord
from shoal_model import labels, objects, sharing
from shoal_model.quantity import BadQuantity, exact, number
from shoal_model.resources import GPUS

MAX_DEVICES = 64
ENDED = ("Succeeded", "Failed")
"""Phases in which a pod uses nothing any more."""
NO_ISOLATION, MPS_ISOLATION, HAMI_ISOLATION, MIG_ISOLATION = "none", "mps", "hami-core", "mig"
LONGEST_NUMBER = 12
"""Digits of the largest number that is read: a million TiB."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
SHARING = (
    labels.GPU_FRACTION, labels.GPU_MEMORY, labels.GPU_DEVICES, labels.GPU_CONTAINER, labels.MPS, labels.SHARED_GPU_CONFIG,
)  # fmt: skip
"""All annotations that these rules look at."""


def whole(spec: objects.PodSpec) -> bool:
    """Whether a container asks for whole GPUs, by a request or (where the API has not filled that in yet) by a limit."""
    for container in (*spec.containers, *(spec.init_containers or ())):
        for amounts in (container.resources.requests, container.resources.limits):
            for name in GPUS:
                if str((amounts or {}).get(name, "0")).strip() not in ("0", "0.0", ""):
                    return True
    return False


def request(annotations: Mapping[str, str], spec: objects.PodSpec) -> tuple[GpuShare | None, str]:
    """(the share that the pod asks for, what is wrong with that): at most one of the two is set."""
    found, wrong = share(annotations, whole(spec))
    if wrong:
        return None, wrong
    if found is None:
        if annotations.get(labels.MPS) == "true":
            return None, (
                f"annotation {labels.MPS} is for shared GPUs: add {labels.GPU_FRACTION} or {labels.GPU_MEMORY}, or remove it"
            )
        return None, ""
    containers = [c.name for c in spec.containers]
    init_containers = [c.name for c in spec.init_containers or ()]
    if labels.GPU_CONTAINER in annotations and sharing.target(containers, init_containers, annotations) is None:
        return None, (
            f"annotation {labels.GPU_CONTAINER} is {annotations[labels.GPU_CONTAINER][:64]!r}: the pod has no container of that"
            f" name; it has {', '.join([*init_containers, *containers][:8])}"
        )
    prefix = annotations.get(labels.SHARED_GPU_CONFIG)
    if prefix is not None and not sharing.valid_prefix(prefix):
        return None, (
            f"annotation {labels.SHARED_GPU_CONFIG} is {prefix[:64]!r}: no ConfigMap can have that name;"
            " remove it, it is written at admission"
        )
    return found, ""


def share(annotations: Mapping[str, str], whole_gpus: bool) -> tuple[GpuShare | None, str]:
    """(how much the annotations ask for, what is wrong with them): at most one of the two is set.

    ``whole_gpus``: the pod asks for whole devices, which excludes a share.
    """
    fraction, memory = annotations.get(labels.GPU_FRACTION), annotations.get(labels.GPU_MEMORY)
    count = annotations.get(labels.GPU_DEVICES)
    if fraction is None and memory is None:
        if count is not None:
            return None, f"annotation {labels.GPU_DEVICES} needs {labels.GPU_FRACTION} or {labels.GPU_MEMORY} beside it"
        return None, ""
    if fraction is not None and memory is not None:
        return None, f"annotations {labels.GPU_FRACTION} and {labels.GPU_MEMORY} exclude each other: remove one"
    if whole_gpus:
        return None, f"the pod asks for whole GPUs and for a share of one: remove the annotation or {labels.GPU}"
    devices = 1
    if count is not None:
        devices = number(count, LONGEST_NUMBER) or 0
        if not 1 <= devices <= MAX_DEVICES:
            return None, f"annotation {labels.GPU_DEVICES} is {count[:64]!r}: write a number from 1 to {MAX_DEVICES}"
    if memory is not None:
        mib = number(memory, LONGEST_NUMBER) or 0
        if mib <= 0:
            return None, f"annotation {labels.GPU_MEMORY} is {memory[:64]!r}: write a positive number of MiB, such as 4096"
        return GpuShare(memory_mib=mib, devices=devices), ""
    assert fraction is not None
    value = math.nan
    if _DECIMAL.fullmatch(fraction):
        try:
            value = exact(fraction)
        except BadQuantity:
            pass  # too long to be one
    if not 0 < value < 1:
        return (
            None,
            f"annotation {labels.GPU_FRACTION} is {fraction[:64]!r}: write a number between 0 and 1, such as 0.5",
        )
    return GpuShare(fraction=value, devices=devices), ""


def group_labels(groups: Sequence[str]) -> dict[str, str]:
    """The labels of a pod that shares these GPUs: one key for a single one, a key each for several."""
    if len(groups) == 1:
        return {labels.GPU_GROUP: groups[0]}
    return {labels.GPU_GROUP_PREFIX + group: group for group in groups}


def groups_of(tags: Mapping[str, str]) -> list[str]:
    """The shared GPUs that a pod's labels name."""
    single = [tags[labels.GPU_GROUP]] if labels.GPU_GROUP in tags else []
    return single + sorted(v for k, v in tags.items() if k.startswith(labels.GPU_GROUP_PREFIX))


def isolation(pod: PodRecord) -> str:
    """What keeps the pod to its part of a GPU's memory, as far as its record tells; empty if it has no part of one."""
    if any(name.startswith(labels.MIG_PREFIX) for name in pod.requests):
        return MIG_ISOLATION
    if pod.share is None:
        return ""
    return MPS_ISOLATION if pod.annotations.get(labels.MPS) == "true" else NO_ISOLATION


def is_reservation(pod: PodRecord) -> bool:
    """Whether the pod holds a whole device for a group: nobody's own pods do, whatever their labels say."""
    return pod.namespace == labels.RESERVATION_NAMESPACE and pod.labels.get(labels.APP) == labels.RESERVATION_APP


def is_own(pod: PodRecord) -> bool:
    """Whether the pod is the suite's: it holds room for our pods, and takes none from what is divided."""
    spaces = (labels.RESERVATION_NAMESPACE, labels.SCALING_NAMESPACE)
    return pod.namespace in spaces and pod.labels.get(labels.APP) in (labels.RESERVATION_APP, labels.SCALING_APP)


def is_user(pod: PodRecord) -> bool:
    """Whether the pod has parts of shared GPUs of its node: it asks for them, and its labels name their groups."""
    return bool(pod.node and pod.gpu_groups) and pod.share is not None and pod.phase not in ENDED and not is_reservation(pod)
