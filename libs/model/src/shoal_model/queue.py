"""Queues: what makes the definition of one, or its place among the others, impossible."""

from __future__ import annotations

from collections.abc import Mapping

from shoal_contracts.state import QueueRecord, QueueResource
from shoal_model import objects

UNLIMITED = -1.0


def amount_problems(found: objects.QueueResource | None, where: str) -> list[str]:
    """What is wrong with the amounts of one resource, in words for the queue's owner."""
    if found is None:
        return []
    problems = [
        f"{where}.{name}: {value:g} is negative; write 0 or more, or -1 for no bound"
        for name, value in (("quota", found.quota), ("limit", found.limit))
        if value < 0 and value != UNLIMITED
    ]
    # -1 stands in many manifests for "no weight of its own".
    if found.over_quota_weight is not None and found.over_quota_weight < 0 and found.over_quota_weight != UNLIMITED:
        problems.append(f"{where}.overQuotaWeight: {found.over_quota_weight:g} is negative; write 0 or more")
    return problems


def place_problem(queue: QueueRecord, queues: Mapping[str, QueueRecord], *, missing: bool = True) -> str:
    """What is wrong with the queue's place in the tree, in words for its owner; empty if nothing is.

    ``missing`` False: a queue above that is not there is nothing wrong, it may come.
    """
    seen, at = {queue.name}, queue.parent
    while at:
        if at in seen:
            return (
                f"spec.parentQueue: queue {queue.name} is its own ancestor; nothing is scheduled from it: name another parent"
            )
        if at not in queues and not missing:
            return ""
        if at not in queues:
            return (
                f"spec.parentQueue: queue {at} does not exist; nothing is scheduled from {queue.name} until it does:"
                " create it, or name another parent"
            )
        seen.add(at)
        at = queues[at].parent
    return ""


def quota_warnings(queue: QueueRecord, queues: Mapping[str, QueueRecord]) -> list[str]:
    """Where quotas promise more than there is above them: this queue's beside its parent's, its children's beside its own.

    A quota without bound is compared with nothing.
    """
    found: list[str] = []
    if parent := queues.get(queue.parent):
        siblings = [q for q in queues.values() if q.parent == parent.name and q.name != queue.name]
        found += _beyond(parent, [*siblings, queue])
    found += _beyond(queue, [q for q in queues.values() if q.parent == queue.name and q.name != queue.name])
    return found


def _beyond(parent: QueueRecord, below: list[QueueRecord]) -> list[str]:
    found = []
    for resource in ("gpu", "cpu", "memory"):
        own = _quota(getattr(parent, resource))
        asked = [_quota(getattr(q, resource)) for q in below]
        total = sum(a for a in asked if a != UNLIMITED)
        if own != UNLIMITED and total > own:
            found.append(
                f"spec.resources.{resource}.quota: the queues below {parent.name} are promised {total:g}, itself {own:g};"
                f" raise the quota of {parent.name} or lower theirs"
            )
    return found


def _quota(found: QueueResource | None) -> float:
    return found.quota if found else 0.0
