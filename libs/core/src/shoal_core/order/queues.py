"""Which of two sibling queues is served first (policy spec 3.3), as a key: the smaller goes first."""

from __future__ import annotations

from shoal_core.fairness.division import UNLIMITED
from shoal_core.queues import Queue, plus
from shoal_core.rows import NOTHING, Vector

INFINITE = float("inf")


class Tie:
    """The rules that are no plain number: the smaller allowance goes first if it is smaller in all resources, then age."""

    __slots__ = ("allowance", "queue")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.allowance = tuple(INFINITE if v == UNLIMITED else v for v in queue.allowance)

    def __lt__(self, other: Tie) -> bool:
        mine, others = self.allowance, other.allowance
        if mine != others:
            if all(a <= b for a, b in zip(mine, others, strict=True)):
                return True
            if all(a >= b for a, b in zip(mine, others, strict=True)):
                return False
        return (self.queue.created, self.queue.name) < (other.queue.created, other.queue.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tie) and self.queue is other.queue

    __hash__ = None  # type: ignore[assignment]


OrderKey = tuple[bool, bool, int, bool, float, float, Tie]


def dominant_share(queue: Queue, allocated: Vector, total: Vector) -> float:
    """The largest part that it has of what it may have (DRF; policy spec 2.7)."""
    cpu, memory, gpus = queue.allowance
    a, b, c = allocated
    # Unrolled: this is the innermost of all comparisons.
    if cpu == UNLIMITED:
        cpu = total[0]
    if memory == UNLIMITED:
        memory = total[1]
    if gpus == UNLIMITED:
        gpus = total[2]
    most = a * 1000 if cpu == 0 else a / cpu
    part = b * 1000 if memory == 0 else b / memory
    if part > most:
        most = part
    part = c * 1000 if gpus == 0 else c / gpus
    if part > most:
        most = part
    return most if most > 0 else 0.0


def order_key(queue: Queue, chunk: Vector, total: Vector, taken: Vector | None = None) -> OrderKey:
    """The queue's place among its siblings, with what would start next in it (``chunk``).

    Victims are looked for from the other end: then ``chunk`` is nothing and ``taken`` what would be gone with the next.
    """
    have, share, quota, allowance = queue.allocated, queue.share, queue.quota, queue.allowance
    then = plus(have, chunk) if chunk is not NOTHING else have
    over = share[0] < have[0] and share[1] < have[1] and share[2] < have[2]
    starved = (
        (then[0] <= quota[0] or quota[0] == UNLIMITED)
        and (then[1] <= quota[1] or quota[1] == UNLIMITED)
        and (then[2] <= quota[2] or quota[2] == UNLIMITED)
    )
    none = (allowance[0] == 0 and then[0] > 0) or (allowance[1] == 0 and then[1] > 0) or (allowance[2] == 0 and then[2] > 0)
    after = plus(have, taken, -1.0) if taken is not None else then
    tie = queue.tie
    if tie is None:
        tie = queue.tie = Tie(queue)
    return (
        over, not starved, -queue.priority, none, dominant_share(queue, after, total), dominant_share(queue, have, total),
        tie,
    )  # fmt: skip
