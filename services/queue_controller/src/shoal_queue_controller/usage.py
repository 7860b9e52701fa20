"""What pods, groups and queues ask for and use, rolled up along the tree. Pure (spec: kubernetes.md 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shoal_contracts.state import GroupRecord, PodRecord, PriorityClassRecord, QueueRecord
from shoal_model import labels
from shoal_model.podgroup import preemptible, priority
from shoal_model.queue import place_problem

Amounts = dict[str, float]
DONE = ("Succeeded", "Failed")
SHARED_MEMORY = "run.ai/gpu.memory"


_EXACT = {"cpu": 2.0**40, "memory": 2.0**47}
"""Amounts up to these are added and taken away again without a trace; a far greater one swallows what others ask for."""


@dataclass
class Usage:
    """Base units by resource: asked for, in use, in use by what may not be preempted."""

    requested: Amounts = field(default_factory=dict)
    allocated: Amounts = field(default_factory=dict)
    fixed: Amounts = field(default_factory=dict)

    @property
    def huge(self) -> bool:
        """Too large for sums that it is taken away from again: those are to be made anew."""
        return any(value > _EXACT.get(resource, 2.0**28) for resource, value in self.requested.items())

    def add(self, other: Usage, sign: float = 1.0) -> None:
        """Add (or take away) another's."""
        for mine, theirs in (
            (self.requested, other.requested),
            (self.allocated, other.allocated),
            (self.fixed, other.fixed),
        ):
            for resource, value in theirs.items():
                total = mine.get(resource, 0.0) + sign * value
                if abs(total) < 1e-9:
                    mine.pop(resource, None)
                else:
                    mine[resource] = total


def of_pod(pod: PodRecord) -> tuple[Amounts, Amounts]:
    """(requested, allocated) of a pod."""
    if pod.phase in DONE:
        return {}, {}
    wanted = dict(pod.requests)
    if share := pod.share:
        if share.fraction:
            wanted[labels.GPU] = wanted.get(labels.GPU, 0.0) + share.fraction * share.devices
        else:
            wanted[SHARED_MEMORY] = float(share.memory_mib * share.devices)
    return wanted, (dict(wanted) if pod.node else {})


def of_group(pods: Iterable[PodRecord], preemptible: bool) -> Usage:
    """What the pods of a group ask for and use."""
    total = Usage()
    for pod in pods:
        requested, allocated = of_pod(pod)
        total.add(Usage(requested, allocated, {} if preemptible else allocated))
    return total


def roll_up(queues: dict[str, QueueRecord], direct: dict[str, Usage]) -> dict[str, Usage]:
    """Every queue's usage with that of the queues below it. A queue on a cycle of parents counts only its own."""
    total = {name: Usage() for name in queues}
    for name in queues:
        own = direct.get(name)
        if own is None:
            continue
        path: dict[str, None] = {}
        at = name
        while at in queues and at not in path:
            path[at] = None
            at = queues[at].parent
        for queue in (name,) if at in path else path:
            total[queue].add(own)
    return total


def children(queues: dict[str, QueueRecord]) -> dict[str, list[str]]:
    """Names of the queues directly below each queue, sorted."""
    found: dict[str, list[str]] = {name: [] for name in queues}
    for name in sorted(queues):
        if (parent := queues[name].parent) in found:
            found[parent].append(name)
    return found


def problem(queue: QueueRecord, queues: dict[str, QueueRecord]) -> str:
    """What is wrong with the queue, in words for its owner; empty if nothing is."""
    return queue.error or place_problem(queue, queues)


def group_problem(group: GroupRecord, queues: dict[str, QueueRecord]) -> str:
    """What is wrong with the queue that the group names."""
    if group.queue in queues:
        return ""
    return f"spec.queue: queue {group.queue!r} does not exist; create it, or name another"


def class_problem(group: GroupRecord, classes: Mapping[str, PriorityClassRecord]) -> str:
    """What is wrong with the priority class that the group names, and what it runs with instead."""
    if not group.priority_class or group.priority_class in classes:
        return ""
    value = priority(group.priority_class, classes)
    kind = "preemptible" if preemptible(group, value) else "non-preemptible"
    return (
        f"spec.priorityClassName: priority class {group.priority_class!r} does not exist: the group has priority {value} and is"
        f" {kind}; create it, or name another"
    )
