"""Shared GPUs: what a pod's annotations ask for, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from shoal_contracts.state import GpuShare, PodRecord
from shoal_model import labels
from shoal_model.quantity import BadQuantity, exact

MAX_DEVICES = 64
NO_ISOLATION, MPS_ISOLATION, HAMI_ISOLATION, MIG_ISOLATION = "none", "mps", "hami-core", "mig"


def share(annotations: dict[str, str], whole_gpus: float) -> tuple[GpuShare | None, str]:
    """(what the annotations ask for, what is wrong with them): at most one of the two is set.

    ``whole_gpus`` is the pod's request for whole devices, which excludes a share.
    """
    fraction, memory = annotations.get(labels.GPU_FRACTION), annotations.get(labels.GPU_MEMORY)
    count = annotations.get(labels.GPU_DEVICES)
    if fraction is None and memory is None:
        if count is not None:
            return None, f"annotation {labels.GPU_DEVICES} needs {labels.GPU_FRACTION} or {labels.GPU_MEMORY} beside it"
        return None, ""
    if fraction is not None and memory is not None:
        return None, f"annotations {labels.GPU_FRACTION} and {labels.GPU_MEMORY} exclude each other: remove one"
    if whole_gpus > 0:
        return None, f"the pod asks for whole GPUs and for a share of one: remove the annotation or {labels.GPU}"
    devices = 1
    if count is not None:
        if not count.isascii() or not count.isdigit() or not 1 <= int(count[:9]) <= MAX_DEVICES:
            return None, f"annotation {labels.GPU_DEVICES} is {count[:64]!r}: write a number from 1 to {MAX_DEVICES}"
        devices = int(count)
    if memory is not None:
        if not memory.isascii() or not memory.isdigit() or not int(memory[:12]) > 0:
            return None, f"annotation {labels.GPU_MEMORY} is {memory[:64]!r}: write a positive number of MiB"
        return GpuShare(memory_mib=int(memory[:12]), devices=devices), ""
    assert fraction is not None
    try:
        value = exact(fraction)
    except BadQuantity:
        value = math.nan
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
