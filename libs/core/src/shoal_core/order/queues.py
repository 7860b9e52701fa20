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
    have = queue.allocated
    then = have if chunk is NOTHING else plus(have, chunk)
    a, b, c = have
    cpu, memory, gpus = then
    share, quota, allowance = queue.share, queue.quota, queue.allowance
    now = dominant_share(queue, have, total)
    if taken is not None:
        after = dominant_share(queue, plus(have, taken, -1.0), total)
    else:
        after = now if then is have else dominant_share(queue, then, total)
    tie = queue.tie
    if tie is None:
        tie = queue.tie = Tie(queue)
    return (
        share[0] < a and share[1] < b and share[2] < c,
        # Not below its quota:
        (cpu > quota[0] != UNLIMITED) or (memory > quota[1] != UNLIMITED) or (gpus > quota[2] != UNLIMITED),
        -queue.priority,
        # It asks for what it may have nothing of:
        (cpu > 0 == allowance[0]) or (memory > 0 == allowance[1]) or (gpus > 0 == allowance[2]),
        after,
        now,
        tie,
    )
