"""The statuses of a pod, and the groups of statuses that the rules speak of (policy spec 1.3)."""

from __future__ import annotations

(PENDING, GATED, ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING, RELEASING, STUCK, SUCCEEDED, FAILED, GONE) = range(12)
NAMES = (
    "Pending", "Gated", "Allocated", "Pipelined", "Binding", "Bound", "Running", "Releasing", "StuckInReleasing",
    "Succeeded", "Failed", "Gone",
)  # fmt: skip


def _group(*members: int) -> tuple[bool, ...]:
    return tuple(status in members for status in range(len(NAMES)))


ALIVE = _group(PENDING, GATED, ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING)
ACTIVE = _group(ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING)
"""Holds or is about to hold room: counts for gangs, may be a victim."""
USED = _group(ALLOCATED, PIPELINED, BINDING, BOUND, RUNNING, RELEASING, STUCK)
"""Charged to a node."""
COUNTED = _group(ALLOCATED, BINDING, BOUND, RUNNING)
"""Counts as allocated in queues when a cycle begins."""
KIND = tuple(
    (status if status in (PENDING, GATED, RELEASING) else -1, ALIVE[status], ACTIVE[status], USED[status], COUNTED[status])
    for status in range(len(NAMES))
)
"""Statuses of one kind count alike everywhere."""
