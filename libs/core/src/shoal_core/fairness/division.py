"""Fair division of one resource among sibling queues: quotas first, then by weight, band by band of priority.

The rules and the order of the floating-point operations are those of the policy specification, 2.3: whoever changes
one changes which GPU goes where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

UNLIMITED = -1.0


@dataclass
class Share:
    """One queue's part in the division. ``share`` is the result."""

    uid: str
    created: float
    priority: int
    quota: float
    limit: float
    weight: float
    request: float
    usage: float = 0.0
    share: float = 0.0
    fraction: float = 0.0

    @property
    def requestable(self) -> float:
        """What it could use: its request, up to its limit."""
        return self.request if self.limit == UNLIMITED else min(self.limit, self.request)

    @property
    def satisfied(self) -> bool:
        """Whether more would be of no use."""
        return self.request <= self.share or (self.limit != UNLIMITED and self.limit <= self.share)


def divide(total: float, queues: list[Share], k: float = 1.0) -> float:
    """Set ``share`` of every queue; returns what stays unassigned. ``k`` is the strength of historical usage."""
    remaining = total
    for queue in queues:
        deserved = total if queue.quota == UNLIMITED else queue.quota
        queue.share = min(deserved, queue.requestable)
        queue.fraction = 0.0
        remaining -= queue.share
    if remaining <= 0:
        return 0.0
    bands = [[q for q in queues if q.priority == p] for p in sorted({q.priority for q in queues}, reverse=True)]
    for band in bands:
        remaining = _by_weight(remaining, band, k)
    for band in bands:
        for queue in sorted((q for q in band if q.fraction > 0), key=lambda q: (-q.fraction, q.created, q.uid)):
            if remaining <= 0:
                break
            given = min(1.0, remaining)
            queue.share += given
            remaining -= given
    return remaining


def _by_weight(remaining: float, band: list[Share], k: float) -> float:
    """Give a band what is left by weight, in rounds, until nobody takes less than its part."""
    again = True
    while again and remaining > 0:
        again = False
        amount = remaining
        total_weight = sum(q.weight for q in band if q.requestable - q.share > 0)
        if total_weight == 0:
            break
        parts: dict[str, float] = {}
        for queue in band:
            if not queue.satisfied:
                weight = queue.weight / total_weight
                parts[queue.uid] = max(0.0, weight + k * (weight - queue.usage))
        total_parts = sum(parts.values())
        if total_parts == 0:
            break
        for queue in band:
            if remaining <= 0 or queue.satisfied or queue.weight == 0:
                continue
            need = max(0.0, queue.requestable - queue.share)
            share = amount * (parts[queue.uid] / total_parts)
            if need <= share:
                given = need
                queue.fraction = 0.0
            else:
                given = float(math.floor(share))
                if share - given > 0:
                    queue.fraction = share - given
            queue.share += given
            remaining -= given
            again = again or (given > 0 and need < share)
    return remaining
