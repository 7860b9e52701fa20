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


def _steps(old: int, new: int) -> tuple[int, int, int, int, int, int] | None:
    if KIND[old] == KIND[new]:
        return None
    return (
        (new == PENDING) - (old == PENDING), (new == GATED) - (old == GATED), ACTIVE[new] - ACTIVE[old],
        USED[new] - USED[old], ALIVE[new] - ALIVE[old], COUNTED[new] - COUNTED[old],
    )  # fmt: skip


STEPS = tuple(tuple(_steps(old, new) for new in range(len(NAMES))) for old in range(len(NAMES)))
"""By old and new status: what changes in the numbers of (pending, gated, active, used, alive, counted) pods; None: nothing."""
