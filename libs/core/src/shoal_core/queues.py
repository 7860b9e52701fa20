"""The queue tree: what each queue has, wants and may have, rolled up as pods come and go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shoal_contracts.state import QueueRecord, QueueResource
from shoal_core.fairness.division import UNLIMITED, Share, divide
from shoal_core.rows import EXACT, NOTHING, Vector

DEFAULT_PRIORITY = 100
MEGABYTE = 1e6
NAMES = ("CPU", "memory", "GPUs")
RESOURCES = range(3)
UNBOUNDED = (-1.0, -1.0, -1.0)
"""No limit on anything."""
DEFAULT_TOP = "default"
MOST = 2.0**60
"""A larger number of anything is not meant."""


def plus(a: Vector, b: Vector, sign: float = 1.0) -> Vector:
    """a + sign * b; GPUs are kept to hundredths, so that sums of parts are exact."""
    gpu = a[2] + sign * b[2]
    if gpu % EXACT:
        gpu = round(gpu, 6)
    return a[0] + sign * b[0], a[1] + sign * b[1], gpu


class Queue:
    """One queue. Vectors are CPU in millicores, memory in bytes, GPUs in devices; -1 is without bound."""

    __slots__ = (
        "allocated", "allowance", "children", "created", "fixed", "limit", "line", "name", "parent", "pending", "priority",
        "quota", "record", "request", "share", "standing", "weight",
    )  # fmt: skip

    def __init__(self, record: QueueRecord, quota: Vector, limit: Vector, weight: Vector) -> None:
        self.record, self.quota, self.limit, self.weight = record, quota, limit, weight
        self.name, self.created = record.name, record.created
        self.priority = DEFAULT_PRIORITY if record.priority is None else record.priority
        self.parent: Queue | None = None
        self.children: list[Queue] = []
        self.line: tuple[Queue, ...] = (self,)
        """The queue and its ancestors, upward."""
        self.allocated = self.fixed = self.pending = self.request = self.share = NOTHING
        """What its pods have; that of them which may not be preempted; what waits; both; its fair share."""
        self.standing: Any = None
        """Kept by order.queues until the share changes."""
        self.allowance = NOTHING
        """What it may have: its share or quota, up to its limit; -1 without bound (policy spec 2.2)."""

    def set_share(self, share: Vector) -> None:
        """Its fair share of this cycle."""
        self.share, self.standing = share, None
        allowance = []
        for r in RESOURCES:
            quota, limit = self.quota[r], self.limit[r]
            if quota == UNLIMITED:
                allowance.append(limit)
            else:
                most = max(quota, share[r])
                allowance.append(most if limit == UNLIMITED else min(most, limit))
        self.allowance = (allowance[0], allowance[1], allowance[2])

    def over_limit(self, wanted: Vector) -> tuple[Queue, int] | None:
        """The first queue upward, and the resource, whose limit ``wanted`` more would break."""
        for queue in self.line:
            limit = queue.limit
            if limit == UNBOUNDED:
                continue
            total = plus(queue.allocated, wanted)
            for r in RESOURCES:
                if wanted[r] > 0 and limit[r] != UNLIMITED and total[r] > limit[r]:
                    return queue, r
        return None

    def over_quota(self, wanted: Vector) -> tuple[Queue, int] | None:
        """The first queue upward, and the resource, whose quota ``wanted`` more non-preemptible work would break."""
        for queue in self.line:
            total = plus(queue.fixed, wanted)
            for r in RESOURCES:
                if wanted[r] > 0 and queue.quota[r] != UNLIMITED and total[r] > queue.quota[r]:
                    return queue, r
        return None

    def charge(self, amount: Vector, preemptible: bool, sign: float = 1.0) -> None:
        """Count ``amount`` as allocated here and at all ancestors; ``sign`` -1 takes it back."""
        cpu, memory, gpus = sign * amount[0], sign * amount[1], sign * amount[2]
        for queue in self.line:
            have = queue.allocated
            total = have[2] + gpus
            # As ``plus``, without a call for each level.
            queue.allocated = (have[0] + cpu, have[1] + memory, round(total, 6) if total % EXACT else total)
            if not preemptible:
                queue.fixed = plus(queue.fixed, amount, sign)

    def charge_pending(self, amount: Vector, sign: float = 1.0) -> None:
        """Count ``amount`` as asked for here and at all ancestors."""
        cpu, memory, gpus = sign * amount[0], sign * amount[1], sign * amount[2]
        for queue in self.line:
            have = queue.pending
            total = have[2] + gpus
            queue.pending = (have[0] + cpu, have[1] + memory, round(total, 6) if total % EXACT else total)


def _vectors(record: QueueRecord) -> tuple[Vector, Vector, Vector]:
    quota, limit, weight = [0.0] * 3, [0.0] * 3, [0.0] * 3
    for r, found in enumerate((record.cpu, record.memory, record.gpu)):
        given = found or QueueResource()
        unit = MEGABYTE if r == 1 else 1.0
        quota[r] = given.quota if given.quota == UNLIMITED else given.quota * unit
        limit[r] = given.limit if given.limit == UNLIMITED else given.limit * unit
        weight[r] = given.weight or 0.0
    return (quota[0], quota[1], quota[2]), (limit[0], limit[1], limit[2]), (weight[0], weight[1], weight[2])


class Tree:
    """All queues whose ancestors exist. ``problems`` says of every other queue what is wrong with it."""

    def __init__(self, records: Mapping[str, QueueRecord], full: bool = True) -> None:
        self.queues: dict[str, Queue] = {}
        self.problems: dict[str, str] = {}
        if not full:
            records = _flat(records)
        for record in sorted(records.values(), key=lambda q: (q.created, q.name)):
            self._add(record, records)
        for queue in self.queues.values():
            if queue.record.parent and (parent := self.queues.get(queue.record.parent)):
                queue.parent = parent
                parent.children.append(queue)
        for queue in list(self.queues.values()):
            at, line = queue.parent, [queue]
            while at is not None:
                line.append(at)
                at = at.parent
            queue.line = tuple(line)
            if line[-1].record.parent:
                self._drop(queue)
        self.top = [q for q in self.queues.values() if q.parent is None]

    def _drop(self, queue: Queue) -> None:
        """An ancestor was refused: so is this queue."""
        above = queue.line[-1].record.parent
        self.problems.setdefault(queue.name, f"queue {queue.name} is below queue {above}, which can't be used: repair that one")
        self.queues.pop(queue.name, None)

    def _add(self, record: QueueRecord, records: Mapping[str, QueueRecord]) -> None:
        seen, at = {record.name}, record.parent
        while at:
            if at in seen:
                self.problems[record.name] = f"queue {record.name} is its own ancestor: change spec.parentQueue"
                return
            if at not in records:
                self.problems[record.name] = (
                    f"parent queue {at} of queue {record.name} does not exist: create it, or name another"
                )
                return
            seen.add(at)
            at = records[at].parent
        quota, limit, weight = _vectors(record)
        for what, vector in (("quota", quota), ("limit", limit), ("overQuotaWeight", weight)):
            if any(not math.isfinite(v) or (v < 0 and v != UNLIMITED) or v > MOST for v in vector):
                self.problems[record.name] = f"queue {record.name}: {what} must be -1 (without bound) or at least 0"
                return
        self.queues[record.name] = Queue(record, quota, limit, weight)

    def share_out(self, total: Vector, k: float = 1.0, usage: Mapping[str, Vector] | None = None) -> None:
        """Set the fair share of every queue, from the top down (policy spec 2.4)."""
        self._divide(self.top, total, k, usage or {})

    def _divide(self, queues: list[Queue], total: Vector, k: float, usage: Mapping[str, Vector]) -> None:
        if not queues:
            return
        shares = [[0.0] * 3 for _ in queues]
        for r in RESOURCES:
            parts = [
                Share(
                    q.name, q.created, q.priority, q.quota[r], q.limit[r], q.weight[r], q.request[r],
                    usage.get(q.name, NOTHING)[r],
                )
                for q in queues
            ]  # fmt: skip
            divide(total[r], parts, k)
            for i, part in enumerate(parts):
                shares[i][r] = part.share
        for queue, share in zip(queues, shares, strict=True):
            queue.set_share((share[0], share[1], share[2]))
            self._divide(queue.children, queue.share, k, usage)


def _flat(records: Mapping[str, QueueRecord]) -> dict[str, QueueRecord]:
    """Without departments: every queue that had a parent is below one that has no bounds (policy spec 1.2)."""
    free = QueueResource(quota=UNLIMITED, limit=UNLIMITED, weight=1.0)
    found = {DEFAULT_TOP: QueueRecord(name=DEFAULT_TOP, gpu=free, cpu=free, memory=free)}
    for name, record in records.items():
        if record.parent:
            found[name] = msgspec.structs.replace(record, parent=DEFAULT_TOP)
    return found


def siblings(left: Queue, right: Queue) -> Iterator[tuple[Queue, Queue]]:
    """The two lines to the root, from the top down, as far as both go."""
    return zip(reversed(left.line), reversed(right.line), strict=False)


def parting(left: Queue, right: Queue) -> tuple[Queue, Queue]:
    """The first pair of their lines that differs: fairness between two queues is judged there (policy spec 4.7.1)."""
    pair = (left, right)
    for pair in siblings(left, right):
        if pair[0] is not pair[1]:
            return pair
    return pair
