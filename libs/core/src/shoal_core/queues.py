"""The queue tree: what each queue has, wants and may have, rolled up as pods come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shoal_contracts.state import QueueRecord, QueueResource
from shoal_core.fairness.division import UNLIMITED, Share, divide
from shoal_core.vocabulary import MEMORY, SHARED_RESOURCES

Vector = NDArray[np.float64]
DEFAULT_PRIORITY = 100
MEGABYTE = 1e6
NAMES = ("CPU", "memory", "GPUs")


def zeros() -> Vector:
    """Nothing of CPU, memory and GPU."""
    return np.zeros(SHARED_RESOURCES)


@dataclass
class Queue:
    """One queue. Vectors are (3,): CPU in millicores, memory in bytes, GPUs in devices."""

    record: QueueRecord
    quota: Vector
    limit: Vector
    weight: Vector
    parent: Queue | None = None
    children: list[Queue] = field(default_factory=list)
    allocated: Vector = field(default_factory=zeros)
    fixed: Vector = field(default_factory=zeros)
    """Allocated to work that may not be preempted."""
    request: Vector = field(default_factory=zeros)
    share: Vector = field(default_factory=zeros)
    """Fair share of this cycle."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def priority(self) -> int:
        """Its priority among its siblings."""
        return DEFAULT_PRIORITY if self.record.priority is None else self.record.priority

    def line(self) -> Iterator[Queue]:
        """The queue and its ancestors, upward."""
        at: Queue | None = self
        while at is not None:
            yield at
            at = at.parent

    def allocatable(self, resource: int) -> float:
        """What it may have: its share or quota, up to its limit; -1 without bound (policy spec 2.2)."""
        quota, limit = self.quota[resource], self.limit[resource]
        if quota == UNLIMITED:
            return float(limit)
        most = max(quota, self.share[resource])
        return float(most if limit == UNLIMITED else min(most, limit))

    def over_limit(self, wanted: Vector) -> tuple[Queue, int] | None:
        """The first queue upward, and the resource, whose limit ``wanted`` more would break."""
        for queue in self.line():
            for r in range(SHARED_RESOURCES):
                if wanted[r] > 0 and queue.limit[r] != UNLIMITED and queue.allocated[r] + wanted[r] > queue.limit[r]:
                    return queue, r
        return None

    def over_quota(self, wanted: Vector) -> tuple[Queue, int] | None:
        """The first queue upward, and the resource, whose quota ``wanted`` more non-preemptible work would break."""
        for queue in self.line():
            for r in range(SHARED_RESOURCES):
                if wanted[r] > 0 and queue.quota[r] != UNLIMITED and queue.fixed[r] + wanted[r] > queue.quota[r]:
                    return queue, r
        return None

    def charge(self, amount: Vector, preemptible: bool, sign: float = 1.0) -> None:
        """Count ``amount`` as allocated here and at all ancestors; ``sign`` -1 takes it back."""
        for queue in self.line():
            queue.allocated += sign * amount
            if not preemptible:
                queue.fixed += sign * amount


def _vectors(record: QueueRecord) -> tuple[Vector, Vector, Vector]:
    quota, limit, weight = zeros(), zeros(), zeros()
    for r, found in enumerate((record.cpu, record.memory, record.gpu)):
        given = found or QueueResource()
        unit = MEGABYTE if r == MEMORY else 1.0
        quota[r] = given.quota if given.quota == UNLIMITED else given.quota * unit
        limit[r] = given.limit if given.limit == UNLIMITED else given.limit * unit
        weight[r] = given.weight or 0.0
    return quota, limit, weight


class Tree:
    """All queues whose ancestors exist. ``problems`` says of every other queue what is wrong with it."""

    def __init__(self, records: dict[str, QueueRecord]) -> None:
        self.queues: dict[str, Queue] = {}
        self.problems: dict[str, str] = {}
        for record in sorted(records.values(), key=lambda q: (q.created, q.name)):
            self._add(record, records)
        for queue in self.queues.values():
            if parent := self.queues.get(queue.record.parent):
                queue.parent = parent
                parent.children.append(queue)
        self.top = [q for q in self.queues.values() if q.parent is None]

    def _add(self, record: QueueRecord, records: dict[str, QueueRecord]) -> None:
        seen, at = {record.name}, record.parent
        while at:
            if at in seen:
                self.problems[record.name] = f"queue {record.name} is its own ancestor: change spec.parentQueue"
                return
            if at not in records:
                self.problems[record.name] = f"parent queue {at} of queue {record.name} does not exist"
                return
            seen.add(at)
            at = records[at].parent
        quota, limit, weight = _vectors(record)
        for what, vector in (("quota", quota), ("limit", limit), ("overQuotaWeight", weight)):
            bad = ~np.isfinite(vector) | ((vector < 0) & (vector != UNLIMITED))
            if bad.any():
                self.problems[record.name] = f"queue {record.name}: {what} must be -1 (without bound) or at least 0"
                return
        self.queues[record.name] = Queue(record, quota, limit, weight)

    def share_out(self, total: Vector, k: float = 1.0) -> None:
        """Set the fair share of every queue, from the top down (policy spec 2.4)."""
        self._divide(self.top, total, k)

    def _divide(self, queues: list[Queue], total: Vector, k: float) -> None:
        if not queues:
            return
        for r in range(SHARED_RESOURCES):
            parts = [
                Share(
                    q.name, q.record.created, q.priority, float(q.quota[r]), float(q.limit[r]), float(q.weight[r]),
                    float(q.request[r]),
                )
                for q in queues
            ]  # fmt: skip
            divide(float(total[r]), parts, k)
            for queue, part in zip(queues, parts, strict=True):
                queue.share[r] = part.share
        for queue in queues:
            self._divide(queue.children, queue.share, k)


def dominant_share(queue: Queue, allocated: Vector, total: Vector) -> float:
    """The largest part that it has of what it may have (DRF; policy spec 2.7)."""
    most = 0.0
    for r in range(SHARED_RESOURCES):
        bound = queue.allocatable(r)
        bound = float(total[r]) if bound == UNLIMITED else bound
        most = max(most, float(allocated[r]) * 1000 if bound == 0 else float(allocated[r]) / bound)
    return most


def goes_before(left: Queue, right: Queue, left_chunk: Vector, right_chunk: Vector, total: Vector) -> bool:
    """Whether ``left`` is served before its sibling (policy spec 3.3). Chunks: what each would start next."""
    a, b = left.allocated + left_chunk, right.allocated + right_chunk
    over_left, over_right = bool((left.share < left.allocated).all()), bool((right.share < right.allocated).all())
    if over_left != over_right:
        return over_right
    starved_left = bool(((a <= left.quota) | (left.quota == UNLIMITED)).all())
    starved_right = bool(((b <= right.quota) | (right.quota == UNLIMITED)).all())
    if starved_left != starved_right:
        return starved_left
    if left.priority != right.priority:
        return left.priority > right.priority
    none_left = any(left.allocatable(r) == 0 and a[r] > 0 for r in range(SHARED_RESOURCES))
    none_right = any(right.allocatable(r) == 0 and b[r] > 0 for r in range(SHARED_RESOURCES))
    if none_left != none_right:
        return none_right
    after_left, after_right = dominant_share(left, a, total), dominant_share(right, b, total)
    if after_left != after_right:
        return after_left < after_right
    now_left, now_right = dominant_share(left, left.allocated, total), dominant_share(right, right.allocated, total)
    if now_left != now_right:
        return now_left < now_right
    may_left = [_bound(left.allocatable(r)) for r in range(SHARED_RESOURCES)]
    may_right = [_bound(right.allocatable(r)) for r in range(SHARED_RESOURCES)]
    if may_left != may_right:
        if all(x <= y for x, y in zip(may_left, may_right, strict=True)):
            return True
        if all(x >= y for x, y in zip(may_left, may_right, strict=True)):
            return False
    return (left.record.created, left.name) < (right.record.created, right.name)


def _bound(value: float) -> float:
    return float("inf") if value == UNLIMITED else value
